//! Removing devices, and remembering their removal for a while, so that a heartbeat received
//! before does not bring one back.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use entity::device_removal::{Column, Entity};
use sea_orm::sea_query::Expr;
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, EntityTrait,
    QueryFilter, QueryResult, Value,
};

use super::driver_error::contended;
use super::raw_id::{self, ID, RawId, bind};
use super::reading::Reader;
use super::rows;
use super::values::id_in_order;
use super::{DeviceStore, Result, StoreError, millis, time};
use crate::domain::heartbeat::latest_credible;
use crate::domain::{Entry, Happening, Heartbeat, OwnTimeout, Status};

/// The number of devices that one transaction removes. The service waits no longer than that
/// takes.
pub const REMOVED_AT_ONCE: usize = 1_000;

/// The time for which a removal is remembered. A heartbeat that waited for longer would
/// register the device again.
const REMEMBERED: TimeDelta = TimeDelta::days(1);

/// The devices that meet all of these conditions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Has one of these ids. They may be invalid, so that rows with such an id can be
    /// removed, or bytes as [`RawId`] spells them.
    pub ids: Option<Vec<String>>,
    /// Has an id that matches this pattern: `*` is any text, `?` one character.
    pub matching: Option<String>,
    /// Was last heard, or registered if it was never heard, before this instant.
    pub silent_since: Option<DateTime<Utc>>,
    /// Was registered at this instant or later.
    pub registered_since: Option<DateTime<Utc>>,
}

/// A device that a [`Selection`] selects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selected {
    /// Its stored id.
    pub id: RawId,
    /// Its status; `None` if it cannot be read.
    pub status: Option<Status>,
    /// The time of its last heartbeat; `None` if there is none or it cannot be read.
    pub last_seen_at: Option<DateTime<Utc>>,
    /// Its own timeout, if that is in effect; `None` if `heartbeat.timeout` is.
    pub timeout: Option<Duration>,
}

