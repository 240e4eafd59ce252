//! Retries while another process is in the way.

use std::time::Duration;

use sea_orm::DbErr;
use tokio::time::{Instant, sleep};

use crate::store::PATIENCE;
use crate::store::driver_error::is_busy;

/// The pause before the next attempt.
pub(super) const RETRY: Duration = Duration::from_millis(10);

/// Retries while another process holds a lock that SQLite needs. SQLite does not wait where
/// that might never end, for example when several processes switch a new file to WAL.
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
