//! One service at a time writes to a database.
//!
//! A [`lock`] keeps a second service out. It can be lost while the process lives on, so there
//! is also a [`fence`] in the database itself. The [`holder`] says which service it is that
//! uses the database. On PostgreSQL other services may stand by: what they write besides is
//! in [`listener`], and taking over is putting up another fence.

mod configured;
mod fence;
mod holder;
mod listener;
mod lock;
mod membership;
mod namesake;
mod saves;
mod take_over;

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use parking_lot::Mutex;
use sea_orm::{DatabaseTransaction, DbErr};

pub(super) use self::configured::read_subscription;
pub use self::configured::{Clash, LeftLately};
use self::fence::{Ended, Fence};
pub(super) use self::holder::shown;
pub use self::holder::{Holder, HoldingSession};
pub use self::listener::{Beat, JoinedGroup, Listener, Member};
use self::lock::{Lock, Refused};
use self::membership::Membership;
use self::saves::Saves;
pub use self::take_over::Taken;
use super::error::Unusable;
use super::{DeviceStore, OpenMode, Result, StoreError};
use crate::config::DatabaseConfig;

/// The right of this process to a database, or its wait for it, until it is dropped.
pub(super) struct Exclusive {
    fence: Fence,
    /// `None` while it stands by, and once the store was closed, of which clones may live on.
    lock: Mutex<Option<Lock>>,
    /// True if the service may stand by.
    stands_by: bool,
    /// For a service that is or may become a member of a group, of which all members write.
    membership: Option<Membership>,
    /// The database of which it takes the lock once it writes.
    database: Option<DatabaseConfig>,
}

impl Exclusive {
    /// Checks, within a transaction, that this process may write: by the fence, that no other
    /// service has taken over the database, and that it has lost nothing. Of a group, `By::Member`
    /// needs the membership only. The inner error says otherwise.
    pub(super) async fn verify(
        &self,
        store: &DeviceStore,
        transaction: &DatabaseTransaction,
    ) -> Result<Result<(), StoreError>, DbErr> {
        let Some(membership) = &self.membership else {
            return self.fence.verify(transaction).await;
        };
        if store.by == By::Active
            && let Err(why) = self.fence.verify(transaction).await?
        {
            return Ok(Err(why));
        }
        membership.verify(store, transaction).await
    }

    /// Notes that this process has joined as a listener.
    fn joined(&self, joined: JoinedGroup, alone: bool) {
        match &self.membership {
            Some(membership) => membership.joined(joined),
            None if alone => self.fence.joined(joined.listener),
            None => (),
        }
    }

    /// Notes that this process has the right of the active one.
    fn holds(&self, token: String, listener: i64, saves: i64) {
        match &self.membership {
            Some(membership) => {
                self.fence.hold(token, None);
                membership.has_saved(saves);
            }
            None => self.fence.hold(token, Some(Saves::of(listener, saves))),
        }
    }
}

/// The right by which a store writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum By {
    /// That of the active instance, which checks and delivers, and without a group is the only one
    /// that writes.
    #[default]
    Active,
    /// That of each member of a group: to write what it has received.
    Member,
}

impl DeviceStore {
    /// Opens the database for a service: as with [`OpenMode::Migrate`], and for no other
    /// service. Commands may use it at the same time.
    ///
    /// # Errors
    ///
    /// Those of [`DeviceStore::open`]; [`StoreError::InUse`] or
    /// [`StoreError::InUseByAnotherName`] if another service uses it.
    pub async fn open_exclusive(database: impl Into<DatabaseConfig>) -> Result<Self> {
        let database = database.into();
        database.url.check().map_err(StoreError::Url)?;
        // Before the schema is touched, because an older service may be using it.
        let lock = Lock::take(&database).await?;
        let mut store = Self::open(database, OpenMode::Migrate).await?;
        let fence = Fence::put_up(&store).await?;
        let lock = Mutex::new(Some(lock));
        let exclusive =
            Exclusive { fence, lock, stands_by: false, membership: None, database: None };
        store.exclusive = Some(Arc::new(exclusive));
        Ok(store)
    }

    /// Opens the database for a service that stands by while another one writes. It has no right
    /// to write before it has taken over, be it at once. Migrates the schema only if no service
    /// uses the database.
    ///
    /// # Errors
    ///
    /// Those of [`DeviceStore::open`]; [`StoreError::InUse`] if a service uses the database
    /// whose version knows nothing of standing by; [`StoreError::SameName`] if one of the same
    /// name does.
    pub async fn open_standby(
        database: impl Into<DatabaseConfig>,
        member: &Member,
    ) -> Result<Self> {
        let database = database.into();
        database.url.check().map_err(StoreError::Url)?;
        let (mut lock, mut store) = Self::open_beside(&database).await?;
        let mut waiting = lock::Waiting::begin();
        // One that was just killed may not be gone yet.
        while lock.is_none() && store.is_active(member).await? && waiting.a_moment().await {
            lock = Lock::attempt(&database).await?.ok();
        }
        let was_free = lock.is_some();
        // The active one needs it now, or others that start take it for gone.
        drop(lock);
        store.await_namesakes(member, was_free).await?;
        store.exclusive = Some(Arc::new(Exclusive {
            fence: Fence::standing_by(),
            lock: Mutex::new(None),
            stands_by: true,
            membership: member.share_group.as_ref().map(|_| Membership::default()),
            database: Some(database),
        }));
        Ok(store)
    }