impl DeviceStore {
    /// Up to [`REMOVED_AT_ONCE`] of the selected devices in the order of their ids, after the
    /// id `after`.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn selected(
        &self,
        selection: &Selection,
        after: Option<&RawId>,
    ) -> Result<Vec<Selected>> {
        self.read("select devices", async |db| {
            self.select_devices(db, selection, after, false).await
        })
        .await
    }

    /// Removes the devices that [`selected`](Self::selected) returns; their history stays.
    /// Heartbeats received until `at` do not register them again.
    ///
    /// # Errors
    ///
    /// If the database fails. Then none of them is removed.
    pub async fn remove(
        &self,
        selection: &Selection,
        after: Option<&RawId>,
        at: DateTime<Utc>,
    ) -> Result<Vec<Selected>> {
        self.write("remove devices", async |transaction| {
            let selected = self.select_devices(transaction, selection, after, true).await?;
            // Only texts, because no heartbeat has another id.
            let texts = || selected.iter().filter_map(|device| device.id.text());
            let (these, values) = match self.backend() {
                // Those that are locked. By now others may meet the condition.
                DbBackend::Postgres => {
                    let rows = rows::select(self.backend(), "$1", ID);
                    (format!("SELECT id FROM ({rows}) AS selected"), vec![bind(texts())])
                }
                // By the same condition, because an id may be anything.
                _ => {
                    let (condition, values) = condition(self.backend(), selection, after);
                    (format!("SELECT id FROM device WHERE {condition}"), values)
                }
            };
            let forget = format!("DELETE FROM device WHERE id IN ({these})");
            self.execute(transaction, &forget, values).await?;
            self.end_outages_of_removed(transaction, texts(), at).await?;
            let rows = rows::select(self.backend(), "$1", ID);
            let remember = format!(
                "INSERT INTO device_removal (device_id, removed_at) \
                 SELECT id, {at} FROM ({rows}) AS gone WHERE true \
                 ON CONFLICT (device_id) DO UPDATE SET removed_at = excluded.removed_at",
                at = millis(at),
            );
            self.execute(transaction, &remember, [bind(texts())]).await?;
            let removed = selected.iter().map(|device| Entry {
                at,
                what: Happening::Removed { device: device.id.to_string() },
            });
            self.write_journal(transaction, removed).await?;
            Ok(selected)
        })
        .await
    }

    /// Reads the selected devices, and with `locks` keeps others from changing them until the
    /// transaction ends.
    async fn select_devices(
        &self,
        db: &impl ConnectionTrait,
        selection: &Selection,
        after: Option<&RawId>,
        locks: bool,
    ) -> Result<Vec<Selected>, DbErr> {
        let (condition, values) = condition(self.backend(), selection, after);
        let locked = locks && self.backend() == DbBackend::Postgres;
        let lock = if locked { "FOR UPDATE" } else { "" };
        // Raw, because an entity cannot hold an id that is not a text.
        let sql = format!(
            "SELECT {id}, status, last_seen_at, timeout_seconds FROM device WHERE {condition} {lock}",
            id = RawId::columns(self.backend()),
        );
        self.select(db, &sql, values).await?.iter().map(Selected::read).collect()
    }

    /// The recent removals of these unregistered devices: the time of each, in
    /// milliseconds.
    pub(super) async fn removals(
        &self,
        transaction: &DatabaseTransaction,
        devices: &[&Heartbeat],
    ) -> Result<HashMap<String, i64>, DbErr> {
        if devices.is_empty() {
            return Ok(HashMap::new());
        }
        // Raw, as is every statement here that takes a list of ids as one parameter.
        let sql = format!(
            "SELECT device_id, removed_at FROM device_removal \
             WHERE device_id IN (SELECT id FROM ({rows}) AS unknown)",
            rows = rows::select(self.backend(), "$1", ID),
        );
        let ids = bind(devices.iter().map(|heartbeat| heartbeat.device_id.as_str()));
        let rows = self.select(transaction, &sql, [ids]).await?;
        Ok(self.read_removals(&rows))
    }

    /// Forgets the removals of devices that these heartbeats have just registered again. Fails as
    /// a conflict if one of them was removed after its heartbeat was received. That is certain
    /// only now: as long as the device was not registered, it could be added and removed.
    pub(super) async fn forget_removals(
        &self,
        transaction: &DatabaseTransaction,
        registered: &[&Heartbeat],
    ) -> Result<(), DbErr> {
        if registered.is_empty() {
            return Ok(());
        }
        let sql = format!(
            "DELETE FROM device_removal WHERE device_id IN (SELECT id FROM ({rows}) AS back) \
             RETURNING device_id, removed_at",
            rows = rows::select(self.backend(), "$1", ID),
        );
        let ids = bind(registered.iter().map(|heartbeat| heartbeat.device_id.as_str()));
        let rows = self.select(transaction, &sql, [ids]).await?;
        let forgotten = self.read_removals(&rows);
        let is_removed = registered.iter().any(|heartbeat| is_removed(heartbeat, &forgotten));
        if is_removed { Err(contended()) } else { Ok(()) }
    }

    fn read_removals(&self, rows: &[QueryResult]) -> HashMap<String, i64> {
        let read = |row: &QueryResult| {
            let id: String = row.try_get("", "device_id")?;
            Ok((id, row.try_get("", "removed_at")?))
        };
        // A removal that cannot be read must not prevent the others from being used.
        rows.iter().filter_map(|row| self.readable("a removal", read(row))).collect()
    }

    /// Moves removals from the future to `now` after the clock was set back, because until
    /// then no heartbeat would register such a device again. A heartbeat that was received
    /// before the clock was set back also counts as received at `now`, and does not
    /// register it.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn clamp_removals(&self, now: DateTime<Utc>) -> Result<()> {
        let update = Entity::update_many()
            .col_expr(Column::RemovedAt, Expr::value(millis(now)))
            .filter(Column::RemovedAt.gt(millis(latest_credible(now))));
        self.write("clamp removals from the future", async |transaction| {
            update.clone().exec(transaction).await.map(drop)
        })
        .await
    }

    /// Forgets removals that are older than any waiting heartbeat, and those stored by a
    /// clock that has been set back since.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn prune_removals(&self, now: DateTime<Utc>) -> Result<u64> {
        let old = Condition::any()
            .add(Column::RemovedAt.lt(millis(now - REMEMBERED)))
            .add(Column::RemovedAt.gt(millis(latest_credible(now))));
        let pruned = self
            .write("prune removals", async |transaction| {
                Entity::delete_many().filter(old.clone()).exec(transaction).await
            })
            .await?;
        Ok(pruned.rows_affected)
    }
}

