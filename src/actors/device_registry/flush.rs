//! One flush: writes to the database what was taken out of the buffer. It runs beside the
//! mailbox.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use log::debug;

use super::buffer::Buffer;
use super::{Settings, Shared, TARGET};
use crate::domain::{Batch, Change, Entry, Heartbeat, Saving};
use crate::store::{Proven, Recorded, RecordingRules, StoreError};
use chrono::{DateTime, Utc};

/// The maximum number of heartbeats that are sorted on the actor's thread. Another thread
/// would take longer to begin.
const SORTED_AT_ONCE: usize = 5_000;

/// A proof, as it is saved.
pub(super) struct Proof {
    /// The listener that has proven it.
    pub(super) listener: i64,
    pub(super) saving: Saving,
    /// The instant after which nothing that others have proven counts any more.
    pub(super) others_cut: Option<DateTime<Utc>>,
}

/// One flush.
pub(super) struct Flush {
    shared: Shared,
    /// The number of heartbeats that are still to be written.
    in_flight: Arc<AtomicUsize>,
    rules: RecordingRules,
    proof: Proof,
    /// The entries of the journal, until they are written.
    journal: Vec<Entry>,
    began: Instant,
}

/// The result of a flush.
#[derive(Debug)]
pub(super) struct Flushed {
    /// False if there was nothing to write.
    pub(super) asked: bool,
    pub(super) written: usize,
    /// The heartbeats that were not written because the flush failed. Otherwise empty, with
    /// the capacity of the batch.
    pub(super) rest: Vec<Heartbeat>,
    pub(super) registered: u64,
    /// The entries of the journal that were not written.
    pub(super) journal: Vec<Entry>,
    pub(super) result: Result<(), StoreError>,
}

impl Flush {
    /// A flush of what was taken out of `buffer`, of what is proven, and of the `journal`.
    pub(super) fn new(
        shared: Shared,
        buffer: &mut Buffer,
        proof: Proof,
        journal: Vec<Entry>,
    ) -> Self {
        let began = Instant::now();
        let Settings { devices, max_clock_skew, .. } = &*shared.settings;
        let rules = RecordingRules {
            auto_register: devices.auto_register,
            room: buffer.room(),
            registrations: buffer.registrations(began),
            max_clock_skew: *max_clock_skew,
            // Whoever has received a heartbeat has read the clock.
            now: shared.clock.lock().now().unwrap_or_default(),
        };
        Self { shared, in_flight: buffer.in_flight(), rules, proof, journal, began }
    }

    /// Writes the heartbeats portion by portion, and with them what is proven.
    pub(super) async fn write(mut self, batch: Batch) -> Flushed {
        let asked = !batch.is_empty()
            || self.proof.saving.only.is_some()
            || self.proof.others_cut.is_some()
            || !self.journal.is_empty();
        let mut batch = sorted(batch).await;
        self.in_flight.store(batch.len(), Ordering::Relaxed);
        let working = self.shared.progress.begin("record heartbeats");
        let (mut written, mut registered) = (0, 0);
        let store = self.shared.store.for_members();
        let result = loop {
            let end = batch.len().min(written + self.shared.bounds.written_at_once);
            let proven = self.proven(written == 0, end == batch.len());
            let portion = &batch[written..end];
            match store.update_last_seen(portion, self.rules, &proven).await {
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
        if result.is_ok() && !self.journal.is_empty() {
            self.journal.clear();
            self.shared.board.wake();
        }
        if result.is_ok() && written > 0 {
            let took = self.began.elapsed();
            self.shared.metrics.flushed(took.as_secs_f64());
            debug!(target: TARGET, heartbeats = written, duration_ms = took.as_millis(); "flushed");
        }
        Flushed { asked, written, rest: batch, registered, journal: self.journal, result }
    }

    /// The proof that is written with a portion, see [`Saving`].
    fn proven(&self, is_first: bool, is_last: bool) -> Proven {
        let Saving { first, last, only } = &self.proof.saving;
        let change: Option<&Change> = match (is_first, is_last) {
            (true, true) => only.as_ref(),
            (true, false) => first.as_ref(),
            (false, true) => last.as_ref(),
            (false, false) => None,
        };
        let journal = if is_last { self.journal.clone() } else { Vec::new() };
        let others_cut = self.proof.others_cut.filter(|_| is_first);
        Proven { listener: self.proof.listener, change: change.cloned(), others_cut, journal }
    }

    fn report(&self, recorded: &Recorded) {
        self.shared.metrics.registered(recorded.registered);
        self.shared.metrics.changed(&recorded.transitions);
        self.shared.show(&recorded.transitions, recorded.registered);
        self.shared.lines.transitions(&recorded.transitions);
        self.shared.lines.reject(&self.shared.metrics, &recorded.rejections);
        self.shared.lines.skews(&recorded.skewed, self.rules.max_clock_skew);
        self.shared.lines.payloads(&recorded.unreadable);
    }
}

/// Sorts a batch, a large one not on the actor's thread. A million heartbeats take more than
/// half a billion instructions to sort, as counted by `benches/micro/instructions.rs`.
async fn sorted(batch: Batch) -> Vec<Heartbeat> {
    if batch.len() <= SORTED_AT_ONCE {
        return batch.sorted();
    }
    let sorting = actix_rt::task::spawn_blocking(|| batch.sorted());
    // It is never cancelled. A panic has been logged already and continues here.
    sorting.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
