//! Rows that cannot be read, because an import, another program or an older version has
//! stored something invalid. They are left out and reported; they stop nothing.

use std::collections::BTreeSet;
use std::ops::Bound;

use sea_orm::sea_query::{Expr, ExprTrait, SimpleExpr};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, FromQueryResult, QueryFilter, QueryResult,
    QuerySelect, QueryTrait, Select, TryGetable, Value, sqlx,
};

use super::driver_error::{driver_error, root};
use super::values::{at_most, listed};
use super::{DeviceStore, Result};
use crate::domain::Status;
use crate::logging::escape::in_quotes;

/// The number of rows that are distinguished. Beyond it the same row may count again.
const TOLD_APART: usize = 1_000;

/// The number of characters that are reported of a row, because an invalid id may have any
/// length.
const TOLD_CHARS: usize = 300;

/// The maximum number of rows that one report names.
const NAMED: usize = 5;

/// The rows that could not be read since the last report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unreadable {
    /// The number of rows.
    pub count: u64,
    /// A few of them, with the reason. The next report has the next few.
    pub examples: Vec<String>,
}

/// Collects unreadable rows for the next report.
#[derive(Debug, Default)]
pub(super) struct Collector {
    rows: BTreeSet<String>,
    beyond: u64,
    /// The row that was named last.
    last_named: String,
}

impl Collector {
    /// Takes the collected rows. The examples continue after the last one named.
    fn take(&mut self) -> Unreadable {
        let (rows, beyond) = (std::mem::take(&mut self.rows), std::mem::take(&mut self.beyond));
        let last = self.last_named.as_str();
        let after = rows.range::<str, _>((Bound::Excluded(last), Bound::Unbounded));
        let until = rows.range::<str, _>((Bound::Unbounded, Bound::Included(last)));
        let in_turn = after.chain(until);
        let examples: Vec<String> = in_turn.take(NAMED).cloned().collect();
        self.last_named = examples.last().cloned().unwrap_or_default();
        Unreadable { count: rows.len() as u64 + beyond, examples }
    }
}

impl DeviceStore {
    /// The rows that were left out by any read since this was last called.
    pub fn take_unreadable(&self) -> Unreadable {
        self.unreadable.lock().take()
    }

    /// Finds the devices whose status is unknown, which a check for silence never sees.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn find_unknown_statuses(&self) -> Result<()> {
        // Raw, because an entity cannot hold what is looked for here. Nearly all devices are
        // online, and need no search of the list.
        let (online, known) = (Status::Online, listed(Status::ALL));
        let unknown = format!("status <> '{online}' AND status NOT IN ({known})");
        let count = format!("SELECT count(*) AS devices FROM device WHERE {unknown}");
        let select = format!(
            "SELECT CAST(id AS TEXT) AS id, CAST(status AS TEXT) AS status FROM device \
             WHERE {unknown} ORDER BY id LIMIT {TOLD_APART}"
        );
        self.read("find the devices of unknown status", async |db| {
            let rows = self.select(db, &select, []).await?;
            for row in &rows {
                let text = |column: &str| row.try_get::<String>("", column).ok();
                let (id, status) = (text("id"), text("status").unwrap_or_default());
                let why = format!("a status of {}", in_quotes(&status));
                self.readable::<()>(&named("device", &id), Err(DbErr::Type(why)));
            }
            if rows.len() == TOLD_APART {
                let counted = self.select(db, &count, []).await?.pop();
                let devices = counted.map(|row| row.try_get::<i64>("", "devices")).transpose()?;
                let more = devices.unwrap_or_default().unsigned_abs();
                self.unreadable.lock().beyond += more.saturating_sub(TOLD_APART as u64);
            }
            Ok(())
        })
        .await
    }

    /// Returns what was read of a row, or reports the row if it cannot be read.
    pub(super) fn readable<T>(&self, row: &str, read: Result<T, DbErr>) -> Option<T> {
        read.inspect_err(|why| {
            let mut collector = self.unreadable.lock();
            if collector.rows.len() < TOLD_APART {
                let told = format!("{row}: {}", reason(why));
                collector.rows.insert(told.chars().take(TOLD_CHARS).collect());
            } else {
                collector.beyond += 1;
            }
        })
        .ok()
    }

    /// Reads up to `limit` rows in the order of their keys, which is that of `query`.
    /// Continues after rows that cannot be read, so that these do not take the place of
    /// others.
    pub(super) async fn readable_rows<E: EntityTrait, T>(
        &self,
        db: &impl ConnectionTrait,
        query: Select<E>,
        limit: u64,
        key: Key<E::Column>,
    ) -> Result<Vec<T>, DbErr>
    where
        T: TryFrom<E::Model, Error = DbErr>,
    {
        let mut read = Vec::new();
        let (mut page, mut skipped) = (query.clone(), 0);
        loop {
            let missing = limit.saturating_sub(read.len() as u64);
            let rows = db
                .query_all_raw(page.clone().limit(at_most(missing)).build(self.backend()))
                .await?;
            let model = |row: &QueryResult| E::Model::from_query_result(row, "");
            read.extend(rows.iter().filter_map(|row| {
                self.readable(&key.named(row), model(row).and_then(T::try_from))
            }));
            let Some(last) = rows.last().filter(|_| rows.len() as u64 == missing) else { break };
            if read.len() as u64 >= limit {
                break;
            }
            page = if let Some(beyond) = key.beyond(last) {
                skipped = 0;
                query.clone().filter(beyond)
            } else {
                // Its key cannot be read either, so the rows up to it are skipped by number.
                skipped += missing;
                page.offset(skipped)
            };
        }
        Ok(read)
    }
}

/// The reason why a row cannot be read, without the driver's types.
fn reason(why: &DbErr) -> String {
    match driver_error(why) {
        Some(sqlx::Error::ColumnDecode { index, .. }) => {
            format!("column {index} holds something of another type")
        }
        _ => root(why),
    }
}

/// The column by which a query is sorted.
#[derive(Clone, Copy)]
pub(super) enum Key<C> {
    /// A text, ascending.
    Text(C),
    /// A number, ascending.
    Ascending(C),
    /// A number, descending.
    Descending(C),
}

impl<C: ColumnTrait> Key<C> {
    fn column(self) -> C {
        let (Self::Text(column) | Self::Ascending(column) | Self::Descending(column)) = self;
        column
    }

    fn beyond(self, row: &QueryResult) -> Option<SimpleExpr> {
        let column = self.column();
        let value = match self {
            Self::Text(_) => value::<String>(row, column),
            Self::Ascending(_) | Self::Descending(_) => value::<i64>(row, column),
        }?;
        Some(match self {
            Self::Text(_) | Self::Ascending(_) => Expr::col(column).gt(value),
            Self::Descending(_) => Expr::col(column).lt(value),
        })
    }

    /// The name of a row in a report.
    pub(super) fn named(self, row: &QueryResult) -> String {
        let name = self.column().as_str().to_owned();
        match self {
            Self::Text(_) => named(&name, &row.try_get::<String>("", &name).ok()),
            _ => named(&name, &row.try_get::<i64>("", &name).ok()),
        }
    }
}

fn value<T: TryGetable + Into<Value>>(
    row: &QueryResult,
    column: impl ColumnTrait,
) -> Option<Value> {
    row.try_get::<T>("", column.as_str()).ok().map(Into::into)
}

/// A row as a report names it: `id "pump-17"`.
pub(super) fn named(column: &str, value: &Option<impl std::fmt::Debug>) -> String {
    match value {
        Some(value) => format!("{column} {value:?}"),
        None => format!("a row without a readable {column}"),
    }
}
