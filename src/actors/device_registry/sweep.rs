//! One check: the work on the database once the buffer is written. It runs beside the mailbox,
//! and lets flushes have their turn in between.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use log::{info, warn};
use tokio::sync::MutexGuard;

use super::group::Judging;
use super::progress::Work;
use super::{CheckError, Shared, TARGET};
use crate::domain::{Coverage, Cutoffs, DeviceId, Outages, Status};
use crate::store::{FleetSample, Grounds, OutboxSize, Overdue, StaleFrom, StoreError, Unreadable};

/// One check, once the buffer is written.
pub(super) struct Sweep {
    pub(super) shared: Shared,
    /// Counts the devices whose last_seen_at was in the future of the clock.
    pub(super) clamped: Arc<AtomicU64>,
    /// The time base to which `coverage` and `now` belong.
    pub(super) base: u64,
    pub(super) coverage: Coverage,
    /// For a member of a group, whose coverage is read from the database.
    pub(super) judging: Option<Judging>,
    /// The listener that this instance is.
    pub(super) listener: Option<i64>,
    pub(super) now: DateTime<Utc>,
    /// True if this check keeps a sample of the fleet.
    pub(super) keeps_sample: bool,
}

/// The result of a check, with what the registry needs to know about the fleet.
pub(super) struct Swept {
    pub(super) newly_offline: u64,
    pub(super) outbox: OutboxSize,
    pub(super) counts: BTreeMap<Status, u64>,
    /// The number of late devices.
    pub(super) late: u64,
    /// The outages that last, if their number was not what the board says. A command may have
    /// removed devices.
    pub(super) outages: Option<Outages>,
    /// The longest timeout of any device.
    pub(super) longest: Duration,
}

impl Sweep {
    /// The same check, by what all members of the group have listened to together, if there is
    /// one. Whoever has saved a proof has saved the heartbeats that it vouches for.
    pub(super) async fn of_the_group(mut self) -> Result<Self, CheckError> {
        if let Some(judging) = &self.judging {
            let since = DateTime::<Utc>::MIN_UTC;
            self.coverage = judging.read(&self.shared.store, since).await?;
        }
        Ok(self)
    }

    /// Clamps devices from the future if that is due, marks the silent ones and tidies up.
    pub(super) async fn run(&self) -> Result<Swept, CheckError> {
        let clamp = self.shared.clock.lock().take_clamp_due();
        let swept = self.sweep(clamp).await;
        if clamp && swept.is_err() {
            self.shared.clock.lock().clamp_again();
        }
        self.tell_of_unreadable();
        swept
    }

    async fn sweep(&self, clamp: bool) -> Result<Swept, CheckError> {
        let work = self.shared.progress.begin("check for silent devices");
        if clamp {
            self.clamp_future(&work).await?;
        }
        let own = self.shared.store.own_timeouts().await?;
        let longest = own.iter().copied().fold(self.shared.settings.timeout, Duration::max);
        let (newly_offline, late) = self.check_offline_devices(&own, &work).await?;
        self.shared.store.find_unknown_statuses().await?;
        self.tidy(&work).await?;
        let counts = self.shared.store.count_by_status().await?;
        self.keep_sample(&counts, late, &work).await?;
        Ok(Swept {
            newly_offline,
            outbox: self.shared.store.outbox_size().await?,
            outages: self.outages(&counts).await?,
            counts,
            late,
            longest,
        })
    }

    /// Keeps the counts for the history of the fleet, at most once in ten seconds.
    async fn keep_sample(
        &self,
        counts: &BTreeMap<Status, u64>,
        late: u64,
        work: &Work,
    ) -> Result<(), CheckError> {
        if !self.keeps_sample {
            return Ok(());
        }
        let sample = FleetSample { at: self.now, counts: counts.clone(), late: Some(late) };
        let turn = self.turn().await?;
        self.shared.store.keep_sample(&sample).await?;
        drop(turn);
        work.step();
        Ok(())
    }

    async fn outages(&self, counts: &BTreeMap<Status, u64>) -> Result<Option<Outages>, CheckError> {
        let mut shown = 0;
        self.shared.board.change(|facts| shown = facts.outages_known());
        if counts.get(&Status::Offline) == Some(&shown) {
            return Ok(None);
        }
        Ok(Some(self.shared.store.open_outages().await?))
    }

