//! The errors of the store.

use std::path::PathBuf;
use std::time::Duration;

use sea_orm::DbErr;

use super::driver_error::{refuses_data, root};
use super::exclusive::{Clash, Holder, HoldingSession, shown};
use super::hint::{self, POOLER};
use crate::secrets::{DatabaseUrl, InvalidUrl};

pub(super) type Result<T, E = StoreError> = std::result::Result<T, E>;

/// A failure of the database.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database could not be opened.
    #[error("cannot open the database {url}: {}{hint}", root(source))]
    Open {
        /// The database; shows no password.
        url: DatabaseUrl,
        /// A hint that may help; empty if there is none.
        hint: &'static str,
        /// The driver's error.
        source: DbErr,
    },
    /// The URL is not that of a database.
    #[error("cannot open the database {0}")]
    Url(InvalidUrl),
    /// A statement failed.
    #[error("cannot {action}: {}{}", root(source), hint::on_statement(source))]
    Statement {
        /// The task that failed, as in "cannot …".
        action: &'static str,
        /// The driver's error.
        source: DbErr,
    },
    /// No connection became free or could be made in time.
    #[error(
        "cannot {action}: no connection to the database within {}",
        crate::duration::format(*waited)
    )]
    NoConnection {
        /// The task that failed, as in "cannot …".
        action: &'static str,
        /// The time that was waited.
        waited: Duration,
    },
    /// A transaction or a read neither succeeded nor failed within its time limit.
    #[error("cannot {action}: no answer within {}", crate::duration::format(*bound))]
    NoAnswer {
        /// The task that failed, as in "cannot …".
        action: &'static str,
        /// The time limit.
        bound: Duration,
    },
    /// The database accepted a transaction, but another connection cannot read it.
    #[error("another connection cannot read what was written")]
    Unconfirmed,
    /// The database can be reached but not used.
    #[error(transparent)]
    Unusable(Unusable),
    /// Another service uses the database.
    #[error(
        "another heartbeatd uses the database {url}: {}; a second one can stand by only if both \
         are on PostgreSQL, with a broker of their own (mqtt.url), with echoes \
         (mqtt.echo_interval above 0s), and of a version that knows of \
         it", shown(holder.as_ref())
    )]
    InUse {
        /// The database; shows no password.
        url: DatabaseUrl,
        /// The other service, if it is known.
        holder: Option<Holder>,
    },
    /// Another process has the lock of a database that has no tables.
    #[error(
        "another process has the lock of the database {url}{}, which has no tables of heartbeatd: if \
         the database was dropped while a heartbeatd was running, end that one",
        session.as_ref().map(|session| format!(" ({session})")).unwrap_or_default()
    )]
    LockedWithoutSchema {
        /// The database; shows no password.
        url: DatabaseUrl,
        /// The session with the lock, if it is known.
        session: Option<HoldingSession>,
    },
    /// Another service uses the same file under another name.
    #[error(
        "another heartbeatd uses the database file {} under another name, such as a hard link \
         or a mount; give this one its own database", path.display()
    )]
    InUseByAnotherName {
        /// The path that this service was given.
        path: PathBuf,
    },
    /// Another service has taken over the database. This one may not write any more, and
    /// must end instead of retrying.
    #[error(
        "another heartbeatd has taken over the database: {}", shown(holder.as_ref())
    )]
    TakenOver {
        /// The other service, if it is known.
        holder: Option<Holder>,
    },
    /// The database has lost what this service had written, as after a failover to a server that
    /// lagged behind. Or it may have: a group does not know who had joined.
    #[error(
        "the database does not have what this service has written; what was not written since \
         is thrown away"
    )]
    Forgotten,
    /// Somebody has ended the stay of this member of a group, because it had stopped.
    #[error(
        "this instance was taken out of its group, because it had stopped or proved nothing; what was \
         not written is thrown away"
    )]
    TakenOut,
    /// Somebody has ended the stay of this instance by hand although it lives.
    #[error(
        "the stay of this instance was ended by hand (heartbeatd group remove); what was not written \
         is thrown away, and another stay begins"
    )]
    Removed,
    /// Another service writes, and this one stands by.
    #[error("another instance writes to the database, and this one stands by")]
    StandingBy,
    /// Another instance on the database listens to something else, so this one does not take part.
    #[error("{0}")]
    Clash(Box<Clash>),
    /// Another process uses the database by the same name.
    #[error(
        "another process uses the database as {name:?}: each instance needs its own \
         mqtt.client_id"
    )]
    SameName {
        /// The name.
        name: String,
    },
    /// The open file was deleted, or replaced by another one.
    #[error(
        "the database file {} was deleted or replaced while the service was running; \
         restart the service", path.display()
    )]
    FileReplaced {
        /// Its absolute path.
        path: PathBuf,
    },
}

impl StoreError {
    /// True if the stay of this instance is over although it has not left. What it has not written
    /// is worth nothing.
    pub(crate) fn ends_the_stay(&self) -> bool {
        matches!(self, Self::Forgotten | Self::TakenOut | Self::Removed)
    }

    /// The database's reason for refusing the data; `None` if the database itself failed.
    pub(super) fn refused(&self) -> Option<String> {
        match self {
            Self::Statement { source, .. } if refuses_data(source) => Some(root(source)),
            _ => None,
        }
    }
}

/// Turns the driver's error into the failure of `action`.
pub(super) fn failed_to(action: &'static str) -> impl Fn(DbErr) -> StoreError {
    move |source| StoreError::Statement { action, source }
}

/// The reason why a database that can be reached cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// It has no table of heartbeatd.
    #[error(
        "the database {url} has no heartbeatd schema: it is empty, it belongs to another \
         program, or it is just being created; `heartbeatd run` creates the schema"
    )]
    NoSchema {
        /// The database; shows no password.
        url: DatabaseUrl,
    },
    /// It belongs to another program, which keeps its migrations in a table of the same name.
    #[error(
        "the database {url} belongs to another program: its newest migration is {found}, \
         which is not one of heartbeatd's; give heartbeatd its own database"
    )]
    Foreign {
        /// The database; shows no password.
        url: DatabaseUrl,
        /// Its newest migration.
        found: String,
    },
    /// The schema is from an earlier version.
    #[error(
        "the database {url} was made by an older heartbeatd: its newest migration is {found}, \
         this version's is {expected}; start `heartbeatd run` of this version once to bring the \
         schema up to date"
    )]
    Older {
        /// The database; shows no password.
        url: DatabaseUrl,
        /// Its newest migration.
        found: String,
        /// The newest migration of this version.
        expected: String,
    },
    /// A later version made its schema.
    #[error(
        "the database {url} was made by a newer heartbeatd: its newest migration is {found}, \
         this version's is {expected}; use that version or a later one"
    )]
    Newer {
        /// The database; shows no password.
        url: DatabaseUrl,
        /// Its newest migration.
        found: String,
        /// The newest migration of this version.
        expected: String,
    },
    /// It cannot store every text.
    #[error(
        "the database {url} has the encoding {encoding}, which cannot store every device id; \
         create one with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
    )]
    Encoding {
        /// The database; shows no password.
        url: DatabaseUrl,
        /// Its encoding, as `SHOW server_encoding` returns it.
        encoding: String,
    },
    /// It is behind a pooler that gives each transaction another session.
    #[error("the database {url} is behind a pooler in transaction mode{POOLER}")]
    TransactionPooling {
        /// The database; shows no password.
        url: DatabaseUrl,
    },
}
