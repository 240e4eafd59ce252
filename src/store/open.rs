//! Opening a database: connecting, and bringing its schema to this version.
//!
//! Any number of processes may open the same database at once. One at a time changes
//! the schema, and what it changes is there as a whole or not at all.

use std::path::Path;
use std::time::Duration;

use log::info;
use migration::{Migrator, MigratorTrait};
use sea_orm::sqlx::sqlite::{
    SqliteConnectOptions, SqliteError, SqliteJournalMode, SqliteSynchronous,
};
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DatabaseTransaction, DbBackend,
    DbErr, IsolationLevel, RuntimeErr, SqliteTransactionMode, Statement, TransactionOptions,
    TransactionTrait, sqlx,
};
use tokio::time::{Instant, sleep};

use super::file::{self, DatabaseFile};
use super::transaction::driver_error;
use super::{PATIENCE, Result, StoreError};
use crate::secrets::DatabaseUrl;

/// Flushes and checks take turns, so one connection writes; the others are for
/// readers.
const MAX_CONNECTIONS: u32 = 4;

/// The most files that a store has open: those of its connections, twice because they are
/// replaced before they are closed, and its lock. A connection to SQLite has the database
/// and its log open; all share an index of the log.
pub(crate) fn open_files(url: &DatabaseUrl) -> u64 {
    let (per_connection, shared) = if url.is_sqlite() { (2, 2) } else { (1, 1) };
    2 * per_connection * u64::from(MAX_CONNECTIONS) + shared
}

/// The pages of a new SQLite file, in bytes; one that exists keeps its own. A flush of
/// a large fleet writes a few rows on nearly every page, twice: with SQLite's own 4,096
/// most of its time is system calls.
const PAGE_SIZE: u32 = 16_384;

/// How many rows SQLite's thread reads ahead: with few of them it and the reader wake
/// each other all the time.
const ROWS_AHEAD: usize = 1_000;

/// How long a command that only reads waits for a database without any table: the
/// service may be creating it at this moment, which takes milliseconds.
const CREATION_PATIENCE: Duration = Duration::from_secs(2);

/// How long to wait before trying again what another process was in the way of.
const RETRY: Duration = Duration::from_millis(10);

/// The advisory lock of PostgreSQL that a migrator holds: "heartbea" in ASCII.
const MIGRATION_LOCK: i64 = i64::from_be_bytes(*b"heartbea");

/// What opening a database may do to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// A missing database is created and an older schema is brought to this version. For
    /// the service. Its connections are opened at once and kept.
    Migrate,
    /// A missing database is created; an older schema is an error. A SQLite file is
    /// created only if the URL says `mode=rwc`, here and for [`OpenMode::Migrate`].
    Create,
    /// The database must be there, with the schema of this version.
    Existing,
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
    #[error("the database {url} is behind a pooler in transaction mode{POOLER_HINT}")]
    TransactionPooling {
        /// The database; shows no password.
        url: DatabaseUrl,
    },
}

const POOLER_HINT: &str = "; heartbeatd needs sessions of its own: connect to PostgreSQL \
                           directly, or set pool_mode = session in PgBouncer";

/// Where a store came from, and what connecting to it again needs.
pub(super) struct Origin {
    url: DatabaseUrl,
    mode: OpenMode,
    /// `None`: not a file.
    file: Option<DatabaseFile>,
    /// The schema was created by this opening.
    pub(super) created: bool,
}

impl std::fmt::Debug for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Origin").field("url", &self.url).field("mode", &self.mode).finish()
    }
}

