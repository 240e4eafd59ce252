//! A token in table `instance`: that of the service that may write. Each transaction of a
//! service reads it, so one that has lost its lock cannot write any more.
//!
//! The same statement reads how often this service has saved something. A database that has
//! lost what it had confirmed, as after a failover to a server that lagged behind, says less.
//! What this service believes to be saved is then worth nothing.

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, Statement};
use tokio::sync::watch;

use super::holder::{self, Holder};
use super::saves::Saves;
use crate::domain::ClockOffset;
use crate::store::{DeviceStore, Result, StoreError};

/// The right of this process to write, and its end.
pub(super) struct Fence {
    right: Mutex<Right>,
    clock: Mutex<ClockOffset>,
    /// The reason why this process must end; `None` while it need not.
    ended: watch::Sender<Option<Ended>>,
}

/// The reason why a service must end.
#[derive(Clone, Debug)]
pub(super) enum Ended {
    /// Another service has taken over the database.
    TakenOver(Holder),
    /// Another process of the same name uses it.
    SameName(String),
}

/// The right to write.
#[derive(Clone, Debug)]
enum Right {
    /// Another service may have it, and this one waits for it.
    StandBy,
    /// This service has had it since it put up this token.
    Active(Active),
}

#[derive(Clone, Debug)]
struct Active {
    token: String,
    /// The saves of its listener; `None` before it has joined, and for a member of a group, of
    /// which the membership knows them.
    saves: Option<Saves>,
}

impl Fence {
    /// The fence of a service that waits for its right.
    pub(super) fn standing_by() -> Self {
        Self {
            right: Mutex::new(Right::StandBy),
            clock: Mutex::default(),
            ended: watch::Sender::new(None),
        }
    }

    /// Puts a new token into the database. From then on no transaction of an earlier service
    /// succeeds.
    pub(super) async fn put_up(store: &DeviceStore) -> Result<Self> {
        let token = Token::new();
        // Raw, because the table has no entity: only this folder knows it.
        let sql = "INSERT INTO instance (id, token, host, pid, started_at) \
                   VALUES (1, $1, $2, $3, $4) ON CONFLICT (id) DO UPDATE SET \
                   token = excluded.token, host = excluded.host, pid = excluded.pid, \
                   started_at = excluded.started_at, listener = NULL";
        store
            .write("take the database", async |transaction| {
                store.execute(transaction, sql, token.values()).await
            })
            .await?;
        let fence = Self::standing_by();
        fence.hold(token.text, None);
        Ok(fence)
    }

    /// Notes that this service has the right to write.
    pub(super) fn hold(&self, token: String, saves: Option<Saves>) {
        *self.right.lock() = Right::Active(Active { token, saves });
    }

    /// Notes the listener of a service that has the right already.
    pub(super) fn joined(&self, joined: i64) {
        if let Right::Active(active) = &mut *self.right.lock() {
            active.saves = Some(Saves::of(joined, 0));
        }
    }

    /// Notes that this service has no right to write any more, and waits for it.
    pub(super) fn stand_by(&self) {
        *self.right.lock() = Right::StandBy;
    }

    /// True if this service has the right to write, as far as it knows.
    pub(super) fn is_active(&self) -> bool {
        matches!(*self.right.lock(), Right::Active(_))
    }

    /// The token, if this service has the right to write, as far as it knows.
    pub(super) fn token(&self) -> Option<String> {
        match &*self.right.lock() {
            Right::StandBy => None,
            Right::Active(active) => Some(active.token.clone()),
        }
    }

    pub(super) fn set_clock(&self, clock: ClockOffset) {
        *self.clock.lock() = clock;
    }

    pub(super) fn clock(&self) -> ClockOffset {
        *self.clock.lock()
    }

