//! The outbox: offline transitions that the alert sink has not acknowledged.

use chrono::{DateTime, Utc};
use entity::status_transition::{Column, Entity, Model};
use futures::TryStreamExt;
use sea_orm::sea_query::Expr;
use sea_orm::{
    ColumnTrait, Condition, EntityTrait, FromQueryResult, PaginatorTrait, QueryFilter, QueryOrder,
    QuerySelect, QueryTrait, StreamTrait,
};

use super::rows::{self, Columns, Type};
use super::unreadable::Key;
use super::{DeviceStore, Result, millis};
use crate::domain::Transition;

const SEQUENCE: Columns = &[("sequence", Type::Integer)];

/// The number of alerts that are read to find the unreadable ones among them. These come
/// to the front of the outbox in time, because the others are delivered past them.
const EXAMINED: u64 = 10_000;

/// The size and the age of the outbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutboxSize {
    /// The number of alerts that wait to be delivered.
    pub alerts: u64,
    /// The time at which the device of the oldest one went offline.
    pub oldest: Option<DateTime<Utc>>,
}

/// Matches transitions that are still to be delivered.
pub(super) fn is_undelivered() -> Condition {
    Condition::all()
        .add(Column::ToStatus.eq(entity::Status::Offline))
        .add(Column::DeliveredAt.is_null())
        .add(Column::GivenUpAt.is_null())
}

impl DeviceStore {
    /// The size and the age of the outbox, without the alerts that cannot be read, because
    /// these are never delivered. Only the first 10,000 alerts are examined. An unreadable
    /// one behind them counts as waiting.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn outbox_size(&self) -> Result<OutboxSize> {
        let undelivered = Entity::find().filter(is_undelivered()).order_by_asc(Column::Sequence);
        self.read("read the size of the outbox", async |db| {
            let count = undelivered.clone().count(db).await?;
            let first = undelivered.clone().limit(EXAMINED).build(self.backend());
            let mut rows = db.stream_raw(first).await?;
            let (mut unreadable, mut oldest) = (0, None);
            while let Some(row) = rows.try_next().await? {
                let alert = Model::from_query_result(&row, "").and_then(Transition::try_from);
                let name = Key::Ascending(Column::Sequence).named(&row);
                match self.readable(&name, alert) {
                    Some(alert) => oldest = oldest.or(Some(alert.at)),
                    None => unreadable += 1,
                }
            }
            Ok(OutboxSize { alerts: count.saturating_sub(unreadable), oldest })
        })
        .await
    }

    /// The oldest offline transitions that the alert sink has not acknowledged, in order,
    /// without those that cannot be read.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn undelivered_offline(&self, limit: u64) -> Result<Vec<Transition>> {
        let query = Entity::find().filter(is_undelivered()).order_by_asc(Column::Sequence);
        self.read("read the undelivered offline transitions", async |db| {
            self.readable_rows(db, query.clone(), limit, Key::Ascending(Column::Sequence)).await
        })
        .await
    }

    /// Removes transitions from the outbox after the alert sink has taken them.
    ///
    /// # Errors
    ///
    /// If the database fails. They are then delivered again.
    pub async fn acknowledge_offline(&self, sequences: &[i64], at: DateTime<Utc>) -> Result<()> {
        // Raw, because a list of parameters would be another statement for each length.
        let sql = format!(
            "WITH acknowledged AS ({rows}) UPDATE status_transition SET delivered_at = $2 \
             WHERE sequence IN (SELECT sequence FROM acknowledged) AND delivered_at IS NULL",
            rows = rows::select(self.backend(), "$1", SEQUENCE),
        );
        self.write("acknowledge offline transitions", async |transaction| {
            let rows = rows::bind(sequences.iter().map(|&sequence| [sequence.into()]));
            self.execute(transaction, &sql, [rows, millis(at).into()]).await
        })
        .await
        .map(drop)
    }

    /// Removes from the outbox an alert that the sink will never take, and stores the reason.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn give_up_offline(&self, sequence: i64, at: DateTime<Utc>, why: &str) -> Result<()> {
        let update = Entity::update_many()
            .col_expr(Column::GivenUpAt, Expr::value(millis(at)))
            .col_expr(Column::GivenUpWhy, Expr::value(why))
            .filter(Column::Sequence.eq(sequence))
            .filter(is_undelivered());
        self.write("give up an alert", async |transaction| {
            update.clone().exec(transaction).await.map(drop)
        })
        .await
    }
}
