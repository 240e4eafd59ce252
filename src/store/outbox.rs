//! The outbox: offline transitions that the alert sink has not taken, and the delivery
//! that is under way.

use chrono::{DateTime, Utc};
use entity::{delivery, status_transition};
use futures::TryStreamExt;
use sea_orm::sea_query::{Expr, OnConflict};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, EntityTrait, FromQueryResult, PaginatorTrait,
    QueryFilter, QueryOrder, QuerySelect, QueryTrait, Set, StreamTrait,
};

use super::unreadable::Key;
use super::{DeviceStore, Result, millis};
use crate::domain::Transition;
use crate::domain::delivery::{Attempt, Probe};

/// The one row of its table: there is one delivery at a time.
const ONLY: i32 = 1;

/// How many alerts of the outbox, the first ones, are read to know its size. Those that
/// cannot be read are among them sooner or later: the others are delivered past them.
const EXAMINED: u64 = 10_000;

/// The size and the age of the outbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutboxSize {
    /// The number of alerts that wait to be delivered.
    pub alerts: u64,
    /// When the oldest of them was found.
    pub oldest: Option<DateTime<Utc>>,
}

/// Matches what is still to be delivered.
pub(super) fn is_undelivered() -> Condition {
    use status_transition::Column;
    Condition::all()
        .add(Column::ToStatus.eq(entity::Status::Offline))
        .add(Column::DeliveredAt.is_null())
        .add(Column::GivenUpAt.is_null())
}

impl DeviceStore {
    /// The size and the age of the outbox, without the alerts that cannot be read: they are
    /// never delivered. Of more than 10,000 of those the rest counts as waiting.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn outbox_size(&self) -> Result<OutboxSize> {
        use status_transition::{Column, Entity, Model};
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

    /// The delivery that was begun last, if there ever was one. One that cannot be read
    /// counts as none: the next one takes its place.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn last_delivery(&self) -> Result<Option<Attempt>> {
        self.read("read the last delivery", async |db| {
            let last = delivery::Entity::find_by_id(ONLY).build(self.backend());
            let Some(row) = db.query_one_raw(last).await? else { return Ok(None) };
            let read = delivery::Model::from_query_result(&row, "");
            Ok(self.readable("delivery", read).map(Attempt::from))
        })
        .await
    }

    /// Notes that a delivery is about to begin: should the process die over it, its
    /// successor knows.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn begin_delivery(&self, attempt: &Attempt) -> Result<()> {
        use delivery::{ActiveModel, Column, Entity};
        let row = ActiveModel {
            id: Set(ONLY),
            head: Set(attempt.head),
            size: Set(i64::try_from(attempt.size).unwrap_or(i64::MAX)),
            tries: Set(attempt.tries.into()),
            probe: Set(attempt.probe.into()),
        };
        let columns = [Column::Head, Column::Size, Column::Tries, Column::Probe];
        let update = OnConflict::column(Column::Id).update_columns(columns).to_owned();
        self.write("note the delivery", async |transaction| {
            let insert = Entity::insert(row.clone()).on_conflict(update.clone());
            insert.exec_without_returning(transaction).await.map(drop)
        })
        .await
    }

    /// Takes an alert out of the outbox that the sink will never take, and keeps why.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn give_up_offline(&self, sequence: i64, at: DateTime<Utc>, why: &str) -> Result<()> {
        use status_transition::{Column, Entity};
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

impl From<delivery::Model> for Attempt {
    fn from(row: delivery::Model) -> Self {
        Self {
            head: row.head,
            size: usize::try_from(row.size).unwrap_or(1),
            tries: u32::try_from(row.tries).unwrap_or(u32::MAX),
            probe: row.probe.into(),
        }
    }
}

impl From<delivery::Probe> for Probe {
    fn from(probe: delivery::Probe) -> Self {
        match probe {
            delivery::Probe::Not => Self::Not,
            delivery::Probe::UnderWay => Self::UnderWay,
            delivery::Probe::Delivered => Self::Delivered,
            delivery::Probe::Retried => Self::Retried,
        }
    }
}

impl From<Probe> for delivery::Probe {
    fn from(probe: Probe) -> Self {
        match probe {
            Probe::Not => Self::Not,
            Probe::UnderWay => Self::UnderWay,
            Probe::Delivered => Self::Delivered,
            Probe::Retried => Self::Retried,
        }
    }
}
