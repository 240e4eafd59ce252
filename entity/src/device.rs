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
    /// The device's status.
    pub status: Status,
    /// The time at which the last heartbeat was received, by the service's clock and never
    /// by the device's.
    pub last_seen_at: Option<ChronoUnixTimestampMillis>,
    /// The silence that this device is allowed; `None` if `heartbeat.timeout` is in effect.
    pub timeout_seconds: Option<i64>,
    /// The seconds since the device booted, as last reported.
    pub uptime_seconds: Option<i64>,
    /// The bytes of free memory, as last reported.
    pub free_memory: Option<i64>,
    /// The device's clock minus the service's, as of the last heartbeat with a timestamp.
    pub clock_skew_ms: Option<i64>,
    /// The error that the last heartbeat reported.
    #[sea_orm(column_type = "Text", nullable)]
    pub error: Option<String>,
    /// The reason why the last heartbeat's payload, or a part of it, counts as absent.
    #[sea_orm(column_type = "Text", nullable)]
    pub payload_error: Option<String>,
    /// The time at which the device was registered.
    pub registered_at: ChronoUnixTimestampMillis,
}

impl ActiveModelBehavior for ActiveModel {}
