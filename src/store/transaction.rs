//! The only two ways to the database: a transaction that writes, and a read. Both are bounded
//! in time, and both replace the connections if these may be damaged.

use sea_orm::{
    ConnAcquireErr, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr,
    QueryResult, QueryTrait, SqliteTransactionMode, Statement, TransactionOptions,
    TransactionTrait, Value,
};

use super::driver_error::{is_closed, is_conflict, is_unreadable, refuses_data};
use super::interference::Point;
use super::pool::{Lease, Pool};
use super::{DeviceStore, Result, StoreError};

/// The number of times that a transaction is run if PostgreSQL aborts it in favour of another
/// one. The others are commands or another instance, so conflicts are rare and short.
const ATTEMPTS: usize = 5;

/// A transaction that failed.
struct Failed {
    why: Why,
    /// True if the database has confirmed the rollback, so that the connection is as good as
    /// before.
    rolled_back: bool,
}

/// The reason for a failure.
pub(super) enum Why {
    /// The driver's error.
    Db(DbErr),
    /// Its time limit has passed.
    NoAnswer,
    /// The database no longer belongs to this store.
    Lost(StoreError),
}

impl Why {
    /// The failure of `action`, which `pool` gave these limits.
    pub(super) fn failed_to(self, action: &'static str, pool: &Pool) -> StoreError {
        match self {
            why if why.is_no_connection() => {
                StoreError::NoConnection { action, waited: pool.origin().patience() }
            }
            Self::Db(source) => StoreError::Statement { action, source },
            Self::NoAnswer => StoreError::NoAnswer { action, bound: pool.origin().bound() },
            Self::Lost(why) => why,
        }
    }

    fn is_conflict(&self) -> bool {
        matches!(self, Self::Db(error) if is_conflict(error))
    }

    /// True if no connection became free or could be made in time.
    fn is_no_connection(&self) -> bool {
        matches!(self, Self::Db(DbErr::ConnectionAcquire(ConnAcquireErr::Timeout)))
    }
}

impl From<DbErr> for Failed {
    fn from(why: DbErr) -> Self {
        Self { why: Why::Db(why), rolled_back: false }
    }
}

impl DeviceStore {
    /// Runs `body` in a transaction, and runs it again if that conflicts with another one.
    ///
    /// A connection on which a transaction failed is never used again, see
    /// [`Pool::replace`](super::pool::Pool::replace), unless its ROLLBACK succeeded.
    ///
    /// # Errors
    ///
    /// If `body` or the database fails, or if it takes longer than
    /// [`Origin::bound`](super::open::Origin::bound). Then nothing is written, unless the answer to COMMIT was lost: in that case it is unknown.
    pub(super) async fn write<T>(
        &self,
        action: &'static str,
        body: impl AsyncFn(&DatabaseTransaction) -> Result<T, DbErr>,
    ) -> Result<T> {
        for attempt in 1.. {
            let done = self.attempt(action, &body).await;
            self.ended(action).await;
            match done {
                Err(why) if why.is_conflict() && attempt < ATTEMPTS => {
                    log::debug!("retrying to {action}");
                }
                done => return done.map_err(|why| why.failed_to(action, &self.pool)),
            }
        }
        unreachable!("the last attempt returns")
    }

