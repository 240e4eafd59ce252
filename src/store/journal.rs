//! The journal, and the events that it makes together with the transitions.
//!
//! Its numbers are given in the order of the commits, so a reader that has seen one misses none
//! below it. On SQLite one transaction writes at a time. On PostgreSQL commands may write
//! beside the service, so writers of the journal take turns; each writes it last.

use chrono::{DateTime, Utc};
use entity::status_transition::{Column, Entity as Transitions};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, EntityTrait, QueryFilter,
    QueryOrder, QueryResult, Value,
};
use serde_json::json;

use super::reading::Reader;
use super::rows::{self, Columns, Type};
use super::timeline;
use super::unreadable::{Key, named};
use super::{DeviceStore, Result, millis, time};
use crate::domain::event::{self, Entry, Event, EventPlace, Happening};
use crate::domain::{GapCause, Transition};

const ENTRY: Columns = &[
    ("kind", Type::Text),
    ("at", Type::Integer),
    ("device_id", Type::Text),
    ("since", Type::Integer),
    ("name", Type::Text),
    ("detail", Type::Text),
];

/// The key of the advisory lock by which writers of the journal take turns on PostgreSQL:
/// "journal" in ASCII.
const JOURNAL_LOCK: i64 = i64::from_be_bytes(*b"\0journal");

/// The number of entries that one statement writes. SQLite keeps a copy of each page that a
/// statement changes, in memory, until its end.
const WRITTEN_AT_ONCE: usize = 1_000;

/// The id of the only row of table pruned.
const ONLY: i32 = 1;

impl DeviceStore {
    /// Waits for its turn to number what it writes, which lasts until the transaction ends: so
    /// numbers are given in the order of the commits. Nothing is locked afterwards for which
    /// another transaction that has a turn may wait.
    pub(super) async fn take_a_number(
        &self,
        transaction: &DatabaseTransaction,
    ) -> Result<(), DbErr> {
        if self.backend() == DbBackend::Postgres {
            let lock = format!("SELECT pg_advisory_xact_lock({JOURNAL_LOCK})");
            transaction.execute_unprepared(&lock).await?;
        }
        Ok(())
    }

    /// Writes entries in their order, as the last thing that a transaction does.
    pub(super) async fn write_journal(
        &self,
        transaction: &DatabaseTransaction,
        entries: impl IntoIterator<Item = Entry>,
    ) -> Result<(), DbErr> {
        let mut entries = entries.into_iter().map(|entry| values(&entry)).peekable();
        if entries.peek().is_none() {
            return Ok(());
        }
        self.take_a_number(transaction).await?;
        let columns = ENTRY.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let sql = format!(
            "INSERT INTO journal ({columns}) SELECT {columns} FROM ({rows}) AS entry \
             WHERE true ON CONFLICT DO NOTHING",
            rows = rows::select(self.backend(), "$1", ENTRY),
        );
        while entries.peek().is_some() {
            let some = rows::bind(entries.by_ref().take(WRITTEN_AT_ONCE));
            self.execute(transaction, &sql, [some]).await?;
        }
        Ok(())
    }

    /// Deletes up to `limit` of the oldest entries from before `before`.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn prune_journal(&self, before: DateTime<Utc>, limit: u64) -> Result<u64> {
        let sql = "DELETE FROM journal WHERE number IN (\
                       SELECT number FROM journal WHERE at < $1 ORDER BY at LIMIT $2) \
                   RETURNING number AS gone";
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.write("prune the journal", async |transaction| {
            let rows = self.select(transaction, sql, [millis(before).into(), limit.into()]).await?;
            self.note_pruned(transaction, "journal", &rows).await?;
            Ok(rows.len() as u64)
        })
        .await
    }

    /// Notes the newest of the rows that were deleted as old, of which each has its number as
    /// `gone`.
    pub(super) async fn note_pruned(
        &self,
        transaction: &DatabaseTransaction,
        column: &str,
        rows: &[QueryResult],
    ) -> Result<(), DbErr> {
        let numbers = rows.iter().map(|row| row.try_get::<i64>("", "gone"));
        let Some(newest) = numbers.collect::<Result<Vec<_>, _>>()?.into_iter().max() else {
            return Ok(());
        };
        let other = if column == "journal" { "transitions" } else { "journal" };
        let sql = format!(
            "INSERT INTO pruned (id, {column}, {other}) VALUES ({ONLY}, $1, 0) \
             ON CONFLICT (id) DO UPDATE SET {column} = \
             CASE WHEN pruned.{column} < excluded.{column} THEN excluded.{column} \
             ELSE pruned.{column} END"
        );
        self.execute(transaction, &sql, [newest.into()]).await?;
        Ok(())
    }
}

