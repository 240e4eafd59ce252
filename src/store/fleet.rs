//! The fleet as people see it: registering, listing and counting devices.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use entity::device::{ActiveModel, Column, Entity, Model};
use sea_orm::sea_query::Expr;
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbBackend, DbErr, EntityTrait, QueryFilter, QueryOrder, Set,
    TryInsertResult,
};

use super::unreadable::Key;
use super::{DeviceStore, Result, device_id};
use crate::domain::{DeviceId, Entry, Happening, OwnTimeout, Status};

/// The key of the advisory lock of whoever registers devices on PostgreSQL. It is taken before
/// any row is locked.
pub(super) const REGISTRATION_LOCK: i64 = i64::from_be_bytes(*b"register");

/// A registered device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its id.
    pub id: DeviceId,
    /// Its status.
    pub status: Status,
    /// The time at which its last heartbeat was received.
    pub last_seen_at: Option<DateTime<Utc>>,
    /// Its own timeout as stored, usable or not; `None` if `heartbeat.timeout` is in effect.
    pub timeout_seconds: Option<i64>,
    /// The seconds since it booted, as last reported.
    pub uptime_seconds: Option<i64>,
    /// The bytes of free memory, as last reported.
    pub free_memory: Option<i64>,
    /// Its clock minus the service's, in milliseconds.
    pub clock_skew_ms: Option<i64>,
    /// The error that its last heartbeat reported.
    pub error: Option<String>,
    /// The reason why its last payload, or a part of it, could not be read.
    pub payload_error: Option<String>,
    /// The time at which it was registered.
    pub registered_at: DateTime<Utc>,
}

impl Device {
    /// Its own timeout, if that is in effect; `None` if `heartbeat.timeout` is.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout_seconds.map(OwnTimeout::of)?.in_effect()
    }
}

impl DeviceStore {
    /// Registers a device that has not been heard yet. Returns false if it is registered
    /// already; it then stays as it is.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn register(
        &self,
        id: &DeviceId,
        timeout: Option<Duration>,
        at: DateTime<Utc>,
    ) -> Result<bool> {
        let row = ActiveModel {
            id: Set(id.as_str().to_owned()),
            status: Set(entity::Status::Provisioning),
            timeout_seconds: Set(seconds(timeout)),
            registered_at: Set(at.into()),
            ..Default::default()
        };
        let inserted = self
            .write("register the device", async |transaction| {
                if self.backend() == DbBackend::Postgres {
                    let lock = format!("SELECT pg_advisory_xact_lock({REGISTRATION_LOCK})");
                    transaction.execute_unprepared(&lock).await?;
                }
                let insert = Entity::insert(row.clone()).on_conflict_do_nothing_on([Column::Id]);
                let inserted = insert.exec_without_returning(transaction).await?;
                if matches!(inserted, TryInsertResult::Inserted(rows) if rows > 0) {
                    let what = Happening::Registered { device: id.to_string() };
                    self.write_journal(transaction, [Entry { at, what }]).await?;
                }
                Ok(inserted)
            })
            .await?;
        Ok(matches!(inserted, TryInsertResult::Inserted(rows) if rows > 0))
    }

    /// The device, if it is registered.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn device(&self, id: &DeviceId) -> Result<Option<Device>> {
        self.read("read the device", async |db| {
            let row = Entity::find_by_id(id.as_str()).one(db).await?;
            row.map(Device::try_from).transpose()
        })
        .await
    }

    /// Up to `limit` devices in the order of their ids, after the id `after`, without those
    /// whose rows cannot be read.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn devices(
        &self,
        status: Option<Status>,
        after: Option<&DeviceId>,
        limit: u64,
    ) -> Result<Vec<Device>> {
        let mut query = Entity::find().order_by_asc(Column::Id);
        if let Some(status) = status {
            query = query.filter(Column::Status.eq(entity::Status::from(status)));
        }
        if let Some(after) = after {
            query = query.filter(Column::Id.gt(after.as_str()));
        }
        self.read("list the devices", async |db| {
            self.readable_rows(db, query.clone(), limit, Key::Text(Column::Id)).await
        })
        .await
    }

    /// Sets a device's own timeout, or with `None` returns it to the default. Returns false
    /// if it is not registered.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn set_timeout(&self, id: &DeviceId, timeout: Option<Duration>) -> Result<bool> {
        let update = Entity::update_many()
            .col_expr(Column::TimeoutSeconds, Expr::value(seconds(timeout)))
            .filter(Column::Id.eq(id.as_str()));
        let updated = self
            .write("set the device's timeout", async |transaction| {
                update.clone().exec(transaction).await
            })
            .await?;
        Ok(updated.rows_affected > 0)
    }

    /// The number of devices in each status, without those whose status is unknown.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn count_by_status(&self) -> Result<BTreeMap<Status, u64>> {
        // Nearly all devices are online, so their number is what the others leave. Not by
        // GROUP BY, for which SQLite would sort all the others, and raw, because sea-orm
        // has no FILTER.
        let online = Status::Online;
        let others = Status::ALL.into_iter().filter(|status| *status != online);
        let count = |s: Status| format!("count(*) FILTER (WHERE status = '{s}') AS {s}");
        let sql = format!(
            "SELECT (SELECT count(*) FROM device) AS devices, count(*) AS not_online, {counts} \
             FROM device WHERE status <> '{online}'",
            counts = others.clone().map(count).collect::<Vec<_>>().join(", "),
        );
        self.read("count the devices", async |db| {
            let row = self.select(db, &sql, []).await?.pop();
            let row = row.ok_or(DbErr::RecordNotFound("a count".to_owned()))?;
            let number = |column: &str| row.try_get::<i64>("", column).map(i64::unsigned_abs);
            let mut counts = BTreeMap::new();
            for status in others.clone() {
                counts.insert(status, number(status.as_str())?);
            }
            let rest = number("devices")?.saturating_sub(number("not_online")?);
            counts.insert(online, rest);
            Ok(counts)
        })
        .await
    }
}

fn seconds(timeout: Option<Duration>) -> Option<i64> {
    timeout.map(|timeout| i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX))
}

impl TryFrom<Model> for Device {
    type Error = DbErr;

    fn try_from(row: Model) -> Result<Self, DbErr> {
        Ok(Self {
            id: device_id(&row.id)?,
            status: row.status.into(),
            last_seen_at: row.last_seen_at.map(|time| time.0),
            timeout_seconds: row.timeout_seconds,
            uptime_seconds: row.uptime_seconds,
            free_memory: row.free_memory,
            clock_skew_ms: row.clock_skew_ms,
            error: row.error,
            payload_error: row.payload_error,
            registered_at: row.registered_at.0,
        })
    }
}
