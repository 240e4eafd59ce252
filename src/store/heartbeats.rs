//! Writing heartbeats: a batch in one transaction.

use std::time::Duration;

use sea_orm::{DatabaseTransaction, DbErr, QueryResult, Value};

use super::history::NewTransition;
use super::listening::Proven;
use super::rows::{self, Columns, Type};
use super::{DeviceStore, Result, device_id, failed_to, millis, retried};
use crate::domain::heartbeat::is_new_skew;
use crate::domain::{DeviceId, Heartbeat, Rejection, Status, Transition};

/// What decides about a batch besides the heartbeats themselves.
#[derive(Clone, Copy, Debug)]
pub struct RecordingRules {
    /// Whether an unknown device is registered (`devices.auto_register`).
    pub auto_register: bool,
    /// How many more devices may be registered (`devices.max_devices`).
    pub room: u64,
    /// The skew that is worth a warning (`heartbeat.max_clock_skew`).
    pub max_clock_skew: Duration,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub struct Recorded {
    /// The status changes, in the order of their sequence numbers.
    pub transitions: Vec<Transition>,
    /// How many devices were registered.
    pub registered: u64,
    /// The heartbeats of devices that are not registered.
    pub rejections: Vec<Rejection>,
    /// Devices whose clock is newly off by more than the bound, in milliseconds.
    pub skewed: Vec<(DeviceId, i64)>,
}

const HEARTBEAT: Columns = &[
    ("id", Type::Text),
    ("last_seen_at", Type::Integer),
    ("uptime_seconds", Type::Integer),
    ("free_memory", Type::Integer),
    ("clock_skew_ms", Type::Integer),
    ("error", Type::Text),
];

/// [`Status::on_heartbeat`], set-wise; a test holds the two against each other.
const STATUS_ON_HEARTBEAT: &str =
    "CASE WHEN heartbeat.error IS NULL THEN 'online' ELSE 'error' END";

/// What a device's row says about an incoming heartbeat.
struct Known {
    id: DeviceId,
    /// `None`: not registered.
    status: Option<Status>,
    clock_skew_ms: Option<i64>,
}

impl DeviceStore {
    /// Records that these devices live: updates `last_seen_at` and what they
    /// reported, sets the statuses, writes the transitions, and registers
    /// unknown devices as far as `rules` allow. With them goes what they allow to be
    /// `proven`: neither is ever there without the other.
    ///
    /// At most one heartbeat per device, sorted by device id: neighbouring rows
    /// are then written together.
    ///
    /// # Errors
    ///
    /// If the database fails; nothing of the batch is written then.
    pub async fn update_last_seen(
        &self,
        heartbeats: &[Heartbeat],
        rules: RecordingRules,
        proven: &Proven,
    ) -> Result<Recorded> {
        debug_assert!(heartbeats.is_sorted_by(|a, b| a.device_id < b.device_id));
        if heartbeats.is_empty() && proven.changed.is_empty() {
            return Ok(Recorded::default());
        }
        retried(async || {
            let transaction = self.begin().await?;
            let recorded = self.record(&transaction, heartbeats, rules).await?;
            self.save_listened(&transaction, proven).await?;
            transaction.commit().await?;
            Ok(recorded)
        })
        .await
        .map_err(failed_to("record heartbeats"))
    }