impl Origin {
    /// Opens the database.
    pub(super) async fn open(
        url: DatabaseUrl,
        mode: OpenMode,
    ) -> Result<(DatabaseConnection, Self)> {
        // What the driver says of a URL that it cannot parse quotes it.
        url.check().map_err(StoreError::Url)?;
        let path = file::of_url(&url);
        let mut origin = Self { url, mode, file: None, created: false };
        if let Some(path) = &path {
            let create = mode != OpenMode::Existing && file::may_be_created(&origin.url);
            file::prepare(path, create).map_err(|error| origin.failed(unopened(path, &error)))?;
        }
        let db = origin.connect().await.map_err(|error| origin.failed(error))?;
        match origin.prepare(&db).await {
            Ok(created) => {
                origin.created = created;
                origin.file = path.map(DatabaseFile::identified).transpose()?;
                if let Some(file) = &origin.file
                    && mode != OpenMode::Migrate
                {
                    // A command opens and closes its connections as it needs them.
                    file.let_log_change();
                }
                Ok((db, origin))
            }
            Err(error) => {
                // It is not used; the error says more than this one could.
                let _ = db.close().await;
                Err(error)
            }
        }
    }

    /// The database as it may be shown: a file with its absolute path, a URL without
    /// its password.
    pub(super) fn shown(&self) -> String {
        match &self.file {
            Some(file) => file.path().display().to_string(),
            None => self.url.to_string(),
        }
    }

    /// Fails if another file has taken the place of the one that was opened.
    pub(super) fn verify_file(&self) -> Result<()> {
        self.file.as_ref().map_or(Ok(()), DatabaseFile::verify)
    }

    /// New connections to the same database, that are made when it is asked something, or
    /// in the background. A missing file is never created: an empty one would hide that
    /// the devices are gone.
    pub(super) async fn connect_again(&self) -> Result<DatabaseConnection, DbErr> {
        let connected = self.connect_lazily(self.kept_connections()).await;
        if let Some(file) = &self.file {
            file.let_log_change();
        }
        connected
    }

    /// Connections beside the others, that are made when the database is asked something.
    pub(super) async fn connect_beside(&self) -> Result<DatabaseConnection, DbErr> {
        self.connect_lazily(0).await
    }

    async fn connect_lazily(&self, kept: u32) -> Result<DatabaseConnection, DbErr> {
        self.verify_file().map_err(|error| DbErr::Custom(error.to_string()))?;
        let mut options = connect_options(self.url.reveal(), OpenMode::Existing);
        Database::connect(options.connect_lazy(true).min_connections(kept).to_owned()).await
    }

    async fn connect(&self) -> Result<DatabaseConnection, DbErr> {
        retried_while_busy(async || {
            let mut options = connect_options(self.url.reveal(), self.mode);
            options.min_connections(self.kept_connections());
            Database::connect(options).await
        })
        .await
    }

    /// The service's connections are all opened at once; a command needs one.
    fn kept_connections(&self) -> u32 {
        if self.mode == OpenMode::Migrate { MAX_CONNECTIONS } else { 0 }
    }

    /// Makes a database that answers one that can be used. Returns true if that created
    /// the schema.
    async fn prepare(&self, db: &DatabaseConnection) -> Result<bool> {
        if db.get_database_backend() == DbBackend::Postgres {
            self.refuse_other_encodings(db).await?;
            self.refuse_transaction_pooling(db).await?;
        }
        let failed = |error| self.failed(error);
        let created = match self.mode {
            OpenMode::Existing => false,
            mode => migrate(db, mode).await.map_err(failed)?,
        };
        self.accept(await_schema(db).await.map_err(failed)?)?;
        if self.mode == OpenMode::Migrate {
            open_all_connections(db).await.map_err(failed)?;
        }
        Ok(created)
    }

    fn accept(&self, schema: Schema) -> Result<()> {
        let (url, expected) = (self.url.clone(), newest_known());
        let unusable = match schema {
            Schema::Current => return Ok(()),
            Schema::Nothing | Schema::Foreign { found: None } => Unusable::NoSchema { url },
            Schema::Foreign { found: Some(found) } => Unusable::Foreign { url, found },
            Schema::Older { found } => Unusable::Older { url, found, expected },
            Schema::Newer { found } => Unusable::Newer { url, found, expected },
        };
        Err(StoreError::Unusable(unusable))
    }

