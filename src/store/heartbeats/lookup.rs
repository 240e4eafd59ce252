//! Unknown devices are looked for once the others are updated, and inserted only if they
//! may be registered.

use sea_orm::DbErr;

use super::batch::{Admitted, Batch, Strategy};
use super::sql;

/// Updates the known devices, then looks for unknown ones.
pub(super) struct Lookup;

impl Strategy for Lookup {
    /// Matches nothing: no row is inserted before it is known to stay.
    fn newborn() -> String {
        "false".to_owned()
    }

    async fn write_steady(batch: &Batch<'_>) -> Result<bool, DbErr> {
        let update = |rows: &str| sql::update_steady(rows, batch.rules.max_clock_skew);
        Ok(batch.write_rows(update).await? == batch.heartbeats.len() as u64)
    }

    async fn register(batch: &Batch<'_>, admitted: &Admitted<'_>) -> Result<(), DbErr> {
        if admitted.heartbeats.is_empty() {
            return Ok(());
        }
        let sql = sql::insert(&batch.unpacked(), &sql::status_on_heartbeat("heartbeat"));
        let values = [sql::bind(admitted.heartbeats.iter().copied())];
        batch.store.execute(batch.transaction, &sql, values).await?;
        Ok(())
    }
}