    async fn record(
        &self,
        transaction: &DatabaseTransaction,
        heartbeats: &[Heartbeat],
        rules: RecordingRules,
    ) -> Result<Recorded, DbErr> {
        let mut recorded = Recorded::default();
        if heartbeats.is_empty() {
            return Ok(recorded);
        }
        let steady = self.update_steady(transaction, heartbeats, rules.max_clock_skew).await?;
        if steady == heartbeats.len() as u64 {
            return Ok(recorded);
        }

        let mut transitions = Vec::new();
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for row in self.noteworthy(transaction, heartbeats, rules.max_clock_skew).await? {
            let Ok(at) = heartbeats.binary_search_by(|h| h.device_id.cmp(&row.id)) else {
                continue;
            };
            let heartbeat = &heartbeats[at];
            if let Some(skew) = heartbeat.clock_skew_ms.map(i64::from)
                && is_new_skew(row.clock_skew_ms, skew, rules.max_clock_skew)
            {
                recorded.skewed.push((row.id, skew));
            }
            match row.status {
                Some(status) => {
                    transitions.extend(NewTransition::on_heartbeat(status, heartbeat));
                    known.push(heartbeat);
                }
                None => unknown.push(heartbeat),
            }
        }
        self.update(transaction, &known).await?;

        let room = if rules.auto_register { rules.room } else { 0 };
        let (welcome, rejected) =
            unknown.split_at(unknown.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
        self.register_heard(transaction, welcome).await?;
        recorded.registered = welcome.len() as u64;
        let newborn = Status::Provisioning;
        transitions.extend(welcome.iter().filter_map(|h| NewTransition::on_heartbeat(newborn, h)));
        recorded.rejections.extend(rejected.iter().map(|heartbeat| {
            let device_id = heartbeat.device_id.clone();
            if rules.auto_register {
                Rejection::FleetFull { device_id }
            } else {
                Rejection::UnknownDevice { device_id }
            }
        }));

        recorded.transitions = self.insert_transitions(transaction, &transitions).await?;
        Ok(recorded)
    }

    /// Updates the devices for which no more than what they report changes, in a
    /// steady fleet all of them. Returns how many.
    async fn update_steady(
        &self,
        transaction: &DatabaseTransaction,
        heartbeats: &[Heartbeat],
        max_clock_skew: Duration,
    ) -> Result<u64, DbErr> {
        let bound = i64::try_from(max_clock_skew.as_millis()).unwrap_or(i64::MAX);
        let steady = format!(
            "AND device.status = {STATUS_ON_HEARTBEAT} \
             AND (heartbeat.clock_skew_ms IS NULL OR abs(heartbeat.clock_skew_ms) <= {bound})",
        );
        let (listed, rest) = rows::split(self.backend(), heartbeats);
        let mut updated = 0;
        if !listed.is_empty() {
            let sql = format!("{} {steady}", update_sql(&rows::list(HEARTBEAT)));
            for heartbeats in listed {
                let values = heartbeats.iter().flat_map(values);
                updated += self.execute(transaction, &sql, values).await?;
            }
        }
        if !rest.is_empty() {
            let sql = format!("{} {steady}", update_sql(&self.unpacked()));
            updated += self.execute(transaction, &sql, [bind(rest)]).await?;
        }
        Ok(updated)
    }

    /// The others: unknown ones, those whose status changes, those whose clock is
    /// off. Only their rows travel.
    async fn noteworthy(
        &self,
        transaction: &DatabaseTransaction,
        heartbeats: &[Heartbeat],
        max_clock_skew: Duration,
    ) -> Result<Vec<Known>, DbErr> {
        let sql = format!(
            "WITH heartbeat AS ({rows}) \
             SELECT heartbeat.id, device.status, device.clock_skew_ms \
             FROM heartbeat LEFT JOIN device ON device.id = heartbeat.id \
             WHERE device.status IS NULL OR device.status <> {STATUS_ON_HEARTBEAT} \
                OR abs(heartbeat.clock_skew_ms) > $2",
            rows = self.unpacked(),
        );
        let bound = i64::try_from(max_clock_skew.as_millis()).unwrap_or(i64::MAX);
        let rows = self.select(transaction, &sql, [bind(heartbeats), bound.into()]).await?;
        rows.iter().map(Known::read).collect()
    }

    async fn update(
        &self,
        transaction: &DatabaseTransaction,
        heartbeats: &[&Heartbeat],
    ) -> Result<(), DbErr> {
        if heartbeats.is_empty() {
            return Ok(());
        }
        let values = [bind(heartbeats.iter().copied())];
        self.execute(transaction, &update_sql(&self.unpacked()), values).await?;
        Ok(())
    }

    /// The rows of [`bind`]'s parameter.
    fn unpacked(&self) -> String {
        rows::select(self.backend(), "$1", HEARTBEAT)
    }

    async fn register_heard(
        &self,
        transaction: &DatabaseTransaction,
        heartbeats: &[&Heartbeat],
    ) -> Result<(), DbErr> {
        if heartbeats.is_empty() {
            return Ok(());
        }
        let sql = format!(
            "WITH heartbeat AS ({rows}) \
             INSERT INTO device (id, status, last_seen_at, uptime_seconds, free_memory, \
                                 clock_skew_ms, error, registered_at) \
             SELECT id, {STATUS_ON_HEARTBEAT}, last_seen_at, uptime_seconds, free_memory, \
                    clock_skew_ms, error, last_seen_at \
             FROM heartbeat",
            rows = self.unpacked(),
        );
        self.execute(transaction, &sql, [bind(heartbeats.iter().copied())]).await?;
        Ok(())
    }
}

/// Writes what the devices in `rows` report; which of them can be narrowed down by a
/// suffix.
fn update_sql(rows: &str) -> String {
    format!(
        "WITH heartbeat AS ({rows}) \
         UPDATE device SET \
             status = {STATUS_ON_HEARTBEAT}, \
             last_seen_at = heartbeat.last_seen_at, \
             uptime_seconds = coalesce(heartbeat.uptime_seconds, device.uptime_seconds), \
             free_memory = coalesce(heartbeat.free_memory, device.free_memory), \
             clock_skew_ms = coalesce(heartbeat.clock_skew_ms, device.clock_skew_ms), \
             error = heartbeat.error \
         FROM heartbeat WHERE device.id = heartbeat.id"
    )
}

/// A row of [`HEARTBEAT`], value by value.
fn values(heartbeat: &Heartbeat) -> [Value; HEARTBEAT.len()] {
    [
        heartbeat.device_id.as_str().into(),
        millis(heartbeat.received_at).into(),
        heartbeat.uptime_seconds.map(i64::from).into(),
        heartbeat.free_memory.map(i64::from).into(),
        heartbeat.clock_skew_ms.map(i64::from).into(),
        heartbeat.error.as_deref().into(),
    ]
}

/// The heartbeats as rows of [`HEARTBEAT`], in one parameter.
fn bind<'a>(heartbeats: impl IntoIterator<Item = &'a Heartbeat>) -> Value {
    rows::bind(heartbeats.into_iter().map(values))
}

impl Known {
    fn read(row: &QueryResult) -> Result<Self, DbErr> {
        let id: String = row.try_get("", "id")?;
        let status: Option<entity::Status> = row.try_get("", "status")?;
        Ok(Self {
            id: device_id(&id)?,
            status: status.map(Status::from),
            clock_skew_ms: row.try_get("", "clock_skew_ms")?,
        })
    }
}
