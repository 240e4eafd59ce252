//! The check after a failure that another connection reads what was written.

use entity::{device, listening_interval};
use sea_orm::{
    ColumnTrait, Condition, DatabaseConnection, DbErr, EntityTrait, PaginatorTrait, QueryFilter,
};

use super::interference::Point;
use super::listening::Proven;
use super::pool;
use super::transaction::Why;
use super::{DeviceStore, Result, StoreError, millis};
use crate::domain::Heartbeat;

const ACTION: &str = "read what was written";

/// The number of heartbeats that are looked for. One is enough; a command may have removed
/// the other devices meanwhile.
const LOOKED_FOR: usize = 10;

impl DeviceStore {
    /// Reads what a transaction has written through a new connection outside the pool: the
    /// newest interval of `proven` and one of the first of `heartbeats`, as far as there
    /// are any. `heartbeats` must not contain rejected ones.
    ///
    /// The first [`update_last_seen`](Self::update_last_seen) that succeeds after a failure
    /// does this itself, so its caller may report that the database is back.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unconfirmed`] if something is missing, otherwise if the database
    /// fails. The caller must keep the heartbeats and write them again.
    pub async fn confirm_written<'a>(
        &self,
        heartbeats: impl IntoIterator<Item = &'a Heartbeat>,
        proven: &Proven,
    ) -> Result<()> {
        let heartbeats: Vec<_> = heartbeats.into_iter().take(LOOKED_FOR).collect();
        if heartbeats.is_empty() && proven.change.is_none() {
            return Ok(());
        }
        let confirmed = self.look_for(&heartbeats, proven).await;
        self.ended(ACTION).await;
        confirmed
    }

    async fn look_for(&self, heartbeats: &[&Heartbeat], proven: &Proven) -> Result<()> {
        let lease = self.pool.lease();
        let looking = async {
            let fate = self.pass(|| Point::Read(ACTION)).await?;
            let db = self.pool.origin().connect_beside().await?;
            let there = is_there(&db, heartbeats, proven).await;
            tokio::spawn(pool::close(db));
            fate.tell(there?)
        };
        let error = match tokio::time::timeout(self.pool.origin().bound(), looking).await {
            Ok(Ok(true)) => {
                self.pool.trust();
                return Ok(());
            }
            Ok(Ok(false)) => StoreError::Unconfirmed,
            Ok(Err(error)) => Why::Db(error).failed_to(ACTION, &self.pool),
            Err(_elapsed) => Why::NoAnswer.failed_to(ACTION, &self.pool),
        };
        self.pool.replace(&lease).await;
        Err(error)
    }
}

async fn is_there(
    db: &DatabaseConnection,
    heartbeats: &[&Heartbeat],
    proven: &Proven,
) -> Result<bool, DbErr> {
    use {device::Column as Device, listening_interval::Column as Saved};
    if !heartbeats.is_empty() {
        let row = |heartbeat: &&Heartbeat| {
            Condition::all()
                .add(Device::Id.eq(heartbeat.device_id.as_str()))
                // Another process may have written a later one.
                .add(Device::LastSeenAt.gte(millis(heartbeat.received_at)))
        };
        let rows = heartbeats.iter().map(row).fold(Condition::any(), Condition::add);
        if device::Entity::find().filter(rows).count(db).await? == 0 {
            return Ok(false);
        }
    }
    let newest = proven.change.as_ref().and_then(|change| change.intervals.last());
    let Some(newest) = newest else { return Ok(true) };
    let saved = listening_interval::Entity::find()
        .filter(Saved::Listener.eq(proven.listener))
        .filter(Saved::StartedAt.eq(millis(newest.interval.from)))
        .filter(Saved::EndedAt.eq(millis(newest.interval.until)));
    Ok(saved.count(db).await? > 0)
}
