//! The options of connections.

use std::time::Duration;

use sea_orm::sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sea_orm::{ConnectOptions, DatabaseConnection, DbBackend, DbErr, sqlx};

use super::OpenMode;
use super::limits::Limits;
use crate::store::PATIENCE;
use crate::store::driver_error::connection_error;
use crate::store::reading::{ReadingLimits, Replacement};
use crate::store::timeline::Timelines;

/// The page size of a new SQLite file, in bytes; an existing file keeps its own. A flush of
/// a large fleet writes a few rows on nearly every page, twice. With SQLite's default of
/// 4,096 it spends most of its time in system calls.
const PAGE_SIZE: u32 = 16_384;

/// The number of rows that SQLite's thread reads ahead. With only a few, it and the reader
/// wake each other all the time.
const ROWS_AHEAD: usize = 1_000;

pub(super) fn connect_options(
    url: &str,
    limits: Limits,
    mode: OpenMode,
    timelines: &Timelines,
) -> ConnectOptions {
    let timelines = timelines.clone();
    let mut options = ConnectOptions::new(url);
    options
        .max_connections(limits.connections)
        .connect_timeout(limits.connect)
        .acquire_timeout(limits.connect)
        // A connection that was closed for its age could not come back without a free
        // descriptor.
        .idle_timeout(None)
        .max_lifetime(None)
        .sqlx_logging(false)
        .map_sqlx_sqlite_opts(move |sqlite| sqlite_options(sqlite, mode))
        .map_sqlx_postgres_opts(|postgres| postgres_options(postgres, "heartbeatd"))
        .map_sqlx_postgres_pool_opts(move |pool| {
            prepare_sessions(pool, settings(limits).to_vec(), limits.connect, timelines.clone())
        });
    options
}

/// The options of a connection to PostgreSQL, by the name that the server shows.
pub(crate) fn postgres_options(postgres: PgConnectOptions, name: &str) -> PgConnectOptions {
    // The driver looks for the brackets of an IPv6 address as part of a name.
    let host = postgres.get_host().trim_matches(['[', ']']).to_owned();
    // PgBouncer refuses the parameter that sqlx would send. No number here has a fraction, so it
    // is not needed.
    postgres.host(&host).application_name(name).extra_float_digits(None)
}

/// The number of instructions of SQLite's machine after which a statement is asked whether it
/// may go on: about a millisecond.
const ASKED_AFTER: i32 = 10_000;

/// The options of connections that only read. Each gives up early, because somebody waits, and
/// ends what it still does once it is replaced.
pub(super) fn reading_options(
    url: &str,
    limits: Limits,
    reading: ReadingLimits,
    replacement: &Replacement,
    timelines: &Timelines,
) -> ConnectOptions {
    let ReadingLimits { bound, patience } = reading;
    let (replacement, timelines) = (replacement.clone(), timelines.clone());
    let mut options = connect_options(url, limits, OpenMode::Existing, &timelines);
    options
        .max_connections(limits.read_connections)
        .acquire_timeout(patience)
        .map_sqlx_sqlite_opts(|sqlite| {
            sqlite_options(sqlite, OpenMode::Existing).pragma("query_only", "ON")
        })
        .map_sqlx_sqlite_pool_opts(move |pool| {
            let replacement = replacement.clone();
            pool.after_connect(move |connection, _| {
                let mut lifetime = replacement.lifetime(bound);
                Box::pin(async move {
                    let mut handle = connection.lock_handle().await?;
                    handle.set_progress_handler(ASKED_AFTER, move || lifetime.goes_on());
                    Ok(())
                })
            })
        })
        .map_sqlx_postgres_pool_opts(move |pool| {
            let reading = [
                ("statement_timeout", millis(bound)),
                ("default_transaction_read_only", "on".to_owned()),
            ];
            let settings = settings(limits).into_iter().chain(reading).collect();
            prepare_sessions(pool, settings, limits.connect, timelines.clone())
        });
    options
}

