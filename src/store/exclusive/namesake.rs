//! Two processes of one name: each would throw the other off the broker, and neither could be
//! told from the other.

use std::collections::BTreeMap;

use tokio::time::{Instant, sleep};

use super::listener::{Listener, Member};
use crate::clock::system_clock;
use crate::store::{DeviceStore, Result, StoreError};

/// The number of intervals for which the row of a process of the same name must not change.
const STILL: u32 = 4;

impl DeviceStore {
    /// True if a process of this name has the right to write, or had it until it was killed.
    pub(super) async fn is_active(&self, member: &Member) -> Result<bool> {
        let listeners = self.listeners().await?;
        let is_it =
            |listener: &Listener| listener.is_active && listener.peer.instance == member.instance;
        Ok(listeners.iter().any(is_it))
    }

    /// Waits until no process of this name lives: until each row of this name that has not left
    /// has stood still for four intervals. The stays of those are then ended. The one that may
    /// write is known to be gone at once if its lock was free.
    ///
    /// # Errors
    ///
    /// [`StoreError::SameName`] if one lives, otherwise if the database fails.
    pub(super) async fn await_namesakes(&self, member: &Member, lock_was_free: bool) -> Result<()> {
        let began = Instant::now();
        let mut first = None;
        loop {
            let own = self.listeners().await?.into_iter().filter(|listener| {
                let is_gone = lock_was_free && listener.is_active;
                !listener.peer.has_left && listener.peer.instance == member.instance && !is_gone
            });
            let saves: BTreeMap<_, _> = own.map(|own| (own.peer.id, own.peer.saves)).collect();
            let first = first.get_or_insert_with(|| saves.clone());
            if saves.iter().any(|(id, saves)| first.get(id) != Some(saves)) {
                return Err(StoreError::SameName { name: member.instance.clone() });
            }
            if saves.is_empty() || began.elapsed() >= member.interval * STILL {
                break;
            }
            sleep(member.interval).await;
        }
        for listener in self.listeners().await? {
            // The broker may still be giving heartbeats to a member of a group, until this process
            // connects by its name.
            let is_over = !listener.peer.has_left && listener.peer.share_group.is_none();
            if is_over && listener.peer.instance == member.instance {
                // Now, and not when it was killed: whoever listens to something else has to wait
                // until this process has joined.
                _ = self.leave(listener.peer.id, "restarted", system_clock().wall).await?;
            }
        }
        Ok(())
    }
}
