//! Removing devices, and remembering for a while that they were removed: a heartbeat
//! that was received before must not bring one back.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use entity::device_removal::{Column, Entity};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, EntityTrait,
    QueryFilter, QueryResult, Value,
};

use super::rows::{self, Columns, Type};
use super::{DeviceStore, Result, millis, time};
use crate::domain::Heartbeat;

/// How many devices one transaction removes: the service waits for no longer than that.
pub const REMOVED_AT_ONCE: usize = 1_000;

/// How long a removal is remembered: no heartbeat waits that long to be written.
const REMEMBERED: TimeDelta = TimeDelta::days(1);

/// How far in the future a removal may lie: another machine's clock may be ahead. One
/// further off was remembered by a clock that has been set back since.
const TOLERATED_FUTURE: TimeDelta = TimeDelta::minutes(1);

pub(super) const ID: Columns = &[("id", Type::Text)];

/// The devices that meet all of these conditions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// One of these ids; any text, so that a row with an id that is not accepted any
    /// more can be removed.
    pub ids: Option<Vec<String>>,
    /// An id that matches this pattern: `*` is any text, `?` one character.
    pub matching: Option<String>,
    /// Last heard, or if never heard registered, before this instant.
    pub silent_since: Option<DateTime<Utc>>,
    /// Registered at this instant or later.
    pub registered_since: Option<DateTime<Utc>>,
}

/// A device that a [`Selection`] selects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selected {
    /// Its id, as the database has it.
    pub id: String,
    /// When its last heartbeat was received.
    pub last_seen_at: Option<DateTime<Utc>>,
    /// Its own timeout; `None`: `heartbeat.timeout`.
    pub timeout: Option<Duration>,
}

impl DeviceStore {
    /// Up to [`REMOVED_AT_ONCE`] selected devices in the order of their ids, after the id
    /// `after`.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn selected(
        &self,
        selection: &Selection,
        after: Option<&str>,
    ) -> Result<Vec<Selected>> {
        self.read("select devices", async |db| self.select_devices(db, selection, after).await)
            .await
    }

    /// Forgets the devices that [`selected`](Self::selected) gives; their history stays.
    /// Heartbeats that were received until `at` do not register them again.
    ///
    /// # Errors
    ///
    /// If the database fails; none of them is removed then.
    pub async fn remove(
        &self,
        selection: &Selection,
        after: Option<&str>,
        at: DateTime<Utc>,
    ) -> Result<Vec<Selected>> {
        self.write("remove devices", async |transaction| {
            let selected = self.select_devices(transaction, selection, after).await?;
            let ids = || bind(selected.iter().map(|device| &*device.id));
            let rows = rows::select(self.backend(), "$1", ID);
            let forget =
                format!("DELETE FROM device WHERE id IN (SELECT id FROM ({rows}) AS gone)");
            self.execute(transaction, &forget, [ids()]).await?;
            let remember = format!(
                "INSERT INTO device_removal (device_id, removed_at) \
                 SELECT id, {at} FROM ({rows}) AS gone WHERE true \
                 ON CONFLICT (device_id) DO UPDATE SET removed_at = excluded.removed_at",
                at = millis(at),
            );
            self.execute(transaction, &remember, [ids()]).await?;
            Ok(selected)
        })
        .await
    }

    async fn select_devices(
        &self,
        db: &impl ConnectionTrait,
        selection: &Selection,
        after: Option<&str>,
    ) -> Result<Vec<Selected>, DbErr> {
        let (condition, values) = condition(self.backend(), selection, after);
        let sql = format!(
            "SELECT id, last_seen_at, timeout_seconds FROM device \
             WHERE {condition} ORDER BY id LIMIT {REMOVED_AT_ONCE}"
        );
        self.select(db, &sql, values).await?.iter().map(Selected::read).collect()
    }

    /// Of these unregistered devices those that were removed lately, and when, in
    /// milliseconds.
    pub(super) async fn removals(
        &self,
        transaction: &DatabaseTransaction,
        devices: &[&Heartbeat],
    ) -> Result<HashMap<String, i64>, DbErr> {
        if devices.is_empty() {
            return Ok(HashMap::new());
        }
        let sql = format!(
            "SELECT device_id, removed_at FROM device_removal \
             WHERE device_id IN (SELECT id FROM ({rows}) AS unknown)",
            rows = rows::select(self.backend(), "$1", ID),
        );
        let ids = bind(devices.iter().map(|heartbeat| heartbeat.device_id.as_str()));
        let rows = self.select(transaction, &sql, [ids]).await?;
        let read =
            |row: &QueryResult| Ok((row.try_get("", "device_id")?, row.try_get("", "removed_at")?));
        rows.iter().map(read).collect()
    }

    /// They are registered again.
    pub(super) async fn forget_removals(
        &self,
        transaction: &DatabaseTransaction,
        devices: impl Iterator<Item = &str>,
    ) -> Result<(), DbErr> {
        let ids: Vec<&str> = devices.collect();
        if ids.is_empty() {
            return Ok(());
        }
        let sql = format!(
            "DELETE FROM device_removal WHERE device_id IN (SELECT id FROM ({rows}) AS back)",
            rows = rows::select(self.backend(), "$1", ID),
        );
        self.execute(transaction, &sql, [bind(ids)]).await?;
        Ok(())
    }

    /// Forgets the removals that no waiting heartbeat can be older than, and those that a
    /// clock has noted which was set back since.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn prune_removals(&self, now: DateTime<Utc>) -> Result<u64> {
        let old = Condition::any()
            .add(Column::RemovedAt.lt(millis(now - REMEMBERED)))
            .add(Column::RemovedAt.gt(millis(now + TOLERATED_FUTURE)));
        let pruned = self
            .write("prune removals", async |transaction| {
                Entity::delete_many().filter(old.clone()).exec(transaction).await
            })
            .await?;
        Ok(pruned.rows_affected)
    }
}