    async fn refuse_other_encodings(&self, db: &DatabaseConnection) -> Result<()> {
        let pool = db.get_postgres_connection_pool();
        let answer = sqlx::raw_sql("SHOW server_encoding").fetch_one(pool).await;
        let encoding = answer.and_then(|row| sqlx::Row::try_get::<String, _>(&row, 0));
        let encoding = encoding.map_err(|error| self.failed(connection_error(error)))?;
        if encoding == "UTF8" {
            return Ok(());
        }
        let url = self.url.clone();
        Err(StoreError::Unusable(Unusable::Encoding { url, encoding }))
    }

    /// A pooler in transaction mode gives the session of an idle client to another: a
    /// lock of a session, and a prepared statement, is then somebody else's.
    async fn refuse_transaction_pooling(&self, db: &DatabaseConnection) -> Result<()> {
        let shared = shares_sessions(db.get_postgres_connection_pool()).await;
        if shared.map_err(|error| self.failed(connection_error(error)))? {
            let url = self.url.clone();
            return Err(StoreError::Unusable(Unusable::TransactionPooling { url }));
        }
        Ok(())
    }

    fn failed(&self, source: DbErr) -> StoreError {
        Self::failed_to_open(&self.url, self.mode, source)
    }

    pub(super) fn failed_to_open(url: &DatabaseUrl, mode: OpenMode, source: DbErr) -> StoreError {
        let hint = hint(url.reveal(), mode, &source);
        StoreError::Open { url: url.clone(), hint, source }
    }
}

fn connect_options(url: &str, mode: OpenMode) -> ConnectOptions {
    let mut options = ConnectOptions::new(url);
    options
        .max_connections(MAX_CONNECTIONS)
        .connect_timeout(PATIENCE)
        .acquire_timeout(PATIENCE)
        // A connection that is closed for its age needs a free descriptor to come back.
        .idle_timeout(None)
        .max_lifetime(None)
        .sqlx_logging(false)
        .map_sqlx_sqlite_opts(move |sqlite| sqlite_options(sqlite, mode))
        .map_sqlx_postgres_opts(|postgres| {
            // PgBouncer refuses the parameter that sqlx would send; no number here has a
            // fraction.
            postgres.application_name("heartbeatd").extra_float_digits(None)
        })
        .map_sqlx_postgres_pool_opts(|pool| {
            pool.after_connect(|connection, _| Box::pin(set_bounds(connection)))
        });
    options
}

/// Sets [`POSTGRES_BOUNDS`] by statements: PgBouncer refuses them as parameters of the
/// connection.
async fn set_bounds(connection: &mut sqlx::PgConnection) -> Result<(), sqlx::Error> {
    let set = POSTGRES_BOUNDS.map(|(name, value)| format!("SET {name} = '{value}'")).join("; ");
    sqlx::raw_sql(sqlx::AssertSqlSafe(set)).execute(connection).await.map(drop)
}

/// What PostgreSQL itself ends, so that the reason is its own and no lock outlives it.
const POSTGRES_BOUNDS: [(&str, &str); 6] = [
    // A scan of ten million devices takes a few seconds.
    ("statement_timeout", "30s"),
    // Nothing of this service holds a lock for a second; VACUUM FULL, REINDEX and ALTER
    // TABLE of others hold one for minutes. The log should say so at once.
    ("lock_timeout", "5s"),
    // Between two statements of a transaction there is hardly any time.
    ("idle_in_transaction_session_timeout", "30s"),
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
        // In WAL mode a power cut can undo the last commits but not damage the file; a
        // lost second of heartbeats comes again.
        .synchronous(SqliteSynchronous::Normal)
        // SQLite keeps what a statement may have to undo, and what it sorts, in files in
        // a temporary folder, which may be read-only.
        .pragma("temp_store", "MEMORY");
    match mode {
        OpenMode::Migrate | OpenMode::Create => {
            sqlite.page_size(PAGE_SIZE).journal_mode(SqliteJournalMode::Wal)
        }
        // Both would write into an empty file.
        OpenMode::Existing => sqlite.create_if_missing(false),
    }
}

