//! The history of every status change, and for `offline` the outbox.

use sea_orm::entity::prelude::*;

use crate::Status;

/// One row per status change, written in the transaction that changed it.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "status_transition")]
pub struct Model {
    /// Ever growing and never reused: the idempotency key for whoever receives
    /// the transition.
    #[sea_orm(primary_key)]
    pub sequence: i64,
    /// The device; it may have been removed since.
    pub device_id: String,
    /// The status that was left.
    pub from_status: Status,
    /// The status that was entered.
    pub to_status: Status,
    /// When: the heartbeat's receive time, or the time of the check.
    pub at: ChronoUnixTimestampMillis,
    /// The device's last heartbeat as of then.
    pub last_seen_at: Option<ChronoUnixTimestampMillis>,
    /// For `offline`: the instant that `last_seen_at` was older than.
    pub cutoff: Option<ChronoUnixTimestampMillis>,
    /// For `offline`: the timeout that decided.
    pub timeout_ms: Option<i64>,
    /// For `offline`: how much of the silence was listened to.
    pub listened_ms: Option<i64>,
    /// For `offline`: the instance that listened.
    pub instance: Option<String>,
    /// For `offline`: when the alert sink acknowledged it; `None`: not yet.
    pub delivered_at: Option<ChronoUnixTimestampMillis>,
    /// When the alert was given up: the alert sink takes others, but never this one.
    pub given_up_at: Option<ChronoUnixTimestampMillis>,
    /// The reason why it was.
    #[sea_orm(column_type = "Text", nullable)]
    pub given_up_why: Option<String>,
}

impl ActiveModelBehavior for ActiveModel {}
