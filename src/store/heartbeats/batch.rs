//! A batch of heartbeats inside its transaction.
//!
//! Most heartbeats change only what their devices report. These are written first, and
//! in a steady fleet they are all; only the rows of the others are read.
//!
//! On PostgreSQL commands and other processes change devices at the same time. Each statement
//! sees what was committed before it began, so what one has read may have changed before the
//! next. What is read here is therefore locked first, and what must not exist is inserted first:
//!
//! - A steady heartbeat is written only where its condition still holds once the row is locked.
//! - The rows of the others are [locked](Batch::lock) and read again.
//! - An unknown device is inserted unless it has been registered meanwhile, and only then it is
//!   certain whether it was removed.
//!
//! Rows are locked in the order of their ids. The steady ones come before the others and the new
//! ones, which are then out of order: for these nothing is waited for. If one is locked, or another
//! transaction registers devices, this one begins again, and then [locks all](Batch::lock_all)
//! first. Two flushes, or a flush and a command, therefore never wait for each other, and the usual
//! flush reads nothing.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, QueryResult};

use super::lookup::Lookup;
use super::sql::{self, HEARTBEAT};
use super::upsert::Upsert;
use super::{Recorded, RecordingRules};
use crate::domain::heartbeat::{is_new_skew, is_overtaken, latest_credible};
use crate::domain::payload::is_new_payload_error;
use crate::domain::{DeviceId, Entry, Happening, Heartbeat, OpenOutage, Rejection, Status};
use crate::store::driver_error::contended;
use crate::store::fleet::REGISTRATION_LOCK;
use crate::store::history::NewTransition;
use crate::store::unreadable::named;
use crate::store::values::locked_in_order;
use crate::store::{DeviceStore, device_id, millis, raw_id, rows, time};

/// The number of heartbeats whose noteworthy rows are read, or written, by one statement. SQLite
/// copies the values of its parameters and results one by one, on the thread of a connection,
/// whose heap keeps that memory for the next.
const AT_ONCE: usize = 1_000;

/// Lets PostgreSQL look up one row after the other, in the order of the heartbeats, and so lock
/// them in that order. For a small table it would otherwise read all of it, in the order of the
/// pages.
const ONE_BY_ONE: &str = "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; \
                          SET LOCAL enable_seqscan = off";

/// A way to deal with unknown devices.
pub(super) trait Strategy {
    /// A condition that matches the rows that [`write_steady`](Self::write_steady) has
    /// inserted for unknown devices.
    fn newborn() -> String;

    /// Writes the heartbeats that change nothing but what their devices report. Returns
    /// true if these are all.
    async fn write_steady(batch: &Batch<'_>) -> Result<bool, DbErr>;

    /// Leaves the admitted devices registered, with what they report, and the rejected
    /// ones not.
    async fn register(batch: &Batch<'_>, admitted: &Admitted<'_>) -> Result<(), DbErr>;
}

/// Heartbeats in their transaction: one per device, sorted by device id.
pub(super) struct Batch<'a> {
    pub store: &'a DeviceStore,
    pub transaction: &'a DatabaseTransaction,
    pub heartbeats: &'a [Heartbeat],
    pub rules: RecordingRules,
}

/// A device's row before its heartbeat is written.
struct Known {
    id: DeviceId,
    /// `None` if the device was not registered.
    status: Option<Status>,
    last_seen_at: Option<DateTime<Utc>>,
    clock_skew_ms: Option<i64>,
    payload_error: Option<String>,
}

/// The heartbeats that change more than what their devices report.
#[derive(Default)]
struct Classified<'a> {
    known: Vec<&'a Heartbeat>,
    unknown: Vec<&'a Heartbeat>,
    /// Those that are as old as the silence of their devices.
    outdated: Vec<Rejection>,
    /// The transitions of the known devices.
    transitions: Vec<NewTransition>,
    skewed: Vec<(DeviceId, i64)>,
    unreadable: Vec<(DeviceId, String)>,
}

/// The decision about the unknown devices of a batch.
pub(super) struct Admitted<'a> {
    /// The heartbeats of the devices that are registered.
    pub heartbeats: Vec<&'a Heartbeat>,
    /// The reasons why the other devices were not registered.
    pub rejections: Vec<Rejection>,
}

impl<'a> Batch<'a> {
    pub(super) fn new(
        store: &'a DeviceStore,
        transaction: &'a DatabaseTransaction,
        heartbeats: &'a [Heartbeat],
        rules: RecordingRules,
    ) -> Self {
        Self { store, transaction, heartbeats, rules }
    }

    /// Records the heartbeats.
    pub(super) async fn record(&self) -> Result<Recorded, DbErr> {
        if self.heartbeats.is_empty() {
            return Ok(Recorded::default());
        }
        if self.store.backend() == DbBackend::Postgres {
            self.transaction.execute_unprepared(ONE_BY_ONE).await?;
        }
        match self.store.backend() {
            DbBackend::Sqlite if self.rules.allowed() > 0 => self.record_by::<Upsert>().await,
            _ => self.record_by::<Lookup>().await,
        }
    }

