//! The limits of the connections to a database.

use std::time::Duration;

use crate::config::{Config, DatabaseConfig};
use crate::store::PATIENCE;

/// The number of connections to a SQLite file for the work: one writes, and a check reads beside
/// it. Each has a thread whose heap keeps what a flush needs, and all of them write in turns.
const SQLITE_CONNECTIONS: u32 = 2;

/// The number of connections to a SQLite file for the reads of people and programs.
const SQLITE_READ_CONNECTIONS: u32 = 2;

/// The limits of the connections to a database: for PostgreSQL as configured, for SQLite fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// The number of connections for the work. Flushes and checks take turns, so one connection
    /// writes and the others are for readers.
    pub(super) connections: u32,
    /// The number of connections for the reads of people and programs.
    pub(super) read_connections: u32,
    /// The time within which a connection must be made or become free.
    pub(crate) connect: Duration,
    /// The time that PostgreSQL lets a statement run.
    pub(super) statement: Duration,
    /// The time for which PostgreSQL lets a statement wait for a lock.
    pub(super) lock: Duration,
    /// The time after which PostgreSQL ends a transaction in which nothing happens.
    pub(super) idle_in_transaction: Duration,
}

impl Limits {
    pub(crate) fn of(database: &DatabaseConfig) -> Self {
        if database.url.is_sqlite() {
            return Self {
                connections: SQLITE_CONNECTIONS,
                read_connections: SQLITE_READ_CONNECTIONS,
                connect: PATIENCE,
                ..Self::of_postgresql(&Config::default().database)
            };
        }
        Self::of_postgresql(database)
    }

    fn of_postgresql(database: &DatabaseConfig) -> Self {
        Self {
            connections: database.max_connections,
            read_connections: database.max_read_connections,
            connect: database.connect_timeout.get(),
            statement: database.statement_timeout.get(),
            lock: database.lock_timeout.get(),
            idle_in_transaction: database.idle_in_transaction_session_timeout.get(),
        }
    }

    /// The time after which a transaction counts as failed. It is longer than PostgreSQL lets a
    /// statement run, so that PostgreSQL's own reason is known if it answers.
    pub(super) fn transaction(&self) -> Duration {
        self.statement + self.connect
    }
}

/// The greatest number of files that a store has open: those of its connections, twice because
/// they are replaced before they are closed, and its lock. A connection to SQLite has the
/// database and its log open; all share an index of the log.
pub(crate) fn open_files(database: &DatabaseConfig) -> u64 {
    let (per_connection, shared) = if database.url.is_sqlite() { (2, 2) } else { (1, 1) };
    let Limits { connections, read_connections, .. } = Limits::of(database);
    2 * per_connection * u64::from(connections + read_connections) + shared
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_may_take_longer_than_a_statement_whatever_is_configured() {
        let mut database = DatabaseConfig::from("postgres://db/fleet");
        for seconds in [1, 30, 600] {
            let timeout = Duration::from_secs(seconds);
            database.statement_timeout = timeout.try_into().expect("it is not zero");
            assert!(Limits::of(&database).transaction() > timeout);
        }
    }

    #[test]
    fn the_files_follow_the_connections_and_sqlite_has_its_own() {
        let mut database = DatabaseConfig::from("postgres://db/fleet");
        assert_eq!(open_files(&database), 2 * (4 + 2) + 1);
        (database.max_connections, database.max_read_connections) = (20, 10);
        assert_eq!(open_files(&database), 2 * (20 + 10) + 1);
        database.url = "sqlite://fleet.db".to_owned().into();
        assert_eq!(open_files(&database), 2 * 2 * (2 + 2) + 2);
    }
}
