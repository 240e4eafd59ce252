//! Finding the silent devices and marking them offline.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::TryStreamExt;
use sea_orm::{DbErr, Statement, StreamTrait, Value};

use super::history::NewTransition;
use super::rows::{self, Columns, Type};
use super::{DeviceStore, Result, device_id, millis, time};
use crate::domain::{Coverage, Cutoffs, DeviceId, Status, Transition};

/// On what grounds devices are marked offline.
#[derive(Clone, Copy, Debug)]
pub struct Grounds<'a> {
    /// What they must have been last seen before.
    pub cutoffs: &'a Cutoffs,
    /// What the cutoffs come from.
    pub coverage: &'a Coverage,
    /// Who listened.
    pub instance: &'a str,
}

/// The distinct timeouts that devices have of their own.
pub type OwnTimeouts = Vec<Duration>;

const CUTOFF: Columns = &[("timeout_seconds", Type::Integer), ("cutoff", Type::Integer)];
const ID: Columns = &[("id", Type::Text)];

impl DeviceStore {
    /// The distinct timeouts that devices have of their own.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn own_timeouts(&self) -> Result<OwnTimeouts> {
        let sql = "SELECT DISTINCT timeout_seconds FROM device WHERE timeout_seconds IS NOT NULL";
        self.read("read the devices' timeouts", async |db| {
            let rows = self.select(db, sql, []).await?;
            let seconds = rows.iter().map(|row| row.try_get::<i64>("", "timeout_seconds"));
            seconds
                .map(|s| Ok(Duration::from_secs(s?.unsigned_abs())))
                .collect::<Result<_, DbErr>>()
        })
        .await
    }

    /// Has devices that were last seen after `now` be seen at `now`: the clock was
    /// turned back. Returns how many there were; at most `limit`, there may be more.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn clamp_last_seen(&self, now: DateTime<Utc>, limit: u64) -> Result<u64> {
        let sql = "UPDATE device SET last_seen_at = $1 WHERE id IN (\
                       SELECT id FROM device WHERE last_seen_at > $1 LIMIT $2)";
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.write("clamp heartbeats from the future", async |transaction| {
            self.execute(transaction, sql, [millis(now).into(), limit.into()]).await
        })
        .await
    }

    /// The devices that were last seen before their cutoff and are not offline
    /// yet; at most `limit`, sorted by id.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn get_stale_devices(&self, cutoffs: &Cutoffs, limit: u64) -> Result<Vec<DeviceId>> {
        let sql = format!(
            "WITH own AS ({own}) \
             SELECT id FROM device WHERE last_seen_at < $3 AND {stale} LIMIT $4",
            own = rows::select(self.backend(), "$1", CUTOFF),
            stale = stale("$2"),
        );
        let [own, default] = bind(cutoffs);
        // Whoever was seen after the latest cutoff, as nearly everybody, needs no look
        // at the status and the timeout.
        let latest = cutoffs.latest().map(millis).into();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let values = [own, default, latest, limit.into()];
        let statement = Statement::from_sql_and_values(self.backend(), sql, values);
        self.read("find the silent devices", async |db| {
            // Row by row: a million of them at once would be 200 MB.
            let mut rows = db.stream_raw(statement.clone()).await?;
            let mut ids = Vec::new();
            while let Some(row) = rows.try_next().await? {
                let id: String = row.try_get("", "id")?;
                ids.push(device_id(&id)?);
            }
            ids.sort_unstable();
            Ok(ids)
        })
        .await
    }

    /// Marks those of `devices` offline that are still silent, and returns
    /// their transitions in the order of their sequence numbers. They are in
    /// the outbox from then on.
    ///
    /// # Errors
    ///
    /// If the database fails; nobody is marked then.
    pub async fn mark_devices_offline(
        &self,
        devices: &[DeviceId],
        Grounds { cutoffs, coverage, instance }: Grounds<'_>,
        at: DateTime<Utc>,
    ) -> Result<Vec<Transition>> {
        let select = format!(
            "WITH own AS ({own}), candidate AS ({candidates}) \
             SELECT id, status, last_seen_at, timeout_seconds, {cutoff} AS cutoff FROM device \
             WHERE id IN (SELECT id FROM candidate) AND {stale} ORDER BY id",
            own = rows::select(self.backend(), "$1", CUTOFF),
            candidates = rows::select(self.backend(), "$3", ID),
            cutoff = cutoff("$2"),
            stale = stale("$2"),
        );
        let update = format!(
            "WITH marked AS ({rows}) \
             UPDATE device SET status = 'offline' WHERE id IN (SELECT id FROM marked)",
            rows = rows::select(self.backend(), "$1", ID),
        );
        let default = TimeDelta::from_std(cutoffs.default.timeout).unwrap_or(TimeDelta::MAX);
        self.write("mark devices offline", async |transaction| {
            let [own, cutoff] = bind(cutoffs);
            let candidates = rows::bind(devices.iter().map(|id| [id.as_str().into()]));
            let rows = self.select(transaction, &select, [own, cutoff, candidates]).await?;
            let mut transitions = Vec::with_capacity(rows.len());
            for row in rows {
                let id: String = row.try_get("", "id")?;
                let seconds: Option<i64> = row.try_get("", "timeout_seconds")?;
                let from = Status::from(row.try_get::<entity::Status>("", "status")?);
                let last_seen_at = time("last_seen_at", &row)?;
                transitions.push(NewTransition {
                    device_id: device_id(&id)?,
                    from,
                    to: from.on_silence(),
                    at,
                    last_seen_at,
                    cutoff: time("cutoff", &row)?,
                    timeout: Some(seconds.map_or(default, TimeDelta::seconds)),
                    listened: last_seen_at.map(|seen| coverage.intervals().covered(seen, at)),
                    instance: Some(instance.to_owned()),
                });
            }
            let marked = rows::bind(transitions.iter().map(|t| [t.device_id.as_str().into()]));
            self.execute(transaction, &update, [marked]).await?;
            self.insert_transitions(transaction, &transitions).await
        })
        .await
    }
}

/// [`Status::on_silence`] and the cutoffs, set-wise: which rows are silent. The
/// table `own` and the parameter `default` are those of [`bind`].
fn stale(default: &str) -> String {
    let falls_silent = Status::ALL.into_iter().filter(|status| status.on_silence() != *status);
    let statuses: Vec<_> = falls_silent.map(|status| format!("'{status}'")).collect();
    format!("status IN ({}) AND last_seen_at < {}", statuses.join(", "), cutoff(default))
}

/// The cutoff of a row; null, which nothing is older than, if there is none.
fn cutoff(default: &str) -> String {
    format!(
        "CASE WHEN timeout_seconds IS NULL THEN CAST({default} AS bigint) ELSE \
         (SELECT own.cutoff FROM own WHERE own.timeout_seconds = device.timeout_seconds) END"
    )
}

fn bind(cutoffs: &Cutoffs) -> [Value; 2] {
    let own = cutoffs.own.iter().map(|own| {
        let seconds = i64::try_from(own.timeout.as_secs()).unwrap_or(i64::MAX);
        [seconds.into(), own.instant.map(millis).into()]
    });
    [rows::bind(own), cutoffs.default.instant.map(millis).into()]
}
