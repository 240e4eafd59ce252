//! The errors of the store.

use std::path::PathBuf;

use sea_orm::DbErr;

use super::PATIENCE;
use super::driver_error::{refuses_data, root};
use super::exclusive::{Holder, shown};
use super::hint::{self, POOLER};
use super::transaction::BOUND;
use crate::secrets::{DatabaseUrl, InvalidUrl};

pub(super) type Result<T, E = StoreError> = std::result::Result<T, E>;

/// What went wrong with the database.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No connection.
    #[error("cannot open the database {url}: {}{hint}", root(source))]
    Open {
        /// Where; shows no password.
        url: DatabaseUrl,
        /// What may help.
        hint: &'static str,
        /// What the driver says.
        source: DbErr,
    },
    /// The URL is not one of a database.
    #[error("cannot open the database {0}")]
    Url(InvalidUrl),
    /// A statement failed.
    #[error("cannot {action}: {}{}", root(source), hint::on_statement(source))]
    Statement {
        /// What was to be done.
        action: &'static str,
        /// What the driver says.
        source: DbErr,
    },
    /// No connection was free, or could be made, within five seconds.
    #[error(
        "cannot {action}: no connection to the database within {}",
        crate::duration::format(PATIENCE)
    )]
    NoConnection {
        /// What was to be done.
        action: &'static str,
    },
    /// Neither success nor failure within the bound on a transaction or a read.
    #[error("cannot {action}: no answer within {}", crate::duration::format(BOUND))]
    NoAnswer {
        /// What was to be done.
        action: &'static str,
    },
    /// The database has taken something, and another connection does not find it.
    #[error("what was written is not to be found by another connection")]
    Unconfirmed,
    /// The database can be reached and cannot be used.
    #[error(transparent)]
    Unusable(Unusable),
    /// Another service has the database.
    #[error(
        "another heartbeatd uses the database {url}: {}; several instances on one database, \
         also of one mqtt.share_group, are not supported yet", shown(holder.as_ref())
    )]
    InUse {
        /// The database; shows no password.
        url: DatabaseUrl,
        /// The other service, if it has said who it is.
        holder: Option<Holder>,
    },
    /// Another service has the database's file, which it has opened by another name.
    #[error(
        "another heartbeatd uses the database file {} by another name, such as a hard link or \
         a mount; give this one a database of its own", path.display()
    )]
    InUseByAnotherName {
        /// Its path, as this one was told it.
        path: PathBuf,
    },
    /// Another service has taken the database over: this one may not write any more, and
    /// must end instead of trying again.
    #[error(
        "another heartbeatd has taken over the database: {}", shown(holder.as_ref())
    )]
    TakenOver {
        /// The other service.
        holder: Option<Holder>,
    },
    /// Another file has taken the place of the one that is open, or none has.
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
    /// The database's reason for not taking what it was given, though it works.
    pub(super) fn refused(&self) -> Option<String> {
        match self {
            Self::Statement { source, .. } if refuses_data(source) => {
                Some(root(source).to_string())
            }
            _ => None,
        }
    }
}

/// Makes an error of what the driver says, in the middle of `action`.
pub(super) fn failed_to(action: &'static str) -> impl Fn(DbErr) -> StoreError {
    move |source| StoreError::Statement { action, source }
}

/// Why a database that can be reached cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// There is no table of heartbeatd in it.
    #[error(
        "the database {url} has no heartbeatd schema: it is empty, it belongs to another \
         program, or it is being created at this moment; `heartbeatd run` creates the schema"
    )]
    NoSchema {
        /// The database; shows no password.
        url: DatabaseUrl,
    },
    /// It belongs to another program that keeps its migrations in the same table.
    #[error(
        "the database {url} belongs to another program: its newest migration is {found}, \
         which is not one of heartbeatd's; give heartbeatd a database of its own"
    )]
    Foreign {
        /// The database; shows no password.
        url: DatabaseUrl,
        /// Its newest migration.
        found: String,
    },
    /// Its schema is of an earlier version.
    #[error(
        "the database {url} was made by an older heartbeatd: its newest migration is {found}, \
         this version's is {expected}; start `heartbeatd run` of this version once, it brings \
         the schema up to date"
    )]
    Older {
        /// The database; shows no password.
        url: DatabaseUrl,
        /// Its newest migration.
        found: String,
        /// The newest migration of this version.
        expected: String,
    },
    /// Its schema is of a later version.
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
        /// Its encoding, as `SHOW server_encoding` has it.
        encoding: String,
    },
    /// A pooler gives each transaction another session.
    #[error("the database {url} is behind a pooler in transaction mode{POOLER}")]
    TransactionPooling {
        /// The database; shows no password.
        url: DatabaseUrl,
    },
}