/// Sets `settings` in each new session, by statements, because PgBouncer refuses them as
/// parameters of the connection, and asks for its timeline. A pooler accepts a connection for which
/// it has no session yet, and answers none of that, so it has to be done within `patience`.
fn prepare_sessions(
    pool: PgPoolOptions,
    settings: Vec<(&'static str, String)>,
    patience: Duration,
    timelines: Timelines,
) -> PgPoolOptions {
    let set = settings.into_iter().map(|(name, value)| format!("SET {name} = '{value}'"));
    let set = set.collect::<Vec<_>>().join("; ");
    pool.after_connect(move |connection, _| {
        let (set, timelines) = (sqlx::AssertSqlSafe(set.clone()), timelines.clone());
        Box::pin(async move {
            within(patience, async {
                sqlx::raw_sql(set).execute(&mut *connection).await?;
                timelines.ask(connection).await
            })
            .await
        })
    })
}

/// The result of a task of a new connection, or the error of a pool that got none in time.
pub(crate) async fn within<T>(
    patience: Duration,
    task: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    tokio::time::timeout(patience, task).await.map_err(|_elapsed| sqlx::Error::PoolTimedOut)?
}

/// The settings of each session, whatever the defaults of the role are. PostgreSQL enforces the
/// limits itself, so that its errors give the reason and no lock outlives its holder.
fn settings(limits: Limits) -> [(&'static str, String); 9] {
    [
        // No plan is compiled. The statements are short, and PostgreSQL takes those that are told
        // not to scan a table for the most expensive ones: compiling took 200 ms of each flush.
        ("jit", "off".to_owned()),
        // Set here, it costs no round trip of its own.
        ("default_transaction_isolation", "read committed".to_owned()),
        ("statement_timeout", millis(limits.statement)),
        // This service never holds a lock for a second, but VACUUM FULL, REINDEX and ALTER
        // TABLE by others hold one for minutes. The log should say so at once.
        ("lock_timeout", millis(limits.lock)),
        // Two statements of a transaction follow each other at once. A service that is stopped
        // in a transaction holds the row that says who may write. For so long nobody can take
        // over from it.
        ("idle_in_transaction_session_timeout", millis(limits.idle_in_transaction)),
        // What was confirmed must be there after a crash.
        ("synchronous_commit", "on".to_owned()),
        // A service that vanished in a transaction keeps its locks for 30 s instead of two
        // hours.
        ("tcp_keepalives_idle", "15".to_owned()),
        ("tcp_keepalives_interval", "5".to_owned()),
        ("tcp_keepalives_count", "3".to_owned()),
    ]
}

/// A duration as PostgreSQL reads it.
fn millis(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

fn sqlite_options(sqlite: SqliteConnectOptions, mode: OpenMode) -> SqliteConnectOptions {
    let sqlite = sqlite
        .busy_timeout(PATIENCE)
        .row_buffer_size(ROWS_AHEAD)
        // In WAL mode a power cut can undo the last commits but not damage the file. A lost
        // second of heartbeats is made good by the next ones.
        .synchronous(SqliteSynchronous::Normal)
        // By default SQLite sorts, and keeps what a statement may have to undo, in files in
        // a temporary folder, which may be read-only.
        .pragma("temp_store", "MEMORY");
    match mode {
        OpenMode::Migrate | OpenMode::Create => {
            sqlite.page_size(PAGE_SIZE).journal_mode(SqliteJournalMode::Wal)
        }
        // Both would write into an empty file.
        OpenMode::Existing | OpenMode::Beside => sqlite.create_if_missing(false),
    }
}

/// Opens all connections, so that a later flush or check does not depend on a free
/// descriptor.
pub(super) async fn open_all_connections(db: &DatabaseConnection) -> Result<(), DbErr> {
    async fn open_all<D: sqlx::Database>(pool: &sqlx::Pool<D>) -> Result<(), sqlx::Error> {
        let mut held = Vec::new();
        for _ in 0..pool.options().get_max_connections() {
            held.push(pool.acquire().await?);
        }
        Ok(())
    }
    match db.get_database_backend() {
        DbBackend::Postgres => open_all(db.get_postgres_connection_pool()).await,
        _ => open_all(db.get_sqlite_connection_pool()).await,
    }
    .map_err(connection_error)
}
