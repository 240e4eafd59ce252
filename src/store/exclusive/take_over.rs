//! Taking the right to write, from another listener or for the first time.

use chrono::{DateTime, Utc};
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend, DbErr};

use super::fence::Token;
use super::lock::Lock;
use crate::domain::Entry;
use crate::domain::standby::{Peer, Sight};
use crate::store::driver_error::is_locked;
use crate::store::{DeviceStore, Result, StoreError, millis};

/// Rolls a take-over back, because somebody was faster, the other one has moved, or nobody can write.
const LOST_THE_RACE: DbErr = DbErr::RecordNotUpdated;

/// The right to write, as it was taken.
#[derive(Clone, Debug)]
pub struct Taken {
    token: String,
    saves: i64,
}

impl DeviceStore {
    /// Takes the right to write from a listener that was seen, or for the first time. `None` if
    /// that one has moved, or somebody was faster.
    ///
    /// # Errors
    ///
    /// If the database fails. Then it may have succeeded, which the next look shows.
    pub async fn take_over(
        &self,
        sight: &Sight,
        from: Option<&Peer>,
        at: DateTime<Utc>,
    ) -> Result<Option<Taken>> {
        let store = self.for_commands();
        let token = Token::new();
        let taken = store
            .write("take over the database", async |transaction| {
                store.try_to_take(transaction, &token, sight, from, at).await
            })
            .await;
        match taken {
            Ok(saves) => Ok(Some(Taken { token: token.text, saves })),
            Err(StoreError::Statement { source: DbErr::RecordNotUpdated, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Fails if a table is locked, for which the active one may be waiting. Whoever took over then
    /// would wait as well, and two that take over from each other throw away what they have heard.
    async fn may_write_at_once(&self, transaction: &DatabaseTransaction) -> Result<(), DbErr> {
        if self.backend() != DbBackend::Postgres {
            return Ok(());
        }
        let lock = "LOCK TABLE device, status_transition, listening_interval, journal \
                    IN ROW EXCLUSIVE MODE NOWAIT";
        match transaction.execute_unprepared(lock).await {
            Ok(_) => Ok(()),
            Err(error) if is_locked(&error) => Err(LOST_THE_RACE),
            Err(error) => Err(error),
        }
    }

    async fn try_to_take(
        &self,
        transaction: &DatabaseTransaction,
        token: &Token,
        sight: &Sight,
        from: Option<&Peer>,
        at: DateTime<Utc>,
    ) -> Result<i64, DbErr> {
        self.may_write_at_once(transaction).await?;
        // The active one's transactions hold this row, so from here on none of them is open.
        let sql = "INSERT INTO instance (id, token, host, pid, started_at, listener) \
                   VALUES (1, $1, $2, $3, $4, $5) ON CONFLICT (id) DO UPDATE SET \
                   token = excluded.token, host = excluded.host, pid = excluded.pid, \
                   started_at = excluded.started_at, listener = excluded.listener \
                   WHERE coalesce(instance.listener, 0) = $6";
        let (listener, holder) = (sight.me, sight.active.unwrap_or_default());
        let values = token.values().into_iter().chain([listener.into(), holder.into()]);
        let taken = self.execute(transaction, sql, values).await?;
        if taken == 0 || !self.fence_off(transaction, listener, from, at).await? {
            return Err(LOST_THE_RACE);
        }
        // What a standby has proven is not in the database yet, so nobody may rely on it.
        let sql = "UPDATE listener SET saves = saves + 1, \
                   proven_until = CASE WHEN share_group IS NULL THEN NULL ELSE proven_until END \
                   WHERE id = $1 AND left_at IS NULL RETURNING saves";
        let row = self.select(transaction, sql, [listener.into()]).await?.pop();
        // Its own stay may have ended meanwhile.
        let saves = row.ok_or(LOST_THE_RACE)?.try_get("", "saves")?;
        let what = sight.take_over_from(from);
        self.write_journal(transaction, what.map(|what| Entry { at, what })).await?;
        Ok(saves)
    }

    /// Ends the stay of the one from which the right is taken. False if it has moved since.
    async fn fence_off(
        &self,
        transaction: &DatabaseTransaction,
        listener: i64,
        from: Option<&Peer>,
        at: DateTime<Utc>,
    ) -> Result<bool, DbErr> {
        let Some(from) = from.filter(|from| !from.has_left) else { return Ok(true) };
        let sql = "UPDATE listener SET left_at = $3, left_how = 'fenced', \
                   fenced_by = (SELECT own.instance FROM listener AS own WHERE own.id = $4) \
                   WHERE id = $1 AND saves = $2 AND left_at IS NULL";
        let values = [from.id.into(), from.saves.into(), millis(at).into(), listener.into()];
        Ok(self.execute(transaction, sql, values).await? > 0)
    }

    /// Writes from now on by the right that was taken.
    pub fn hold(&self, listener: i64, taken: Taken) {
        if let Some(exclusive) = &self.exclusive {
            exclusive.holds(taken.token, listener, taken.saves);
            if let Some(database) = &exclusive.database {
                *exclusive.lock.lock() = Some(Lock::pursue(database.clone()));
            }
        }
    }

    /// The right that `listener` has taken without knowing it, because the answer was lost.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn taken(&self, listener: i64) -> Result<Option<Taken>> {
        let sql = "SELECT token, saves FROM instance JOIN listener \
                   ON listener.id = instance.listener \
                   WHERE listener.id = $1 AND left_at IS NULL";
        self.read("read who may write", async |db| {
            let row = self.select(db, sql, [listener.into()]).await?.pop();
            row.map(|row| {
                Ok(Taken { token: row.try_get("", "token")?, saves: row.try_get("", "saves")? })
            })
            .transpose()
        })
        .await
    }
}
