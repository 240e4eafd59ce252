//! One flush: what was taken out of the buffer goes into the database. It runs
//! beside the mailbox.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Lines;
use super::progress::Progress;
use crate::domain::{Batch, Change, Heartbeat, Saving};
use crate::metrics::Metrics;
use crate::store::{DeviceStore, Proven, Recorded, RecordingRules, StoreError};

/// How many heartbeats are sorted sooner than another thread has begun to.
const SORTED_AT_ONCE: usize = 5_000;

/// One flush.
pub(super) struct Flush {
    pub(super) store: DeviceStore,
    pub(super) metrics: Arc<Metrics>,
    pub(super) lines: Lines,
    pub(super) progress: Arc<Progress>,
    /// The number of heartbeats that are still to be written.
    pub(super) in_flight: Arc<AtomicUsize>,
    pub(super) rules: RecordingRules,
    /// Whose coverage is saved with the heartbeats: `mqtt.client_id`.
    pub(super) instance: String,
    pub(super) written_at_once: usize,
    pub(super) saving: Saving,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Flushed {
    pub(super) written: usize,
    /// What is not written, if it failed; else empty, with the batch's room.
    pub(super) rest: Vec<Heartbeat>,
    pub(super) registered: u64,
    pub(super) result: Result<(), StoreError>,
}

impl Flush {
    /// True if there is nothing to write.
    pub(super) fn is_idle(&self, batch: &Batch) -> bool {
        batch.is_empty() && self.saving.only.is_none()
    }

    /// Writes the heartbeats, one portion after the other, and with them what is proven.
    pub(super) async fn write(mut self, batch: Batch) -> Flushed {
        let mut batch = sorted(batch).await;
        self.in_flight.store(batch.len(), Ordering::Relaxed);
        let working = self.progress.begin("record heartbeats");
        let (mut written, mut registered) = (0, 0);
        let result = loop {
            let end = batch.len().min(written + self.written_at_once);
            let proven = self.proven(written == 0, end == batch.len());
            let portion = &batch[written..end];
            match self.store.update_last_seen(portion, self.rules, &proven).await {
                Ok(recorded) => {
                    self.rules = self.rules.after(recorded.registered);
                    registered += recorded.registered;
                    self.report(&recorded);
                }
                Err(error) => break Err(error),
            }
            working.step();
            written = end;
            self.in_flight.store(batch.len() - written, Ordering::Relaxed);
            if end == batch.len() {
                break Ok(());
            }
        };
        batch.drain(..written);
        Flushed { written, rest: batch, registered, result }
    }

    /// What goes with a portion, see [`Saving`].
    fn proven(&self, is_first: bool, is_last: bool) -> Proven {
        let Saving { first, last, only } = &self.saving;
        let change: Option<&Change> = match (is_first, is_last) {
            (true, true) => only.as_ref(),
            (true, false) => first.as_ref(),
            (false, true) => last.as_ref(),
            (false, false) => None,
        };
        Proven { instance: self.instance.clone(), change: change.cloned() }
    }

    fn report(&self, recorded: &Recorded) {
        self.metrics.registered(recorded.registered);
        self.metrics.changed(&recorded.transitions);
        self.lines.transitions(&recorded.transitions);
        self.lines.reject(&self.metrics, &recorded.rejections);
        self.lines.skews(&recorded.skewed, self.rules.max_clock_skew);
        self.lines.payloads(&recorded.unreadable);
    }
}

/// A million of them take more than half a billion instructions to sort, as counted by
/// `benches/micro/instructions.rs`: not on the thread of an actor.
async fn sorted(batch: Batch) -> Vec<Heartbeat> {
    if batch.len() <= SORTED_AT_ONCE {
        return batch.sorted();
    }
    let sorting = actix_rt::task::spawn_blocking(|| batch.sorted());
    // It is not cancelled; a panic has been told already and goes on here.
    sorting.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
