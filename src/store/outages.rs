//! Outages: an offline transition begins one. The heartbeat that takes the device out of
//! `offline` ends it, and so does the device's removal.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sea_orm::{DatabaseTransaction, DbErr, QueryResult};

use super::history::{NewTransition, key};
use super::raw_id::{ID, bind};
use super::rows::{self, Columns, Type};
use super::{DeviceStore, Result, millis, time};
use crate::domain::{Burst, EndedOutage, OpenOutage, Outages, Status};

/// Matches the outages that last, word for word as their indexes do.
pub(super) const IS_OPEN: &str = "to_status = 'offline' AND ended_at IS NULL";

const BACK: Columns = &[("device_id", Type::Text), ("ended_at", Type::Integer)];

impl DeviceStore {
    /// Ends the outages of the devices that `transitions` take out of `offline`, in their
    /// transaction, and notes in each which outage it ends.
    pub(super) async fn end_outages(
        &self,
        transaction: &DatabaseTransaction,
        transitions: &mut [NewTransition],
    ) -> Result<(), DbErr> {
        let back = transitions.iter().filter(|t| t.from == Status::Offline);
        let back: Vec<_> =
            back.map(|t| [t.device_id.as_str().into(), millis(t.at).into()]).collect();
        if back.is_empty() {
            return Ok(());
        }
        // Raw, because the devices are a list.
        let sql = format!(
            "WITH back AS ({rows}) \
             UPDATE status_transition SET ended_at = back.ended_at FROM back \
             WHERE to_status = 'offline' AND status_transition.ended_at IS NULL \
             AND status_transition.device_id = back.device_id \
             RETURNING status_transition.device_id AS device_id, sequence, timeline, last_seen_at, at",
            rows = rows::select(self.backend(), "$1", BACK),
        );
        let ended = self.select(transaction, &sql, [rows::bind(back.into_iter())]).await?;
        let mut outages: HashMap<String, EndedOutage> = HashMap::new();
        for row in &ended {
            let Some((device, outage)) = self.readable("an outage", ended_outage(row)) else {
                continue;
            };
            let newest = outages.entry(device).or_insert(outage);
            if newest.key.sequence < outage.key.sequence {
                *newest = outage;
            }
        }
        for transition in transitions.iter_mut().filter(|t| t.from == Status::Offline) {
            transition.ends = outages.get(transition.device_id.as_str()).copied();
        }
        Ok(())
    }

    /// The outages of these devices that last; of several of one device the newest. A device whose
    /// outage cannot be read has none.
    pub(super) async fn outages_of<'a>(
        &self,
        transaction: &DatabaseTransaction,
        devices: impl Iterator<Item = &'a str>,
    ) -> Result<HashMap<String, OpenOutage>, DbErr> {
        let mut devices = devices.peekable();
        let mut outages: HashMap<String, OpenOutage> = HashMap::new();
        if devices.peek().is_none() {
            return Ok(outages);
        }
        // Raw, because the devices are a list.
        let sql = format!(
            "SELECT device_id, sequence, cutoff, at FROM status_transition WHERE {IS_OPEN} \
             AND device_id IN (SELECT id FROM ({rows}) AS offline)",
            rows = rows::select(self.backend(), "$1", ID),
        );
        for row in &self.select(transaction, &sql, [bind(devices)]).await? {
            let Some((device, outage)) = self.readable("an outage", open_outage(row)) else {
                continue;
            };
            let newest = outages.entry(device).or_insert(outage);
            if newest.sequence < outage.sequence {
                *newest = outage;
            }
        }
        Ok(outages)
    }

    /// Ends the outages of devices that are removed, in the transaction of the removal.
    pub(super) async fn end_outages_of_removed<'a>(
        &self,
        transaction: &DatabaseTransaction,
        devices: impl Iterator<Item = &'a str>,
        at: DateTime<Utc>,
    ) -> Result<(), DbErr> {
        let sql = format!(
            "UPDATE status_transition SET ended_at = $2 WHERE {IS_OPEN} \
             AND device_id IN (SELECT id FROM ({rows}) AS removed)",
            rows = rows::select(self.backend(), "$1", ID),
        );
        self.execute(transaction, &sql, [bind(devices), millis(at).into()]).await?;
        Ok(())
    }

    /// The outages that last. As many rows are read as there are seconds in which a silence
    /// began.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn open_outages(&self) -> Result<Outages> {
        // Raw, because a group by an expression is clearer than its builder.
        let silent_since = "COALESCE(last_seen_at, at)";
        let sql = format!(
            "SELECT count(*) AS devices, \
             min({silent_since}) AS silent_since, max({silent_since}) AS silent_until, \
             min(at) AS found_at, max(at) AS found_until \
             FROM status_transition WHERE {IS_OPEN} GROUP BY {silent_since} / 1000"
        );
        self.read("count the outages", async |db| {
            let rows = self.select(db, &sql, []).await?;
            let mut outages = Outages::default();
            for row in &rows {
                if let Some(burst) = self.readable("an outage", burst(row)) {
                    outages.add(burst);
                }
            }
            Ok(outages)
        })
        .await
    }
}

fn ended_outage(row: &QueryResult) -> Result<(String, EndedOutage), DbErr> {
    let found_at = required("at", row)?;
    let silent_since = time("last_seen_at", row)?.unwrap_or(found_at);
    Ok((row.try_get("", "device_id")?, EndedOutage { key: key(row)?, silent_since, found_at }))
}

fn open_outage(row: &QueryResult) -> Result<(String, OpenOutage), DbErr> {
    let (sequence, cutoff) = (row.try_get("", "sequence")?, time("cutoff", row)?);
    let outage = OpenOutage { sequence, cutoff, found_at: required("at", row)? };
    Ok((row.try_get("", "device_id")?, outage))
}

fn burst(row: &QueryResult) -> Result<Burst, DbErr> {
    let devices: i64 = row.try_get("", "devices")?;
    Ok(Burst {
        found_at: required("found_at", row)?,
        found_until: required("found_until", row)?,
        devices: devices.unsigned_abs(),
        silent_since: required("silent_since", row)?,
        silent_until: required("silent_until", row)?,
    })
}

fn required(column: &str, row: &QueryResult) -> Result<DateTime<Utc>, DbErr> {
    time(column, row)?.ok_or_else(|| DbErr::Type(format!("{column} is not a time")))
}
