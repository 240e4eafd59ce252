//! The intervals in which a listener was provably listening.

use sea_orm::entity::prelude::*;

/// One row per interval; the time between two of the same listener is a gap.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "listening_interval")]
pub struct Model {
    /// The listener, by its number.
    #[sea_orm(primary_key, auto_increment = false)]
    pub listener: i64,
    /// The first instant that is proven, in milliseconds since the Unix epoch. It is a
    /// number because the type for times cannot be part of a key.
    #[sea_orm(primary_key, auto_increment = false)]
    pub started_at: i64,
    /// The last instant that is proven; grows while the instance listens.
    pub ended_at: ChronoUnixTimestampMillis,
    /// The reason for the gap before it; `None` if that is unknown.
    pub gap_cause: Option<GapCause>,
}

/// The reason for a gap, as the database spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "String(StringLen::N(16))", rename_all = "snake_case")]
pub enum GapCause {
    /// The service was not running, or had not reached the broker yet.
    NotRunning,
    /// The connection to the broker was lost.
    Disconnected,
    /// No echo came back in time.
    NoEcho,
    /// The process was stopped.
    Stopped,
    /// Messages were discarded.
    Shed,
    /// Devices could not connect to the embedded broker.
    ShutOut,
    /// The clock was set, or the machine slept.
    ClockStep,
}

impl ActiveModelBehavior for ActiveModel {}
