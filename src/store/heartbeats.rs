//! Writing heartbeats: a batch in one transaction.
//!
//! `batch` is the work inside the transaction, with a strategy (`upsert` or `lookup`) for
//! unknown devices; `sql` has what their statements share.

mod batch;
mod lookup;
mod sql;
mod upsert;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};

use self::batch::Batch;
use super::listening::Proven;
use super::removal::is_removed;
use super::{DeviceStore, Result};
use crate::domain::{Change, DeviceId, Heartbeat, Rejection, Transition};

/// The rules that a batch of heartbeats is recorded by.
#[derive(Clone, Copy, Debug)]
pub struct RecordingRules {
    /// True if unknown devices are registered (`devices.auto_register`).
    pub auto_register: bool,
    /// The number of devices that may still be registered (`devices.max_devices`).
    pub room: u64,
    /// The number of devices that may be registered now (`devices.registration_rate`).
    pub registrations: u64,
    /// The clock skew above which a device is warned about (`heartbeat.max_clock_skew`).
    pub max_clock_skew: Duration,
    /// The time by the service's clock. Stored instants that are well after it are from a clock
    /// that has been set back since.
    pub now: DateTime<Utc>,
}

impl RecordingRules {
    /// The number of unknown devices that may be registered.
    fn allowed(self) -> u64 {
        if self.auto_register { self.room.min(self.registrations) } else { 0 }
    }

    /// Decides which unknown devices are registered: those for which there is room, and
    /// which were not removed after their heartbeat was received. `removals` has the
    /// instants of removals, in milliseconds.
    fn admit<'a>(
        self,
        unknown: Vec<&'a Heartbeat>,
        removals: &HashMap<String, i64>,
    ) -> (Vec<&'a Heartbeat>, Vec<Rejection>) {
        let (removed, mut admitted): (Vec<_>, Vec<_>) =
            unknown.into_iter().partition(|heartbeat| is_removed(heartbeat, removals));
        let allowed = usize::try_from(self.allowed()).unwrap_or(usize::MAX);
        let too_many = admitted.split_off(admitted.len().min(allowed));
        let id = |heartbeat: &Heartbeat| heartbeat.device_id.clone();
        let removed = removed.into_iter().map(|h| Rejection::Removed { device_id: id(h) });
        let too_many = too_many.into_iter().map(|h| self.too_many(id(h)));
        (admitted, removed.chain(too_many).collect())
    }

    /// The reason for not registering one more device.
    fn too_many(self, device_id: DeviceId) -> Rejection {
        if self.registrations < self.room {
            Rejection::RegistrationRate { device_id }
        } else {
            Rejection::FleetFull { device_id }
        }
    }

    /// The rules for the remaining heartbeats, after `registered` devices were registered.
    pub fn after(self, registered: u64) -> Self {
        Self {
            room: self.room.saturating_sub(registered),
            registrations: self.registrations.saturating_sub(registered),
            ..self
        }
    }
}

/// The outcome of recording a batch.
#[derive(Debug, Default)]
pub struct Recorded {
    /// The status changes, in the order of their sequence numbers.
    pub transitions: Vec<Transition>,
    /// The number of devices that were registered.
    pub registered: u64,
    /// The heartbeats that were not recorded.
    pub rejections: Vec<Rejection>,
    /// Devices whose clock is newly off by more than the bound, with the skew in
    /// milliseconds.
    pub skewed: Vec<(DeviceId, i64)>,
    /// Devices whose payload newly cannot be read, or for another reason than before.
    pub unreadable: Vec<(DeviceId, String)>,
}

impl Recorded {
    fn extend(&mut self, more: Self) {
        let Self { transitions, registered, rejections, skewed, unreadable } = more;
        self.transitions.extend(transitions);
        self.registered += registered;
        self.rejections.extend(rejections);
        self.skewed.extend(skewed);
        self.unreadable.extend(unreadable);
    }
}

