//! One check: what is done with the database once the buffer is written. It runs
//! beside the mailbox, and gives its turn to flushes in between.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use log::info;
use tokio::sync::Mutex;

use super::{Lines, TARGET};
use crate::domain::{Coverage, Cutoffs, DeviceId, Status};
use crate::metrics::Metrics;
use crate::store::{DeviceStore, Grounds, StoreError};

/// How many devices a check takes in one go from the database, and how many it
/// marks or clamps in one transaction, between which flushes get their turn. Bounds the
/// memory of a check, however many are silent.
const STALE_AT_ONCE: u64 = 100_000;
const MARKED_AT_ONCE: usize = 10_000;

/// How many old transitions, and how many listening intervals, a check deletes at
/// most; at one check a minute that is more than ten million a day.
const PRUNED_AT_ONCE: u64 = 10_000;

/// One check, after the buffer was written.
pub(super) struct Sweep {
    pub(super) store: DeviceStore,
    pub(super) turn: Arc<Mutex<()>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) lines: Lines,
    pub(super) coverage: Coverage,
    pub(super) timeout: Duration,
    pub(super) instance: String,
    pub(super) retention: Duration,
    pub(super) now: DateTime<Utc>,
}

impl Sweep {
    /// A device that was last seen in the future would not be missed until then.
    pub(super) async fn clamp_future(&self) -> Result<(), StoreError> {
        let mut devices = 0;
        loop {
            let turn = self.turn.lock().await;
            let clamped = self.store.clamp_last_seen(self.now, MARKED_AT_ONCE as u64).await?;
            drop(turn);
            devices += clamped;
            if clamped < MARKED_AT_ONCE as u64 {
                break;
            }
        }
        if devices > 0 {
            info!(
                target: TARGET, devices;
                "counted as seen now: their last_seen_at was in the future of the clock"
            );
        }
        Ok(())
    }

    /// Finds the silent devices and marks them offline. Returns how many went
    /// offline; their transitions are in the outbox.
    pub(super) async fn check_offline_devices(&self, own: &[Duration]) -> Result<u64, StoreError> {
        let cutoffs = self.coverage.cutoffs(self.now, self.timeout, own);
        let mut newly_offline = 0;
        loop {
            let stale = self.store.get_stale_devices(&cutoffs, STALE_AT_ONCE).await?;
            let mut marked = 0;
            for devices in stale.chunks(MARKED_AT_ONCE) {
                marked += self.mark(devices, &cutoffs).await?;
            }
            newly_offline += marked;
            // Nobody marked: all were heard meanwhile.
            if (stale.len() as u64) < STALE_AT_ONCE || marked == 0 {
                return Ok(newly_offline);
            }
        }
    }

    async fn mark(&self, devices: &[DeviceId], cutoffs: &Cutoffs) -> Result<u64, StoreError> {
        let turn = self.turn.lock().await;
        let grounds = Grounds { cutoffs, coverage: &self.coverage, instance: &self.instance };
        let transitions = self.store.mark_devices_offline(devices, grounds, self.now).await?;
        drop(turn);
        self.metrics.changed(&transitions);
        self.lines.transitions(&transitions);
        Ok(transitions.len() as u64)
    }

    /// What has to be done now and then: old history goes, the fleet is counted
    /// anew, for the command line changes it too.
    ///
    /// What has been proven is kept for as long as a timeout needs it, even if the
    /// history is not.
    pub(super) async fn tidy(&self) -> Result<BTreeMap<Status, u64>, StoreError> {
        if let Ok(retention) = TimeDelta::from_std(self.retention)
            && let Some(before) = self.now.checked_sub_signed(retention)
        {
            let turn = self.turn.lock().await;
            let pruned = self.store.prune_history(before, PRUNED_AT_ONCE).await?;
            if let Some(needed) = self.coverage.proven_since() {
                let before = before.min(needed);
                self.store.prune_listened(&self.instance, before, PRUNED_AT_ONCE).await?;
            }
            self.store.prune_removals(self.now).await?;
            drop(turn);
            if pruned > 0 {
                info!(target: TARGET, pruned; "deleted history from before {before:?}");
            }
        }
        self.store.count_by_status().await
    }
}