/// True if a device was removed after its heartbeat was received. `removals` has the instants of
/// removals, in milliseconds.
pub(super) fn is_removed(heartbeat: &Heartbeat, removals: &HashMap<String, i64>) -> bool {
    let removed_at = removals.get(heartbeat.device_id.as_str());
    removed_at.is_some_and(|&at| millis(heartbeat.received_at) <= at)
}

impl Reader {
    /// The time at which a device was removed last; `None` if that is not known. The journal is
    /// searched only for one that has a history, and for a quarter of the time of a read: no answer
    /// waits for a hint.
    ///
    /// # Errors
    ///
    /// If the database fails or is too slow.
    pub async fn removed_at(&self, device: &str) -> Result<Option<DateTime<Utc>>> {
        const ACTION: &str = "look for the removal of a device";
        // PostgreSQL takes no such text, and no device has it.
        if device.contains('\0') {
            return Ok(None);
        }
        let sql = "SELECT coalesce(\
                       (SELECT removed_at FROM device_removal WHERE device_id = $1), \
                       (SELECT at FROM journal WHERE kind = 'removed' AND device_id = $1 \
                        AND EXISTS (SELECT 1 FROM status_transition WHERE device_id = $1) \
                        ORDER BY number DESC LIMIT 1)) AS removed_at";
        let bound = self.0.pool.origin().bound() / 4;
        let looking = self.read(ACTION, async |db| {
            let row = self.0.select(db, sql, [device.into()]).await?.pop();
            Ok(row.map(|row| time("removed_at", &row)).transpose()?.flatten())
        });
        match tokio::time::timeout(bound, looking).await {
            Ok(found) => found,
            Err(_elapsed) => Err(StoreError::NoAnswer { action: ACTION, bound }),
        }
    }
}

impl Selected {
    fn read(row: &QueryResult) -> Result<Self, DbErr> {
        // A row that cannot be read can be removed, too.
        let timeout: Option<i64> = row.try_get("", "timeout_seconds").ok().flatten();
        let status: Option<String> = row.try_get("", "status").ok().flatten();
        Ok(Self {
            id: RawId::read(row)?,
            status: status.and_then(|status| Status::named(&status)),
            last_seen_at: time("last_seen_at", row).ok().flatten(),
            timeout: timeout.map(OwnTimeout::of).and_then(OwnTimeout::in_effect),
        })
    }
}

/// The SQL that selects the next rows, with its order and limit, and its parameters.
fn condition(
    backend: DbBackend,
    selection: &Selection,
    after: Option<&RawId>,
) -> (String, Vec<Value>) {
    let Selection { ids, matching, silent_since, registered_since } = selection;
    let mut values: Vec<Value> = Vec::new();
    let mut placeholder = |value: Value| {
        values.push(value);
        format!("${}", values.len())
    };
    let id = id_in_order(backend);
    let mut all = vec!["true".to_owned()];
    if let Some(after) = after {
        all.push(format!("{id} > {}", after.bind(&mut placeholder)));
    }
    if let Some(ids) = ids {
        all.push(format!("id IN ({})", raw_id::listed(backend, ids, &mut placeholder)));
    }
    if let Some(pattern) = matching {
        let (operator, pattern) = like(backend, pattern);
        all.push(format!("id {operator} {}", placeholder(pattern.into())));
    }
    let (seen, registered) = (instant(backend, "last_seen_at"), instant(backend, "registered_at"));
    if let Some(instant) = silent_since {
        let instant = placeholder(millis(*instant).into());
        all.push(format!("coalesce({seen}, {registered}) < {instant}"));
    }
    if let Some(instant) = registered_since {
        all.push(format!("{registered} >= {}", placeholder(millis(*instant).into())));
    }
    (format!("{} ORDER BY {id} LIMIT {REMOVED_AT_ONCE}", all.join(" AND ")), values)
}

/// The instant in a column. Null for any other value, which SQLite would order after every
/// instant.
fn instant(backend: DbBackend, column: &str) -> String {
    match backend {
        DbBackend::Postgres => column.to_owned(),
        _ => format!("CASE typeof({column}) WHEN 'integer' THEN {column} END"),
    }
}

/// The operator for a pattern of `*` and `?`, and the pattern as the database spells it.
/// SQLite's LIKE does not distinguish `A` from `a`, and its GLOB also interprets `[`.
pub(super) fn like(backend: DbBackend, pattern: &str) -> (&'static str, String) {
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
