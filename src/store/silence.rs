//! Finding the silent devices and marking them offline.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use entity::device::{Column, Entity};
use futures::TryStreamExt;
use sea_orm::sea_query::Expr;
use sea_orm::{
    ColumnTrait, DbBackend, DbErr, EntityTrait, QueryFilter, QueryResult, QuerySelect, QueryTrait,
    Statement, StreamTrait, Value,
};

use super::history::NewTransition;
use super::rows::{self, Columns, Type};
use super::unreadable::named;
use super::values::{at_most, listed, locked_in_order};
use super::{DeviceStore, Result, device_id, millis, time};
use crate::domain::{
    BothCutoffs, Coverage, Cutoff, Cutoffs, DeviceId, OwnTimeout, Status, Transition,
};

/// The grounds for marking devices offline.
#[derive(Clone, Copy, Debug)]
pub struct Grounds<'a> {
    /// The instants before which they must have been last seen.
    pub cutoffs: &'a Cutoffs,
    /// The coverage that the cutoffs come from.
    pub coverage: &'a Coverage,
    /// The instance that listened.
    pub instance: &'a str,
}

/// Silent devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stale {
    /// Their ids, sorted.
    pub devices: Vec<DeviceId>,
    /// The place to look for more; `None` if there are no more.
    pub next: Option<StaleFrom>,
}

/// The numbers of devices that have not been heard for too long. None of them is offline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overdue {
    /// Those that are late and not silent yet.
    pub late: u64,
    /// Those that are silent.
    pub silent: u64,
}

/// The place to look for silent devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StaleFrom {
    /// From the beginning. The devices found before are offline by then, or were heard again.
    #[default]
    Anywhere,
    /// After this id, which may be invalid. Rows that cannot be read stay where they are,
    /// and must not take the place of others.
    After(String),
}

impl StaleFrom {
    fn next(&self, all_readable: bool, last: Option<String>) -> Option<Self> {
        match self {
            Self::Anywhere if all_readable => Some(Self::Anywhere),
            Self::Anywhere => Some(Self::After(String::new())),
            Self::After(_) => last.map(Self::After),
        }
    }
}

/// The distinct timeouts of devices that have their own.
pub type OwnTimeouts = Vec<Duration>;

const CUTOFF: Columns = &[("timeout_seconds", Type::Integer), ("cutoff", Type::Integer)];
const BOTH_CUTOFFS: Columns = &[
    ("timeout_seconds", Type::Integer),
    ("cutoff", Type::Integer),
    ("late_cutoff", Type::Integer),
];
const ID: Columns = &[("id", Type::Text)];

