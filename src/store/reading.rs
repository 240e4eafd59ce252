//! The reads of people and programs that ask: a small pool of its own, so that however many
//! they are and however long they take, no flush and no check waits for a connection.
//!
//! Its connections cannot write, and each read has a time limit. A query that is not bounded
//! by an index has a [`Budget`] besides.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sea_orm::{DatabaseConnection, DbErr};

use super::error::failed_to;
use super::pool::{Pool, close};
use super::{DeviceStore, Result};

/// The time limits of reads. They are not configurable. Only tests that are not about them
/// raise them, because a busy machine makes any read wait.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadingLimits {
    /// The time limit of a read, with its wait for a connection.
    pub bound: Duration,
    /// The time that a read waits for a connection.
    pub patience: Duration,
}

impl Default for ReadingLimits {
    fn default() -> Self {
        Self { bound: Duration::from_secs(2), patience: Duration::from_secs(1) }
    }
}

/// The time of the last replacement of a pool's connections, after which those that are
/// replaced have no long future. SQLite would go on with a statement whose caller has given up,
/// for hours, on a thread of its own, and keep its log from being shortened.
#[derive(Clone, Debug, Default)]
pub(super) struct Replacement(Arc<Mutex<Option<Instant>>>);

/// One connection's view of the replacements.
#[derive(Debug)]
pub(super) struct Lifetime {
    replacement: Replacement,
    begun: Instant,
    /// The time for which a statement goes on after the replacement.
    rest: Duration,
    end: Option<Instant>,
}

impl Replacement {
    /// Notes that the connections that were made before `at` are replaced.
    pub(super) fn note(&self, at: Instant) {
        *self.0.lock() = Some(at);
    }

    /// The lifetime of a connection that is made now, whose reads take at most `rest`.
    pub(super) fn lifetime(&self, rest: Duration) -> Lifetime {
        Lifetime { replacement: self.clone(), begun: Instant::now(), rest, end: None }
    }
}

impl Lifetime {
    /// True while a statement may go on. Others that had begun when the connections were
    /// replaced have their whole time.
    pub(super) fn goes_on(&mut self) -> bool {
        if self.end.is_none() {
            let replaced = self.replacement.0.lock().filter(|replaced| *replaced > self.begun);
            self.end = replaced.map(|replaced| replaced + self.rest);
        }
        self.end.is_none_or(|end| Instant::now() < end)
    }
}

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
        self.reader_within(ReadingLimits::default()).await
    }

    /// The same with other limits.
    ///
    /// # Errors
    ///
    /// If the database cannot be reached.
    #[doc(hidden)]
    pub async fn reader_within(&self, limits: ReadingLimits) -> Result<Reader> {
        let origin = self.pool.origin().for_reading(limits);
        let db = origin.connect_reading().await.map_err(failed_to("open the database to read"))?;
        Ok(Reader(Self {
            pool: Arc::new(Pool::new(db, origin)),
            interference: self.interference.clone(),
            unreadable: Arc::clone(&self.unreadable),
            exclusive: None,
            by: self.by,
            timeline: self.timeline,
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
