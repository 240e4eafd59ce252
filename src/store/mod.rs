//! The database: every SQL statement of the service, for SQLite and PostgreSQL.
//!
//! Statements are set-wise: their cost in round trips does not depend on how
//! many devices they touch. The rules stay in [`crate::domain`]; what is
//! repeated of them in SQL is held against them by a test.

mod confirmation;
mod fleet;
mod heartbeats;
mod history;
mod interference;
mod listening;
mod pool;
mod removal;
mod rows;
mod silence;
mod transaction;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use migration::{Migrator, MigratorTrait};
use sea_orm::{ConnectOptions, Database, DatabaseConnection, DbBackend, DbErr, QueryResult};

pub use fleet::Device;
pub use heartbeats::{Recorded, RecordingRules};
#[doc(hidden)]
pub use interference::{Interference, Interfering, Outcome, Point};
pub use listening::Proven;
pub use removal::{REMOVED_AT_ONCE, Selected, Selection};
pub use silence::{Grounds, OwnTimeouts};

use self::pool::Pool;
use crate::address::{DatabaseUrl, InvalidUrl};
use crate::domain::DeviceId;

/// How long a connection may take to be made or to become free, and how long
/// SQLite waits for another process's lock, before a statement fails. Writes are
/// tried again with the next flush.
const PATIENCE: Duration = Duration::from_secs(5);

/// Flushes and checks take turns, so one connection writes; the others are for
/// readers.
const MAX_CONNECTIONS: u32 = 4;

/// The pages of a new SQLite file, in bytes; one that exists keeps its own. A flush of
/// a large fleet writes a few rows on nearly every page, twice: with SQLite's own 4,096
/// most of its time is system calls.
const PAGE_SIZE: u32 = 16_384;

/// How many rows SQLite's thread reads ahead: with few of them it and the reader wake
/// each other all the time.
const ROWS_AHEAD: usize = 1_000;

/// The devices, their history and the outbox, in a database.
///
/// Cheap to clone; every clone uses the same few connections.
#[derive(Clone)]
pub struct DeviceStore {
    pool: Arc<Pool>,
    interference: Option<Arc<dyn Interference>>,
}

/// Whether a database may come into being by being opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// A missing SQLite file is made, if the URL says `mode=rwc`.
    Create,
    /// A missing SQLite file is an error: whoever only reads expects one.
    Existing,
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
    #[error("cannot {action}: {}", root(source))]
    Statement {
        /// What was to be done.
        action: &'static str,
        /// What the driver says.
        source: DbErr,
    },
    /// Neither success nor failure within the bound on a transaction or a read.
    #[error("cannot {action}: no answer within {}", humantime::format_duration(transaction::BOUND))]
    NoAnswer {
        /// What was to be done.
        action: &'static str,
    },
    /// The database has taken something, and another connection does not find it.
    #[error("what was written is not to be found by another connection")]
    Unconfirmed,
}

type Result<T, E = StoreError> = std::result::Result<T, E>;

impl DeviceStore {
    /// Connects and brings the schema to this version.
    ///
    /// # Errors
    ///
    /// [`StoreError::Open`] if there is no database to be had at `url` within
    /// five seconds, or if it cannot be migrated.
    pub async fn open(url: &str, mode: OpenMode) -> Result<Self> {
        let hint = match mode {
            OpenMode::Existing if url.starts_with("sqlite") => {
                "; if there is none yet, `heartbeatd run` and `heartbeatd device add` make one"
            }
            _ if url.starts_with("postgres") => {
                "; is PostgreSQL running there, and may this user use that database?"
            }
            _ => "",
        };
        let shown = DatabaseUrl::from(url.to_owned());
        // What the driver says of a URL that it cannot parse quotes it.
        shown.check().map_err(StoreError::Url)?;
        let failed = |source| StoreError::Open { url: shown.clone(), hint, source };
        let db = connect(url, mode).await.map_err(failed)?;
        db.ping().await.map_err(failed)?;
        Migrator::up(&db, None).await.map_err(failed)?;
        Ok(Self { pool: Arc::new(Pool::new(shown, db)), interference: None })
    }

    /// Closes the connections. On SQLite the write-ahead log is merged into the
    /// file.
    ///
    /// # Errors
    ///
    /// [`StoreError::Statement`] if the driver cannot close them.
    pub async fn close(self) -> Result<()> {
        self.pool.lease().db.close().await.map_err(failed_to("close the database"))
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

/// A pool of connections that are made when they are needed: at the start, and whenever
/// the ones before may be damaged.
async fn connect(url: &str, mode: OpenMode) -> Result<DatabaseConnection, DbErr> {
    let mut options = ConnectOptions::new(url);
    options
        .max_connections(MAX_CONNECTIONS)
        .connect_timeout(PATIENCE)
        .acquire_timeout(PATIENCE)
        .connect_lazy(true)
        .sqlx_logging(false)
        .map_sqlx_sqlite_opts(move |sqlite| {
            use sea_orm::sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
            let sqlite = sqlite
                .page_size(PAGE_SIZE)
                .journal_mode(SqliteJournalMode::Wal)
                // In WAL mode a power cut can undo the last commits but not
                // damage the file; a lost second of heartbeats comes again.
                .synchronous(SqliteSynchronous::Normal)
                .busy_timeout(PATIENCE)
                .row_buffer_size(ROWS_AHEAD);
            match mode {
                OpenMode::Create => sqlite,
                OpenMode::Existing => sqlite.create_if_missing(false),
            }
        })
        .map_sqlx_postgres_opts(|postgres| postgres.application_name("heartbeatd"));
    Database::connect(options).await
}

/// The innermost cause: every layer above repeats it.
fn root(error: &DbErr) -> &dyn std::error::Error {
    let mut root: &dyn std::error::Error = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root
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
    text.parse()
        .map_err(|error| DbErr::Type(format!("the database holds device {text:?}: {error}")))
}
