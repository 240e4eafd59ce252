//! Says when the database fails or does not answer, while that lasts, and when it is over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{error, info};

use super::TARGET;
use super::progress::{Progress, Stall};
use crate::duration::human;
use crate::logging::outage::{Mention, Outage};
use crate::metrics::Metrics;
use crate::store::StoreError;

/// The time after which the silence of a transaction is a fault. Locks are waited for half
/// as long, see `store`.
const STALLED_AFTER: Duration = Duration::from_secs(10);

/// The watch over the database.
pub(super) struct DatabaseWatch {
    progress: Arc<Progress>,
    metrics: Arc<Metrics>,
    /// The writes that fail.
    failing: Option<Outage>,
    /// The work that gets no further.
    stalled: Option<Outage>,
    /// True if writes fail until the service is started again.
    needs_restart: bool,
}

impl DatabaseWatch {
    /// A watch over the work that `progress` knows of.
    pub(super) fn new(progress: Arc<Progress>, metrics: Arc<Metrics>) -> Self {
        Self { progress, metrics, failing: None, stalled: None, needs_restart: false }
    }

    /// Notes that a write failed, which leaves `pending` heartbeats unwritten.
    pub(super) fn failed(&mut self, error: &StoreError, pending: usize) {
        self.needs_restart = matches!(error, StoreError::FileReplaced { .. });
        match (Outage::note(&mut self.failing, Instant::now(), error.to_string()), error) {
            (Mention::Begins, StoreError::TakenOver { .. } | StoreError::FileReplaced { .. }) => {
                error!(target: TARGET, "{error}");
            }
            (Mention::Begins, _) => error!(
                target: TARGET, pending;
                "{error}; heartbeats are kept and written when the database is back"
            ),
            (Mention::GoesOn(lasts), _) => {
                let seconds = lasts.as_secs();
                error!(target: TARGET, seconds, pending; "for {}: {error}", human(lasts));
            }
            (Mention::Nothing, _) => (),
        }
    }

    /// Notes that this number of heartbeats was written.
    pub(super) fn wrote(&mut self, heartbeats: usize) {
        if let Some(lasted) = self.ends() {
            info!(
                target: TARGET, seconds = lasted.as_secs(), heartbeats;
                "the database is back after {}, nothing was lost", human(lasted)
            );
        }
    }

    /// Notes that the database answers, but not by writing what has waited for it.
    pub(super) fn is_back(&mut self) {
        if let Some(lasted) = self.ends() {
            let seconds = lasted.as_secs();
            info!(target: TARGET, seconds; "the database is back after {}", human(lasted));
        }
    }

    /// Ends the time in which writes fail, and returns how long it was.
    fn ends(&mut self) -> Option<Duration> {
        self.needs_restart = false;
        Some(self.failing.take()?.lasts(Instant::now()))
    }

    /// Looks for work that gets no further, while `pending` heartbeats are unwritten.
    pub(super) fn look(&mut self, now: Instant, pending: usize) {
        let stall = self.progress.longest_wait(now).filter(|stall| stall.lasts >= STALLED_AFTER);
        let failing = self.failing.as_ref().map_or(Duration::ZERO, |failing| failing.lasts(now));
        self.metrics.set_stalled(stall.map_or(failing, |stall| stall.lasts.max(failing)));
        match stall {
            Some(stall) => self.stands_still(stall, now, pending),
            None => self.goes_on(now),
        }
    }

    fn stands_still(&mut self, Stall { what, lasts }: Stall, now: Instant, pending: usize) {
        let seconds = lasts.as_secs();
        let why = format!("no answer for {}, asked to {what}", human(lasts));
        if Outage::note(&mut self.stalled, now, why) != Mention::Nothing {
            error!(
                target: TARGET, seconds, pending;
                "the database does not answer, asked to {what}; is a table locked, or the server \
                 gone? Heartbeats are kept"
            );
        }
    }

    fn goes_on(&mut self, now: Instant) {
        if let Some(stalled) = self.stalled.take() {
            let lasted = STALLED_AFTER + stalled.lasts(now);
            let seconds = lasted.as_secs();
            info!(target: TARGET, seconds; "the database has answered after {}", human(lasted));
        }
    }

    /// The reason why the last write failed or does not end, if so.
    pub(super) fn fault(&self) -> Result<(), String> {
        Outage::fault(self.failing.as_ref().or(self.stalled.as_ref()))
    }

    /// True if only a restart helps, because the file of the database is gone. What waits to be
    /// written is lost then.
    pub(super) fn needs_restart(&self) -> bool {
        self.needs_restart
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_is_at_fault_while_it_does_not_answer_or_fails() {
        let progress = Arc::new(Progress::default());
        let mut watch = DatabaseWatch::new(Arc::clone(&progress), Arc::new(Metrics::new()));
        let began = Instant::now();
        let work = progress.begin("record heartbeats");
        watch.look(began + STALLED_AFTER / 2, 1);
        assert_eq!(watch.fault(), Ok(()));
        watch.look(began + STALLED_AFTER * 2, 1);
        let why = watch.fault().expect_err("it does not answer");
        assert!(why.starts_with("no answer for ") && why.ends_with("record heartbeats"), "{why}");
        drop(work);
        watch.look(began + STALLED_AFTER * 2, 1);
        assert_eq!(watch.fault(), Ok(()));

        let error = StoreError::TakenOver { holder: None };
        watch.failed(&error, 1);
        assert_eq!(watch.fault(), Err(error.to_string()));
        watch.wrote(1);
        assert_eq!(watch.fault(), Ok(()));
    }
}
