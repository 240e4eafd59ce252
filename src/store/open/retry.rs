//! Retries while another process is in the way.

use std::time::Duration;

use sea_orm::DbErr;
use tokio::time::{Instant, sleep};

use crate::store::PATIENCE;
use crate::store::driver_error::is_busy;

/// How long to wait before trying again what another process was in the way of.
pub(super) const RETRY: Duration = Duration::from_millis(10);

/// Tries again while another process is in the way in SQLite, which does not wait by
/// itself where it could wait for ever: several that switch a new file to WAL at once.
pub(super) async fn while_busy<T>(
    mut attempt: impl AsyncFnMut() -> Result<T, DbErr>,
) -> Result<T, DbErr> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Err(error) if is_busy(&error) && Instant::now() < deadline => sleep(RETRY).await,
            done => return done,
        }
    }
}
