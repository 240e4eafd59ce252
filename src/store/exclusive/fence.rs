//! A token in table `instance`: that of the service that started last. Each transaction of a
//! service reads it, so one that has lost its lock cannot write any more.

use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, Statement};
use tokio::sync::watch;

use super::holder::{self, Holder};
use crate::store::{DeviceStore, Result, StoreError};

/// The token of this service, and the end of its right.
pub(super) struct Fence {
    token: String,
    /// The service that has taken over the database; `None` if none has.
    taken_over: watch::Sender<Option<Holder>>,
}

impl Fence {
    /// Puts a new token into the database. From then on no transaction of an earlier service
    /// succeeds.
    pub(super) async fn put_up(store: &DeviceStore) -> Result<Self> {
        let Holder { host, pid, since } = Holder::this_process();
        let since = since.timestamp_millis();
        // The hasher's keys are random.
        let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), &host);
        let token = format!("{random:016x}-{pid}-{since}");
        // Raw, because the table has no entity: only this folder knows it.
        let sql = "INSERT INTO instance (id, token, host, pid, started_at) \
                   VALUES (1, $1, $2, $3, $4) ON CONFLICT (id) DO UPDATE SET \
                   token = excluded.token, host = excluded.host, pid = excluded.pid, \
                   started_at = excluded.started_at";
        store
            .write("take the database", async |transaction| {
                let values =
                    [token.as_str().into(), host.as_str().into(), pid.into(), since.into()];
                store.execute(transaction, sql, values).await
            })
            .await?;
        Ok(Self { token, taken_over: watch::Sender::new(None) })
    }

    /// Reads the token within a transaction. The inner error says that it is another
    /// service's. On PostgreSQL a starting service then waits until the transaction has
    /// ended.
    pub(super) async fn verify(
        &self,
        transaction: &DatabaseTransaction,
    ) -> Result<Result<(), StoreError>, DbErr> {
        let backend = transaction.get_database_backend();
        let locked = if backend == DbBackend::Postgres { " FOR SHARE" } else { "" };
        let sql = format!("SELECT token, {} FROM instance{locked}", holder::COLUMNS);
        let row = transaction.query_one_raw(Statement::from_string(backend, sql)).await?;
        if let Some(row) = &row
            && row.try_get::<String>("", "token")? == self.token
        {
            return Ok(Ok(()));
        }
        let holder = row.as_ref().map(Holder::read).transpose()?;
        self.taken_over.send_replace(Some(holder.clone().unwrap_or_else(Holder::unknown)));
        Ok(Err(StoreError::TakenOver { holder }))
    }

    /// Resolves with the service that has taken over the database, once one has.
    pub(super) async fn taken_over(&self) -> Option<Holder> {
        let mut news = self.taken_over.subscribe();
        news.wait_for(Option::is_some).await.ok()?.clone()
    }
}
