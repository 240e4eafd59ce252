//! Writing heartbeats: a batch in one transaction.

use std::collections::HashSet;
use std::time::Duration;

use sea_orm::{DatabaseTransaction, DbBackend, DbErr, QueryResult, Value};

use super::history::NewTransition;
use super::listening::Proven;
use super::raw_id;
use super::rows::{self, Columns, Type};
use super::unreadable::named;
use super::{DeviceStore, Result, device_id, millis};
use crate::domain::heartbeat::is_new_skew;
use crate::domain::payload::is_new_payload_error;
use crate::domain::{Change, DeviceId, Heartbeat, Rejection, Status, Transition};

/// What decides about a batch besides the heartbeats themselves.
#[derive(Clone, Copy, Debug)]
pub struct RecordingRules {
    /// Whether an unknown device is registered (`devices.auto_register`).
    pub auto_register: bool,
    /// How many more devices may be registered (`devices.max_devices`).
    pub room: u64,
    /// How many devices may be registered now (`devices.registration_rate`).
    pub registrations: u64,
    /// The skew that is worth a warning (`heartbeat.max_clock_skew`).
    pub max_clock_skew: Duration,
}

impl RecordingRules {
    /// How many unknown devices may be registered.
    fn allowed(self) -> u64 {
        if self.auto_register { self.room.min(self.registrations) } else { 0 }
    }

    /// Why one more than that may not.
    fn too_many(self, device_id: DeviceId) -> Rejection {
        if self.registrations < self.room {
            Rejection::RegistrationRate { device_id }
        } else {
            Rejection::FleetFull { device_id }
        }
    }

    /// The rules for the rest, once so many devices were registered.
    pub fn after(self, registered: u64) -> Self {
        Self {
            room: self.room.saturating_sub(registered),
            registrations: self.registrations.saturating_sub(registered),
            ..self
        }
    }
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
    /// Devices whose payload newly cannot be read, or for another reason than before.
    pub unreadable: Vec<(DeviceId, String)>,
}

impl Recorded {
    fn extend(&mut self, more: Self) {
        let Self { transitions, registered, rejections, skewed, unreadable } = more;
        self.transitions.extend(transitions);
        self.registered += registered;
        self.rejections.extend(rejections);
        self.skewed.extend(skewed);
        self.unreadable.extend(unreadable);
    }
}

const HEARTBEAT: Columns = &[
    ("id", Type::Text),
    ("last_seen_at", Type::Integer),
    ("uptime_seconds", Type::Integer),
    ("free_memory", Type::Integer),
    ("clock_skew_ms", Type::Integer),
    ("error", Type::Text),
    ("payload_error", Type::Text),
];

/// Which devices a statement has just registered: none is provisioning any more after
/// its first heartbeat. On SQLite an index of its own makes it cost nothing to ask.
const NEWBORN: &str = "device.status = 'provisioning' AND device.last_seen_at IS NOT NULL";

/// How a flush deals with unknown devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unknown {
    /// They become rows along with the update of the others, as [`NEWBORN`] ones.
    Inserted,
    /// They are looked for once the others are updated.
    LeftOut,
}

/// What a device's row says about an incoming heartbeat.
struct Known {
    id: DeviceId,
    /// `None`: not registered before.
    status: Option<Status>,
    clock_skew_ms: Option<i64>,
    payload_error: Option<String>,
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
    /// A heartbeat that the database refuses, while it takes the others, is rejected.
    ///
    /// # Errors
    ///
    /// If the database fails. Nothing of the batch is written then, except if some of it
    /// was refused; to write it again does no harm.
    pub async fn update_last_seen(
        &self,
        heartbeats: &[Heartbeat],
        rules: RecordingRules,
        proven: &Proven,
    ) -> Result<Recorded> {
        debug_assert!(heartbeats.is_sorted_by(|a, b| a.device_id < b.device_id));
        if heartbeats.is_empty() && proven.change.is_none() {
            return Ok(Recorded::default());
        }
        let recorded = match self.record_at_once(heartbeats, rules, proven).await {
            Err(error) if error.refused().is_some() && !heartbeats.is_empty() => {
                self.record_what_is_taken(heartbeats, rules, proven).await?
            }
            recorded => recorded?,
        };
        if self.pool.is_doubted() {
            let rejected: HashSet<_> =
                recorded.rejections.iter().filter_map(Rejection::device_id).collect();
            let written = heartbeats.iter().filter(|h| !rejected.contains(&h.device_id));
            self.confirm_written(written, proven).await?;
        }
        Ok(recorded)
    }

