//! What the tests stand on: servers, the binary, a fleet on a database.

pub mod broker;
pub mod database;
pub mod devices;
pub mod fleet;
pub mod process;
pub mod proxy;
pub mod service;

use std::time::{Duration, Instant};

/// How long anything may take that is waited for. Generous: two cores, many
/// tests at once.
pub const PATIENCE: Duration = Duration::from_secs(60);

const POLL: Duration = Duration::from_millis(20);

/// Waits until `condition` gives something; the way to await another process.
#[track_caller]
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain: {what}");
        std::thread::sleep(POLL);
    }
}