impl DeviceStore {
    /// The distinct timeouts of devices that have their own.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn own_timeouts(&self) -> Result<OwnTimeouts> {
        let distinct = Entity::find()
            .select_only()
            .column(Column::TimeoutSeconds)
            .column_as(Column::Id.min(), "id")
            .filter(Column::TimeoutSeconds.is_not_null())
            .group_by(Column::TimeoutSeconds);
        self.read("read the devices' timeouts", async |db| {
            let rows = self.select_built(db, &distinct).await?;
            Ok(rows.iter().filter_map(|row| self.own_timeout(row)).collect())
        })
        .await
    }

    /// Reads a usable timeout; see [`Own::cutoff`] for the others.
    fn own_timeout(&self, row: &QueryResult) -> Option<Duration> {
        let device: Option<String> = row.try_get("", "id").ok();
        let seconds = row.try_get::<i64>("", "timeout_seconds").and_then(|seconds| {
            OwnTimeout::of(seconds).usable().map_err(|why| DbErr::Type(why.to_string()))
        });
        self.readable(&named("device", &device), seconds)
    }

    /// Sets `last_seen_at` to `now` where it is later, because the clock was set back. Does
    /// so for at most `limit` devices and returns their number. A device that cannot fall
    /// silent, because it is offline, keeps its time: the clock may soon be right again.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn clamp_last_seen(&self, now: DateTime<Utc>, limit: u64) -> Result<u64> {
        let silenceable = changed_by_silence().map(entity::Status::from);
        let ahead = Entity::find()
            .select_only()
            .column(Column::Id)
            .filter(Column::Status.is_in(silenceable))
            .filter(Column::LastSeenAt.gt(millis(now)))
            .limit(at_most(limit));
        let clamp = Entity::update_many()
            .col_expr(Column::LastSeenAt, Expr::value(millis(now)))
            .filter(Column::Id.in_subquery(ahead.into_query()))
            // Again, because another transaction may have changed it meanwhile.
            .filter(Column::LastSeenAt.gt(millis(now)));
        self.write("clamp heartbeats from the future", async |transaction| {
            self.execute_built(transaction, &clamp).await
        })
        .await
    }

    /// Up to `limit` devices that were last seen before their cutoff and are not offline
    /// yet, sorted by id, and the place to continue.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn get_stale_devices(
        &self,
        cutoffs: &Cutoffs,
        from: &StaleFrom,
        limit: u64,
    ) -> Result<Stale> {
        let own = Own::of(self.backend(), cutoffs, "$4");
        let (after, order) = match from {
            StaleFrom::Anywhere => ("", ""),
            StaleFrom::After(_) if cutoffs.own.is_empty() => ("id > $4 AND", "ORDER BY id"),
            StaleFrom::After(_) => ("id > $5 AND", "ORDER BY id"),
        };
        let sql = format!(
            "{with} SELECT id FROM device {join} \
             WHERE {after} last_seen_at < $2 AND {stale} {order} LIMIT $3",
            with = own.with(&[]),
            join = own.join,
            stale = own.stale("$1"),
        );
        // Nearly all devices were seen after the latest cutoff. For these the status and the
        // timeout are not looked at.
        let latest = cutoffs.latest().map(millis).into();
        let most = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut values = vec![cutoffs.default.instant.map(millis).into(), latest, most.into()];
        values.extend(own.rows);
        if let StaleFrom::After(id) = from {
            values.push(id.as_str().into());
        }
        let statement = Statement::from_sql_and_values(self.backend(), sql, values);
        self.read("find the silent devices", async |db| {
            // Row by row, because a million of them at once would take 200 MB.
            let mut rows = db.stream_raw(statement.clone()).await?;
            let (mut devices, mut last, mut count) = (Vec::new(), None, 0);
            while let Some(row) = rows.try_next().await? {
                count += 1;
                let id: Option<String> = self.readable("a device", row.try_get("", "id"));
                let Some(id) = id else { continue };
                devices.extend(self.readable("a silent device", device_id(&id)));
                last = Some(id);
            }
            devices.sort_unstable();
            let all_readable = devices.len() as u64 == count;
            let next = (count >= limit).then(|| from.next(all_readable, last)).flatten();
            Ok(Stale { devices, next })
        })
        .await
    }

    /// The numbers of devices that are late and of those that are silent.
    ///
    /// The table is searched once, because what is silent is late, too.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn count_overdue(&self, cutoffs: &BothCutoffs) -> Result<Overdue> {
        let own = Own::of_both(self.backend(), cutoffs, "$4");
        let sql = format!(
            "{with} SELECT count(*) AS overdue, \
             count(*) FILTER (WHERE last_seen_at < {silent}) AS silent FROM device {join} \
             WHERE last_seen_at < $3 AND {late}",
            with = own.with(&[]),
            silent = own.cutoff("$1"),
            join = own.join,
            late = own.late("$2"),
        );
        let (silent, late) = (cutoffs.silent(), cutoffs.late());
        // Nearly all devices were seen after the latest cutoff.
        let cutoffs = [silent.default.instant, late.default.instant, late.latest()];
        let cutoffs = cutoffs.map(|instant| Value::from(instant.map(millis)));
        let values: Vec<_> = cutoffs.into_iter().chain(own.rows).collect();
        self.read("count the late and the silent devices", async |db| {
            let row = self.select(db, &sql, values.clone()).await?.pop();
            let row = row.ok_or(DbErr::RecordNotFound("a count".to_owned()))?;
            let number = |column: &str| row.try_get::<i64>("", column).map(i64::unsigned_abs);
            let (overdue, silent) = (number("overdue")?, number("silent")?);
            Ok(Overdue { late: overdue.saturating_sub(silent), silent })
        })
        .await
    }

    /// Marks those of `devices` offline that are still silent, and returns their
    /// transitions in the order of their sequence numbers. The transitions are then in the
    /// outbox.
    ///
    /// # Errors
    ///
    /// If the database fails. Then no device is marked, unless the database refused a part
    /// of them before.
    pub async fn mark_devices_offline(
        &self,
        devices: &[DeviceId],
        grounds: Grounds<'_>,
        at: DateTime<Utc>,
    ) -> Result<Vec<Transition>> {
        let mut marked = Vec::new();
        let mut parts = vec![devices];
        while let Some(part) = parts.pop() {
            let error = match self.mark_at_once(part, grounds, at).await {
                Ok(transitions) => {
                    marked.extend(transitions);
                    continue;
                }
                Err(error) => error,
            };
            match (error.refused(), part) {
                (None, _) => return Err(error),
                (Some(why), [device]) => {
                    let refused = DbErr::Custom(format!("it cannot be marked offline: {why}"));
                    self.readable::<()>(&format!("device {device}"), Err(refused));
                }
                // A device that the database refuses does not stop the others.
                (Some(_), part) => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                }
            }
        }
        Ok(marked)
    }

    async fn mark_at_once(
        &self,
        devices: &[DeviceId],
        Grounds { cutoffs, coverage, instance }: Grounds<'_>,
        at: DateTime<Utc>,
    ) -> Result<Vec<Transition>> {
        let own = Own::of(self.backend(), cutoffs, "$3");
        let candidates = rows::select(self.backend(), "$2", ID);
        let select = format!(
            "{with} SELECT id, status, last_seen_at, device.timeout_seconds, {cutoff} AS cutoff \
             FROM device {join} \
             WHERE id IN (SELECT id FROM candidate) AND {stale} {locked}",
            with = own.with(&[("candidate", &candidates)]),
            join = own.join,
            cutoff = own.cutoff("$1"),
            stale = own.stale("$1"),
            // A row that has to be waited for is looked at again, and may not be silent any more.
            locked = locked_in_order(self.backend()),
        );
        let update = format!(
            "WITH marked AS ({rows}) \
             UPDATE device SET status = {silent} WHERE id IN (SELECT id FROM marked)",
            rows = rows::select(self.backend(), "$1", ID),
            silent = status_on_silence(),
        );
        let default_timeout =
            TimeDelta::from_std(cutoffs.default.timeout).unwrap_or(TimeDelta::MAX);
        self.write("mark devices offline", async |transaction| {
            let candidates = rows::bind(devices.iter().map(|id| [id.as_str().into()]));
            let default = cutoffs.default.instant.map(millis).into();
            let values = [default, candidates].into_iter().chain(own.rows.clone());
            let silent = self.select(transaction, &select, values).await?;
            let silent = silent.iter().filter_map(|row| {
                let id: Option<String> = row.try_get("", "id").ok();
                self.readable(&named("device", &id), Silent::read(row))
            });
            let transitions: Vec<_> = silent
                .map(|Silent { device_id, from, last_seen_at, timeout, cutoff }| NewTransition {
                    device_id,
                    from,
                    to: from.on_silence(),
                    at,
                    last_seen_at,
                    cutoff,
                    timeout: Some(timeout.unwrap_or(default_timeout)),
                    listened: last_seen_at.map(|seen| coverage.intervals().covered(seen, at)),
                    instance: Some(instance.to_owned()),
                    ends: None,
                })
                .collect();
            let marked = rows::bind(transitions.iter().map(|t| [t.device_id.as_str().into()]));
            self.execute(transaction, &update, [marked]).await?;
            self.insert_transitions(transaction, &transitions).await
        })
        .await
    }
}

