//! A registered device and what its last heartbeat said.

use sea_orm::entity::prelude::*;

use crate::Status;

/// One row per device.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "device")]
pub struct Model {
    /// The `<id>` of `devices/<id>/heartbeat`.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    /// Where the device stands.
    pub status: Status,
    /// When the last heartbeat was received, by the service's clock; never by
    /// the device's.
    pub last_seen_at: Option<ChronoUnixTimestampMillis>,
    /// How long this device may be silent; `None`: `heartbeat.timeout`.
    pub timeout_seconds: Option<i64>,
    /// Seconds since the device booted, as it last reported them.
    pub uptime_seconds: Option<i64>,
    /// Bytes of free memory, as the device last reported them.
    pub free_memory: Option<i64>,
    /// The device's clock minus the service's, as of the last heartbeat that
    /// carried a timestamp.
    pub clock_skew_ms: Option<i64>,
    /// The error that the last heartbeat reported.
    #[sea_orm(column_type = "Text", nullable)]
    pub error: Option<String>,
    /// Why the last heartbeat's payload, or a part of it, counts as absent.
    #[sea_orm(column_type = "Text", nullable)]
    pub payload_error: Option<String>,
    /// When the device became known.
    pub registered_at: ChronoUnixTimestampMillis,
}

impl ActiveModelBehavior for ActiveModel {}