    async fn attempt<T>(
        &self,
        action: &'static str,
        body: impl AsyncFn(&DatabaseTransaction) -> Result<T, DbErr>,
    ) -> Result<T, Why> {
        self.verify_file().map_err(Why::Lost)?;
        let lease = self.pool.lease();
        let transaction = self.transact(&lease, action, body);
        let in_time = tokio::time::timeout(self.pool.origin().bound(), transaction).await;
        let Failed { why, rolled_back } = match in_time {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(failed)) => failed,
            Err(_elapsed) => Failed { why: Why::NoAnswer, rolled_back: false },
        };
        if !rolled_back {
            self.pool.replace(&lease).await;
        }
        Err(why)
    }

    async fn transact<T>(
        &self,
        lease: &Lease,
        action: &'static str,
        body: impl AsyncFn(&DatabaseTransaction) -> Result<T, DbErr>,
    ) -> Result<T, Failed> {
        let fate = self.pass(|| Point::Begin(action)).await?;
        let transaction = fate.tell(self.begin(&lease.db).await?)?;
        if let Some(exclusive) = &self.exclusive
            && let Err(why) = exclusive.verify(self, &transaction).await?
        {
            let rolled_back = transaction.rollback().await.is_ok();
            return Err(Failed { why: Why::Lost(why), rolled_back });
        }
        let done = match body(&transaction).await {
            Ok(done) => done,
            Err(why) => {
                let is_meant = matches!(why, DbErr::RecordNotUpdated);
                let is_harmless = is_meant || is_conflict(&why) || refuses_data(&why);
                let rolled_back = is_harmless && transaction.rollback().await.is_ok();
                return Err(Failed { why: Why::Db(why), rolled_back });
            }
        };
        let fate = self.pass(|| Point::Commit(action)).await?;
        fate.tell(transaction.commit().await?)?;
        let fate = self.pass(|| Point::AfterCommit(action)).await?;
        Ok(fate.tell(done)?)
    }

    /// Begins a transaction. SQLite takes the write lock at once, because a transaction that
    /// reads first cannot wait for it later. On PostgreSQL each statement sees what was committed
    /// before it began (READ COMMITTED, which the connection has set): a transaction that relies on
    /// what it has read locks it, in the order of [`locked_in_order`](super::values::locked_in_order).
    async fn begin(&self, db: &DatabaseConnection) -> Result<DatabaseTransaction, DbErr> {
        let sqlite = self.backend() == DbBackend::Sqlite;
        db.begin_with_options(TransactionOptions {
            sqlite_transaction_mode: sqlite.then_some(SqliteTransactionMode::Immediate),
            ..Default::default()
        })
        .await
    }

    /// Reads outside a transaction.
    ///
    /// # Errors
    ///
    /// If `body` or the database fails, or if it takes longer than
    /// [`Origin::bound`](super::open::Origin::bound).
    pub(super) async fn read<T>(
        &self,
        action: &'static str,
        body: impl AsyncFn(&DatabaseConnection) -> Result<T, DbErr>,
    ) -> Result<T> {
        let read = self.read_somehow(action, body).await;
        self.ended(action).await;
        read
    }

    async fn read_somehow<T>(
        &self,
        action: &'static str,
        body: impl AsyncFn(&DatabaseConnection) -> Result<T, DbErr>,
    ) -> Result<T> {
        loop {
            self.verify_file()?;
            let lease = self.pool.lease();
            let reading = async {
                let fate = self.pass(|| Point::Read(action)).await?;
                fate.tell(body(&lease.db).await?)
            };
            let why = match tokio::time::timeout(self.pool.origin().bound(), reading).await {
                Ok(Ok(read)) => return Ok(read),
                Ok(Err(error)) => Why::Db(error),
                Err(_elapsed) => Why::NoAnswer,
            };
            match &why {
                // The failure of another task has closed the connections meanwhile.
                Why::Db(error) if is_closed(error) && self.pool.is_replaced(&lease) => {
                    self.ended(action).await;
                    continue;
                }
                Why::Db(error) if is_unreadable(error) => (),
                // Others read at the same time, which damages nothing.
                why if why.is_no_connection() && self.pool.origin().reads_only() => (),
                _ => self.pool.replace(&lease).await,
            }
            return Err(why.failed_to(action, &self.pool));
        }
    }

    /// Executes a raw query and returns its rows.
    pub(super) async fn select(
        &self,
        db: &impl ConnectionTrait,
        sql: &str,
        values: impl IntoIterator<Item = Value>,
    ) -> Result<Vec<QueryResult>, DbErr> {
        let fate = self.pass(|| Point::Statement(sql.to_owned())).await?;
        let statement = Statement::from_sql_and_values(self.backend(), sql, values);
        fate.tell(db.query_all_raw(statement).await?)
    }

    /// Executes a raw statement and returns the number of rows that it affected.
    pub(super) async fn execute(
        &self,
        db: &impl ConnectionTrait,
        sql: &str,
        values: impl IntoIterator<Item = Value>,
    ) -> Result<u64, DbErr> {
        let fate = self.pass(|| Point::Statement(sql.to_owned())).await?;
        let statement = Statement::from_sql_and_values(self.backend(), sql, values);
        fate.tell(db.execute_raw(statement).await?.rows_affected())
    }

    /// Executes a query built by sea-orm and returns its rows.
    pub(super) async fn select_built(
        &self,
        db: &impl ConnectionTrait,
        query: &impl QueryTrait,
    ) -> Result<Vec<QueryResult>, DbErr> {
        let statement = query.build(self.backend());
        let fate = self.pass(|| Point::Statement(statement.sql.clone())).await?;
        fate.tell(db.query_all_raw(statement).await?)
    }

    /// Executes a statement built by sea-orm and returns the number of rows that it affected.
    pub(super) async fn execute_built(
        &self,
        db: &impl ConnectionTrait,
        query: &impl QueryTrait,
    ) -> Result<u64, DbErr> {
        let statement = query.build(self.backend());
        let fate = self.pass(|| Point::Statement(statement.sql.clone())).await?;
        fate.tell(db.execute_raw(statement).await?.rows_affected())
    }
}