    /// Waits until no other writer has its turn.
    ///
    /// A clock that was set in the meantime makes this check worthless: its cutoffs belong to
    /// the old clock, and flushes by the new clock may have come in between.
    async fn turn(&self) -> Result<MutexGuard<'_, ()>, CheckError> {
        let turn = self.shared.turn.lock().await;
        if self.shared.clock.lock().base() != self.base {
            return Err(CheckError::ClockSet);
        }
        // The coverage of an earlier stay may be that of a database that has lost something.
        if self.judging.is_some() && self.shared.store.joined_as() != self.listener {
            return Err(CheckError::Rejoined);
        }
        Ok(turn)
    }

    /// Moves times in the future to the present. A device that was last seen in the future
    /// would not be missed until then, and one that was removed in the future would not be
    /// registered again until then.
    async fn clamp_future(&self, work: &Work) -> Result<(), CheckError> {
        let turn = self.turn().await?;
        self.shared.store.clamp_removals(self.latest()).await?;
        drop(turn);
        work.step();
        let at_once = self.shared.bounds.marked_at_once as u64;
        loop {
            let turn = self.turn().await?;
            let clamped = self.shared.store.clamp_last_seen(self.latest(), at_once).await?;
            drop(turn);
            work.step();
            self.clamped.fetch_add(clamped, Ordering::Relaxed);
            if clamped < at_once {
                return Ok(());
            }
        }
    }

    /// The latest time that has passed. It is later than this check's own time if flushes came
    /// in between.
    fn latest(&self) -> DateTime<Utc> {
        self.shared.clock.lock().now().map_or(self.now, |now| now.max(self.now))
    }

    /// Finds the silent devices, marks them offline and puts their transitions into the outbox.
    /// Returns the number of devices that went offline, and that of those that are late then.
    ///
    /// Usually no device is silent, so they are counted together with the late ones before any
    /// is looked for. One that becomes silent in between waits for the next check.
    async fn check_offline_devices(
        &self,
        own: &[Duration],
        work: &Work,
    ) -> Result<(u64, u64), CheckError> {
        let store = &self.shared.store;
        let cutoffs = self.coverage.both_cutoffs(self.now, self.shared.settings.timeout, own);
        let Overdue { late, silent } = store.count_overdue(&cutoffs).await?;
        if silent == 0 {
            return Ok((0, late));
        }
        let newly_offline = self.mark_silent(cutoffs.silent(), work).await?;
        if newly_offline == silent {
            return Ok((newly_offline, late));
        }
        // The others were heard in the meantime, or cannot be marked.
        let Overdue { late, silent } = store.count_overdue(&cutoffs).await?;
        Ok((newly_offline, late + silent))
    }

    /// Marks the silent devices offline, page by page. Returns their number.
    async fn mark_silent(&self, cutoffs: &Cutoffs, work: &Work) -> Result<u64, CheckError> {
        let mut newly_offline = 0;
        let mut from = Some(StaleFrom::default());
        while let Some(page) = from {
            let stale = self
                .shared
                .store
                .get_stale_devices(cutoffs, &page, self.shared.bounds.stale_at_once as u64)
                .await?;
            let mut marked = 0;
            for devices in stale.devices.chunks(self.shared.bounds.marked_at_once) {
                marked += self.mark(devices, cutoffs).await?;
                work.step();
            }
            newly_offline += marked;
            // If none was marked, all were heard in the meantime.
            from = stale.next.filter(|next| marked > 0 || *next != StaleFrom::Anywhere);
        }
        Ok(newly_offline)
    }

    /// Logs the rows that could not be read. They do not stop a check, and each check logs them.
    fn tell_of_unreadable(&self) {
        let Unreadable { count, examples } = self.shared.store.take_unreadable();
        if count == 0 {
            return;
        }
        self.shared.metrics.unreadable(count);
        let rows = examples.join("; ");
        warn!(
            target: TARGET, count, rows;
            "rows of the database cannot be read and are left out; each check names a few of \
             them in turn; correct or delete them"
        );
    }

    async fn mark(&self, devices: &[DeviceId], cutoffs: &Cutoffs) -> Result<u64, CheckError> {
        let turn = self.turn().await?;
        let grounds =
            Grounds { cutoffs, coverage: &self.coverage, instance: &self.shared.settings.instance };
        let transitions =
            self.shared.store.mark_devices_offline(devices, grounds, self.now).await?;
        drop(turn);
        self.shared.metrics.changed(&transitions);
        self.shared.show(&transitions, 0);
        self.shared.lines.transitions(&transitions);
        Ok(transitions.len() as u64)
    }

    /// Deletes old history, and with it listening intervals that no timeout needs any more.
    ///
    /// This cannot be undone, so a clock that may be wrong does not decide it.
    async fn tidy(&self, work: &Work) -> Result<(), CheckError> {
        if self.shared.clock.lock().steady_for() < self.shared.bounds.steady_before_pruning {
            return Ok(());
        }
        let Some(before) = TimeDelta::from_std(self.shared.settings.retention)
            .ok()
            .and_then(|retention| self.now.checked_sub_signed(retention))
        else {
            return Ok(());
        };
        let turn = self.turn().await?;
        let pruned =
            self.shared.store.prune_history(before, self.shared.bounds.pruned_at_once).await?;
        work.step();
        self.shared.store.prune_journal(before, self.shared.bounds.pruned_at_once).await?;
        if let Some(needed) = self.coverage.proven_since() {
            let before = before.min(needed);
            self.shared.store.prune_listened(before, self.shared.bounds.pruned_at_once).await?;
        }
        self.shared.store.prune_removals(self.now).await?;
        drop(turn);
        work.step();
        if pruned > 0 {
            info!(target: TARGET, pruned; "deleted history from before {before:?}");
        }
        Ok(())
    }
}

impl From<StoreError> for CheckError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
