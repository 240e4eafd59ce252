//! The lock that keeps a second service out.
//!
//! On SQLite it is a lock on the database's file and on one beside it, which the kernel
//! releases when the process ends. On PostgreSQL it belongs to a session that does nothing
//! else, and that the server ends once it misses the process.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use sea_orm::sqlx::postgres::{PgConnectOptions, PgConnection};
use sea_orm::sqlx::{self, ConnectOptions, Connection, Row};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::holder::{self, Holder, HoldingSession};
use crate::config::DatabaseConfig;
use crate::store::driver_error::{connection_error, unopened};
use crate::store::file::{self, PRIVATE};
use crate::store::open::{Limits, Origin, postgres_options, within};
use crate::store::{OpenMode, Result, StoreError};

/// The time for which a starting service waits for the lock, because a service that was
/// just killed may not be gone yet.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// The time for which a starting service waits for a step of the schema by another one, whose
/// process may have been killed while its session works on it.
const SCHEMA_PATIENCE: Duration = Duration::from_secs(10);

/// The pause between two attempts to lock.
const LOCK_RETRY: Duration = Duration::from_millis(50);

/// The interval at which the session with the lock is checked, and made anew when it has ended. While
/// there is none, another process of the same name does not see that this one lives.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// The interval at which an instance that writes tries to take the lock from whoever has it: a
/// service that starts, or one that has stopped.
const PURSUIT_INTERVAL: Duration = Duration::from_millis(200);

/// The time within which that session must answer.
const PROBE_PATIENCE: Duration = Duration::from_secs(5);

/// The first half of the advisory lock's key: "beat" in ASCII. The other half is the
/// schema's.
const LOCK_KEY: i32 = i32::from_be_bytes(*b"beat");

/// The greatest part of a lock file that is read, in bytes.
const MAX_HOLDER: u64 = 4096;

/// The wait of a starting service for one that has the lock.
pub(super) struct Waiting {
    deadline: Instant,
    told: bool,
}

impl Waiting {
    pub(super) fn begin() -> Self {
        Self { deadline: Instant::now() + LOCK_PATIENCE, told: false }
    }

    pub(super) fn for_a_schema() -> Self {
        Self { deadline: Instant::now() + SCHEMA_PATIENCE, told: false }
    }

    /// Waits a moment. False if that was done for long enough.
    pub(super) async fn a_moment(&mut self) -> bool {
        sleep(LOCK_RETRY).await;
        Instant::now() < self.deadline
    }

    /// Waits a while for a service of an older version, which has to end before the schema can be
    /// brought up to date.
    pub(super) async fn for_older_version(&mut self, found: &str) {
        if !std::mem::replace(&mut self.told, true) {
            log::info!(
                target: "standby", newest = found;
                "waiting until the active instance ends: it is of an older version, so the \
                 database cannot be migrated yet"
            );
        }
        sleep(LOCK_PATIENCE / 2).await;
    }
}

/// The lock of a database, until it is dropped.
pub(super) enum Lock {
    /// Closing them unlocks them.
    Files(#[expect(dead_code, reason = "they are kept open")] LockedFiles),
    /// A session, held by a task.
    Session(JoinHandle<()>),
    /// A database in memory.
    Private,
}

/// The files of a SQLite database that are locked.
pub(super) struct LockedFiles {
    /// The file beside the database's, which names the holder.
    _note: File,
    /// The database's own file, which is the same under every name, whereas a hard link or
    /// a mount has another lock file beside it. `None` if its file system does not support
    /// locks.
    ///
    /// Closing it releases the locks that SQLite has in this process, so it is opened
    /// before SQLite opens it and closed after SQLite has closed it.
    _database: Option<File>,
}

/// The reason for not getting the lock.
pub(super) enum Refused {
    /// Another service has it, which is given if it is known.
    By(Option<Holder>),
    /// Another service has opened the database's file under another name.
    UnderAnotherName(PathBuf),
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Self::Session(task) = self {
            // This also ends its connection.
            task.abort();
        }
    }
}

