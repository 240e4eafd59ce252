//! Pages of transitions for people and programs, newest first. Each page is a range of an
//! index, however many transitions there are.

use chrono::{DateTime, Utc};
use entity::status_transition::Model;
use sea_orm::{DatabaseConnection, DbBackend, DbErr, FromQueryResult, QueryResult, Value};

use super::outages::IS_OPEN;
use super::reading::Reader;
use super::unreadable::named;
use super::{Result, millis};
use crate::domain::{DeviceId, Status, Transition};

/// The transitions that meet all of these conditions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TransitionQuery {
    /// Is of this device. Its transitions come in the order of their sequence numbers, those
    /// of all devices in the order of their times.
    pub device: Option<DeviceId>,
    /// Enters this status.
    pub to: Option<Status>,
    /// True for outages that last.
    pub open: bool,
    /// Happened at this very instant. All outages that one check found have the same.
    pub at: Option<DateTime<Utc>>,
    /// Happened at this instant or later.
    pub from: Option<DateTime<Utc>>,
    /// Happened before this instant.
    pub until: Option<DateTime<Utc>>,
}

/// The place of a transition in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The time of the transition.
    pub at: DateTime<Utc>,
    /// Its sequence number.
    pub sequence: i64,
}

/// A page of transitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TransitionPage {
    /// The transitions, newest first, without those that cannot be read.
    pub transitions: Vec<Transition>,
    /// The place after which the next page begins; `None` if this is the last page.
    pub next: Option<Position>,
}

impl Reader {
    /// Up to `limit` transitions after the place `after` in the list.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn transitions(
        &self,
        query: &TransitionQuery,
        after: Option<Position>,
        limit: u64,
    ) -> Result<TransitionPage> {
        self.read("list the transitions", async |db| {
            let mut rows = Vec::new();
            for part in Part::all(query, after) {
                let missing = limit.saturating_sub(rows.len() as u64);
                if missing > 0 {
                    rows.extend(self.part(db, query, part, missing).await?);
                }
            }
            let is_full = rows.len() as u64 >= limit;
            let last = rows.iter().rev().find_map(|row| position(row).ok());
            let readable = |row: &QueryResult| {
                let sequence: Option<i64> = row.try_get("", "sequence").ok();
                let read = Model::from_query_result(row, "").and_then(Transition::try_from);
                self.0.readable(&named("sequence", &sequence), read)
            };
            let transitions = rows.iter().filter_map(readable).collect();
            Ok(TransitionPage { transitions, next: last.filter(|_| is_full) })
        })
        .await
    }

    /// The first transition of a device after the one with the number `sequence`, or of all.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn next_transition(
        &self,
        device: &DeviceId,
        sequence: Option<i64>,
    ) -> Result<Option<Transition>> {
        let sql = "SELECT * FROM status_transition WHERE device_id = $1 AND sequence > $2 \
                   ORDER BY sequence LIMIT 1";
        let after = sequence.unwrap_or(i64::MIN);
        self.read("read the next transition", async |db| {
            let rows = self.0.select(db, sql, [device.as_str().into(), after.into()]).await?;
            let read = |row| Model::from_query_result(row, "").and_then(Transition::try_from);
            rows.first().map(read).transpose()
        })
        .await
    }

    async fn part(
        &self,
        db: &DatabaseConnection,
        query: &TransitionQuery,
        part: Part,
        limit: u64,
    ) -> Result<Vec<QueryResult>, DbErr> {
        let mut values: Vec<Value> = Vec::new();
        let mut bind = |value: Value| {
            values.push(value);
            format!("${}", values.len())
        };
        let mut all = vec!["true".to_owned()];
        if let Some(device) = &query.device {
            all.push(format!("device_id = {}", bind(device.as_str().into())));
        }
        if query.open {
            all.push(IS_OPEN.to_owned());
        } else if let Some(to) = query.to {
            // As its index has it, which only the transitions of all devices need.
            let suffix = if query.device.is_none() { " || ''" } else { "" };
            all.push(format!("to_status{suffix} = '{to}'"));
        }
        let Part { at, before, sequence } = part;
        // As an expression, so that no index of times is used instead of the device's: at one
        // instant a million others may have fallen silent.
        let time = if query.device.is_some() { "at + 0" } else { "at" };
        for (operator, instant) in [("<", before), ("<", query.until), (">=", query.from)] {
            if let Some(instant) = instant {
                all.push(format!("{time} {operator} {}", bind(millis(instant).into())));
            }
        }
        let at = at.map(|at| bind(millis(at).into()));
        let sequence = sequence.map(|sequence| bind(sequence.into()));
        match (self.0.backend(), at, sequence) {
            // Not an equation: it would make the order that of the sequence numbers alone, and
            // PostgreSQL would go through the newest transitions to those of this instant.
            (DbBackend::Postgres, Some(at), Some(sequence)) if query.device.is_none() => {
                all.push(format!("at >= {at} AND (at, sequence) < ({at}, {sequence})"));
            }
            (DbBackend::Postgres, Some(at), None) if query.device.is_none() => {
                all.push(format!("at >= {at} AND at <= {at}"));
            }
            (_, at, sequence) => {
                all.extend(at.map(|at| format!("{time} = {at}")));
                all.extend(sequence.map(|sequence| format!("sequence < {sequence}")));
            }
        }
        let order = if query.device.is_some() { "" } else { "at DESC, " };
        // Raw, because the builder has no expressions.
        let sql = format!(
            "SELECT * FROM status_transition WHERE {} ORDER BY {order}sequence DESC LIMIT {limit}",
            all.join(" AND "),
        );
        self.0.select(db, &sql, values).await
    }
}

/// A part of a list: those that happened at the same time as the last one of the page before,
/// or those that happened earlier. A million devices may fall silent at one time, so a page
/// must not begin with the first of them.
#[derive(Clone, Copy, Debug, Default)]
struct Part {
    at: Option<DateTime<Utc>>,
    before: Option<DateTime<Utc>>,
    sequence: Option<i64>,
}

impl Part {
    fn all(query: &TransitionQuery, after: Option<Position>) -> Vec<Self> {
        let whole = Self { at: query.at, ..Self::default() };
        let Some(Position { at, sequence }) = after else { return vec![whole] };
        if query.device.is_some() || query.at.is_some() {
            return vec![Self { sequence: Some(sequence), ..whole }];
        }
        let same_time = Self { at: Some(at), sequence: Some(sequence), ..Self::default() };
        vec![same_time, Self { before: Some(at), ..Self::default() }]
    }
}

fn position(row: &QueryResult) -> Result<Position, DbErr> {
    let at: i64 = row.try_get("", "at")?;
    let at = DateTime::from_timestamp_millis(at);
    let at = at.ok_or_else(|| DbErr::Type("at is not a time".to_owned()))?;
    Ok(Position { at, sequence: row.try_get("", "sequence")? })
}