/// Opens as many connections as there may be: what a flush or a check needs later does
/// not depend on a free descriptor.
async fn open_all_connections(db: &DatabaseConnection) -> Result<(), DbErr> {
    async fn open_all<D: sqlx::Database>(pool: &sqlx::Pool<D>) -> Result<(), sqlx::Error> {
        let mut held = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
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

/// True if two connections are served by the same session: the second begins a
/// transaction, which takes a session out of the pooler, and the first one's id is that
/// one's or another one than before.
async fn shares_sessions(pool: &sqlx::PgPool) -> Result<bool, sqlx::Error> {
    async fn session(connection: &mut sqlx::PgConnection) -> Result<i32, sqlx::Error> {
        // As text: a prepared statement would be the pooler's problem already.
        let row = sqlx::raw_sql("SELECT pg_backend_pid()").fetch_one(connection).await?;
        sqlx::Row::try_get(&row, 0)
    }
    let (mut one, mut other) = (pool.acquire().await?, pool.acquire().await?);
    let before = session(&mut one).await?;
    let mut transaction = sqlx::Connection::begin(&mut *other).await?;
    let taken = session(&mut transaction).await?;
    let after = session(&mut one).await?;
    transaction.rollback().await?;
    Ok(taken == before || after != before)
}

/// What the migrations that were applied to a database make it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Schema {
    /// There is nothing, or less than the first migration.
    Nothing,
    /// There are tables, but not heartbeatd's.
    Foreign {
        /// The newest migration, of which heartbeatd knows none.
        found: Option<String>,
    },
    /// Migrations are missing.
    Older { found: String },
    /// It is this version's.
    Current,
    /// There are migrations that this version does not know.
    Newer { found: String },
}

impl Schema {
    async fn read(db: &impl ConnectionTrait) -> Result<Self, DbErr> {
        let backend = db.get_database_backend();
        let sql = match backend {
            DbBackend::Postgres => {
                "SELECT count(*) AS tables, count(*) AS migrated FROM pg_tables \
                 WHERE schemaname = current_schema() AND tablename = 'seaql_migrations'"
            }
            _ => {
                "SELECT count(*) AS tables, \
                        coalesce(sum(name = 'seaql_migrations'), 0) AS migrated \
                 FROM sqlite_master WHERE type = 'table'"
            }
        };
        let row = db.query_one_raw(Statement::from_string(backend, sql)).await?;
        let row = row.ok_or_else(|| DbErr::RecordNotFound("a count".to_owned()))?;
        if row.try_get::<i64>("", "migrated")? == 0 {
            let empty = row.try_get::<i64>("", "tables")? == 0;
            return Ok(if empty { Self::Nothing } else { Self::Foreign { found: None } });
        }
        let sql = "SELECT version FROM seaql_migrations ORDER BY version";
        let rows = db.query_all_raw(Statement::from_string(backend, sql)).await?;
        let applied = rows.iter().map(|row| row.try_get("", "version"));
        Ok(Self::after(&applied.collect::<Result<Vec<_>, _>>()?))
    }

    fn after(applied: &[String]) -> Self {
        let known = known_migrations();
        let Some(newest) = applied.iter().max() else { return Self::Nothing };
        let is_known = |name: &&String| known.contains(name);
        match applied.iter().filter(|name| !is_known(name)).max() {
            Some(found) if applied.iter().any(|name| is_known(&name)) => {
                Self::Newer { found: found.clone() }
            }
            Some(found) => Self::Foreign { found: Some(found.clone()) },
            None if known.iter().all(|name| applied.contains(name)) => Self::Current,
            None => Self::Older { found: newest.clone() },
        }
    }

    /// True if opening in this mode changes it.
    fn is_due(&self, mode: OpenMode) -> bool {
        match self {
            Self::Nothing => mode != OpenMode::Existing,
            Self::Older { .. } | Self::Foreign { found: None } => mode == OpenMode::Migrate,
            Self::Foreign { found: Some(_) } | Self::Current | Self::Newer { .. } => false,
        }
    }
}

fn known_migrations() -> Vec<String> {
    Migrator::migrations().iter().map(|migration| migration.name().to_owned()).collect()
}

fn newest_known() -> String {
    known_migrations().into_iter().max().unwrap_or_default()
}

/// The schema, once it is not about to be created.
async fn await_schema(db: &DatabaseConnection) -> Result<Schema, DbErr> {
    let deadline = Instant::now() + CREATION_PATIENCE;
    loop {
        let schema = retried_while_busy(async || Schema::read(db).await).await?;
        if schema != Schema::Nothing || Instant::now() >= deadline {
            return Ok(schema);
        }
        sleep(RETRY).await;
    }
}

/// Applies what is missing and may be applied in this mode. Returns true if that
/// created the schema.
async fn migrate(db: &DatabaseConnection, mode: OpenMode) -> Result<bool, DbErr> {
    let mut created = false;
    while let Some(changed) = retried_while_busy(async || migrate_once(db, mode).await).await? {
        created |= !matches!(changed, Schema::Older { .. });
    }
    Ok(created)
}

/// Applies the next migration, or all of them to a database without any, in one
/// transaction. Returns the schema that it has changed.
async fn migrate_once(db: &DatabaseConnection, mode: OpenMode) -> Result<Option<Schema>, DbErr> {
    if !Schema::read(db).await?.is_due(mode) {
        return Ok(None);
    }
    let transaction = begin_alone(db).await?;
    // Another process may have had its turn first.
    let schema = Schema::read(&transaction).await?;
    if !schema.is_due(mode) {
        transaction.rollback().await?;
        return Ok(None);
    }
    let steps = match &schema {
        Schema::Older { found } => {
            info!(target: "heartbeatd", newest = found.as_str(); "migrating the database");
            Some(1)
        }
        _ => None,
    };
    Migrator::up(&transaction, steps).await?;
    transaction.commit().await?;
    Ok(Some(schema))
}

/// A transaction beside which no other process migrates.
async fn begin_alone(db: &DatabaseConnection) -> Result<DatabaseTransaction, DbErr> {
    let sqlite = db.get_database_backend() == DbBackend::Sqlite;
    let transaction = db
        .begin_with_options(TransactionOptions {
            // Each statement sees what was committed while the lock was waited for.
            isolation_level: (!sqlite).then_some(IsolationLevel::ReadCommitted),
            sqlite_transaction_mode: sqlite.then_some(SqliteTransactionMode::Immediate),
            ..Default::default()
        })
        .await?;
    if !sqlite {
        // A migration of a large table takes longer than any statement otherwise may.
        let unbounded = "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0";
        transaction.execute_unprepared(unbounded).await?;
        let lock = format!("SELECT pg_advisory_xact_lock({MIGRATION_LOCK})");
        transaction.execute_unprepared(&lock).await?;
    }
    Ok(transaction)
}

/// Tries again while another process is in the way in SQLite, which does not wait by
/// itself where it could wait for ever: several that switch a new file to WAL at once.
async fn retried_while_busy<T>(
    mut attempt: impl AsyncFnMut() -> Result<T, DbErr>,
) -> Result<T, DbErr> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Err(error) if is_busy(&error) && Instant::now() < deadline => sleep(RETRY).await,
            done => return done,
        }
    }
}