impl Lock {
    /// Takes the lock of a database, waiting for it if necessary.
    pub(super) async fn take(database: &DatabaseConfig) -> Result<Self> {
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            let refused = match Self::attempt(database).await? {
                Ok(lock) => return Ok(lock),
                Err(refused) => refused,
            };
            if Instant::now() >= deadline {
                return Err(match refused {
                    Refused::By(holder) => StoreError::InUse { url: database.url.clone(), holder },
                    Refused::UnderAnotherName(path) => StoreError::InUseByAnotherName { path },
                });
            }
            sleep(LOCK_RETRY).await;
        }
    }

    /// Takes the lock if nobody has it.
    pub(super) async fn attempt(database: &DatabaseConfig) -> Result<Result<Self, Refused>> {
        let url = &database.url;
        let failed = |error| Origin::failed_to_open(url, OpenMode::Migrate, error);
        if !url.is_sqlite() {
            let session = lock_session(database).await;
            return session.map_err(|error| failed(connection_error(error))).map(|locked| {
                match locked {
                    Ok(session) => Ok(Self::hold(database.clone(), session)),
                    Err(holder) => Err(Refused::By(holder)),
                }
            });
        }
        let Some(path) = file::of_url(url) else { return Ok(Ok(Self::Private)) };
        file::prepare(&path, file::may_be_created(url))
            .map_err(|error| failed(unopened(&path, &error)))?;
        let note = lock_path(&path).map_err(|error| failed(unopened(&path, &error)))?;
        let at_note = |error| failed(unopened(&note, &error));
        let locked = match lock_file(&note).map_err(at_note)? {
            Ok(locked) => locked,
            Err(holder) => return Ok(Err(Refused::By(holder))),
        };
        let database = lock_database(&path).map_err(|error| failed(unopened(&path, &error)))?;
        let Ok(database) = database else { return Ok(Err(Refused::UnderAnotherName(path))) };
        note_holder(&locked).map_err(at_note)?;
        Ok(Ok(Self::Files(LockedFiles { _note: locked, _database: database })))
    }

    /// Takes the lock of a PostgreSQL database as soon as nobody has it, and keeps it while this
    /// lives. The service that had it may be stopped, or its machine be gone.
    pub(super) fn pursue(database: DatabaseConfig) -> Self {
        Self::Session(tokio::spawn(async move {
            let session = lock_as_soon_as_possible(&database).await;
            keep(database, session).await;
        }))
    }

    /// Keeps a session with the lock while this lives. When it ends, takes the lock in a new
    /// one; until that succeeds, the fence protects the database.
    fn hold(database: DatabaseConfig, session: PgConnection) -> Self {
        Self::Session(tokio::spawn(keep(database, session)))
    }
}

/// Keeps a session with the lock, or another one if that ends.
async fn keep(configured: DatabaseConfig, mut session: PgConnection) {
    loop {
        sleep(PROBE_INTERVAL).await;
        if is_alive(&mut session).await {
            continue;
        }
        let (ended, database) = (Instant::now(), configured.url.to_string());
        log::warn!(
            target: "heartbeatd", database;
            "the session that held the database's lock has ended"
        );
        session = lock_as_soon_as_possible(&configured).await;
        let seconds = ended.elapsed().as_secs();
        log::info!(
            target: "heartbeatd", database, seconds;
            "a new session holds the database's lock"
        );
    }
}

/// Takes the lock in a new session once nobody has it.
async fn lock_as_soon_as_possible(database: &DatabaseConfig) -> PgConnection {
    loop {
        match lock_in_one_session(database).await {
            Ok(session) => return session,
            Err(error) => log::debug!("cannot lock the database: {error}"),
        }
        sleep(PROBE_INTERVAL).await;
    }
}

/// Takes the lock in a new session once nobody has it. It may be held by our own session, which the
/// server believes to be alive.
async fn lock_in_one_session(database: &DatabaseConfig) -> Result<PgConnection, sqlx::Error> {
    let mut session = within(Limits::of(database).connect, session_without_lock(database)).await?;
    loop {
        if within(PROBE_PATIENCE, try_lock(&mut session)).await? {
            return Ok(session);
        }
        sleep(PURSUIT_INTERVAL).await;
    }
}

async fn is_alive(session: &mut PgConnection) -> bool {
    matches!(timeout(PROBE_PATIENCE, session.ping()).await, Ok(Ok(())))
}

