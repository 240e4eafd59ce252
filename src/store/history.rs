//! The history of status changes.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use entity::status_transition::{Column, Entity, Model};
use sea_orm::{
    ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QueryOrder, QueryResult,
    Value,
};

use super::outbox::IN_OUTBOX;
use super::rows::{self, Columns, Type};
use super::timeline;
use super::unreadable::Key;
use super::{DeviceStore, Result, device_id, millis};
use crate::domain::{
    DeviceId, EndedOutage, GivenUp, Heartbeat, IdempotencyKey, Status, Transition,
};

/// A transition that has no key yet.
#[derive(Clone, Debug)]
pub(super) struct NewTransition {
    pub device_id: DeviceId,
    pub from: Status,
    pub to: Status,
    pub at: DateTime<Utc>,
    pub last_seen_at: Option<DateTime<Utc>>,
    pub cutoff: Option<DateTime<Utc>>,
    pub timeout: Option<TimeDelta>,
    pub listened: Option<TimeDelta>,
    pub instance: Option<String>,
    pub ends: Option<EndedOutage>,
}

impl NewTransition {
    /// The status change that a heartbeat makes, if any.
    pub(super) fn on_heartbeat(from: Status, heartbeat: &Heartbeat) -> Option<Self> {
        let to = from.on_heartbeat(heartbeat.error.is_some());
        (to != from).then(|| Self {
            device_id: heartbeat.device_id.clone(),
            from,
            to,
            at: heartbeat.received_at,
            last_seen_at: Some(heartbeat.received_at),
            cutoff: None,
            timeout: None,
            listened: None,
            instance: None,
            ends: None,
        })
    }

    /// The transition, with the key that the database gave it.
    fn with_key(&self, IdempotencyKey { timeline, sequence }: IdempotencyKey) -> Transition {
        let Self {
            device_id,
            from,
            to,
            at,
            last_seen_at,
            cutoff,
            timeout,
            listened,
            instance,
            ends,
        } = self.clone();
        Transition {
            sequence,
            timeline,
            device_id,
            from,
            to,
            at,
            last_seen_at,
            cutoff,
            timeout,
            listened,
            instance,
            ended_at: None,
            ends,
            delivered_at: None,
            given_up: None,
        }
    }

    /// A row of [`TRANSITION`], value by value.
    fn values(&self) -> [Value; TRANSITION.len()] {
        [
            self.device_id.as_str().into(),
            self.from.as_str().into(),
            self.to.as_str().into(),
            millis(self.at).into(),
            self.last_seen_at.map(millis).into(),
            self.cutoff.map(millis).into(),
            self.timeout.map(|timeout| timeout.num_milliseconds()).into(),
            self.listened.map(|listened| listened.num_milliseconds()).into(),
            self.instance.as_deref().into(),
            self.ends.map(|outage| outage.key.sequence).into(),
            self.ends.map(|outage| timeline::text(outage.key.timeline)).into(),
            self.ends.map(|outage| millis(outage.silent_since)).into(),
            self.ends.map(|outage| millis(outage.found_at)).into(),
        ]
    }
}

const TRANSITION: Columns = &[
    ("device_id", Type::Text),
    ("from_status", Type::Text),
    ("to_status", Type::Text),
    ("at", Type::Integer),
    ("last_seen_at", Type::Integer),
    ("cutoff", Type::Integer),
    ("timeout_ms", Type::Integer),
    ("listened_ms", Type::Integer),
    ("instance", Type::Text),
    ("outage_sequence", Type::Integer),
    ("outage_timeline", Type::Text),
    ("outage_silent_since", Type::Integer),
    ("outage_found_at", Type::Integer),
];

impl DeviceStore {
    /// Inserts transitions in their order, at most one per device, in the transaction that
    /// changes the statuses.
    pub(super) async fn insert_transitions(
        &self,
        transaction: &DatabaseTransaction,
        transitions: &[NewTransition],
    ) -> Result<Vec<Transition>, DbErr> {
        if transitions.is_empty() {
            return Ok(Vec::new());
        }
        // Members of a group write beside each other.
        self.take_a_number(transaction).await?;
        let (listed, rest) = rows::split(self.backend(), transitions);
        let timeline = self.timeline_sql();
        let mut keys = HashMap::with_capacity(transitions.len());
        if !listed.is_empty() {
            let sql = insert_sql(&rows::list(TRANSITION), timeline);
            for transitions in listed {
                let values = transitions.iter().flat_map(NewTransition::values);
                note_keys(&mut keys, &self.select(transaction, &sql, values).await?)?;
            }
        }
        if !rest.is_empty() {
            let sql = insert_sql(&rows::select(self.backend(), "$1", TRANSITION), timeline);
            let rows = rows::bind(rest.iter().map(NewTransition::values));
            note_keys(&mut keys, &self.select(transaction, &sql, [rows]).await?)?;
        }
        let inserted = transitions.iter().map(|transition| {
            let key = keys.get(transition.device_id.as_str());
            key.map(|&key| transition.with_key(key)).ok_or(DbErr::RecordNotInserted)
        });
        let mut inserted: Vec<_> = inserted.collect::<Result<_, _>>()?;
        inserted.sort_unstable_by_key(|transition| transition.sequence);
        Ok(inserted)
    }

