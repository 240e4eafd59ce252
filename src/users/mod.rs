//! The users of the embedded broker: their file, their passwords and their rights.
//!
//! A user may publish the heartbeats of certain devices ([`Rights`]). Its password is kept as
//! a hash in the users file, which `heartbeatd user` and `mosquitto_passwd` write.
//!
//! Nothing here knows MQTT or a socket. No error, log line or `Debug` output contains a
//! password or a hash.

mod check;
mod edit;
mod file;
mod hash;
mod memory;
mod name;
mod reload;
mod rights;
mod set;
pub(crate) mod throttle;

use std::path::Path;

pub use self::check::{Denied, Users};
pub(crate) use self::edit::{EditError, add, has, remove, set_password};
pub use self::file::{MAX_USERS, UsersError};
pub use self::hash::{HashError, InvalidHash, PasswordHash};
pub use self::name::{InvalidUserName, UserName};
pub use self::rights::{InvalidPattern, MAX_PATTERNS, Pattern, Rights};
pub use self::set::Changes;

/// A user: its name, and the devices whose heartbeats it may publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    name: UserName,
    rights: Rights,
}

impl User {
    /// A user that may publish for the device of its own name.
    pub fn of_own_name(name: UserName) -> Self {
        Self { rights: Rights::of_own_name(&name), name }
    }

    /// The user's name.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// The devices whose heartbeats it may publish.
    pub fn rights(&self) -> &Rights {
        &self.rights
    }
}

/// Reads a users file: each user in the order of its line, with its hash.
///
/// # Errors
///
/// If the file cannot be read, or one of its lines cannot be used.
pub(crate) fn list(path: &Path) -> Result<Vec<(User, PasswordHash)>, UsersError> {
    let (lines, _) = file::load(path)?;
    Ok(lines.into_iter().map(|line| (line.user, line.hash)).collect())
}