/// The row of a silent device.
struct Silent {
    device_id: DeviceId,
    from: Status,
    last_seen_at: Option<DateTime<Utc>>,
    timeout: Option<TimeDelta>,
    cutoff: Option<DateTime<Utc>>,
}

impl Silent {
    fn read(row: &QueryResult) -> Result<Self, DbErr> {
        let id: String = row.try_get("", "id")?;
        let seconds: Option<i64> = row.try_get("", "timeout_seconds")?;
        Ok(Self {
            device_id: device_id(&id)?,
            from: Status::from(row.try_get::<entity::Status>("", "status")?),
            last_seen_at: time("last_seen_at", row)?,
            timeout: seconds
                .map(OwnTimeout::of)
                .and_then(OwnTimeout::in_effect)
                .and_then(|timeout| TimeDelta::from_std(timeout).ok()),
            cutoff: time("cutoff", row)?,
        })
    }
}

/// The part of a query that deals with devices' own timeouts. Without any, nothing is
/// joined.
pub(super) struct Own {
    /// The parameter; `None` if there are no own timeouts.
    pub(super) rows: Option<Value>,
    cte: Option<String>,
    pub(super) join: &'static str,
}

impl Own {
    pub(super) fn of(backend: DbBackend, cutoffs: &Cutoffs, placeholder: &str) -> Self {
        let own = cutoffs.own.iter().map(|own| [seconds(own), own.instant.map(millis).into()]);
        Self::listed(backend, placeholder, CUTOFF, own)
    }

