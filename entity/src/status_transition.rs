//! The history of every status change, and the outbox of the `offline` ones.

use sea_orm::entity::prelude::*;

use crate::Status;

/// One row per status change, written in the transaction that changed it.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "status_transition")]
pub struct Model {
    /// The sequence number, which grows and is never reused on one timeline of the database.
    /// Together with the timeline it is the idempotency key for receivers of the transition.
    #[sea_orm(primary_key)]
    pub sequence: i64,
    /// The timeline of the database on which it was written; empty if the database has none, and
    /// for transitions from before this was stored.
    pub timeline: String,
    /// The device, which may have been removed since.
    pub device_id: String,
    /// The status that was left.
    pub from_status: Status,
    /// The status that was entered.
    pub to_status: Status,
    /// The time at which the heartbeat was received, or that of the check.
    pub at: ChronoUnixTimestampMillis,
    /// The device's last heartbeat at that time.
    pub last_seen_at: Option<ChronoUnixTimestampMillis>,
    /// For `offline`: the instant that `last_seen_at` was older than.
    pub cutoff: Option<ChronoUnixTimestampMillis>,
    /// For `offline`: the timeout that decided.
    pub timeout_ms: Option<i64>,
    /// For `offline`: how much of the silence was listened to.
    pub listened_ms: Option<i64>,
    /// For `offline`: the instance that listened.
    pub instance: Option<String>,
    /// For `offline`: the time at which a heartbeat or a removal ended the outage; `None` while it
    /// lasts.
    pub ended_at: Option<ChronoUnixTimestampMillis>,
    /// For a transition that ends an outage: the sequence number of the one that began it.
    /// `None` also for transitions from before this was stored.
    pub outage_sequence: Option<i64>,
    /// For a transition that ends an outage: the timeline of the one that began it. `None` also
    /// for transitions from before this was stored, which were written on none.
    #[sea_orm(column_type = "Text", nullable)]
    pub outage_timeline: Option<String>,
    /// For a transition that ends an outage: the last heartbeat before it.
    pub outage_silent_since: Option<ChronoUnixTimestampMillis>,
    /// For a transition that ends an outage: the time of the check that found it.
    pub outage_found_at: Option<ChronoUnixTimestampMillis>,
    /// For `offline`, and for the end of an outage: the time at which the sink acknowledged it;
    /// `None` if it has not.
    pub delivered_at: Option<ChronoUnixTimestampMillis>,
    /// The time at which the alert was given up, because the sink takes others but never this
    /// one.
    pub given_up_at: Option<ChronoUnixTimestampMillis>,
    /// The reason for giving it up.
    #[sea_orm(column_type = "Text", nullable)]
    pub given_up_why: Option<String>,
}

impl ActiveModelBehavior for ActiveModel {}