    /// The newest transitions of one device or of all, newest first, with sequence numbers
    /// below `before`.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn history(
        &self,
        device: Option<&DeviceId>,
        before: Option<i64>,
        limit: u64,
    ) -> Result<Vec<Transition>> {
        let mut query = Entity::find().order_by_desc(Column::Sequence);
        if let Some(device) = device {
            query = query.filter(Column::DeviceId.eq(device.as_str()));
        }
        if let Some(before) = before {
            query = query.filter(Column::Sequence.lt(before));
        }
        self.read("read the history", async |db| {
            self.readable_rows(db, query.clone(), limit, Key::Descending(Column::Sequence)).await
        })
        .await
    }

    /// Deletes up to `limit` of the oldest transitions that are older than `before`. Keeps
    /// those that are still to be delivered, and the outages that last. Returns the number of deleted ones.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn prune_history(&self, before: DateTime<Utc>, limit: u64) -> Result<u64> {
        // Raw, because the correlated subquery is clearer than its builder.
        let sql = format!(
            "DELETE FROM status_transition WHERE sequence IN (\
                 SELECT sequence FROM status_transition \
                 WHERE at < $1 AND NOT ({IN_OUTBOX}) AND (\
                     to_status <> '{offline}' OR ended_at IS NOT NULL OR NOT EXISTS (\
                         SELECT 1 FROM device WHERE device.id = device_id \
                         AND device.status = '{offline}')) \
                 ORDER BY at LIMIT $2) RETURNING sequence AS gone",
            offline = Status::Offline,
        );
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.write("prune the history", async |transaction| {
            let rows =
                self.select(transaction, &sql, [millis(before).into(), limit.into()]).await?;
            self.note_pruned(transaction, "transitions", &rows).await?;
            Ok(rows.len() as u64)
        })
        .await
    }
}

/// Notes the keys that transitions got, by their devices.
fn note_keys(
    keys: &mut HashMap<String, IdempotencyKey>,
    inserted: &[QueryResult],
) -> Result<(), DbErr> {
    for row in inserted {
        keys.insert(row.try_get("", "device_id")?, key(row)?);
    }
    Ok(())
}

/// The key in the columns `sequence` and `timeline`.
pub(super) fn key(row: &QueryResult) -> Result<IdempotencyKey, DbErr> {
    let timeline = timeline::of_column("timeline", row)?;
    Ok(IdempotencyKey { timeline, sequence: row.try_get("", "sequence")? })
}

/// An `INSERT` of these rows on this timeline that returns their devices and keys.
fn insert_sql(rows: &str, timeline: &str) -> String {
    let columns = TRANSITION.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    format!(
        "WITH transition AS ({rows}) INSERT INTO status_transition ({columns}, timeline) \
         SELECT {columns}, {timeline} FROM transition WHERE true \
         RETURNING device_id, sequence, timeline"
    )
}

impl TryFrom<Model> for Transition {
    type Error = DbErr;

    fn try_from(row: Model) -> Result<Self, DbErr> {
        Ok(Self {
            sequence: row.sequence,
            timeline: timeline::read(&row.timeline)?,
            device_id: device_id(&row.device_id)?,
            from: row.from_status.into(),
            to: row.to_status.into(),
            at: row.at.0,
            last_seen_at: row.last_seen_at.map(|time| time.0),
            cutoff: row.cutoff.map(|time| time.0),
            timeout: row.timeout_ms.map(TimeDelta::milliseconds),
            listened: row.listened_ms.map(TimeDelta::milliseconds),
            instance: row.instance,
            ended_at: row.ended_at.map(|time| time.0),
            ends: match (row.outage_sequence, row.outage_silent_since, row.outage_found_at) {
                (Some(sequence), Some(silent_since), Some(found_at)) => Some(EndedOutage {
                    key: IdempotencyKey {
                        timeline: timeline::read(&row.outage_timeline.unwrap_or_default())?,
                        sequence,
                    },
                    silent_since: silent_since.0,
                    found_at: found_at.0,
                }),
                _ => None,
            },
            delivered_at: row.delivered_at.map(|time| time.0),
            given_up: row
                .given_up_at
                .map(|at| GivenUp { at: at.0, why: row.given_up_why.unwrap_or_default() }),
        })
    }
}
