//! The membership of a service in a group, of which all members write.
//!
//! A member writes as long as its row of table `listener` is open, has the number of saves that
//! it knows of, and the database is of the timeline on which it joined. Otherwise another member
//! has taken it out of the group, or the database has lost what was confirmed: what it has not
//! written is then worth nothing, as after a crash.

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use sea_orm::{DatabaseTransaction, DbBackend, DbErr};

use super::JoinedGroup;
use super::saves::Saves;
use crate::domain::{ClockOffset, DatabaseTimeline};
use crate::store::timeline::of_column;
use crate::store::{DeviceStore, Result, StoreError};

/// The membership of this process, if it has one at the moment.
#[derive(Debug, Default)]
pub(super) struct Membership {
    stay: Mutex<Option<Joined>>,
}

/// A stay, as far as its saves go.
#[derive(Clone, Debug)]
struct Joined {
    timeline: DatabaseTimeline,
    saves: Saves,
}

impl Membership {
    /// Notes that a stay has begun.
    pub(super) fn joined(&self, JoinedGroup { listener, mark }: JoinedGroup) {
        *self.stay.lock() = Some(Joined { timeline: mark.timeline, saves: Saves::of(listener, 0) });
    }

    /// Notes that the stay is over, as far as this process is concerned.
    pub(super) fn ended(&self) {
        *self.stay.lock() = None;
    }

    /// The listener that this process is.
    pub(super) fn listener(&self) -> Option<i64> {
        self.stay.lock().as_ref().map(|joined| joined.saves.listener())
    }

    /// Verifies within a transaction that this process is still a member, and that the database
    /// has lost nothing. On PostgreSQL whoever wants to take it out of the group waits until the
    /// transaction has ended.
    pub(super) async fn verify(
        &self,
        store: &DeviceStore,
        transaction: &DatabaseTransaction,
    ) -> Result<Result<(), StoreError>, DbErr> {
        let Some(mut joined) = self.stay.lock().clone() else {
            return Ok(Err(StoreError::Forgotten));
        };
        let listener = joined.saves.listener();
        let locked = match store.backend() {
            DbBackend::Postgres => " FOR NO KEY UPDATE",
            _ => "",
        };
        let sql = format!(
            "SELECT saves, left_at, left_how, {now} AS timeline FROM listener WHERE id = $1{locked}",
            now = store.timeline_sql(),
        );
        let row = store.select(transaction, &sql, [listener.into()]).await?.pop();
        let Some(row) = row else { return Ok(Err(StoreError::Forgotten)) };
        if of_column("timeline", &row)? != joined.timeline {
            return Ok(Err(StoreError::Forgotten));
        }
        if Saves::are_removed(&row)? {
            return Ok(Err(StoreError::Removed));
        }
        if row.try_get::<Option<i64>>("", "left_at")?.is_some() {
            return Ok(Err(StoreError::TakenOut));
        }
        let is_member = joined.saves.verify(&row)?;
        if let Some(current) = &mut *self.stay.lock()
            && is_member
            && current.saves.listener() == listener
        {
            current.saves.verify(&row)?;
        }
        Ok(if is_member { Ok(()) } else { Err(StoreError::Forgotten) })
    }

    /// Counts a save within its transaction, and notes what it proves.
    pub(super) async fn count(
        &self,
        store: &DeviceStore,
        transaction: &DatabaseTransaction,
        proven_until: Option<DateTime<Utc>>,
        clock: ClockOffset,
    ) -> Result<(), DbErr> {
        let Some(saves) = self.stay.lock().as_ref().map(|joined| joined.saves) else {
            return Ok(());
        };
        let counted = saves.count(store, transaction, proven_until, clock).await?;
        if let (Some(counted), Some(joined)) = (counted, &mut *self.stay.lock())
            && joined.saves.listener() == saves.listener()
        {
            joined.saves.may_be(counted);
        }
        Ok(())
    }

    /// Notes that the transaction with the last save was committed.
    pub(super) fn is_counted(&self) {
        if let Some(joined) = &mut *self.stay.lock() {
            joined.saves.are_confirmed();
        }
    }

    /// Notes the number of saves that the database has confirmed in another way.
    pub(super) fn has_saved(&self, saves: i64) {
        if let Some(joined) = &mut *self.stay.lock() {
            joined.saves.are(saves);
        }
    }
}