    async fn record_at_once(
        &self,
        heartbeats: &[Heartbeat],
        rules: RecordingRules,
        proven: &Proven,
    ) -> Result<Recorded> {
        self.write("record heartbeats", async |transaction| {
            let recorded = self.record(transaction, heartbeats, rules).await?;
            self.save_listened(transaction, proven).await?;
            Ok(recorded)
        })
        .await
    }

    /// Finds those that the database refuses by halving: about `log2` of the number of
    /// heartbeats transactions for each, never more than twice as many as heartbeats.
    ///
    /// What was proven is forgotten before, and saved after all that can be written: to
    /// have proven less than was listened to takes no device offline.
    async fn record_what_is_taken(
        &self,
        heartbeats: &[Heartbeat],
        mut rules: RecordingRules,
        proven: &Proven,
    ) -> Result<Recorded> {
        let forgotten = |change: &Change| Change { from: change.from, intervals: Vec::new() };
        let change = proven.change.as_ref().map(forgotten);
        let nothing_proven = Proven { instance: proven.instance.clone(), change };
        self.record_at_once(&[], rules, &nothing_proven).await?;

        let mut recorded = Recorded::default();
        let mut parts = vec![heartbeats];
        while let Some(part) = parts.pop() {
            let error = match self.record_at_once(part, rules, &Proven::default()).await {
                Ok(taken) => {
                    rules = rules.after(taken.registered);
                    recorded.extend(taken);
                    continue;
                }
                Err(error) => error,
            };
            match (error.refused(), part) {
                (None, _) => return Err(error),
                (Some(why), [heartbeat]) => {
                    let device_id = heartbeat.device_id.clone();
                    recorded.rejections.push(Rejection::Refused { device_id, why });
                }
                (Some(_), part) => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                }
            }
        }
        self.record_at_once(&[], rules, proven).await?;
        Ok(recorded)
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
        let unknown = match self.backend() {
            // One search for each row instead of two, and no table in between: 18 % less
            // time. Those for which there is no room are taken back, which happens to one
            // portion of a flush. PostgreSQL would have to look for the others in its dead
            // rows.
            DbBackend::Sqlite if rules.allowed() > 0 => Unknown::Inserted,
            _ => Unknown::LeftOut,
        };
        let bound = rules.max_clock_skew;
        let steady = self.update_steady(transaction, heartbeats, unknown, bound).await?;
        if steady == heartbeats.len() as u64 && !self.has_newborn(transaction, unknown).await? {
            return Ok(recorded);
        }

        let mut transitions = Vec::new();
        let (mut known, mut new) = (Vec::new(), Vec::new());
        for row in self.noteworthy(transaction, heartbeats, unknown, bound).await? {
            let Ok(at) = heartbeats.binary_search_by(|h| h.device_id.cmp(&row.id)) else {
                continue;
            };
            let heartbeat = &heartbeats[at];
            if let Some(skew) = heartbeat.clock_skew_ms.map(i64::from)
                && is_new_skew(row.clock_skew_ms, skew, rules.max_clock_skew)
            {
                recorded.skewed.push((row.id.clone(), skew));
            }
            if let Some(error) = heartbeat.payload_error.as_ref().map(ToString::to_string)
                && is_new_payload_error(row.payload_error.as_deref(), &error)
            {
                recorded.unreadable.push((row.id, error));
            }
            match row.status {
                Some(status) => {
                    transitions.extend(NewTransition::on_heartbeat(status, heartbeat));
                    known.push(heartbeat);
                }
                None => new.push(heartbeat),
            }
        }
        self.update(transaction, &known).await?;

        let welcome = if rules.auto_register {
            self.welcome(transaction, new, rules, &mut recorded).await?
        } else {
            let unknown =
                |h: &Heartbeat| Rejection::UnknownDevice { device_id: h.device_id.clone() };
            recorded.rejections.extend(new.into_iter().map(unknown));
            Vec::new()
        };
        match unknown {
            Unknown::Inserted => {
                self.update(transaction, &welcome).await?;
                self.withdraw(transaction, &recorded.rejections).await?;
            }
            Unknown::LeftOut => self.register_heard(transaction, &welcome).await?,
        }
        recorded.registered = welcome.len() as u64;
        let newborn = Status::Provisioning;
        transitions.extend(welcome.iter().filter_map(|h| NewTransition::on_heartbeat(newborn, h)));

