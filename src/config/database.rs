//! `[database]`: the URL, and the limits of the connections to PostgreSQL.

mod tls;

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::values::{MINUTE, SECOND, duration_within};
use super::{Config, ConfigError, DatabaseUrl, InvalidUrl, NonZeroDuration};
use crate::duration;

/// The least number of connections for the work. One of them writes while another one checks
/// that what it wrote can be read.
const LEAST_CONNECTIONS: u32 = 2;

/// `[database]`. The limits are those of PostgreSQL; SQLite has none that can be set.
///
/// A URL alone is a database with the default limits:
///
/// ```
/// use heartbeatd::config::DatabaseConfig;
///
/// let database = DatabaseConfig::from("postgres://heartbeatd@db/heartbeatd");
/// assert_eq!(database.max_connections, 4);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseConfig {
    /// `sqlite://PATH?mode=rwc` or `postgres://USER@HOST/NAME`.
    pub url: DatabaseUrl,
    /// A file that holds the URL instead.
    pub url_file: Option<PathBuf>,
    /// The number of connections for flushes, checks and changes.
    #[serde(deserialize_with = "max_connections")]
    pub max_connections: u32,
    /// The number of connections for the reads of people and programs.
    #[serde(deserialize_with = "max_read_connections")]
    pub max_read_connections: u32,
    /// The time within which a connection must be made or become free.
    #[serde(deserialize_with = "connect_timeout")]
    pub connect_timeout: NonZeroDuration,
    /// The time that a statement may take.
    #[serde(deserialize_with = "statement_timeout")]
    pub statement_timeout: NonZeroDuration,
    /// The time that a statement may wait for a lock.
    #[serde(deserialize_with = "lock_timeout")]
    pub lock_timeout: NonZeroDuration,
    /// The time after which the server ends a transaction in which nothing happens.
    #[serde(deserialize_with = "idle_in_transaction_session_timeout")]
    pub idle_in_transaction_session_timeout: NonZeroDuration,
}

impl From<DatabaseUrl> for DatabaseConfig {
    fn from(url: DatabaseUrl) -> Self {
        Self { url, url_file: None, ..Config::default().database }
    }
}

impl From<&str> for DatabaseConfig {
    fn from(url: &str) -> Self {
        DatabaseUrl::from(url.to_owned()).into()
    }
}

impl From<&String> for DatabaseConfig {
    fn from(url: &String) -> Self {
        url.as_str().into()
    }
}

impl From<&DatabaseConfig> for DatabaseConfig {
    fn from(database: &DatabaseConfig) -> Self {
        database.clone()
    }
}

impl DatabaseConfig {
    /// Checks the URL, and the limits that belong together.
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let invalid = |key: &str, value: String, expected: String| ConfigError::Value {
            key: format!("database.{key}"),
            value,
            expected,
            place: None,
        };
        self.url
            .check()
            .map_err(|InvalidUrl { shown, expected }| invalid("url", shown, expected))?;
        if self.lock_timeout < self.statement_timeout {
            return Ok(());
        }
        let text = |timeout: NonZeroDuration| duration::format(timeout.get());
        let expected = format!(
            "a time below database.statement_timeout, which is {}, is expected: lower this one or \
             raise that one, because a statement that waits for a lock would end by that one, and \
             its error would not name the lock",
            text(self.statement_timeout)
        );
        Err(invalid("lock_timeout", text(self.lock_timeout), expected))
    }

    /// Returns a warning for each limit that was changed although SQLite has none of them.
    pub(super) fn unused(&self) -> Vec<String> {
        let default = Config::default().database;
        let changed = [
            ("max_connections", self.max_connections != default.max_connections),
            ("max_read_connections", self.max_read_connections != default.max_read_connections),
            ("connect_timeout", self.connect_timeout != default.connect_timeout),
            ("statement_timeout", self.statement_timeout != default.statement_timeout),
            ("lock_timeout", self.lock_timeout != default.lock_timeout),
            (
                "idle_in_transaction_session_timeout",
                self.idle_in_transaction_session_timeout
                    != default.idle_in_transaction_session_timeout,
            ),
        ];
        let unused = changed.into_iter().filter(|(_, changed)| *changed && self.url.is_sqlite());
        let warning = |(key, _)| {
            format!("database.{key} is not used: it is for PostgreSQL, and database.url is SQLite")
        };
        unused.map(warning).collect()
    }
}

fn max_connections<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    let why = "one that writes does not wait for one that reads, and each is a process of the \
               server";
    number_within(LEAST_CONNECTIONS..=100, why, from)
}

fn max_read_connections<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    let why = "the API answers at most 32 requests at once, and each connection is a process of \
               the server";
    number_within(1..=32, why, from)
}

fn connect_timeout<'de, D: Deserializer<'de>>(from: D) -> Result<NonZeroDuration, D::Error> {
    let why = "TLS and a password take a while, and a server that has vanished never answers";
    duration_within(SECOND..=MINUTE, why, from)
}

/// The bounds of the limits that the server enforces.
const ENFORCED: RangeInclusive<Duration> = SECOND..=Duration::from_secs(10 * 60);

fn statement_timeout<'de, D: Deserializer<'de>>(from: D) -> Result<NonZeroDuration, D::Error> {
    let why = "a check of ten million devices takes seconds, and flushes and checks stand still \
               while a statement hangs";
    // The lock timeout is less.
    duration_within(2 * SECOND..=*ENFORCED.end(), why, from)
}

fn lock_timeout<'de, D: Deserializer<'de>>(from: D) -> Result<NonZeroDuration, D::Error> {
    let why = "a deadlock is looked for after a second, and flushes and checks stand still while \
               one waits for a lock";
    duration_within(ENFORCED, why, from)
}

fn idle_in_transaction_session_timeout<'de, D>(from: D) -> Result<NonZeroDuration, D::Error>
where
    D: Deserializer<'de>,
{
    let why = "a busy machine pauses between two statements, and a service that was stopped keeps \
               its locks for so long";
    duration_within(ENFORCED, why, from)
}

fn number_within<'de, D>(bounds: RangeInclusive<u32>, why: &str, from: D) -> Result<u32, D::Error>
where
    D: Deserializer<'de>,
{
    let number = u32::deserialize(from)?;
    let (least, most) = (bounds.start(), bounds.end());
    let error = || D::Error::custom(format!("at least {least} and at most {most}, because {why}"));
    bounds.contains(&number).then_some(number).ok_or_else(error)
}
