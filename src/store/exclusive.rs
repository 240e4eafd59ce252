//! One service at a time on a database.
//!
//! A [`lock`] keeps a second service out. It can be lost while the process lives on, so there
//! is also a [`fence`] in the database itself. The [`holder`] says which service it is that
//! uses the database.

mod fence;
mod holder;
mod lock;

use std::sync::Arc;

use parking_lot::Mutex;
use sea_orm::{DatabaseTransaction, DbErr};

use self::fence::Fence;
pub use self::holder::Holder;
pub(super) use self::holder::shown;
use self::lock::Lock;
use super::{DeviceStore, OpenMode, Result, StoreError};
use crate::secrets::DatabaseUrl;

/// The exclusive right of this process to a database, until it is dropped.
pub(super) struct Exclusive {
    fence: Fence,
    /// `None` once the store was closed, of which clones may live on.
    lock: Mutex<Option<Lock>>,
}

impl Exclusive {
    /// Checks, within a transaction, that no other service has taken over the database. The
    /// inner error says that one has.
    pub(super) async fn verify(
        &self,
        transaction: &DatabaseTransaction,
    ) -> Result<Result<(), StoreError>, DbErr> {
        self.fence.verify(transaction).await
    }
}

impl DeviceStore {
    /// Opens the database for a service: as with [`OpenMode::Migrate`], and for no other
    /// service. Commands may use it at the same time.
    ///
    /// # Errors
    ///
    /// Those of [`DeviceStore::open`]; [`StoreError::InUse`] or
    /// [`StoreError::InUseByAnotherName`] if another service uses it.
    pub async fn open_exclusive(url: &str) -> Result<Self> {
        let url = DatabaseUrl::from(url.to_owned());
        url.check().map_err(StoreError::Url)?;
        // Before the schema is touched, because an older service may be using it.
        let lock = Lock::take(&url).await?;
        let mut store = Self::open(url.reveal(), OpenMode::Migrate).await?;
        let fence = Fence::put_up(&store).await?;
        store.exclusive = Some(Arc::new(Exclusive { fence, lock: Mutex::new(Some(lock)) }));
        Ok(store)
    }

    /// Resolves when another service has taken over the database, and never otherwise. This
    /// one must then end, because it cannot write any more.
    pub async fn taken_over(&self) -> StoreError {
        if let Some(exclusive) = &self.exclusive
            && let Some(holder) = exclusive.fence.taken_over().await
        {
            return StoreError::TakenOver { holder: Some(holder) };
        }
        std::future::pending().await
    }

    pub(super) fn release(&self) {
        if let Some(exclusive) = &self.exclusive {
            *exclusive.lock.lock() = None;
        }
    }
}