fn is_busy(error: &DbErr) -> bool {
    // BUSY, LOCKED and PROTOCOL; the bits above these say more.
    const IN_THE_WAY: [i32; 3] = [5, 6, 15];
    let code = driver_error(error)
        .and_then(sqlx::Error::as_database_error)
        .and_then(|error| error.try_downcast_ref::<SqliteError>())
        .and_then(|error| sqlx::error::DatabaseError::code(error)?.parse::<i32>().ok());
    code.is_some_and(|code| IN_THE_WAY.contains(&(code & 0xff)))
}

pub(super) fn connection_error(error: sqlx::Error) -> DbErr {
    DbErr::Conn(RuntimeErr::SqlxError(error.into()))
}

pub(super) fn unopened(path: &Path, error: &std::io::Error) -> DbErr {
    DbErr::Conn(RuntimeErr::Internal(format!("{}: {error}", path.display())))
}

/// What helps if a SQLite database cannot be written.
pub(super) const NOT_WRITABLE: &str = "; the user of heartbeatd must be allowed to write the file, the files beside it and their \
     folder, also to read: change their owner, or set database.url to a folder that can be written";

/// What may help against an error of opening.
fn hint(url: &str, mode: OpenMode, error: &DbErr) -> &'static str {
    let text = error.to_string();
    // What PgBouncer says itself, and what a session that changes hands leads to.
    const OF_A_POOLER: [&str; 4] =
        ["pgbouncer", "unsupported startup parameter", "prepared statement", "pooling mode"];
    // NOTADB and CORRUPT.
    const DAMAGE: [&str; 2] = ["file is not a database", "disk image is malformed"];
    let sqlite = url.starts_with("sqlite");
    match mode {
        _ if sqlite && text.contains("Read-only file system") => {
            "; mount it writable, allow heartbeatd to write there (ReadWritePaths= of systemd, a \
             volume of a container), or set database.url to a folder that can be written"
        }
        _ if sqlite && text.contains("Permission denied") => NOT_WRITABLE,
        _ if sqlite && DAMAGE.iter().any(|symptom| text.contains(symptom)) => {
            "; it is another program's, encrypted or damaged: set database.url to the file of \
             heartbeatd, or move it away and restore it from a backup"
        }
        OpenMode::Migrate | OpenMode::Create if sqlite && text.contains("No such file") => {
            "; its folder must be there, and so must the file unless the URL says mode=rwc"
        }
        OpenMode::Existing if sqlite => {
            "; if there is none yet, `heartbeatd run` and `heartbeatd device add` make one"
        }
        _ if OF_A_POOLER.iter().any(|symptom| text.contains(symptom)) => {
            "; this looks like PgBouncer: connect to PostgreSQL directly, or set \
             pool_mode = session in PgBouncer"
        }
        _ if url.starts_with("postgres") => {
            "; is PostgreSQL running there, and may this user use that database?"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_opened_has_the_remedy_that_fits() {
        for (mode, why, remedy) in [
            (
                OpenMode::Migrate,
                "/x/h.db: Read-only file system (os error 30)",
                "mount it writable",
            ),
            (
                OpenMode::Create,
                "/x/h.db.lock: Permission denied (os error 13)",
                "be allowed to write",
            ),
            (OpenMode::Migrate, "/x/h.db: No such file or directory (os error 2)", "mode=rwc"),
            (OpenMode::Existing, "(14) unable to open database file", "make one"),
            (OpenMode::Existing, "(code: 26) file is not a database", "restore it"),
            (OpenMode::Migrate, "(code: 11) database disk image is malformed", "restore it"),
        ] {
            let error = DbErr::Conn(RuntimeErr::Internal(why.to_owned()));
            let hint = hint("sqlite:///x/h.db", mode, &error);
            assert!(hint.contains(remedy), "{why}: {hint}");
            assert!(!super::hint("postgres://h/d", mode, &error).contains("be allowed"));
        }
    }

    #[track_caller]
    fn check(applied: &[&str], expected: &Schema) {
        let applied: Vec<String> = applied.iter().map(ToString::to_string).collect();
        assert_eq!(Schema::after(&applied), *expected);
    }

    #[test]
    fn migrations_tell_older_newer_and_foreign_schemas_apart() {
        let known = known_migrations();
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let newest = known[known.len() - 1];
        check(&[], &Schema::Nothing);
        check(&known, &Schema::Current);
        check(&known[..2], &Schema::Older { found: known[1].to_owned() });
        // One that was left out between others is missing as well.
        check(&[&known[..1], &known[2..]].concat(), &Schema::Older { found: newest.to_owned() });
        let future = "m29991231_000001_future";
        check(&[&known, &[future][..]].concat(), &Schema::Newer { found: future.to_owned() });
        check(
            &["m2022_create_cake"],
            &Schema::Foreign { found: Some("m2022_create_cake".to_owned()) },
        );
    }
}