    async fn record_by<S: Strategy>(&self) -> Result<Recorded, DbErr> {
        if S::write_steady(self).await? {
            return Ok(Recorded::default());
        }
        let noteworthy = self.lock(self.noteworthy(&S::newborn()).await?).await?;
        let offline = noteworthy.iter().filter(|row| row.status == Some(Status::Offline));
        let outages =
            self.store.outages_of(self.transaction, offline.map(|row| row.id.as_str())).await?;
        let Classified { known, unknown, outdated, mut transitions, skewed, unreadable } =
            self.classify(noteworthy, &outages);
        self.update(&known).await?;
        self.store.end_outages(self.transaction, &mut transitions).await?;

        let admitted = self.admit(unknown).await?;
        S::register(self, &admitted).await?;
        let Admitted { heartbeats: registered, mut rejections } = admitted;
        self.store.forget_removals(self.transaction, &registered).await?;
        rejections.extend(outdated);
        let first = |heartbeat| NewTransition::on_heartbeat(Status::Provisioning, heartbeat);
        transitions.extend(registered.iter().copied().filter_map(first));

        let transitions = self.store.insert_transitions(self.transaction, &transitions).await?;
        let entries = registered.iter().map(|heartbeat| Entry {
            at: heartbeat.received_at,
            what: Happening::Registered { device: heartbeat.device_id.to_string() },
        });
        self.store.write_journal(self.transaction, entries).await?;
        let registered = registered.len() as u64;
        Ok(Recorded { transitions, registered, rejections, skewed, unreadable })
    }

    /// Becomes the only one that may register devices, and locks the rows of all that are
    /// registered, in the order of their ids.
    pub(super) async fn lock_all(&self) -> Result<(), DbErr> {
        if self.heartbeats.is_empty() || self.store.backend() != DbBackend::Postgres {
            return Ok(());
        }
        let alone = format!("SELECT pg_advisory_xact_lock({REGISTRATION_LOCK})");
        self.transaction.execute_unprepared(&alone).await?;
        // No row travels.
        let sql = format!(
            "WITH heartbeat AS ({rows}) SELECT count(*) FROM (\
                 SELECT device.id FROM device WHERE id IN (SELECT id FROM heartbeat) {locked}\
             ) AS locked",
            rows = self.unpacked(),
            locked = locked_in_order(self.store.backend()),
        );
        self.store.select(self.transaction, &sql, [sql::bind(self.heartbeats)]).await.map(drop)
    }

    /// Locks the rows of those devices that are registered, and reads them again. Waits for
    /// nothing, and fails as a conflict if another transaction has changed one, removed it or
    /// locked it.
    async fn lock(&self, noteworthy: Vec<Known>) -> Result<Vec<Known>, DbErr> {
        if self.store.backend() != DbBackend::Postgres {
            return Ok(noteworthy);
        }
        let (known, mut rows): (Vec<_>, Vec<_>) =
            noteworthy.into_iter().partition(|row| row.status.is_some());
        let sql = format!(
            "SELECT id, status, last_seen_at, clock_skew_ms, payload_error FROM device \
             WHERE id IN (SELECT id FROM ({ids}) AS known) {locked} SKIP LOCKED",
            ids = rows::select(self.store.backend(), "$1", raw_id::ID),
            locked = locked_in_order(self.store.backend()),
        );
        for known in known.chunks(AT_ONCE) {
            let ids = raw_id::bind(known.iter().map(|row| row.id.as_str()));
            let locked = self.store.select(self.transaction, &sql, [ids]).await?;
            if locked.len() < known.len() {
                return Err(contended());
            }
            for row in &locked {
                rows.push(self.known(row)?);
            }
        }
        Ok(rows)
    }

