//! The connections, which are all replaced as soon as one of them may be damaged.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use sea_orm::{DatabaseConnection, DbBackend};

use super::open::Origin;

/// The time that replaced connections have to close. One whose server has vanished never
/// closes; it is dropped after this time.
const CLOSING: Duration = Duration::from_secs(10);

/// The current connections, and what is needed to make new ones.
pub(super) struct Pool {
    origin: Origin,
    backend: DbBackend,
    current: RwLock<Lease>,
    /// True from a failure until another connection has read what was written since.
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

    /// True if the connections of `lease` were replaced.
    pub(super) fn is_replaced(&self, lease: &Lease) -> bool {
        self.current.read().number != lease.number
    }

    /// Replaces the connections of `failed` by new ones, unless that was done already.
    ///
    /// All of them, because the damaged one cannot be found from outside. If COMMIT fails
    /// because the disk is full, SQLite rolls back by itself. The ROLLBACK of sqlx then
    /// fails, because there is no transaction, and its depth stays 1. On a connection of
    /// that depth sea-orm begins the next transaction with SAVEPOINT. If that one fails at
    /// its end as well, ROLLBACK TO leaves it open, and each later COMMIT only releases a
    /// savepoint inside it: everything succeeds, nothing is ever stored, and the lock is
    /// never released.
    pub(super) async fn replace(&self, failed: &Lease) {
        self.doubted.store(true, Ordering::SeqCst);
        let before_fresh = Instant::now();
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
        self.origin.replaced(before_fresh);
        tokio::spawn(close(old.db));
    }

    /// True if other connections may not see what is written.
    pub(super) fn is_doubted(&self) -> bool {
        self.doubted.load(Ordering::SeqCst)
    }

    /// Ends the doubt: another connection has read what was written.
    pub(super) fn trust(&self) {
        self.doubted.store(false, Ordering::SeqCst);
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("origin", &self.origin).finish_non_exhaustive()
    }
}

/// Closes connections, as far as possible.
pub(super) async fn close(db: DatabaseConnection) {
    match tokio::time::timeout(CLOSING, db.close()).await {
        Ok(Ok(())) => (),
        Ok(Err(error)) => log::debug!("replaced connections do not close: {error}"),
        Err(_elapsed) => log::debug!("replaced connections are abandoned"),
    }
}