    /// Reads the token within a transaction. The inner error says that it is another
    /// service's, or that the database has lost something. On PostgreSQL whoever takes over then
    /// waits until the transaction has ended.
    pub(super) async fn verify(
        &self,
        transaction: &DatabaseTransaction,
    ) -> Result<Result<(), StoreError>, DbErr> {
        let Right::Active(active) = self.right.lock().clone() else {
            return Ok(Err(StoreError::StandingBy));
        };
        let backend = transaction.get_database_backend();
        let locked = if backend == DbBackend::Postgres { " FOR SHARE OF instance" } else { "" };
        let sql = format!(
            "SELECT token, {}, saves, left_at, left_how FROM instance \
             LEFT JOIN listener ON listener.id = $1{locked}",
            holder::COLUMNS
        );
        let values = [active.saves.map(Saves::listener).into()];
        let statement = Statement::from_sql_and_values(backend, sql, values);
        let row = transaction.query_one_raw(statement).await?;
        let Some(row) = row else { return Ok(Err(self.taken_over_by(None))) };
        if row.try_get::<String>("", "token")? != active.token {
            return Ok(Err(self.taken_over_by(Some(Holder::read(&row)?))));
        }
        let mut right = self.right.lock();
        let Right::Active(active) = &mut *right else { return Ok(Err(StoreError::StandingBy)) };
        if Saves::are_removed(&row)? {
            return Ok(Err(StoreError::Removed));
        }
        let is_known = match &mut active.saves {
            Some(saves) => saves.verify(&row)?,
            None => true,
        };
        Ok(if is_known { Ok(()) } else { Err(StoreError::Forgotten) })
    }

    fn taken_over_by(&self, holder: Option<Holder>) -> StoreError {
        let ended = Ended::TakenOver(holder.clone().unwrap_or_else(Holder::unknown));
        self.ended.send_replace(Some(ended));
        StoreError::TakenOver { holder }
    }

    /// Counts a save within its transaction, and notes what it proves.
    pub(super) async fn count(
        &self,
        store: &DeviceStore,
        transaction: &DatabaseTransaction,
        proven_until: Option<DateTime<Utc>>,
    ) -> Result<(), DbErr> {
        let Some(saves) = self.saves() else { return Ok(()) };
        let counted = saves.count(store, transaction, proven_until, self.clock()).await?;
        if let (Some(counted), Right::Active(active)) = (counted, &mut *self.right.lock()) {
            active.saves.iter_mut().for_each(|saves| saves.may_be(counted));
        }
        Ok(())
    }

    fn saves(&self) -> Option<Saves> {
        match &*self.right.lock() {
            Right::StandBy => None,
            Right::Active(active) => active.saves,
        }
    }

    /// Notes that the transaction with the last save was committed.
    pub(super) fn is_counted(&self) {
        if let Right::Active(active) = &mut *self.right.lock() {
            active.saves.iter_mut().for_each(Saves::are_confirmed);
        }
    }

    /// Has this process end, because another one has its name.
    pub(super) fn end(&self, name: &str) {
        self.ended.send_replace(Some(Ended::SameName(name.to_owned())));
    }

    /// Resolves with the reason why this process must end. A service that can stand by ends only
    /// for its name.
    pub(super) async fn ended(&self, stands_by: bool) -> Option<Ended> {
        let mut news = self.ended.subscribe();
        let is_meant = |ended: &Option<Ended>| match ended {
            None => false,
            Some(Ended::TakenOver(_)) => !stands_by,
            Some(Ended::SameName(_)) => true,
        };
        news.wait_for(is_meant).await.ok()?.clone()
    }
}

/// A new token, with what table `instance` says of its service.
pub(super) struct Token {
    pub(super) text: String,
    holder: Holder,
}

impl Token {
    pub(super) fn new() -> Self {
        let holder = Holder::this_process();
        let (pid, since) = (holder.pid, holder.since.timestamp_millis());
        Self { text: format!("{:016x}-{pid}-{since}", super::random()), holder }
    }

    /// The values of the columns token, host, pid and started_at.
    pub(super) fn values(&self) -> [sea_orm::Value; 4] {
        let Holder { host, pid, since } = &self.holder;
        let since = since.timestamp_millis();
        [self.text.as_str().into(), host.as_str().into(), (*pid).into(), since.into()]
    }
}
