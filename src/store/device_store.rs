//! The store itself: opening and closing it.

use std::sync::Arc;

use parking_lot::Mutex;
use sea_orm::DbBackend;

use super::error::{Result, failed_to};
use super::exclusive::{By, Exclusive};
use super::interference::Interference;
use super::open::{OpenMode, Origin};
use super::pool::Pool;
use super::unreadable::Collector;
use crate::config::DatabaseConfig;

/// The devices, their history and the outbox, in a database.
///
/// Cheap to clone; every clone uses the same few connections.
#[derive(Clone)]
pub struct DeviceStore {
    pub(super) pool: Arc<Pool>,
    pub(super) interference: Option<Arc<dyn Interference>>,
    pub(super) unreadable: Arc<Mutex<Collector>>,
    pub(super) exclusive: Option<Arc<Exclusive>>,
    pub(super) by: By,
    /// The expression that tells the timeline, if a test says it.
    pub(super) timeline: Option<&'static str>,
}

impl DeviceStore {
    /// Connects to a database as it is configured, or to that of a URL, and creates or migrates
    /// the schema as far as `mode` allows.
    ///
    /// # Errors
    ///
    /// [`Open`](super::StoreError::Open) if the database does not answer within its
    /// `connect_timeout`, or cannot be migrated. [`Url`](super::StoreError::Url) if the URL is
    /// not that of a database. [`Unusable`](super::StoreError::Unusable) if it has the wrong
    /// schema or encoding.
    pub async fn open(database: impl Into<DatabaseConfig>, mode: OpenMode) -> Result<Self> {
        let (db, origin) = Origin::open(database.into(), mode).await?;
        Ok(Self {
            pool: Arc::new(Pool::new(db, origin)),
            interference: None,
            unreadable: Arc::default(),
            exclusive: None,
            by: By::default(),
            timeline: None,
        })
    }

    /// The absolute path of the new database, or its URL without the password, if opening
    /// created the schema; `None` if it existed already.
    pub fn created(&self) -> Option<String> {
        self.pool.origin().created.then(|| self.pool.origin().shown())
    }

    /// Fails if the database's file was deleted or replaced since it was opened, because
    /// writes to it would be lost. Each transaction and each read begins with this check.
    /// It costs two system calls, and nothing on PostgreSQL.
    ///
    /// # Errors
    ///
    /// [`FileReplaced`](super::StoreError::FileReplaced).
    pub fn verify_file(&self) -> Result<()> {
        self.pool.origin().verify_file()
    }

    /// Closes the connections. On SQLite the write-ahead log is merged into the
    /// file.
    ///
    /// # Errors
    ///
    /// [`Statement`](super::StoreError::Statement) if the driver cannot close them.
    pub async fn close(self) -> Result<()> {
        let closed = self.pool.lease().db.close().await;
        // Not earlier, because SQLite's own locks on the file are released with it.
        self.release();
        closed.map_err(failed_to("close the database"))
    }

    /// Succeeds if the database answers.
    ///
    /// # Errors
    ///
    /// [`Statement`](super::StoreError::Statement) if it does not.
    pub async fn ping(&self) -> Result<()> {
        self.read("reach the database", async |db| db.ping().await).await
    }

    pub(super) fn backend(&self) -> DbBackend {
        self.pool.backend()
    }
}

impl std::fmt::Debug for DeviceStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceStore").field("pool", &self.pool).finish_non_exhaustive()
    }
}
