//! The saves of a listener: how often it has saved something. Each transaction compares the number
//! in the database with what this process knows. A database that has lost what it had confirmed
//! says less.

use chrono::{DateTime, Utc};
use sea_orm::{DatabaseTransaction, DbErr, QueryResult, Value};

use crate::domain::ClockOffset;
use crate::store::{DeviceStore, millis};

/// The saves of one listener, as far as this process knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Saves {
    listener: i64,
    /// The number of saves that were confirmed.
    confirmed: i64,
    /// The number of those that may have been committed.
    at_most: i64,
}

impl Saves {
    /// Those of a listener of which the database has so many.
    pub(super) fn of(listener: i64, saves: i64) -> Self {
        Self { listener, confirmed: saves, at_most: saves }
    }

    pub(super) fn listener(self) -> i64 {
        self.listener
    }

    /// Compares them with the columns `saves` and `left_at` of a row. True if the stay lasts and
    /// nothing is lost.
    pub(super) fn verify(&mut self, row: &QueryResult) -> Result<bool, DbErr> {
        let saves: Option<i64> = row.try_get("", "saves")?;
        let has_left = row.try_get::<Option<i64>>("", "left_at")?.is_some();
        let known = saves.filter(|saves| (self.confirmed..=self.at_most).contains(saves));
        let Some(saves) = known.filter(|_| !has_left) else { return Ok(false) };
        // An answer that was lost has come this way.
        self.confirmed = saves;
        Ok(true)
    }

    /// True if somebody has ended the stay by hand, by the column `left_how` of its row.
    pub(super) fn are_removed(row: &QueryResult) -> Result<bool, DbErr> {
        let how: Option<String> = row.try_get("", "left_how")?;
        Ok(how.is_some_and(|how| how == "removed"))
    }

    /// Counts a save within its transaction, with what it proves. Returns the number, which
    /// [`may_be`](Self::may_be) notes.
    pub(super) async fn count(
        self,
        store: &DeviceStore,
        transaction: &DatabaseTransaction,
        proven_until: Option<DateTime<Utc>>,
        clock: ClockOffset,
    ) -> Result<Option<i64>, DbErr> {
        // Raw, because the builder does not return what it has updated on both databases.
        let sql = "UPDATE listener SET saves = saves + 1, \
                   proven_until = coalesce($2, proven_until), \
                   clock_offset_ms = $3, clock_spread_ms = $4 \
                   WHERE id = $1 RETURNING saves";
        let values: [Value; 4] = [
            self.listener.into(),
            proven_until.map(millis).into(),
            clock.offset.num_milliseconds().into(),
            clock.spread.num_milliseconds().into(),
        ];
        let row = store.select(transaction, sql, values).await?.pop();
        row.map(|row| row.try_get("", "saves")).transpose()
    }

    /// Notes that so many may have been committed.
    pub(super) fn may_be(&mut self, saves: i64) {
        self.at_most = self.at_most.max(saves);
    }

    /// Notes that the database has so many.
    pub(super) fn are(&mut self, saves: i64) {
        self.confirmed = saves;
        self.may_be(saves);
    }

    /// Notes that the last of them was committed.
    pub(super) fn are_confirmed(&mut self) {
        self.confirmed = self.at_most;
    }
}
