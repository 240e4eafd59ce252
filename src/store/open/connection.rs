//! The options of connections.

use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sea_orm::{ConnectOptions, DatabaseConnection, DbBackend, DbErr, sqlx};

use super::OpenMode;
use crate::secrets::DatabaseUrl;
use crate::store::PATIENCE;
use crate::store::driver_error::connection_error;
use crate::store::reading::{ReadingLimits, Replacement};
use crate::store::timeline::Timelines;

/// The number of connections. Flushes and checks take turns, so one connection writes and
/// the others are for readers: on SQLite the one of a check, because each connection there has
/// a thread whose heap keeps what a flush needs, and all of them write in turns.
pub(super) fn max_connections(url: &str) -> u32 {
    if DatabaseUrl::from(url.to_owned()).is_sqlite() { 2 } else { 4 }
}

/// The number of connections for the reads of people and programs.
pub(super) const READING_CONNECTIONS: u32 = 2;

/// The greatest number of files that a store has open: those of its connections, twice
/// because they are replaced before they are closed, and its lock. A connection to SQLite
/// has the database and its log open; all share an index of the log.
pub(crate) fn open_files(url: &DatabaseUrl) -> u64 {
    let (per_connection, shared) = if url.is_sqlite() { (2, 2) } else { (1, 1) };
    2 * per_connection * u64::from(max_connections(url.reveal()) + READING_CONNECTIONS) + shared
}

/// The page size of a new SQLite file, in bytes; an existing file keeps its own. A flush of
/// a large fleet writes a few rows on nearly every page, twice. With SQLite's default of
/// 4,096 it spends most of its time in system calls.
const PAGE_SIZE: u32 = 16_384;

/// The number of rows that SQLite's thread reads ahead. With only a few, it and the reader
/// wake each other all the time.
const ROWS_AHEAD: usize = 1_000;

pub(super) fn connect_options(url: &str, mode: OpenMode, timelines: &Timelines) -> ConnectOptions {
    let timelines = timelines.clone();
    let mut options = ConnectOptions::new(url);
    options
        .max_connections(max_connections(url))
        .connect_timeout(PATIENCE)
        .acquire_timeout(PATIENCE)
        // A connection that was closed for its age could not come back without a free
        // descriptor.
        .idle_timeout(None)
        .max_lifetime(None)
        .sqlx_logging(false)
        .map_sqlx_sqlite_opts(move |sqlite| sqlite_options(sqlite, mode))
        .map_sqlx_postgres_opts(|postgres| {
            // PgBouncer refuses the parameter that sqlx would send. No number here has a
            // fraction, so it is not needed.
            postgres.application_name("heartbeatd").extra_float_digits(None)
        })
        .map_sqlx_postgres_pool_opts(move |pool| {
            let timelines = timelines.clone();
            pool.after_connect(move |connection, _| {
                let timelines = timelines.clone();
                Box::pin(async move {
                    set_bounds(connection, &[]).await?;
                    timelines.ask(connection).await
                })
            })
        });
    options
}

/// The number of instructions of SQLite's machine after which a statement is asked whether it
/// may go on: about a millisecond.
const ASKED_AFTER: i32 = 10_000;

/// The options of connections that only read. Each gives up early, because somebody waits, and
/// ends what it still does once it is replaced.
pub(super) fn reading_options(
    url: &str,
    limits: ReadingLimits,
    replacement: &Replacement,
    timelines: &Timelines,
) -> ConnectOptions {
    let ReadingLimits { bound, patience } = limits;
    let (replacement, timelines) = (replacement.clone(), timelines.clone());
    let mut options = connect_options(url, OpenMode::Existing, &timelines);
    options
        .max_connections(READING_CONNECTIONS)
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
            let (bound, timelines) = (format!("{}ms", bound.as_millis()), timelines.clone());
            pool.after_connect(move |connection, _| {
                let (bound, timelines) = (bound.clone(), timelines.clone());
                Box::pin(async move {
                    set_bounds(
                        connection,
                        &[
                            ("statement_timeout", &bound),
                            ("default_transaction_read_only", "on"),
                            // Somebody waits for a page, so no plan is compiled.
                            ("jit", "off"),
                        ],
                    )
                    .await?;
                    timelines.ask(connection).await
                })
            })
        });
    options
}

/// Sets [`POSTGRES_BOUNDS`] and then `others`, by statements, because PgBouncer refuses them as parameters of
/// the connection.
async fn set_bounds(
    connection: &mut sqlx::PgConnection,
    others: &[(&str, &str)],
) -> Result<(), sqlx::Error> {
    let bounds = POSTGRES_BOUNDS.iter().chain(others);
    let set: Vec<_> = bounds.map(|(name, value)| format!("SET {name} = '{value}'")).collect();
    let set = set.join("; ");
    sqlx::raw_sql(sqlx::AssertSqlSafe(set)).execute(connection).await.map(drop)
}

/// The limits that PostgreSQL enforces itself, so that its errors give the reason and no lock
/// outlives its holder.
const POSTGRES_BOUNDS: [(&str, &str); 8] = [
    // Whatever the role's default is. Set here, it costs no round trip of its own.
    ("default_transaction_isolation", "read committed"),
    // A scan of ten million devices takes a few seconds.
    ("statement_timeout", "30s"),
    // This service never holds a lock for a second, but VACUUM FULL, REINDEX and ALTER
    // TABLE by others hold one for minutes. The log should say so at once.
    ("lock_timeout", "5s"),
    // Two statements of a transaction follow each other at once.
    // A service that is stopped in a transaction holds the row that says who may write. For so
    // long nobody can take over from it.
    ("idle_in_transaction_session_timeout", "15s"),
    // What was confirmed must be there after a crash.
    ("synchronous_commit", "on"),
    // A service that vanished in a transaction keeps its locks for 30 s instead of two
    // hours.
    ("tcp_keepalives_idle", "15"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
];

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