    /// The same store for a service that stands by, without any lock.
    #[doc(hidden)]
    #[must_use]
    pub fn standing_by(self) -> Self {
        self.beside_others(None)
    }

    /// The same store for a member of a group, without any lock.
    #[doc(hidden)]
    #[must_use]
    pub fn in_a_group(self) -> Self {
        self.beside_others(Some(Membership::default()))
    }

    fn beside_others(self, membership: Option<Membership>) -> Self {
        let (fence, lock) = (Fence::standing_by(), Mutex::new(None));
        let exclusive = Exclusive { fence, lock, stands_by: true, membership, database: None };
        Self { exclusive: Some(Arc::new(exclusive)), ..self }
    }

    /// Opens the database, with its lock if nobody has that, and otherwise as whoever has it has
    /// left the schema.
    async fn open_beside(database: &DatabaseConfig) -> Result<(Option<Lock>, Self)> {
        let mut waiting = lock::Waiting::for_a_schema();
        let mut newest = None;
        loop {
            let holder = match Lock::attempt(database).await? {
                Ok(lock) => {
                    let store = Self::open(database, OpenMode::Migrate).await?;
                    return Ok((Some(lock), store));
                }
                Err(Refused::By(holder)) => holder,
                Err(Refused::UnderAnotherName(path)) => {
                    return Err(StoreError::InUseByAnotherName { path });
                }
            };
            match Self::open(database, OpenMode::Beside).await {
                Ok(store) => return Ok((None, store)),
                // The other one may be about to create or to leave it.
                Err(StoreError::Unusable(Unusable::Older { found, .. }))
                    if found.as_str() >= listener::MIGRATION =>
                {
                    waiting.for_older_version(&found).await;
                }
                Err(StoreError::Unusable(Unusable::Older { found, .. }))
                    if newest.as_ref() != Some(&found) =>
                {
                    // It is being migrated, step by step.
                    newest = Some(found);
                    waiting = lock::Waiting::for_a_schema();
                }
                Err(StoreError::Unusable(
                    why @ (Unusable::Older { .. } | Unusable::NoSchema { .. }),
                )) => {
                    if !waiting.a_moment().await {
                        let url = database.url.clone();
                        return Err(match why {
                            Unusable::NoSchema { .. } => StoreError::LockedWithoutSchema {
                                url,
                                session: lock::holding_session(database).await,
                            },
                            _ => StoreError::InUse { url, holder },
                        });
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The same store without any right of its own, as commands have it.
    #[must_use]
    pub fn for_commands(&self) -> Self {
        Self { exclusive: None, ..self.clone() }
    }

    /// The same store with the right of a member of a group, if this is one.
    #[must_use]
    pub fn for_members(&self) -> Self {
        Self { by: By::Member, ..self.clone() }
    }

    /// Resolves with the reason why this process must end, and never otherwise: another service
    /// has taken over the database and this one cannot stand by, or another process has its
    /// name.
    pub async fn must_end(&self) -> StoreError {
        if let Some(exclusive) = &self.exclusive {
            match exclusive.fence.ended(exclusive.stands_by).await {
                Some(Ended::TakenOver(holder)) => {
                    return StoreError::TakenOver { holder: Some(holder) };
                }
                Some(Ended::SameName(name)) => return StoreError::SameName { name },
                None => (),
            }
        }
        std::future::pending().await
    }

    /// Has this process end, because another one has its name.
    pub fn end_for_name(&self, name: &str) {
        if let Some(exclusive) = &self.exclusive {
            exclusive.fence.end(name);
        }
    }

    /// Counts a save within its transaction, if this store has a right to write.
    pub(super) async fn count_save(
        &self,
        transaction: &DatabaseTransaction,
        proven_until: Option<DateTime<Utc>>,
    ) -> Result<(), DbErr> {
        let Some(exclusive) = &self.exclusive else { return Ok(()) };
        match &exclusive.membership {
            Some(membership) => {
                let clock = exclusive.fence.clock();
                membership.count(self, transaction, proven_until, clock).await
            }
            None => exclusive.fence.count(self, transaction, proven_until).await,
        }
    }

    /// Notes that the transaction of the last save was committed.
    pub(super) fn is_counted(&self) {
        if let Some(exclusive) = &self.exclusive {
            exclusive.fence.is_counted();
            exclusive.membership.iter().for_each(Membership::is_counted);
        }
    }

    pub(super) fn release(&self) {
        if let Some(exclusive) = &self.exclusive {
            *exclusive.lock.lock() = None;
        }
    }
}

/// A random number.
pub(super) fn random() -> u64 {
    // The hasher's keys are random.
    std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id())
}

/// A time span from a column of milliseconds. One that is out of range is as long as possible.
pub(super) fn delta(millis: i64) -> TimeDelta {
    TimeDelta::try_milliseconds(millis).unwrap_or(TimeDelta::MAX)
}