        recorded.transitions = self.insert_transitions(transaction, &transitions).await?;
        Ok(recorded)
    }

    /// Which of these unknown devices are registered: those for which there is room, and
    /// which have not been removed since they were heard. The others are rejected.
    async fn welcome<'a>(
        &self,
        transaction: &DatabaseTransaction,
        new: Vec<&'a Heartbeat>,
        rules: RecordingRules,
        recorded: &mut Recorded,
    ) -> Result<Vec<&'a Heartbeat>, DbErr> {
        let removals = self.removals(transaction, &new).await?;
        let is_removed = |heartbeat: &&Heartbeat| {
            let removed_at = removals.get(heartbeat.device_id.as_str());
            removed_at.is_some_and(|&at| millis(heartbeat.received_at) <= at)
        };
        let (removed, mut welcome): (Vec<_>, Vec<_>) = new.into_iter().partition(is_removed);
        let allowed = usize::try_from(rules.allowed()).unwrap_or(usize::MAX);
        let too_many = welcome.split_off(welcome.len().min(allowed));
        let id = |heartbeat: &Heartbeat| heartbeat.device_id.clone();
        let removed = removed.into_iter().map(|h| Rejection::Removed { device_id: id(h) });
        let too_many = too_many.into_iter().map(|h| rules.too_many(id(h)));
        recorded.rejections.extend(removed.chain(too_many));

        let back = welcome.iter().map(|heartbeat| heartbeat.device_id.as_str());
        let back = back.filter(|id| removals.contains_key(*id));
        self.forget_removals(transaction, back).await?;
        Ok(welcome)
    }

    /// Takes back the rows of devices that are rejected after all.
    async fn withdraw(
        &self,
        transaction: &DatabaseTransaction,
        rejections: &[Rejection],
    ) -> Result<(), DbErr> {
        if rejections.is_empty() {
            return Ok(());
        }
        let ids = rejections.iter().filter_map(Rejection::device_id).map(DeviceId::as_str);
        let sql = format!(
            "DELETE FROM device WHERE {NEWBORN} AND id IN (SELECT id FROM ({rows}) AS rejected)",
            rows = rows::select(self.backend(), "$1", raw_id::ID),
        );
        self.execute(transaction, &sql, [raw_id::bind(ids)]).await?;
        Ok(())
    }

    /// Updates the devices for which no more than what they report changes, in a
    /// steady fleet all of them. Returns how many, with those that it inserted.
    async fn update_steady(
        &self,
        transaction: &DatabaseTransaction,
        heartbeats: &[Heartbeat],
        unknown: Unknown,
        max_clock_skew: Duration,
    ) -> Result<u64, DbErr> {
        let sql = |rows: String| match unknown {
            Unknown::Inserted => upsert_sql(&rows, max_clock_skew),
            Unknown::LeftOut => {
                format!("{} AND {}", update_sql(&rows), is_steady("heartbeat", max_clock_skew))
            }
        };
        let (listed, rest) = rows::split(self.backend(), heartbeats);
        let mut updated = 0;
        if !listed.is_empty() {
            let sql = sql(rows::list(HEARTBEAT));
            for heartbeats in listed {
                let values = heartbeats.iter().flat_map(values);
                updated += self.execute(transaction, &sql, values).await?;
            }
        }
        if !rest.is_empty() {
            updated += self.execute(transaction, &sql(self.unpacked()), [bind(rest)]).await?;
        }
        Ok(updated)
    }

    async fn has_newborn(
        &self,
        transaction: &DatabaseTransaction,
        unknown: Unknown,
    ) -> Result<bool, DbErr> {
        if unknown == Unknown::LeftOut {
            return Ok(false);
        }
        let sql = format!("SELECT id FROM device WHERE {NEWBORN} LIMIT 1");
        Ok(!self.select(transaction, &sql, []).await?.is_empty())
    }

    /// The others: unknown ones, those whose status or payload error changes, those
    /// whose clock is off. Only their rows travel.
    async fn noteworthy(
        &self,
        transaction: &DatabaseTransaction,
        heartbeats: &[Heartbeat],
        unknown: Unknown,
        max_clock_skew: Duration,
    ) -> Result<Vec<Known>, DbErr> {
        let newborn = match unknown {
            Unknown::Inserted => NEWBORN,
            Unknown::LeftOut => "false",
        };
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
            status = status_on_heartbeat("heartbeat"),
        );
        let bound = i64::try_from(max_clock_skew.as_millis()).unwrap_or(i64::MAX);
        let rows = self.select(transaction, &sql, [bind(heartbeats), bound.into()]).await?;
        rows.iter().map(|row| self.known(row)).collect()
    }

    /// A row as far as it can be read. Its device lives, so that a status that is none
    /// is as good as never heard, and is replaced.
    fn known(&self, row: &QueryResult) -> Result<Known, DbErr> {
        let id: String = row.try_get("", "id")?;
        let name = named("device", &Some(&id));
        let status = row.try_get::<Option<entity::Status>>("", "status");
        let status = self.readable(&name, status);
        let skew = self.readable(&name, row.try_get("", "clock_skew_ms"));
        let payload_error = self.readable(&name, row.try_get("", "payload_error"));
        Ok(Known {
            id: device_id(&id)?,
            status: status.unwrap_or(Some(entity::Status::Provisioning)).map(Status::from),
            clock_skew_ms: skew.flatten(),
            payload_error: payload_error.flatten(),
        })
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
                                 clock_skew_ms, error, payload_error, registered_at) \
             SELECT id, {status}, last_seen_at, uptime_seconds, free_memory, \
                    clock_skew_ms, error, payload_error, last_seen_at \
             FROM heartbeat",
            rows = self.unpacked(),
            status = status_on_heartbeat("heartbeat"),
        );
        self.execute(transaction, &sql, [bind(heartbeats.iter().copied())]).await?;
        Ok(())
    }
}

