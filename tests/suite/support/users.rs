//! Users files.

use std::fs;

use super::service::Place;

/// A hash of "secret" that costs next to nothing.
const HASH: &str = "$7$101$aGVhcnRiZWF0ZDEy$QEmyeHVew9SlLZCpalNfQi0M/1cPy2SBNVWmZkzzxjCGBuYZwt3VG4H0syM5Mit+4JgDzZ6GvIe2/beM/6bV4g==";

/// A place whose embedded broker has these users, see [`write_users`].
pub fn with_users(place: Place, lines: &str) -> Place {
    let place = place.with("MQTT__EMBEDDED__USERS_FILE", "users");
    write_users(&place, lines);
    place
}

/// Writes the users file anew. In its lines `HASH` stands for the hash of "secret".
pub fn write_users(place: &Place, lines: &str) {
    fs::write(place.path().join("users"), lines.replace("HASH", HASH)).expect("a file");
}