    /// With the cutoffs of lateness besides.
    fn of_both(backend: DbBackend, cutoffs: &BothCutoffs, placeholder: &str) -> Self {
        let own = cutoffs.silent().own.iter().zip(&cutoffs.late().own).map(|(silent, late)| {
            [seconds(silent), silent.instant.map(millis).into(), late.instant.map(millis).into()]
        });
        Self::listed(backend, placeholder, BOTH_CUTOFFS, own)
    }

    fn listed<const N: usize>(
        backend: DbBackend,
        placeholder: &str,
        columns: Columns,
        own: impl ExactSizeIterator<Item = [Value; N]>,
    ) -> Self {
        if own.len() == 0 {
            return Self { rows: None, cte: None, join: "" };
        }
        let others: String = columns[1..].iter().map(|(name, _)| format!(", {name}")).collect();
        // SQLite indexes the list for the search only if the types are the same.
        let cte = format!(
            "SELECT CAST(timeout_seconds AS bigint) AS timeout_seconds{others} \
             FROM ({rows}) AS given",
            rows = rows::select(backend, placeholder, columns),
        );
        Self {
            rows: Some(rows::bind(own)),
            cte: Some(cte),
            join: "LEFT JOIN own ON own.timeout_seconds = device.timeout_seconds",
        }
    }

    /// The lists of the query: the own timeouts, and `others`. They are materialized, because
    /// otherwise the JSON is parsed again for each device that is looked at.
    pub(super) fn with(&self, others: &[(&str, &String)]) -> String {
        let own = self.cte.iter().map(|own| ("own", own));
        let lists = own.chain(others.iter().copied());
        let lists: Vec<_> =
            lists.map(|(name, rows)| format!("{name} AS MATERIALIZED ({rows})")).collect();
        if lists.is_empty() { String::new() } else { format!("WITH {}", lists.join(", ")) }
    }

    /// Matches silent rows: [`Status::on_silence`] and the cutoffs, set-wise.
    pub(super) fn stale(&self, default: &str) -> String {
        self.seen_before("cutoff", default)
    }

    /// Matches late rows, silent ones among them, if this has the cutoffs of lateness.
    fn late(&self, default: &str) -> String {
        self.seen_before("late_cutoff", default)
    }

    fn seen_before(&self, column: &str, default: &str) -> String {
        format!(
            "status IN ({}) AND last_seen_at < {}",
            listed(changed_by_silence()),
            self.cutoff_in(column, default)
        )
    }

    /// The cutoff of a row.
    fn cutoff(&self, default: &str) -> String {
        self.cutoff_in("cutoff", default)
    }

    /// A cutoff of a row. It is null if the timeout was set after the check began, or is too
    /// long to be used. No heartbeat is older than null. A timeout that is not positive counts
    /// as none, so the default is in effect.
    fn cutoff_in(&self, column: &str, default: &str) -> String {
        let own = if self.cte.is_some() { format!("own.{column}") } else { "NULL".to_owned() };
        format!(
            "CASE WHEN device.timeout_seconds >= 1 THEN {own} ELSE CAST({default} AS bigint) END"
        )
    }
}

/// The timeout of a cutoff as the devices' rows have it.
fn seconds(own: &Cutoff) -> Value {
    i64::try_from(own.timeout.as_secs()).unwrap_or(i64::MAX).into()
}

/// The statuses that silence changes.
fn changed_by_silence() -> impl Iterator<Item = Status> {
    Status::ALL.into_iter().filter(|status| status.on_silence() != *status)
}

/// [`Status::on_silence`], set-wise; a test compares the two.
fn status_on_silence() -> String {
    let whens = changed_by_silence().map(|s| format!("WHEN '{s}' THEN '{}'", s.on_silence()));
    format!("CASE status {} ELSE status END", whens.collect::<Vec<_>>().join(" "))
}
