//! The connections, which are replaced as soon as one of them may be damaged.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use sea_orm::{DatabaseConnection, DbBackend};

use super::open::Origin;

/// How long connections that were replaced may take to close. One whose server has
/// vanished never does: what is left then is dropped.
const CLOSING: Duration = Duration::from_secs(10);

/// The pool that serves now, and what it takes to make the next.
pub(super) struct Pool {
    origin: Origin,
    backend: DbBackend,
    current: RwLock<Lease>,
    /// True from a failure on until another connection has read what was written since.
    doubted: AtomicBool,
}

/// The connections for one transaction or one read.
#[derive(Clone)]
pub(super) struct Lease {
    pub(super) db: DatabaseConnection,
    /// Grows with each replacement.
    number: u64,
}

impl Pool {
    pub(super) fn new(db: DatabaseConnection, origin: Origin) -> Self {
        Self {
            origin,
            backend: db.get_database_backend(),
            current: RwLock::new(Lease { db, number: 0 }),
            doubted: AtomicBool::new(false),
        }
    }

    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    pub(super) fn backend(&self) -> DbBackend {
        self.backend
    }

    pub(super) fn lease(&self) -> Lease {
        self.current.read().clone()
    }

    /// True if `lease` is not the pool that serves now.
    pub(super) fn is_replaced(&self, lease: &Lease) -> bool {
        self.current.read().number != lease.number
    }

    /// Has fresh connections serve from now on instead of those of `failed`, unless they
    /// are replaced already.
    ///
    /// Which of them is damaged cannot be told from outside. SQLite rolls back by itself if
    /// COMMIT fails because the disk is full; the ROLLBACK of sqlx then fails, for there is
    /// no transaction, and its depth stays 1. For a connection of that depth sea-orm begins
    /// the next transaction with SAVEPOINT. As soon as the end of such a one fails as well,
    /// ROLLBACK TO leaves it open, and each later COMMIT only releases a savepoint inside
    /// it: everything succeeds, nothing is ever stored, and the lock is never released.
    pub(super) async fn replace(&self, failed: &Lease) {
        self.doubted.store(true, Ordering::SeqCst);
        let fresh = match self.origin.connect_again().await {
            Ok(fresh) => fresh,
            Err(error) => return log::error!("cannot make new connections: {error}"),
        };
        let old = {
            let mut current = self.current.write();
            if current.number != failed.number {
                return;
            }
            let number = failed.number + 1;
            std::mem::replace(&mut *current, Lease { db: fresh, number })
        };
        tokio::spawn(close(old.db));
    }

    /// True if it is not known that what is written can be read by others.
    pub(super) fn is_doubted(&self) -> bool {
        self.doubted.load(Ordering::SeqCst)
    }

    /// Another connection has read what was written.
    pub(super) fn trust(&self) {
        self.doubted.store(false, Ordering::SeqCst);
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("origin", &self.origin).finish_non_exhaustive()
    }
}

/// Closes connections, as far as they can be.
pub(super) async fn close(db: DatabaseConnection) {
    match tokio::time::timeout(CLOSING, db.close()).await {
        Ok(Ok(())) => (),
        Ok(Err(error)) => log::debug!("connections that were replaced do not close: {error}"),
        Err(_elapsed) => log::debug!("connections that were replaced are left behind"),
    }
}
