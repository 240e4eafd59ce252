//! The outbox: offline transitions, and those that end an outage, that the sink has not
//! acknowledged.

use chrono::{DateTime, Utc};
use entity::status_transition::{Column, Entity, Model};
use futures::TryStreamExt;
use sea_orm::sea_query::Expr;
use sea_orm::{
    ColumnTrait, EntityTrait, FromQueryResult, PaginatorTrait, QueryFilter, QueryOrder,
    QuerySelect, QueryTrait, Select, StreamTrait,
};

use super::rows::{self, Columns, Type};
use super::unreadable::Key;
use super::{DeviceStore, Result, millis, timeline};
use crate::domain::{IdempotencyKey, Transition};

const KEY: Columns = &[("sequence", Type::Integer), ("timeline", Type::Text)];

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

/// Matches the transitions that are still to be delivered, word for word as their index does.
pub(super) const IN_OUTBOX: &str = "(to_status = 'offline' OR outage_sequence IS NOT NULL) \
    AND delivered_at IS NULL AND given_up_at IS NULL";

/// The transitions that are still to be delivered, in order.
fn undelivered() -> Select<Entity> {
    Entity::find().filter(Expr::cust(IN_OUTBOX)).order_by_asc(Column::Sequence)
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
        let alerts = undelivered().filter(Column::ToStatus.eq(entity::Status::Offline));
        self.read("read the size of the outbox", async |db| {
            let count = alerts.clone().count(db).await?;
            let first = alerts.clone().limit(EXAMINED).build(self.backend());
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

    /// The oldest transitions that the sink has not acknowledged, in order, without those
    /// that cannot be read: offline ones, and those that end an outage.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn undelivered(&self, limit: u64) -> Result<Vec<Transition>> {
        self.read("read the undelivered transitions", async |db| {
            self.readable_rows(db, undelivered(), limit, Key::Ascending(Column::Sequence)).await
        })
        .await
    }

    /// The oldest transition in the outbox that may be delivered before `head`, although it
    /// comes after it, to find out whether the sink takes others: one of another device, if
    /// there is any.
    ///
    /// For an alert that is another alert, because the two kinds may go to different sinks, of
    /// which only one is out of order. For a recovery it is of either kind. No recovery comes
    /// before its alert by that, because its alert would be the older one.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn undelivered_beside(&self, head: &Transition) -> Result<Option<Transition>> {
        let later = undelivered().filter(Column::Sequence.gt(head.sequence));
        let is_other = Column::DeviceId.ne(head.device_id.as_str());
        let queries = if head.ends.is_none() {
            let alerts = later.filter(Column::ToStatus.eq(entity::Status::Offline));
            vec![alerts.clone().filter(is_other), alerts]
        } else {
            vec![later.filter(is_other)]
        };
        self.read("read the undelivered transitions", async |db| {
            let key = Key::Ascending(Column::Sequence);
            for query in queries.clone() {
                let found = self.readable_rows(db, query, 1, key).await?.pop();
                if found.is_some() {
                    return Ok(found);
                }
            }
            Ok(None)
        })
        .await
    }

    /// Up to `limit` recoveries, in order, that may be delivered before `head`, an alert,
    /// although they come after it: those of other devices, up to the next alert of another
    /// device. So their own alerts have left the outbox.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn recoveries_past(&self, head: &Transition, limit: u64) -> Result<Vec<Transition>> {
        let others = undelivered()
            .filter(Column::Sequence.gt(head.sequence))
            .filter(Column::DeviceId.ne(head.device_id.as_str()));
        self.read("read the undelivered transitions", async |db| {
            let key = Key::Ascending(Column::Sequence);
            let mut found: Vec<Transition> =
                self.readable_rows(db, others.clone(), limit, key).await?;
            let recoveries = found.iter().take_while(|other| other.ends.is_some()).count();
            found.truncate(recoveries);
            Ok(found)
        })
        .await
    }

    /// Removes transitions from the outbox after the sink has taken them. One that the database
    /// has lost meanwhile is none, and another one with its number stays.
    ///
    /// # Errors
    ///
    /// If the database fails. They are then delivered again.
    pub async fn acknowledge(&self, keys: &[IdempotencyKey], at: DateTime<Utc>) -> Result<()> {
        // Raw, because a list of parameters would be another statement for each length.
        let sql = format!(
            "WITH acknowledged AS ({rows}) UPDATE status_transition SET delivered_at = $2 \
             FROM acknowledged WHERE status_transition.sequence = acknowledged.sequence \
             AND status_transition.timeline = acknowledged.timeline AND delivered_at IS NULL",
            rows = rows::select(self.backend(), "$1", KEY),
        );
        self.write("acknowledge transitions", async |transaction| {
            let rows =
                keys.iter().map(|key| [key.sequence.into(), timeline::text(key.timeline).into()]);
            let rows = rows::bind(rows);
            self.execute(transaction, &sql, [rows, millis(at).into()]).await
        })
        .await
        .map(drop)
    }

    /// Removes from the outbox what the sink will never take, and stores the reason.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn give_up(&self, key: IdempotencyKey, at: DateTime<Utc>, why: &str) -> Result<()> {
        let update = Entity::update_many()
            .col_expr(Column::GivenUpAt, Expr::value(millis(at)))
            .col_expr(Column::GivenUpWhy, Expr::value(why))
            .filter(Column::Sequence.eq(key.sequence))
            .filter(Column::Timeline.eq(timeline::text(key.timeline)))
            .filter(Expr::cust(IN_OUTBOX));
        self.write("give up an alert", async |transaction| {
            update.clone().exec(transaction).await.map(drop)
        })
        .await
    }
}
