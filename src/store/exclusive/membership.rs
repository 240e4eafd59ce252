//! The membership of a service in a group, of which all members write.
//!
//! A member writes as long as its row of table `listener` is open, has the number of saves that
//! it knows of, and the database is of the timeline on which it joined. Otherwise another member
//! has taken it out of the group, or the database has lost what was confirmed: what it has not
//! written is then worth nothing, as after a crash.

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use sea_orm::{DatabaseTransaction, DbBackend, DbErr, Value};

use super::JoinedGroup;
use crate::domain::{ClockOffset, DatabaseTimeline};
use crate::store::timeline::of_column;
use crate::store::{DeviceStore, Result, StoreError, millis};

/// The membership of this process, if it has one at the moment.
#[derive(Debug, Default)]
pub(super) struct Membership {
    stay: Mutex<Option<Joined>>,
}

/// A stay, as far as its saves go.
#[derive(Clone, Debug)]
struct Joined {
    listener: i64,
    timeline: DatabaseTimeline,
    /// The number of saves that were confirmed.
    confirmed: i64,
    /// The number of those that may have been committed.
    at_most: i64,
}

impl Membership {
    /// Notes that a stay has begun.
    pub(super) fn joined(&self, JoinedGroup { listener, timeline }: JoinedGroup) {
        *self.stay.lock() = Some(Joined { listener, timeline, confirmed: 0, at_most: 0 });
    }

    /// Notes that the stay is over, as far as this process is concerned.
    pub(super) fn ended(&self) {
        *self.stay.lock() = None;
    }

    /// The listener that this process is.
    pub(super) fn listener(&self) -> Option<i64> {
        self.stay.lock().as_ref().map(|joined| joined.listener)
    }

    /// Verifies within a transaction that this process is still a member, and that the database
    /// has lost nothing. On PostgreSQL whoever wants to take it out of the group waits until the
    /// transaction has ended.
    pub(super) async fn verify(
        &self,
        store: &DeviceStore,
        transaction: &DatabaseTransaction,
    ) -> Result<Result<(), StoreError>, DbErr> {
        let Some(joined) = self.stay.lock().clone() else { return Ok(Err(StoreError::Forgotten)) };
        let locked = match store.backend() {
            DbBackend::Postgres => " FOR NO KEY UPDATE",
            _ => "",
        };
        let sql = format!(
            "SELECT saves, left_at, {now} AS timeline FROM listener WHERE id = $1{locked}",
            now = store.timeline_sql(),
        );
        let row = store.select(transaction, &sql, [joined.listener.into()]).await?.pop();
        let Some(row) = row else { return Ok(Err(StoreError::Forgotten)) };
        let saves: i64 = row.try_get("", "saves")?;
        let has_left = row.try_get::<Option<i64>>("", "left_at")?.is_some();
        let is_known = (joined.confirmed..=joined.at_most).contains(&saves);
        if has_left || !is_known || of_column("timeline", &row)? != joined.timeline {
            return Ok(Err(StoreError::Forgotten));
        }
        // An answer that was lost has come this way.
        if let Some(current) = &mut *self.stay.lock()
            && current.listener == joined.listener
        {
            current.confirmed = saves;
        }
        Ok(Ok(()))
    }

    /// Counts a save within its transaction, and notes what it proves.
    pub(super) async fn count(
        &self,
        store: &DeviceStore,
        transaction: &DatabaseTransaction,
        proven_until: Option<DateTime<Utc>>,
        clock: ClockOffset,
    ) -> Result<(), DbErr> {
        let Some(listener) = self.stay.lock().as_ref().map(|joined| joined.listener) else {
            return Ok(());
        };
        // Raw, because the builder does not return what it has updated on both databases.
        let sql = "UPDATE listener SET saves = saves + 1, \
                   proven_until = coalesce($2, proven_until), \
                   clock_offset_ms = $3, clock_spread_ms = $4 \
                   WHERE id = $1 AND left_at IS NULL RETURNING saves";
        let values: [Value; 4] = [
            listener.into(),
            proven_until.map(millis).into(),
            clock.offset.num_milliseconds().into(),
            clock.spread.num_milliseconds().into(),
        ];
        let row = store.select(transaction, sql, values).await?.pop();
        let saves = row.map(|row| row.try_get::<i64>("", "saves")).transpose()?;
        if let (Some(saves), Some(joined)) = (saves, &mut *self.stay.lock())
            && joined.listener == listener
        {
            joined.at_most = joined.at_most.max(saves);
        }
        Ok(())
    }

    /// Notes that the transaction with the last save was committed.
    pub(super) fn is_counted(&self) {
        if let Some(joined) = &mut *self.stay.lock() {
            joined.confirmed = joined.at_most;
        }
    }

    /// Notes the number of saves that the database has confirmed in another way.
    pub(super) fn has_saved(&self, saves: i64) {
        if let Some(joined) = &mut *self.stay.lock() {
            (joined.confirmed, joined.at_most) = (saves, saves.max(joined.at_most));
        }
    }
}
