//! The file of a SQLite database, as the file system has it.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use sea_orm::sqlx::sqlite::SqliteConnectOptions;

use super::{Result, StoreError};
use crate::logging::escape::Quoted;
use crate::secrets::DatabaseUrl;

/// A database is for the user who runs the service: it names devices and says when
/// they are silent. SQLite gives the files beside it the same mode.
pub(super) const PRIVATE: u32 = 0o600;

/// The file that `url` names; `None` for PostgreSQL and for a database in memory.
pub(super) fn of_url(url: &DatabaseUrl) -> Option<PathBuf> {
    if !url.is_sqlite() || mode(url).as_deref() == Some("memory") {
        return None;
    }
    let options: SqliteConnectOptions = url.reveal().parse().ok()?;
    let path = options.get_filename();
    let in_memory = path.to_string_lossy().starts_with("file:sqlx-in-memory");
    (!in_memory).then(|| path.to_owned())
}

/// True if the URL allows a missing file to be created.
pub(super) fn may_be_created(url: &DatabaseUrl) -> bool {
    mode(url).as_deref() == Some("rwc")
}

fn mode(url: &DatabaseUrl) -> Option<String> {
    let (_, query) = url.reveal().split_once('?')?;
    let mut pairs = url::form_urlencoded::parse(query.as_bytes());
    pairs.find_map(|(key, value)| (key == "mode").then(|| value.into_owned()))
}

/// Makes sure that a path can be opened as a database: creates the file if it is missing and
/// `create` is true.
///
/// # Errors
///
/// If it cannot be created, or is something else than a file: to open a named pipe may take
/// for ever.
pub(super) fn prepare(path: &Path, create: bool) -> io::Result<()> {
    let wrong = |what: String| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    match (path.metadata(), path.read_link()) {
        (Ok(metadata), _) if !metadata.is_file() => {
            return wrong("it is not a file: database.url should have the path of one".to_owned());
        }
        (Err(error), Ok(target)) if error.kind() == io::ErrorKind::NotFound => {
            let target = Quoted(&target.to_string_lossy()).to_string();
            return wrong(format!(
                "it is a link to {target}, and there is no such file: database.url should have \
                 the path of a file, or the link lead to one"
            ));
        }
        _ => (),
    }
    if create { create_private(path) } else { Ok(()) }
}

/// Creates an empty file for this user only, unless there is a file.
///
/// One that is there is not touched, not even opened: closing it would release the
/// locks that this process has on it.
fn create_private(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        created => created.map(drop),
    }
}

/// The files of a database that is open.
#[derive(Debug)]
pub(super) struct DatabaseFile {
    path: PathBuf,
    identity: Identity,
    /// The write-ahead log, which stays the same for as long as a connection is open.
    log: Option<(PathBuf, Identity)>,
    /// The connections may all have been closed, and the log made anew since.
    log_may_change: AtomicBool,
}

/// A file's device and inode: another file under the same name has others.
type Identity = (u64, u64);

fn identity(path: &Path) -> io::Result<Identity> {
    let metadata = path.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

impl DatabaseFile {
    /// The files as they are now.
    pub(super) fn identified(path: PathBuf) -> Result<Self> {
        // A later change of the working folder does not change what it names.
        let path = path.canonicalize().unwrap_or(path);
        let Ok(identified) = identity(&path) else {
            return Err(StoreError::FileReplaced { path });
        };
        let mut log = path.clone().into_os_string();
        log.push("-wal");
        let log = PathBuf::from(log);
        let log = identity(&log).ok().map(|identity| (log, identity));
        Ok(Self { path, identity: identified, log, log_may_change: AtomicBool::new(false) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// From now on the write-ahead log may be another one: connections are replaced, and
    /// the last one that closes deletes it.
    pub(super) fn let_log_change(&self) {
        self.log_may_change.store(true, Ordering::SeqCst);
    }

    /// Fails if another file has the name of one of these, or none. Costs two system
    /// calls.
    pub(super) fn verify(&self) -> Result<()> {
        verify(&self.path, self.identity)?;
        match &self.log {
            Some((path, identity)) if !self.log_may_change.load(Ordering::SeqCst) => {
                verify(path, *identity)
            }
            _ => Ok(()),
        }
    }
}

fn verify(path: &Path, expected: Identity) -> Result<()> {
    match identity(path) {
        Ok(identity) if identity == expected => Ok(()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Ok(()),
        _ => Err(StoreError::FileReplaced { path: path.to_owned() }),
    }
}
