//! Unknown devices are looked for once the others are updated, and inserted only if they
//! may be registered.
//!
//! On PostgreSQL an `INSERT` waits for a transaction that has inserted the same device, or that
//! changes it, although it would then do nothing. It would so wait for rows out of their order. It
//! waits for none if one transaction at a time registers devices, and if none of its devices
//! exists once it is the one.

use sea_orm::{DbBackend, DbErr};

use super::batch::{Admitted, Batch, Strategy};
use super::sql;
use crate::store::driver_error::contended;
use crate::store::fleet::REGISTRATION_LOCK;
use crate::store::{raw_id, rows};

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
        if batch.store.backend() == DbBackend::Postgres {
            begin_registering(batch, admitted).await?;
        }
        let insert = sql::insert(&batch.unpacked(), &sql::status_on_heartbeat("heartbeat"));
        let sql = format!("{insert} ON CONFLICT (id) DO NOTHING");
        let values = [sql::bind(admitted.heartbeats.iter().copied())];
        let inserted = batch.store.execute(batch.transaction, &sql, values).await?;
        // Something else has registered the others.
        let all = inserted == admitted.heartbeats.len() as u64;
        if all { Ok(()) } else { Err(contended()) }
    }
}

/// Keeps other transactions from registering devices until this one ends. Fails as a conflict if
/// another one does so at this moment, or has registered one of these.
async fn begin_registering(batch: &Batch<'_>, admitted: &Admitted<'_>) -> Result<(), DbErr> {
    let Batch { store, transaction, .. } = *batch;
    let sql = format!("SELECT pg_try_advisory_xact_lock({REGISTRATION_LOCK}) AS is_alone");
    let alone = store.select(transaction, &sql, []).await?;
    let mut is_free = alone.first().is_some_and(|row| row.try_get("", "is_alone") == Ok(true));
    if is_free {
        // A statement of its own, because only so it sees what was committed before the lock.
        let sql = format!(
            "SELECT id FROM device WHERE id IN (SELECT id FROM ({ids}) AS unknown) LIMIT 1",
            ids = rows::select(store.backend(), "$1", raw_id::ID),
        );
        let ids = admitted.heartbeats.iter().map(|heartbeat| heartbeat.device_id.as_str());
        is_free = store.select(transaction, &sql, [raw_id::bind(ids)]).await?.is_empty();
    }
    if is_free { Ok(()) } else { Err(contended()) }
}
