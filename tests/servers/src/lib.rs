//! Servers for tests and benchmarks. They are started on free ports, in temporary
//! folders, and stopped by their process id. Also reads the log of a heartbeatd.

pub mod log;
pub mod mosquitto;
pub mod pgbouncer;
pub mod postgresql;
pub mod process;

use std::time::{Duration, Instant};

/// The longest time to wait for anything. Generous, because many tests share two cores.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The time between two looks.
pub const POLL: Duration = Duration::from_millis(20);

/// Waits until `condition` returns something. Use it to await another process.
#[track_caller]
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain: {what}");
        #[expect(clippy::disallowed_methods, reason = "another process is awaited")]
        std::thread::sleep(POLL);
    }
}
