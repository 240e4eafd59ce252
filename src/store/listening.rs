//! The listening intervals that an instance has proven, and that its successor
//! continues from.

use chrono::{DateTime, Utc};
use entity::listening_interval::{Column, Entity, Model};
use futures::TryStreamExt;
use sea_orm::sea_query::Expr;
use sea_orm::{
    ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, FromQueryResult, QueryFilter, QueryOrder,
    QuerySelect, QueryTrait, Select, Statement, StreamTrait,
};

use super::interference::Point;
use super::rows::{self, Columns, Type};
use super::values::at_most;
use super::{DeviceStore, Result, millis};
use crate::domain::coverage::MAX_INTERVALS;
use crate::domain::{Change, Entry, GapCause, Interval, Listened};

const LISTENED: Columns =
    &[("started_at", Type::Integer), ("ended_at", Type::Integer), ("gap_cause", Type::Text)];

/// The coverage that an instance has proven since the last save.
#[derive(Clone, Debug, Default)]
pub struct Proven {
    /// Its `mqtt.client_id`.
    pub instance: String,
    /// The intervals that change; `None` if none does.
    pub change: Option<Change>,
    /// The entries of the journal since then.
    pub journal: Vec<Entry>,
}

impl DeviceStore {
    /// The intervals in which `instance` was listening between `from` and `until`, oldest
    /// first. If there are more than [`MAX_INTERVALS`], only the newest.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn listened(
        &self,
        instance: &str,
        from: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Result<Vec<Listened>> {
        self.newest_listened(instance, (from, until), MAX_INTERVALS).await
    }

    /// The newest `limit` of the intervals in which `instance` was listening in a window, oldest
    /// first. It reads no others: they are disjoint, so at most one that began before the window
    /// reaches into it.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn newest_listened(
        &self,
        instance: &str,
        (from, until): (DateTime<Utc>, DateTime<Utc>),
        limit: usize,
    ) -> Result<Vec<Listened>> {
        // Raw, because a comparison with a subquery is clearer than its builder.
        let sql = format!(
            "SELECT * FROM listening_interval \
             WHERE instance = $1 AND ended_at >= $2 AND started_at <= $3 AND started_at >= \
                 COALESCE((SELECT max(started_at) FROM listening_interval \
                           WHERE instance = $1 AND started_at < $2), $2) \
             ORDER BY started_at DESC LIMIT {limit}"
        );
        let values = [instance.into(), millis(from).into(), millis(until).into()];
        let statement = Statement::from_sql_and_values(self.backend(), sql, values);
        self.read("read the coverage", async |db| {
            let fate = self.pass(|| Point::Statement(statement.sql.clone())).await?;
            // Row by row, because a row takes ten times the memory of what it says.
            let mut rows = fate.tell(db.stream_raw(statement.clone()).await?)?;
            let mut listened = Vec::new();
            while let Some(row) = rows.try_next().await? {
                // An interval that cannot be read proves nothing.
                let row = Model::from_query_result(&row, "");
                listened.extend(self.readable("a listening interval", row).map(Listened::from));
            }
            listened.reverse();
            Ok(listened)
        })
        .await
    }

    /// Saves the coverage in the transaction that writes the heartbeats received during
    /// it.
    pub(super) async fn save_listened(
        &self,
        transaction: &DatabaseTransaction,
        Proven { instance, change, journal }: &Proven,
    ) -> Result<(), DbErr> {
        if let Some(change) = change {
            self.save_change(transaction, instance, change).await?;
        }
        self.write_journal(transaction, journal.iter().cloned()).await
    }

    async fn save_change(
        &self,
        transaction: &DatabaseTransaction,
        instance: &str,
        Change { from, is_set_back, intervals }: &Change,
    ) -> Result<(), DbErr> {
        if *is_set_back {
            let cut = Entity::update_many()
                .col_expr(Column::EndedAt, Expr::value(millis(*from)))
                .filter(Column::Instance.eq(instance))
                .filter(Column::EndedAt.gt(millis(*from)))
                .filter(Column::StartedAt.in_subquery(newest_before(instance, *from).into_query()));
            self.execute_built(transaction, &cut).await?;
        }
        let forget = Entity::delete_many()
            .filter(Column::Instance.eq(instance))
            .filter(Column::StartedAt.gte(millis(*from)));
        // Raw, because 10,000 intervals are more parameters than SQLite takes.
        let save = format!(
            "WITH listened AS ({rows}) \
             INSERT INTO listening_interval (instance, started_at, ended_at, gap_cause) \
             SELECT $2, started_at, ended_at, gap_cause FROM listened",
            rows = rows::select(self.backend(), "$1", LISTENED),
        );
        let rows = intervals.iter().map(|Listened { interval, after }| {
            let cause = after.map(GapCause::as_str);
            [millis(interval.from).into(), millis(interval.until).into(), cause.into()]
        });
        self.execute_built(transaction, &forget).await?;
        self.execute(transaction, &save, [rows::bind(rows), instance.into()]).await?;
        Ok(())
    }

    /// Deletes up to `limit` of the oldest intervals of `instance` that ended before
    /// `before`. Returns the number of deleted ones.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn prune_listened(
        &self,
        instance: &str,
        before: DateTime<Utc>,
        limit: u64,
    ) -> Result<u64> {
        let old = Entity::find()
            .select_only()
            .column(Column::StartedAt)
            .filter(Column::Instance.eq(instance))
            .filter(Column::StartedAt.lt(millis(before)))
            .filter(Column::EndedAt.lt(millis(before)))
            .order_by_asc(Column::StartedAt)
            .limit(at_most(limit));
        let prune = Entity::delete_many()
            .filter(Column::Instance.eq(instance))
            .filter(Column::StartedAt.in_subquery(old.into_query()));
        self.write("prune the coverage", async |transaction| {
            self.execute_built(transaction, &prune).await
        })
        .await
    }
}

/// The start of the newest interval that began before `instant`.
fn newest_before(instance: &str, instant: DateTime<Utc>) -> Select<Entity> {
    Entity::find()
        .select_only()
        .column_as(Column::StartedAt.max(), "started_at")
        .filter(Column::Instance.eq(instance))
        .filter(Column::StartedAt.lt(millis(instant)))
}

impl From<Model> for Listened {
    fn from(row: Model) -> Self {
        let until = row.ended_at.0;
        // An interval whose start is not a time proves nothing.
        let from = DateTime::from_timestamp_millis(row.started_at).unwrap_or(until);
        Self { interval: Interval { from, until }, after: row.gap_cause.map(GapCause::from) }
    }
}

impl From<entity::listening_interval::GapCause> for GapCause {
    fn from(cause: entity::listening_interval::GapCause) -> Self {
        use entity::listening_interval::GapCause as Saved;
        match cause {
            Saved::NotRunning => Self::NotRunning,
            Saved::Disconnected => Self::Disconnected,
            Saved::NoEcho => Self::NoEcho,
            Saved::Shed => Self::Shed,
            Saved::ShutOut => Self::ShutOut,
            Saved::ClockStep => Self::ClockStep,
        }
    }
}