impl DeviceStore {
    /// Records that these devices are alive: updates `last_seen_at` and what they
    /// reported, sets their statuses, writes the transitions, and registers unknown
    /// devices as far as `rules` allow. The coverage and the journal in `proven` are saved in the same
    /// transaction, or in a later one if the database refuses a heartbeat.
    ///
    /// `heartbeats` has at most one heartbeat per device and is sorted by device id, so
    /// that neighbouring rows are written together.
    ///
    /// A heartbeat that is [overtaken](crate::domain::heartbeat::is_overtaken) changes nothing. One
    /// that is as old as the silence for which its device is offline is rejected, and so is one
    /// that the database refuses although it accepts the others.
    ///
    /// # Errors
    ///
    /// If the database fails. Then nothing of the batch is written, unless a part of it
    /// was refused. Writing it again does no harm.
    pub async fn update_last_seen(
        &self,
        heartbeats: &[Heartbeat],
        rules: RecordingRules,
        proven: &Proven,
    ) -> Result<Recorded> {
        debug_assert!(heartbeats.is_sorted_by(|a, b| a.device_id < b.device_id));
        if heartbeats.is_empty() && proven.is_nothing() {
            return Ok(Recorded::default());
        }
        let recorded = match self.record_at_once(heartbeats, rules, proven).await {
            Err(error) if error.refused().is_some() && !heartbeats.is_empty() => {
                self.record_what_is_taken(heartbeats, rules, proven).await?
            }
            recorded => recorded?,
        };
        if self.pool.is_doubted() {
            let rejected: HashSet<_> =
                recorded.rejections.iter().filter_map(Rejection::device_id).collect();
            let written = heartbeats.iter().filter(|h| !rejected.contains(&h.device_id));
            self.confirm_written(written, proven).await?;
        }
        Ok(recorded)
    }

    async fn record_at_once(
        &self,
        heartbeats: &[Heartbeat],
        rules: RecordingRules,
        proven: &Proven,
    ) -> Result<Recorded> {
        let again = AtomicBool::new(false);
        self.write("record heartbeats", async |transaction| {
            let batch = Batch::new(self, transaction, heartbeats, rules);
            if again.swap(true, Ordering::Relaxed) {
                batch.lock_all().await?;
            }
            let recorded = batch.record().await?;
            self.save_listened(transaction, proven).await?;
            Ok(recorded)
        })
        .await
        .inspect(|_| self.is_counted())
    }

    /// Finds the refused heartbeats by halving the batch: about log2(n) transactions for
    /// each of them, and never more than 2n, for n heartbeats.
    ///
    /// The coverage first forgets what this batch replaces, and gets the new intervals
    /// after everything that can be written: too little coverage takes no device offline.
    async fn record_what_is_taken(
        &self,
        heartbeats: &[Heartbeat],
        mut rules: RecordingRules,
        proven: &Proven,
    ) -> Result<Recorded> {
        let forgotten = |change: &Change| Change { intervals: Vec::new(), ..*change };
        let change = proven.change.as_ref().map(forgotten);
        let nothing_proven = Proven { change, journal: Vec::new(), ..proven.clone() };
        self.record_at_once(&[], rules, &nothing_proven).await?;

        let mut recorded = Recorded::default();
        let mut parts = vec![heartbeats];
        while let Some(part) = parts.pop() {
            let error = match self.record_at_once(part, rules, &Proven::default()).await {
                Ok(taken) => {
                    rules = rules.after(taken.registered);
                    recorded.extend(taken);
                    continue;
                }
                Err(error) => error,
            };
            match (error.refused(), part) {
                (None, _) => return Err(error),
                (Some(why), [heartbeat]) => {
                    let device_id = heartbeat.device_id.clone();
                    recorded.rejections.push(Rejection::Refused { device_id, why });
                }
                (Some(_), part) => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                }
            }
        }
        self.record_at_once(&[], rules, proven).await?;
        Ok(recorded)
    }
}
