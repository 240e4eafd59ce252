//! The fleet over time: the number of devices in each status, as of checks.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use sea_orm::{DbErr, QueryResult};

use super::reading::Reader;
use super::rows::{self, Columns, Type};
use super::{DeviceStore, Result, millis, time};
use crate::domain::Status;

/// The time for which samples are kept.
const KEPT: TimeDelta = TimeDelta::days(30);

/// The number of devices in each status at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetSample {
    /// The time of the check.
    pub at: DateTime<Utc>,
    /// The number of devices in each status.
    pub counts: BTreeMap<Status, u64>,
    /// The number of those that were late; `None` if that was not known.
    pub late: Option<u64>,
}

const BUCKET: Columns =
    &[("number", Type::Integer), ("from_at", Type::Integer), ("until_at", Type::Integer)];

impl DeviceStore {
    /// Keeps a sample, and deletes a few of those that are older than 30 days.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn keep_sample(&self, sample: &FleetSample) -> Result<()> {
        let names = Status::ALL.map(Status::as_str).join(", ");
        let count = |status| sample.counts.get(&status).copied().unwrap_or_default();
        let counts = Status::ALL.map(|status| count(status).to_string()).join(", ");
        let late = sample.late.map_or("NULL".to_owned(), |late| late.to_string());
        let excluded = Status::ALL.map(|status| format!("{status} = excluded.{status}")).join(", ");
        // Twice the same time only after the clock was set back.
        let keep = format!(
            "INSERT INTO fleet_sample (at, {names}, late) VALUES ($1, {counts}, {late}) \
             ON CONFLICT (at) DO UPDATE SET {excluded}, late = excluded.late"
        );
        let prune = "DELETE FROM fleet_sample WHERE at IN (\
                         SELECT at FROM fleet_sample WHERE at < $1 ORDER BY at LIMIT 1000)";
        self.write("keep a sample of the fleet", async |transaction| {
            self.execute(transaction, &keep, [millis(sample.at).into()]).await?;
            self.execute(transaction, prune, [millis(sample.at - KEPT).into()]).await
        })
        .await
        .map(drop)
    }
}

impl Reader {
    /// The last sample of each of the stretches that begin at `bounds` and end with the next
    /// bound; `None` where there is none.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn fleet(&self, bounds: &[DateTime<Utc>]) -> Result<Vec<Option<FleetSample>>> {
        // Raw, because the stretches are a list. Each is one search, however many samples
        // there are.
        let sql = format!(
            "WITH bucket AS ({rows}) SELECT bucket.number AS number, fleet_sample.* \
             FROM bucket JOIN fleet_sample ON fleet_sample.at = (\
                 SELECT max(other.at) FROM fleet_sample AS other \
                 WHERE other.at >= bucket.from_at AND other.at < bucket.until_at)",
            rows = rows::select(self.0.backend(), "$1", BUCKET),
        );
        let stretches = || bounds.windows(2).enumerate();
        self.read("read the samples of the fleet", async |db| {
            let buckets = stretches().map(|(number, bounds)| {
                let number = i64::try_from(number).unwrap_or(i64::MAX);
                [number.into(), millis(bounds[0]).into(), millis(bounds[1]).into()]
            });
            let mut samples = vec![None; stretches().count()];
            for row in self.0.select(db, &sql, [rows::bind(buckets)]).await? {
                let number: i64 = row.try_get("", "number")?;
                let place = usize::try_from(number).ok().and_then(|n| samples.get_mut(n));
                if let (Some(place), sample) = (place, sample(&row)) {
                    *place = self.0.readable("a sample of the fleet", sample);
                }
            }
            Ok(samples)
        })
        .await
    }
}

fn sample(row: &QueryResult) -> Result<FleetSample, DbErr> {
    let at = time("at", row)?.ok_or_else(|| DbErr::Type("at is not a time".to_owned()))?;
    let number = |column: &str| row.try_get::<i64>("", column).map(i64::unsigned_abs);
    let counts = Status::ALL.into_iter().map(|status| Ok((status, number(status.as_str())?)));
    let counts = counts.collect::<Result<_, DbErr>>()?;
    let late = row.try_get::<Option<i64>>("", "late")?.map(i64::unsigned_abs);
    Ok(FleetSample { at, counts, late })
}
