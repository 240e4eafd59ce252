//! The delivery of alerts that was begun last.

use sea_orm::entity::prelude::*;

/// One row: there is one delivery at a time.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "delivery")]
pub struct Model {
    /// Always 1.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: i32,
    /// The sequence number of the first alert in the outbox.
    pub head: i64,
    /// The timeline of the database on which that alert was written.
    pub head_timeline: String,
    /// The number of alerts that were delivered with it.
    pub size: i64,
    /// The number of times that the head was delivered alone.
    pub tries: i64,
    /// The progress of finding out whether the head or the sink is to blame.
    pub probe: Probe,
}

/// The progress of finding out whether an alert or the sink is to blame, as the database
/// spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "String(StringLen::N(16))", rename_all = "snake_case")]
pub enum Probe {
    /// Not begun.
    Not,
    /// Recoveries were about to be delivered past the head.
    Passing,
    /// The alert after the head was about to be delivered.
    UnderWay,
    /// The alert after the head was delivered.
    Delivered,
    /// The head was about to be delivered once more after that.
    Retried,
}

impl ActiveModelBehavior for ActiveModel {}
