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

/// The mode of a database's file. Only the user who runs the service may read it, because
/// it names devices and says when they were silent. SQLite gives the files beside it the
/// same mode.
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

/// Makes sure that a path can be opened as a database. Creates the file if it is missing and
/// `create` is true.
///
/// # Errors
///
/// If it cannot be created, or is not a file: opening a named pipe may never return.
pub(super) fn prepare(path: &Path, create: bool) -> io::Result<()> {
    let wrong = |what: String| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    match (path.metadata(), path.read_link()) {
        (Ok(metadata), _) if !metadata.is_file() => {
            return wrong("it is not a file: set database.url to the path of one".to_owned());
        }
        (Err(error), Ok(target)) if error.kind() == io::ErrorKind::NotFound => {
            let target = Quoted(&target.to_string_lossy()).to_string();
            return wrong(format!(
                "it is a link to {target}, which does not exist: set database.url to the path \
                 of a file, or have the link lead to one"
            ));
        }
        _ => (),
    }
    if create { create_private(path) } else { Ok(()) }
}

/// Creates an empty file for this user only, unless the file exists.
///
/// An existing file is not even opened, because closing it would release the locks that
/// this process has on it.
fn create_private(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        created => created.map(drop),
    }
}

/// The files of an open database.
#[derive(Debug)]
pub(super) struct DatabaseFile {
    path: PathBuf,
    identity: Identity,
    /// The write-ahead log, which stays the same for as long as a connection is open.
    log: Option<(PathBuf, Identity)>,
    /// True if all connections may have been closed since, and the log created again.
    log_may_change: AtomicBool,
}

/// A file's device and inode, which differ for another file under the same name.
type Identity = (u64, u64);

fn identity(path: &Path) -> io::Result<Identity> {
    let metadata = path.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

impl DatabaseFile {
    /// The files as they are now.
    pub(super) fn identified(path: PathBuf) -> Result<Self> {
        // Absolute, so that a later change of the working folder changes nothing.
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

    /// Allows the write-ahead log to be another one from now on: connections are replaced,
    /// and the last one that is closed deletes it.
    pub(super) fn let_log_change(&self) {
        self.log_may_change.store(true, Ordering::SeqCst);
    }

    /// Fails if one of the files was deleted or replaced. Costs two system calls.
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
