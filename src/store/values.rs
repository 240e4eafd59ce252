//! Conversions between the database's values and those of the service.

use chrono::{DateTime, Utc};
use sea_orm::{DbBackend, DbErr, QueryResult};

use crate::domain::{DeviceId, Status};

/// Whole milliseconds since the Unix epoch.
pub(super) fn millis(time: DateTime<Utc>) -> i64 {
    time.timestamp_millis()
}

/// A number of rows for `LIMIT`: SQL has no unsigned numbers.
pub(super) fn at_most(rows: u64) -> u64 {
    rows.min(i64::MAX.unsigned_abs())
}

/// The instant in a column of milliseconds. `None` if there is no value, or one that is
/// not a time.
pub(super) fn time(column: &str, row: &QueryResult) -> Result<Option<DateTime<Utc>>, DbErr> {
    let millis: Option<i64> = row.try_get("", column)?;
    Ok(millis.and_then(DateTime::from_timestamp_millis))
}

/// A device's id.
pub(super) fn device_id(text: &str) -> Result<DeviceId, DbErr> {
    DeviceId::of_device(text)
        .map_err(|why| DbErr::Type(format!("the database holds device {text:?}: {why}")))
}

/// A device's id as an expression that orders by its bytes, which is how heartbeats are sorted.
/// PostgreSQL would order by its language.
pub(super) fn id_in_order(backend: DbBackend) -> &'static str {
    match backend {
        DbBackend::Postgres => "device.id COLLATE \"C\"",
        _ => "device.id",
    }
}

/// The end of a query that locks rows of `device` until the transaction ends: in the order of
/// their ids, so that two transactions never wait for each other. On SQLite, where one
/// transaction writes at a time, only the order.
pub(super) fn locked_in_order(backend: DbBackend) -> String {
    let order = format!("ORDER BY {}", id_in_order(backend));
    match backend {
        DbBackend::Postgres => format!("{order} FOR NO KEY UPDATE OF device"),
        _ => order,
    }
}

/// A list of statuses in SQL, for `IN`.
pub(super) fn listed(statuses: impl IntoIterator<Item = Status>) -> String {
    let statuses: Vec<_> = statuses.into_iter().map(|status| format!("'{status}'")).collect();
    statuses.join(", ")
}

impl From<entity::Status> for Status {
    fn from(status: entity::Status) -> Self {
        match status {
            entity::Status::Provisioning => Self::Provisioning,
            entity::Status::Online => Self::Online,
            entity::Status::Offline => Self::Offline,
            entity::Status::Error => Self::Error,
        }
    }
}

impl From<Status> for entity::Status {
    fn from(status: Status) -> Self {
        match status {
            Status::Provisioning => Self::Provisioning,
            Status::Online => Self::Online,
            Status::Offline => Self::Offline,
            Status::Error => Self::Error,
        }
    }
}