/// [`Status::on_heartbeat`], set-wise; a test holds the two against each other.
fn status_on_heartbeat(row: &str) -> String {
    format!("CASE WHEN {row}.error IS NULL THEN 'online' ELSE 'error' END")
}

/// Whether no more than what it reports changes for a device.
fn is_steady(row: &str, max_clock_skew: Duration) -> String {
    let bound = i64::try_from(max_clock_skew.as_millis()).unwrap_or(i64::MAX);
    let status = status_on_heartbeat(row);
    format!(
        "device.status = {status} \
         AND ({row}.clock_skew_ms IS NULL OR abs({row}.clock_skew_ms) <= {bound}) \
         AND device.payload_error IS NOT DISTINCT FROM {row}.payload_error"
    )
}

/// What a row of a device takes over from a heartbeat, besides the status.
fn reported(row: &str) -> String {
    format!(
        "last_seen_at = {row}.last_seen_at, \
         uptime_seconds = coalesce({row}.uptime_seconds, device.uptime_seconds), \
         free_memory = coalesce({row}.free_memory, device.free_memory), \
         clock_skew_ms = coalesce({row}.clock_skew_ms, device.clock_skew_ms), \
         error = {row}.error, \
         payload_error = {row}.payload_error"
    )
}

/// Writes what the devices in `rows` report; which of them can be narrowed down by a
/// suffix.
fn update_sql(rows: &str) -> String {
    let (status, reported) = (status_on_heartbeat("heartbeat"), reported("heartbeat"));
    format!(
        "WITH heartbeat AS ({rows}) UPDATE device SET status = {status}, {reported} \
         FROM heartbeat WHERE device.id = heartbeat.id"
    )
}

/// Writes what the devices in `rows` report, as far as they are steady, and inserts
/// those that are unknown.
fn upsert_sql(rows: &str, max_clock_skew: Duration) -> String {
    let (reported, is_steady) = (reported("excluded"), is_steady("excluded", max_clock_skew));
    format!(
        "WITH heartbeat AS ({rows}) \
         INSERT INTO device (id, status, last_seen_at, uptime_seconds, free_memory, \
                             clock_skew_ms, error, payload_error, registered_at) \
         SELECT id, 'provisioning', last_seen_at, uptime_seconds, free_memory, \
                clock_skew_ms, error, payload_error, last_seen_at \
         FROM heartbeat WHERE true \
         ON CONFLICT (id) DO UPDATE SET {reported} WHERE {is_steady}"
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
        heartbeat.payload_error.as_ref().map(ToString::to_string).into(),
    ]
}

/// The heartbeats as rows of [`HEARTBEAT`], in one parameter.
fn bind<'a>(heartbeats: impl IntoIterator<Item = &'a Heartbeat>) -> Value {
    rows::bind(heartbeats.into_iter().map(values))
}
