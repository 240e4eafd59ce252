//! The reads of people and programs that ask: a small pool of its own, so that however many
//! they are and however long they take, no flush and no check waits for a connection.
//!
//! Its connections cannot write, and each read has a time limit. A query that is not bounded
//! by an index has a [`Budget`] besides.

use std::sync::Arc;
use std::time::Duration;

use sea_orm::{DatabaseConnection, DbErr};
use tokio::time::Instant;

use super::error::failed_to;
use super::pool::{Pool, close};
use super::{DeviceStore, Result};

/// The time limit of a read, with its wait for a connection.
pub(super) const READING_BOUND: Duration = Duration::from_secs(2);

/// The time that a read waits for a connection.
pub(super) const READING_PATIENCE: Duration = Duration::from_secs(1);

/// Reads for people and programs. Cheap to clone; every clone uses the same two connections.
#[derive(Clone, Debug)]
pub struct Reader(pub(super) DeviceStore);

/// The time that a query may spend on rows that it does not return.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    deadline: Instant,
}

impl Budget {
    /// A budget that ends after `time`.
    pub fn of(time: Duration) -> Self {
        Self { deadline: Instant::now() + time }
    }

    /// True if nothing is left of it.
    pub(super) fn is_spent(self) -> bool {
        Instant::now() >= self.deadline
    }
}

impl DeviceStore {
    /// Opens connections that only read, for [`Reader`]'s queries.
    ///
    /// # Errors
    ///
    /// If the database cannot be reached.
    pub async fn reader(&self) -> Result<Reader> {
        let origin = self.pool.origin().for_reading();
        let db = origin.connect_reading().await.map_err(failed_to("open the database to read"))?;
        Ok(Reader(Self {
            pool: Arc::new(Pool::new(db, origin)),
            interference: self.interference.clone(),
            unreadable: Arc::clone(&self.unreadable),
            exclusive: None,
        }))
    }
}

impl Reader {
    /// Runs `body` on a connection that only reads.
    ///
    /// # Errors
    ///
    /// [`NoConnection`](super::StoreError::NoConnection) if others have used both connections
    /// for a second; [`NoAnswer`](super::StoreError::NoAnswer) if `body` is not
    /// done within two. Otherwise if the database fails.
    pub(super) async fn read<T>(
        &self,
        action: &'static str,
        body: impl AsyncFn(&DatabaseConnection) -> Result<T, DbErr>,
    ) -> Result<T> {
        self.0.read(action, body).await
    }

    /// The reads of a store, on these connections. It cannot write.
    pub fn reads(&self) -> &DeviceStore {
        &self.0
    }

    /// Closes the connections. To be called before those of the store are closed, because the
    /// last one of a SQLite file merges its log.
    pub async fn close(self) {
        close(self.0.pool.lease().db).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::OpenMode;

    #[actix_rt::test]
    async fn a_reader_cannot_write() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let url = format!("sqlite://{}?mode=rwc", folder.path().join("test.db").display());
        let store = DeviceStore::open(&url, OpenMode::Create).await.expect("it opens");
        let reader = store.reader().await.expect("it opens");
        let id = "pump".parse().expect("an id");
        let error = reader.0.register(&id, None, chrono::DateTime::UNIX_EPOCH).await;
        let error = error.expect_err("it only reads").to_string();
        assert!(error.contains("readonly"), "{error}");
        assert_eq!(reader.device(&id).await.expect("it reads"), None);
    }
}