    /// Sorts out what the noteworthy heartbeats change. `outages` are those of the devices that are
    /// offline.
    fn classify(&self, rows: Vec<Known>, outages: &HashMap<String, OpenOutage>) -> Classified<'a> {
        let mut classified = Classified::default();
        let now = self.rules.now;
        for row in rows {
            let Some(heartbeat) = self.heartbeat_of(&row.id) else { continue };
            let received_at = heartbeat.received_at;
            match outages.get(row.id.as_str()) {
                Some(outage) if outage.is_ended_by(received_at, now) => (),
                Some(_) => {
                    classified.outdated.push(Rejection::Outdated { device_id: row.id });
                    continue;
                }
                None if is_overtaken(received_at, row.last_seen_at, now) => continue,
                None => (),
            }
            if let Some(skew) = heartbeat.clock_skew_ms.map(i64::from)
                && is_new_skew(row.clock_skew_ms, skew, self.rules.max_clock_skew)
            {
                classified.skewed.push((row.id.clone(), skew));
            }
            if let Some(error) = heartbeat.payload_error.as_ref().map(ToString::to_string)
                && is_new_payload_error(row.payload_error.as_deref(), &error)
            {
                classified.unreadable.push((row.id, error));
            }
            match row.status {
                Some(status) => {
                    classified.transitions.extend(NewTransition::on_heartbeat(status, heartbeat));
                    classified.known.push(heartbeat);
                }
                None => classified.unknown.push(heartbeat),
            }
        }
        classified
    }

    fn heartbeat_of(&self, id: &DeviceId) -> Option<&'a Heartbeat> {
        let at = self.heartbeats.binary_search_by(|h| h.device_id.cmp(id)).ok()?;
        Some(&self.heartbeats[at])
    }

    /// Decides which unknown devices are registered.
    async fn admit(&self, unknown: Vec<&'a Heartbeat>) -> Result<Admitted<'a>, DbErr> {
        if !self.rules.auto_register {
            let id = |heartbeat: &Heartbeat| heartbeat.device_id.clone();
            let rejections =
                unknown.into_iter().map(|h| Rejection::UnknownDevice { device_id: id(h) });
            return Ok(Admitted { heartbeats: Vec::new(), rejections: rejections.collect() });
        }
        let removals = self.store.removals(self.transaction, &unknown).await?;
        let (heartbeats, rejections) = self.rules.admit(unknown, &removals);
        Ok(Admitted { heartbeats, rejections })
    }

    /// Executes a statement with all heartbeats as its rows, in portions. Returns the
    /// number of devices that it wrote.
    pub(super) async fn write_rows(&self, sql: impl Fn(&str) -> String) -> Result<u64, DbErr> {
        let (listed, rest) = rows::split(self.store.backend(), self.heartbeats);
        let mut written = 0;
        if !listed.is_empty() {
            let sql = sql(&rows::list(HEARTBEAT));
            for heartbeats in listed {
                let values = heartbeats.iter().flat_map(sql::values);
                written += self.store.execute(self.transaction, &sql, values).await?;
            }
        }
        if !rest.is_empty() {
            let (sql, values) = (sql(&self.unpacked()), [sql::bind(rest)]);
            written += self.store.execute(self.transaction, &sql, values).await?;
        }
        Ok(written)
    }

    /// The rows of the heartbeats that are not written yet: of unknown devices, of those whose
    /// status or payload error changes, and of those whose clock is off. No other rows
    /// travel, nor those of heartbeats that are overtaken.
    async fn noteworthy(&self, newborn: &str) -> Result<Vec<Known>, DbErr> {
        let sql = format!(
            "WITH heartbeat AS ({rows}) \
             SELECT heartbeat.id, device.last_seen_at, \
                    CASE WHEN {newborn} THEN NULL ELSE device.status END AS status, \
                    CASE WHEN {newborn} THEN NULL ELSE device.clock_skew_ms END AS clock_skew_ms, \
                    CASE WHEN {newborn} THEN NULL ELSE device.payload_error END AS payload_error \
             FROM heartbeat LEFT JOIN device ON device.id = heartbeat.id \
             WHERE device.id IS NULL OR device.status = '{offline}' \
                OR ({is_current} AND NOT ({is_written}))",
            rows = self.unpacked(),
            offline = Status::Offline,
            is_current = sql::is_current("heartbeat", "$2"),
            is_written = sql::is_written("heartbeat", self.rules.max_clock_skew),
        );
        let credible = millis(latest_credible(self.rules.now));
        let mut known = Vec::new();
        for heartbeats in self.heartbeats.chunks(AT_ONCE) {
            let values = [sql::bind(heartbeats), credible.into()];
            let rows = self.store.select(self.transaction, &sql, values).await?;
            for row in &rows {
                known.push(self.known(row)?);
            }
        }
        Ok(known)
    }

    /// Reads a row as far as that is possible. Its device is alive, so a status that
    /// cannot be read counts as `provisioning` and is replaced.
    fn known(&self, row: &QueryResult) -> Result<Known, DbErr> {
        let id: String = row.try_get("", "id")?;
        let name = named("device", &Some(&id));
        let status = row.try_get::<Option<entity::Status>>("", "status");
        let status = self.store.readable(&name, status);
        let skew = self.store.readable(&name, row.try_get("", "clock_skew_ms"));
        let payload_error = self.store.readable(&name, row.try_get("", "payload_error"));
        let last_seen_at = self.store.readable(&name, time("last_seen_at", row));
        Ok(Known {
            id: device_id(&id)?,
            status: status.unwrap_or(Some(entity::Status::Provisioning)).map(Status::from),
            last_seen_at: last_seen_at.flatten(),
            clock_skew_ms: skew.flatten(),
            payload_error: payload_error.flatten(),
        })
    }

    /// Writes everything that these heartbeats say into the rows of their devices.
    pub(super) async fn update(&self, heartbeats: &[&Heartbeat]) -> Result<(), DbErr> {
        let sql = sql::update(&self.unpacked());
        for heartbeats in heartbeats.chunks(AT_ONCE) {
            let values = [sql::bind(heartbeats.iter().copied())];
            self.store.execute(self.transaction, &sql, values).await?;
        }
        Ok(())
    }

    /// A `SELECT` of the heartbeats in the first parameter, see [`sql::bind`].
    pub(super) fn unpacked(&self) -> String {
        rows::select(self.store.backend(), "$1", HEARTBEAT)
    }
}
