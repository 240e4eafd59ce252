//! The delivery that is under way, stored so that the next process knows of it.

use entity::delivery;
use sea_orm::sea_query::OnConflict;
use sea_orm::{ConnectionTrait, DbErr, EntityTrait, FromQueryResult, QueryTrait, Set};

use super::{DeviceStore, Result, timeline};
use crate::domain::IdempotencyKey;
use crate::domain::delivery::{Attempt, Probe};

/// The id of the table's only row: there is one delivery at a time.
const ONLY: i32 = 1;

impl DeviceStore {
    /// The delivery that was begun last; `None` if there was none, or if its row cannot be
    /// read. The next one replaces it.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn last_delivery(&self) -> Result<Option<Attempt>> {
        self.read("read the last delivery", async |db| {
            let last = delivery::Entity::find_by_id(ONLY).build(self.backend());
            let Some(row) = db.query_one_raw(last).await? else { return Ok(None) };
            let read = delivery::Model::from_query_result(&row, "").and_then(Attempt::try_from);
            Ok(self.readable("delivery", read))
        })
        .await
    }

    /// Notes that a delivery is about to begin, so that the next process knows of it if
    /// this one dies.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn begin_delivery(&self, attempt: &Attempt) -> Result<()> {
        use delivery::{ActiveModel, Column, Entity};
        let row = ActiveModel {
            id: Set(ONLY),
            head: Set(attempt.head.sequence),
            head_timeline: Set(timeline::text(attempt.head.timeline)),
            size: Set(i64::try_from(attempt.size).unwrap_or(i64::MAX)),
            tries: Set(attempt.tries.into()),
            probe: Set(attempt.probe.into()),
        };
        let columns =
            [Column::Head, Column::HeadTimeline, Column::Size, Column::Tries, Column::Probe];
        let update = OnConflict::column(Column::Id).update_columns(columns).to_owned();
        self.write("note the delivery", async |transaction| {
            let insert = Entity::insert(row.clone()).on_conflict(update.clone());
            insert.exec_without_returning(transaction).await.map(drop)
        })
        .await
    }
}

impl TryFrom<delivery::Model> for Attempt {
    type Error = DbErr;

    fn try_from(row: delivery::Model) -> Result<Self, DbErr> {
        let timeline = timeline::read(&row.head_timeline)?;
        Ok(Self {
            head: IdempotencyKey { timeline, sequence: row.head },
            size: usize::try_from(row.size).unwrap_or(1),
            tries: u32::try_from(row.tries).unwrap_or(u32::MAX),
            probe: row.probe.into(),
        })
    }
}

impl From<delivery::Probe> for Probe {
    fn from(probe: delivery::Probe) -> Self {
        match probe {
            delivery::Probe::Not => Self::Not,
            delivery::Probe::Passing => Self::Passing,
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
            Probe::Passing => Self::Passing,
            Probe::UnderWay => Self::UnderWay,
            Probe::Delivered => Self::Delivered,
            Probe::Retried => Self::Retried,
        }
    }
}
