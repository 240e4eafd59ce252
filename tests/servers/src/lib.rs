//! Servers for tests and benchmarks: started on free ports, in temporary folders,
//! and ended by the id they were started with.

pub mod mosquitto;
pub mod pgbouncer;
pub mod postgresql;
pub mod process;

use std::time::{Duration, Instant};

/// How long anything may take that is waited for. Generous: two cores, many
/// tests at once.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long to wait before looking again.
pub const POLL: Duration = Duration::from_millis(20);

/// Waits until `condition` gives something; the way to await another process.
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
