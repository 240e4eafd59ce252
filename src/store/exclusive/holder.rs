//! The description of the service that uses a database: in its row of table `instance`, in
//! the lock file, and in errors.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use sea_orm::sqlx::postgres::PgRow;
use sea_orm::sqlx::{self, Row};
use sea_orm::{DbErr, QueryResult};
use serde::{Deserialize, Serialize};

use crate::clock::system_clock;

/// The service that uses a database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The name of its machine.
    pub host: String,
    /// Its process id there.
    pub pid: i64,
    /// The time at which it started.
    pub since: DateTime<Utc>,
}

/// A session of PostgreSQL that has the lock of a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldingSession {
    /// The process of the server.
    pub pid: i32,
    /// The address of its client; `None` if that came through a socket of the server's machine.
    pub address: Option<String>,
}

impl fmt::Display for HoldingSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, address } = self;
        let address = address.as_deref().unwrap_or("the server's own machine");
        write!(f, "process {pid} of the server, for a client at {address}")
    }
}

/// The columns from which a holder is read.
pub(super) const COLUMNS: &str = "host, pid, started_at";

impl Holder {
    pub(super) fn this_process() -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Self {
            host: host.trim().to_owned(),
            pid: std::process::id().into(),
            since: system_clock().wall,
        }
    }

    /// A service that has left no trace.
    pub(super) fn unknown() -> Self {
        Self { host: "?".to_owned(), pid: 0, since: system_clock().wall }
    }

    pub(super) fn read(row: &QueryResult) -> Result<Self, DbErr> {
        let (host, pid) = (row.try_get("", "host")?, row.try_get("", "pid")?);
        Ok(Self { host, pid, since: instant(row.try_get("", "started_at")?) })
    }

    pub(super) fn read_from_session(row: &PgRow) -> Result<Self, sqlx::Error> {
        let (host, pid) = (row.try_get("host")?, row.try_get("pid")?);
        Ok(Self { host, pid, since: instant(row.try_get("started_at")?) })
    }
}

fn instant(millis: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(millis).unwrap_or_default()
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.since.to_rfc3339_opts(SecondsFormat::Secs, true);
        write!(f, "process {} on {:?} since {since}", self.pid, self.host)
    }
}

/// The service that uses the database, as errors show it.
pub(in crate::store) fn shown(holder: Option<&Holder>) -> String {
    holder.map_or_else(|| "an unknown process".to_owned(), Holder::to_string)
}
