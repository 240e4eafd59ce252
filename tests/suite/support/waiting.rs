//! Waiting, for a condition or for time itself. [`servers::eventually`] awaits a condition where
//! nothing has to go on meanwhile on this thread.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use servers::{PATIENCE, POLL};

/// Waits until `condition` returns something. The actors on this thread go on meanwhile.
pub async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain: {what}");
        actix_rt::time::sleep(pause).await;
        pause = (pause * 2).min(POLL);
    }
}

/// Waits. That time passes is the fault.
pub fn let_pass(time: Duration) {
    let (_nobody_sends, never) = mpsc::channel::<()>();
    assert!(never.recv_timeout(time).is_err());
}