impl Selected {
    fn read(row: &QueryResult) -> Result<Self, DbErr> {
        let timeout: Option<i64> = row.try_get("", "timeout_seconds")?;
        Ok(Self {
            id: row.try_get("", "id")?,
            last_seen_at: time("last_seen_at", row)?,
            timeout: timeout.map(|seconds| Duration::from_secs(seconds.unsigned_abs())),
        })
    }
}

/// The selection as SQL, and its parameters.
fn condition(
    backend: DbBackend,
    selection: &Selection,
    after: Option<&str>,
) -> (String, Vec<Value>) {
    let Selection { ids, matching, silent_since, registered_since } = selection;
    let mut values: Vec<Value> = Vec::new();
    let mut placeholder = |value: Value| {
        values.push(value);
        format!("${}", values.len())
    };
    let mut all = vec!["true".to_owned()];
    if let Some(after) = after {
        all.push(format!("id > {}", placeholder(after.into())));
    }
    if let Some(ids) = ids {
        let ids = placeholder(bind(ids.iter().map(String::as_str)));
        let rows = rows::select(backend, &ids, ID);
        all.push(format!("id IN (SELECT id FROM ({rows}) AS listed)"));
    }
    if let Some(pattern) = matching {
        let (operator, pattern) = like(backend, pattern);
        all.push(format!("id {operator} {}", placeholder(pattern.into())));
    }
    if let Some(instant) = silent_since {
        let instant = placeholder(millis(*instant).into());
        all.push(format!("coalesce(last_seen_at, registered_at) < {instant}"));
    }
    if let Some(instant) = registered_since {
        all.push(format!("registered_at >= {}", placeholder(millis(*instant).into())));
    }
    (all.join(" AND "), values)
}

/// A pattern of `*` and `?` as the database spells it, and its operator. SQLite's LIKE
/// would not tell `A` from `a`, and its GLOB knows `[` as well.
fn like(backend: DbBackend, pattern: &str) -> (&'static str, String) {
    let spelled = |c: char| match (backend, c) {
        (DbBackend::Postgres, '*') => "%".to_owned(),
        (DbBackend::Postgres, '?') => "_".to_owned(),
        (DbBackend::Postgres, '%' | '_' | '\\') => format!("\\{c}"),
        (DbBackend::Sqlite, '[') => "[[]".to_owned(),
        _ => c.to_string(),
    };
    let operator = if backend == DbBackend::Postgres { "LIKE" } else { "GLOB" };
    (operator, pattern.chars().map(spelled).collect())
}

pub(super) fn bind<'a>(ids: impl IntoIterator<Item = &'a str>) -> Value {
    rows::bind(ids.into_iter().map(|id| [Value::from(id)]))
}