/// The lock file, which is beside the database's own, even if the URL names a link.
fn lock_path(database: &Path) -> io::Result<PathBuf> {
    let mut name = database.canonicalize()?.into_os_string();
    name.push(".lock");
    Ok(name.into())
}

/// Locks the file beside the database for this process. `Err` if another process has it.
fn lock_file(path: &Path) -> io::Result<Result<File, Option<Holder>>> {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false).mode(PRIVATE);
    let file = options.open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Ok(file)),
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            // Its content only explains, and may be half written.
            let _ = file.take(MAX_HOLDER).read_to_string(&mut text);
            Ok(Err(serde_json::from_str(&text).ok()))
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn note_holder(mut file: &File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    serde_json::to_writer(file, &Holder::this_process())?;
    file.flush()
}

/// Locks the database's file itself, by `flock`. This lock belongs to the inode, so it holds
/// under every name of the file. SQLite's own locks are of another kind and do not conflict
/// with it. `Err` if another service has it.
///
/// On NFS both kinds are the same, and a file that is open for reading cannot be locked. It
/// then stays without this lock.
fn lock_database(path: &Path) -> io::Result<Result<Option<File>, ()>> {
    let file = File::open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Ok(Some(file))),
        Err(TryLockError::WouldBlock) => Ok(Err(())),
        Err(TryLockError::Error(error)) => {
            log::debug!(target: "heartbeatd", "the database's file cannot be locked: {error}");
            Ok(Ok(None))
        }
    }
}

/// A session with the lock. `Err` if another one has it.
async fn lock_session(
    database: &DatabaseConfig,
) -> Result<Result<PgConnection, Option<Holder>>, sqlx::Error> {
    let locking = within(Limits::of(database).connect, async {
        let mut session = session_without_lock(database).await?;
        let is_locked = try_lock(&mut session).await?;
        Ok((session, is_locked))
    });
    let (mut session, is_locked) = locking.await?;
    if is_locked {
        return Ok(Ok(session));
    }
    let holder = read_holder(&mut session).await.ok();
    // The session is not needed any more.
    let _ = session.close().await;
    Ok(Err(holder))
}

async fn session_without_lock(database: &DatabaseConfig) -> Result<PgConnection, sqlx::Error> {
    let options = PgConnectOptions::from_str(database.url.reveal())?;
    let options = postgres_options(options, "heartbeatd lock").disable_statement_logging();
    let mut session = options.connect().await?;
    // The server notices within 25 s if the machine of this process is gone.
    let keepalives = "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; \
                      SET tcp_keepalives_count = 3";
    sqlx::raw_sql(keepalives).execute(&mut session).await?;
    Ok(session)
}

/// Takes the lock for a session. False if another one has it.
async fn try_lock(session: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let lock = format!("SELECT pg_try_advisory_lock({LOCK_KEY}, hashtext(current_schema()))");
    let row = sqlx::raw_sql(sqlx::AssertSqlSafe(lock)).fetch_one(session).await?;
    row.try_get(0)
}

/// The session that has the lock of a database without tables, in which no service is noted.
pub(super) async fn holding_session(database: &DatabaseConfig) -> Option<HoldingSession> {
    let sql = format!(
        "SELECT pg_stat_activity.pid, host(client_addr) AS address \
         FROM pg_locks JOIN pg_stat_activity USING (pid) \
         WHERE locktype = 'advisory' AND granted AND database = \
             (SELECT oid FROM pg_database WHERE datname = current_database()) \
         AND classid = {LOCK_KEY} AND objid = (hashtext(current_schema())::bigint & 4294967295)::oid"
    );
    let asking = timeout(Limits::of(database).connect, async {
        let mut session = session_without_lock(database).await.ok()?;
        let row = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).fetch_one(&mut session).await.ok()?;
        let _ = session.close().await;
        Some(row)
    });
    let row = asking.await.ok()??;
    Some(HoldingSession { pid: row.try_get("pid").ok()?, address: row.try_get("address").ok()? })
}

async fn read_holder(session: &mut PgConnection) -> Result<Holder, sqlx::Error> {
    let sql = format!("SELECT {} FROM instance", holder::COLUMNS);
    let row = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).fetch_one(session).await?;
    Holder::read_from_session(&row)
}