impl Reader {
    /// Up to `limit` events after `after`, in order. `None` if some of them were deleted as
    /// old meanwhile, or if the database is on another timeline than that of `after`: it may then
    /// have lost events up to that place, and have given their numbers to others.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn events(&self, after: EventPlace, limit: u64) -> Result<Option<Vec<Event>>> {
        self.read("read the events", async |db| {
            let timeline = match after {
                after if after.is_beginning() => self.0.history_of(db).await?,
                after => after.timeline,
            };
            let transitions = Transitions::find()
                .filter(Column::Sequence.gt(after.transition))
                .order_by_asc(Column::Sequence);
            let key = Key::Ascending(Column::Sequence);
            let transitions: Vec<Transition> =
                self.0.readable_rows(db, transitions, limit, key).await?;
            let sql =
                format!("SELECT * FROM journal WHERE number > $1 ORDER BY number LIMIT {limit}");
            let rows = self.0.select(db, &sql, [after.journal.into()]).await?;
            let read = |row| self.0.readable(&named("number", &number(row).ok()), entry(row));
            let journal = rows.iter().filter_map(read).collect();
            // Afterwards, because something may have been deleted in between, or lost.
            let pruned = self.0.pruned(db).await?;
            if after.transition < pruned.transition
                || after.journal < pruned.journal
                || timeline != pruned.timeline
            {
                return Ok(None);
            }
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let after = EventPlace { timeline, ..after };
            Ok(Some(event::merge(after, transitions, journal, limit)))
        })
        .await
    }

    /// The place after the newest event.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn newest_event(&self) -> Result<EventPlace> {
        self.read("read the newest event", async |db| self.0.newest_place(db).await).await
    }
}

impl DeviceStore {
    /// The place after the newest event, for an instance that follows what another one writes.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn newest_event(&self) -> Result<EventPlace> {
        self.read("read the newest event", async |db| self.newest_place(db).await).await
    }

    async fn newest_place(&self, db: &impl ConnectionTrait) -> Result<EventPlace, DbErr> {
        let sql = format!(
            "SELECT coalesce((SELECT max(sequence) FROM status_transition), 0) AS transitions, \
             coalesce((SELECT max(number) FROM journal), 0) AS journal, {timeline} AS timeline",
            timeline = self.history_sql(),
        );
        let row = self.select(db, &sql, []).await?.pop();
        let newest = row.as_ref().map(place).transpose()?.unwrap_or_default();
        let pruned = self.pruned(db).await?;
        Ok(EventPlace {
            transition: newest.transition.max(pruned.transition),
            journal: newest.journal.max(pruned.journal),
            timeline: newest.timeline,
        })
    }

    /// The place after the newest of those that were deleted as old.
    async fn pruned(&self, db: &impl ConnectionTrait) -> Result<EventPlace, DbErr> {
        let sql = format!(
            "SELECT coalesce(max(transitions), 0) AS transitions, \
             coalesce(max(journal), 0) AS journal, {timeline} AS timeline \
             FROM pruned WHERE id = {ONLY}",
            timeline = self.history_sql(),
        );
        let row = self.select(db, &sql, []).await?.pop();
        Ok(row.as_ref().map(place).transpose()?.unwrap_or_default())
    }
}

fn place(row: &QueryResult) -> Result<EventPlace, DbErr> {
    Ok(EventPlace {
        transition: row.try_get("", "transitions")?,
        journal: row.try_get("", "journal")?,
        timeline: timeline::of_column("timeline", row)?,
    })
}

/// A row of [`ENTRY`], value by value.
fn values(entry: &Entry) -> [Value; ENTRY.len()] {
    let at = millis(entry.at).into();
    let none = || Value::String(None);
    let no_time = || Value::BigInt(None);
    match &entry.what {
        Happening::Registered { device } => {
            ["registered".into(), at, device.as_str().into(), no_time(), none(), none()]
        }
        Happening::Removed { device } => {
            ["removed".into(), at, device.as_str().into(), no_time(), none(), none()]
        }
        Happening::Gap { from, cause, instances } => {
            let detail = (!instances.is_empty()).then(|| json!(instances).to_string());
            ["gap".into(), at, none(), millis(*from).into(), cause.as_str().into(), detail.into()]
        }
        Happening::Listening => ["listening".into(), at, none(), no_time(), none(), none()],
        Happening::TookOver { from, by } => {
            let [from, by] = [from, by].map(|instance| instance.as_str().into());
            ["took_over".into(), at, none(), no_time(), from, by]
        }
        Happening::State { state, detail } => {
            let detail = detail.as_deref().into();
            ["state".into(), at, none(), no_time(), state.as_str().into(), detail]
        }
    }
}

fn number(row: &QueryResult) -> Result<i64, DbErr> {
    row.try_get("", "number")
}

fn entry(row: &QueryResult) -> Result<(i64, Entry), DbErr> {
    let wrong = |what: &str| DbErr::Type(format!("the journal holds {what}"));
    let at = time("at", row)?.ok_or_else(|| wrong("no time"))?;
    let text = |column: &str| -> Result<String, DbErr> {
        row.try_get::<Option<String>>("", column)?.ok_or_else(|| wrong(&format!("no {column}")))
    };
    let what = match row.try_get::<String>("", "kind")?.as_str() {
        "registered" => Happening::Registered { device: text("device_id")? },
        "removed" => Happening::Removed { device: text("device_id")? },
        "gap" => Happening::Gap {
            from: time("since", row)?.unwrap_or(at),
            cause: GapCause::named(&text("name")?).ok_or_else(|| wrong("an unknown cause"))?,
            instances: match row.try_get::<Option<String>>("", "detail")? {
                Some(names) => serde_json::from_str(&names)
                    .map_err(|_| wrong("instances that are not a list of names"))?,
                None => Vec::new(),
            },
        },
        "listening" => Happening::Listening,
        "took_over" => Happening::TookOver { from: text("name")?, by: text("detail")? },
        "state" => Happening::State { state: text("name")?, detail: row.try_get("", "detail")? },
        other => return Err(wrong(&format!("an entry of kind {other:?}"))),
    };
    Ok((number(row)?, Entry { at, what }))
}
