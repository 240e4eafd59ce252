//! The database: every SQL statement of the service, for SQLite and PostgreSQL.
//!
//! Statements are set-wise: their cost in round trips does not depend on how
//! many devices they touch. The rules stay in [`crate::domain`]; what is
//! repeated of them in SQL is held against them by a test.

mod confirmation;
mod damage;
mod exclusive;
mod file;
mod fleet;
mod heartbeats;
mod history;
mod interference;
mod listening;
mod open;
mod outbox;
mod pool;
mod raw_id;
mod removal;
mod rows;
mod silence;
mod transaction;
mod unreadable;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use sea_orm::{DbBackend, DbErr, QueryResult};

pub use damage::{Damage, Found};
pub use exclusive::Holder;
pub use fleet::Device;
pub use heartbeats::{Recorded, RecordingRules};
#[doc(hidden)]
pub use interference::{Interference, Interfering, Outcome, Point};
pub use listening::Proven;
pub(crate) use open::open_files;
pub use open::{OpenMode, Unusable};
pub use outbox::OutboxSize;
pub use raw_id::RawId;
pub use removal::{REMOVED_AT_ONCE, Selected, Selection};
pub use silence::{Grounds, OwnTimeouts, Stale, StaleFrom};
pub use unreadable::Unreadable;

use self::exclusive::Exclusive;
use self::open::Origin;
use self::pool::Pool;
use crate::domain::DeviceId;
use crate::secrets::{DatabaseUrl, InvalidUrl};

/// How long a connection may take to be made or to become free, and how long
/// SQLite waits for another process's lock, before a statement fails. Writes are
/// tried again with the next flush.
const PATIENCE: Duration = Duration::from_secs(5);

/// The devices, their history and the outbox, in a database.
///
/// Cheap to clone; every clone uses the same few connections.
#[derive(Clone)]
pub struct DeviceStore {
    pool: Arc<Pool>,
    interference: Option<Arc<dyn Interference>>,
    unreadable: Arc<Mutex<unreadable::Collector>>,
    exclusive: Option<Arc<Exclusive>>,
}

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
    #[error("cannot {action}: {}{}", root(source), remedy(source))]
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
    #[error("cannot {action}: no answer within {}", crate::duration::format(transaction::BOUND))]
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
         also of one mqtt.share_group, are not supported yet", exclusive::shown(holder.as_ref())
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
        "another heartbeatd has taken over the database: {}", exclusive::shown(holder.as_ref())
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
    fn refused(&self) -> Option<String> {
        match self {
            Self::Statement { source, .. } if transaction::refuses_data(source) => {
                Some(root(source).to_string())
            }
            _ => None,
        }
    }
}

type Result<T, E = StoreError> = std::result::Result<T, E>;

impl DeviceStore {
    /// Connects, and creates or migrates the schema as far as `mode` allows.
    ///
    /// # Errors
    ///
    /// [`StoreError::Open`] if the database at `url` does not answer within five
    /// seconds, or if it cannot be migrated. [`StoreError::Url`] if that is not a URL of
    /// a database. [`StoreError::Unusable`] if it answers and
    /// has another schema or encoding than it needs.
    pub async fn open(url: &str, mode: OpenMode) -> Result<Self> {
        let (db, origin) = Origin::open(url.to_owned().into(), mode).await?;
        Ok(Self {
            pool: Arc::new(Pool::new(db, origin)),
            interference: None,
            unreadable: Arc::default(),
            exclusive: None,
        })
    }

    /// The new database's absolute path, or its URL without its password, if opening
    /// created the schema; `None` if there was one.
    pub fn created(&self) -> Option<String> {
        self.pool.origin().created.then(|| self.pool.origin().shown())
    }

    /// Fails if the database's file was deleted or replaced since it was opened: what is
    /// written then is lost. Each transaction and each read begins with it. Costs two
    /// system calls, on PostgreSQL nothing.
    ///
    /// # Errors
    ///
    /// [`StoreError::FileReplaced`].
    pub fn verify_file(&self) -> Result<()> {
        self.pool.origin().verify_file()
    }

    /// Closes the connections. On SQLite the write-ahead log is merged into the
    /// file.
    ///
    /// # Errors
    ///
    /// [`StoreError::Statement`] if the driver cannot close them.
    pub async fn close(self) -> Result<()> {
        let closed = self.pool.lease().db.close().await;
        // Not before: the locks that SQLite has on the file go with it.
        self.release();
        closed.map_err(failed_to("close the database"))
    }

    /// Whether the database answers.
    ///
    /// # Errors
    ///
    /// [`StoreError::Statement`] if it does not.
    pub async fn ping(&self) -> Result<()> {
        self.read("reach the database", async |db| db.ping().await).await
    }

    fn backend(&self) -> DbBackend {
        self.pool.backend()
    }
}

impl std::fmt::Debug for DeviceStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceStore").field("pool", &self.pool).finish_non_exhaustive()
    }
}

/// The innermost cause: every layer above repeats it.
fn root(error: &DbErr) -> &dyn std::error::Error {
    let mut root: &dyn std::error::Error = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root
}

/// What helps against a statement's failure, if that is known.
fn remedy(error: &DbErr) -> &'static str {
    let read_only = error.to_string().contains("attempt to write a readonly database");
    if read_only { open::NOT_WRITABLE } else { "" }
}

fn failed_to(action: &'static str) -> impl Fn(DbErr) -> StoreError {
    move |source| StoreError::Statement { action, source }
}

fn millis(time: DateTime<Utc>) -> i64 {
    time.timestamp_millis()
}

fn time(column: &str, row: &QueryResult) -> Result<Option<DateTime<Utc>>, DbErr> {
    let millis: Option<i64> = row.try_get("", column)?;
    Ok(millis.and_then(DateTime::from_timestamp_millis))
}

fn device_id(text: &str) -> Result<DeviceId, DbErr> {
    DeviceId::of_device(text)
        .map_err(|why| DbErr::Type(format!("the database holds device {text:?}: {why}")))
}
