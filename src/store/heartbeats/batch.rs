//! A batch of heartbeats inside its transaction.
//!
//! Most heartbeats change only what their devices report. These are written first, and
//! in a steady fleet they are all; only the rows of the others are read.

use sea_orm::{DatabaseTransaction, DbBackend, DbErr, QueryResult};

use super::lookup::Lookup;
use super::sql::{self, HEARTBEAT};
use super::upsert::Upsert;
use super::{Recorded, RecordingRules};
use crate::domain::heartbeat::is_new_skew;
use crate::domain::payload::is_new_payload_error;
use crate::domain::{DeviceId, Entry, Happening, Heartbeat, Rejection, Status};
use crate::store::history::NewTransition;
use crate::store::unreadable::named;
use crate::store::{DeviceStore, device_id, rows};

/// The number of heartbeats whose noteworthy rows are read, or written, by one statement. SQLite
/// copies the values of its parameters and results one by one, on the thread of a connection,
/// whose heap keeps that memory for the next.
const AT_ONCE: usize = 1_000;

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
    clock_skew_ms: Option<i64>,
    payload_error: Option<String>,
}

/// The heartbeats that change more than what their devices report.
#[derive(Default)]
struct Classified<'a> {
    known: Vec<&'a Heartbeat>,
    unknown: Vec<&'a Heartbeat>,
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
        match self.store.backend() {
            DbBackend::Sqlite if self.rules.allowed() > 0 => self.record_by::<Upsert>().await,
            _ => self.record_by::<Lookup>().await,
        }
    }

    async fn record_by<S: Strategy>(&self) -> Result<Recorded, DbErr> {
        if S::write_steady(self).await? {
            return Ok(Recorded::default());
        }
        let Classified { known, unknown, mut transitions, skewed, unreadable } =
            self.classify(self.noteworthy(&S::newborn()).await?);
        self.update(&known).await?;
        self.store.end_outages(self.transaction, &mut transitions).await?;

        let admitted = self.admit(unknown).await?;
        S::register(self, &admitted).await?;
        let Admitted { heartbeats: registered, rejections } = admitted;
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

    /// Sorts out what the noteworthy heartbeats change.
    fn classify(&self, rows: Vec<Known>) -> Classified<'a> {
        let mut classified = Classified::default();
        for row in rows {
            let Some(heartbeat) = self.heartbeat_of(&row.id) else { continue };
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

    /// Decides which unknown devices are registered, and forgets the removals of those.
    async fn admit(&self, unknown: Vec<&'a Heartbeat>) -> Result<Admitted<'a>, DbErr> {
        if !self.rules.auto_register {
            let id = |heartbeat: &Heartbeat| heartbeat.device_id.clone();
            let rejections =
                unknown.into_iter().map(|h| Rejection::UnknownDevice { device_id: id(h) });
            return Ok(Admitted { heartbeats: Vec::new(), rejections: rejections.collect() });
        }
        let removals = self.store.removals(self.transaction, &unknown).await?;
        let (heartbeats, rejections) = self.rules.admit(unknown, &removals);
        let ids = heartbeats.iter().map(|heartbeat| heartbeat.device_id.as_str());
        let returning = ids.filter(|id| removals.contains_key(*id));
        self.store.forget_removals(self.transaction, returning).await?;
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

    /// The rows of the heartbeats that are not steady: of unknown devices, of those whose
    /// status or payload error changes, and of those whose clock is off. No other rows
    /// travel.
    async fn noteworthy(&self, newborn: &str) -> Result<Vec<Known>, DbErr> {
        let sql = format!(
            "WITH heartbeat AS ({rows}) \
             SELECT heartbeat.id, \
                    CASE WHEN {newborn} THEN NULL ELSE device.status END AS status, \
                    CASE WHEN {newborn} THEN NULL ELSE device.clock_skew_ms END AS clock_skew_ms, \
                    CASE WHEN {newborn} THEN NULL ELSE device.payload_error END AS payload_error \
             FROM heartbeat LEFT JOIN device ON device.id = heartbeat.id \
             WHERE device.status IS NULL OR device.status <> {status} \
                OR abs(heartbeat.clock_skew_ms) > $2 \
                OR device.payload_error IS DISTINCT FROM heartbeat.payload_error",
            rows = self.unpacked(),
            status = sql::status_on_heartbeat("heartbeat"),
        );
        let bound = sql::milliseconds(self.rules.max_clock_skew);
        let mut known = Vec::new();
        for heartbeats in self.heartbeats.chunks(AT_ONCE) {
            let values = [sql::bind(heartbeats), bound.into()];
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
        Ok(Known {
            id: device_id(&id)?,
            status: status.unwrap_or(Some(entity::Status::Provisioning)).map(Status::from),
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
