//! Coverage: the time in which the service was provably listening. Only there does a
//! device's silence count.
//!
//! ```text
//!           echo echo echo echo        echo echo echo echo
//! time  ──────┴────┴────┴────┴──────────┴────┴────┴────┴──▶
//! coverage    [==============]   gap    [==============]
//!                    ◀─ 2 ─▶                   ◀── 3 ──▶ now
//!                    │
//!                    cutoff(now, timeout 5): a device last seen before it has
//!                    been silent for 5 units of *listening* time
//! ```
//!
//! A confirmation says that a connection has listened without a break since some instant,
//! and that everything published until a later one has been received. The time between
//! two confirmations that are too far apart, or that belong to different connections, is
//! a gap and counts for nothing. That covers a restart, a lost broker, a suspended
//! machine and a clock that jumps forward. None of them has to be noticed: the gap is
//! where the proof is missing. The cause of a gap is kept only for people to read.

mod group;
mod intervals;
mod listeners;
mod saved;
mod stays;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use self::group::Unproven;
use super::Status;

pub use self::group::MAX_WIDTH;
pub use self::intervals::{Interval, Intervals};
pub use self::listeners::Listener;
pub use self::saved::{Saved, Saving};
pub use self::stays::{ClockOffset, Judge, Stay};

/// The number of echo intervals that two confirmations may be apart and still belong
/// together. A single lost or late echo is not a gap.
const GRACE: u32 = 3;

/// The maximum number of intervals that are kept in memory, of some 40 bytes each. The database
/// keeps all of them for `history.retention`.
pub const MAX_INTERVALS: usize = 10_000;

/// The reason why nothing is proven for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GapCause {
    /// The service was not running, or had not reached the broker yet.
    NotRunning,
    /// The connection to the broker was lost.
    Disconnected,
    /// The connection was up, but no echo came back in time: the process, the machine or
    /// the broker was stuck, or the subscription was lost.
    NoEcho,
    /// The process was stopped for a while, with everything in it.
    Stopped,
    /// Messages were thrown away because more than `mqtt.max_backlog` were waiting.
    Shed,
    /// The embedded broker had no room for devices that wanted to connect.
    ShutOut,
    /// The clock was set, or the machine slept.
    ClockStep,
}

impl GapCause {
    /// Every cause.
    pub const ALL: [Self; 7] = [
        Self::NotRunning,
        Self::Disconnected,
        Self::NoEcho,
        Self::Stopped,
        Self::Shed,
        Self::ShutOut,
        Self::ClockStep,
    ];

    /// The cause with this name, if there is one.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.as_str() == name)
    }

    /// The name in the database, in JSON and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotRunning => "not_running",
            Self::Disconnected => "disconnected",
            Self::NoEcho => "no_echo",
            Self::Stopped => "stopped",
            Self::Shed => "shed",
            Self::ShutOut => "shut_out",
            Self::ClockStep => "clock_step",
        }
    }
}

/// Writes the reason as a sentence for people.
impl fmt::Display for GapCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NotRunning => "the service was not running or not connected yet",
            Self::Disconnected => "the connection to the broker was lost",
            Self::NoEcho => "no echo came back in time",
            Self::Stopped => "the process was stopped",
            Self::Shed => "messages were thrown away because too many were waiting",
            Self::ShutOut => "the embedded broker had no room for devices that wanted to connect",
            Self::ClockStep => "the clock was set, or the machine slept",
        })
    }
}

/// An interval of listening, and the reason why nothing is proven just before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listened {
    /// The proven interval.
    pub interval: Interval,
    /// The cause of the gap before it. `None` if nothing is known about that time.
    pub after: Option<GapCause>,
}

impl Listened {
    /// The part that is in `stretch`; `None` if there is none. Unless its beginning is, there is no
    /// gap before it.
    pub fn within(&self, stretch: &Interval) -> Option<Self> {
        let interval = self.interval.within(stretch)?;
        let begins = interval.from == self.interval.from;
        Some(Self { interval, after: self.after.filter(|_| begins) })
    }
}

/// A stretch of time in which silence does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The time from the last proof to the next one.
    pub interval: Interval,
    /// The cause. `None` if it is unknown, as it is after the newest proof.
    pub cause: Option<GapCause>,
    /// The members of a share group that may have been given heartbeats in it and have not proven
    /// it, by their `mqtt.client_id`. Empty without a share group.
    pub unproven_by: Vec<Arc<str>>,
}

impl Gap {
    /// A gap of an instance that shares its heartbeats with no others.
    pub fn new(interval: Interval, cause: Option<GapCause>) -> Self {
        Self { interval, cause, unproven_by: Vec::new() }
    }
}

/// The coverage of one instance, as it grows, beside what others have proven before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    intervals: Intervals,
    /// The intervals that other instances have proven, as far as they are certain by this
    /// clock, and those of share groups. They never grow, because only one instance at a time
    /// saves anything, and because those of a group are read for each check.
    others: Intervals,
    /// The stretches that members of share groups have not proven.
    unproven: Vec<Unproven>,
    /// The most by which the clocks of the others may differ from this one.
    others_width: TimeDelta,
    /// The most by which the clocks of those that listen beside this one differ from it.
    beside_width: TimeDelta,
    /// The earliest instant after which `others` were forgotten since this was saved.
    others_cut: Option<DateTime<Utc>>,
    /// The instant before which a confirmation proves nothing.
    floor: Option<DateTime<Utc>>,
    /// The cause of the gap before the interval that begins at the key.
    causes: BTreeMap<DateTime<Utc>, GapCause>,
    grace: TimeDelta,
    /// The last interruption, until a confirmation is later than it.
    broken: Option<(DateTime<Utc>, GapCause)>,
    /// The earliest instant to which the clock was set back since this was saved, and the
    /// number of times it was.
    set_back: Option<(DateTime<Utc>, u32)>,
}

/// The part of a coverage that has to be saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Saved intervals that began at this instant or later are replaced.
    pub from: DateTime<Utc>,
    /// True if the clock was set back. A saved interval that began before `from` and lasts
    /// longer then ends there. It may have been pruned from memory.
    pub is_set_back: bool,
    /// The intervals that replace them, oldest first.
    pub intervals: Vec<Listened>,
}

/// The effect of a confirmation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmed {
    /// It extended the newest interval.
    Extended,
    /// It began a new interval. Silence in the gap before it does not count. `None` if
    /// this is the first interval.
    Began {
        /// The time from the last proof to the first new one, and its cause.
        gap: Option<(Interval, GapCause)>,
    },
    /// The clock was set back, and everything proven after `now` was dropped.
    SteppedBack {
        /// The least amount by which it was set back.
        by: TimeDelta,
    },
}

impl Coverage {
    /// Creates an empty coverage that expects a confirmation every `echo_interval`.
    pub fn new(echo_interval: Duration) -> Self {
        let grace = TimeDelta::from_std(echo_interval.saturating_mul(GRACE));
        Self {
            intervals: Intervals::default(),
            others: Intervals::default(),
            unproven: Vec::new(),
            others_width: TimeDelta::zero(),
            beside_width: TimeDelta::zero(),
            others_cut: None,
            floor: None,
            causes: BTreeMap::new(),
            grace: grace.unwrap_or(TimeDelta::MAX),
            broken: None,
            set_back: None,
        }
    }

    /// Adds what an earlier process, or this one, has proven.
    #[must_use]
    pub fn with(mut self, proven: impl IntoIterator<Item = Listened>) -> Self {
        for Listened { interval, after } in proven {
            self.intervals.add(interval);
            self.causes.extend(after.map(|cause| (interval.from, cause)));
        }
        self
    }

    /// Confirms that everything published before `until` has been received and that
    /// nothing has interrupted the listening since `since`. `after` is the cause of the
    /// gap before.
    pub fn confirm(
        &mut self,
        since: DateTime<Utc>,
        until: DateTime<Utc>,
        after: GapCause,
    ) -> Confirmed {
        if let Some(by) = self.step_back(until) {
            return Confirmed::SteppedBack { by };
        }
        if self.floor.is_some_and(|floor| until <= floor) {
            return Confirmed::Extended;
        }
        let since = self.floor.map_or(since, |floor| floor.max(since));
        let (since, after) = match self.broken {
            Some((at, _)) if until <= at => return Confirmed::Extended,
            Some((at, cause)) if since <= at => (at, cause),
            _ => (since, after),
        };
        self.broken = None;
        let last = self.intervals.last().map(|interval| interval.until);
        // Only the time between the last proof and this one is proven, and only if both
        // belong to one connection and are close enough that nothing was stuck in
        // between.
        let begin = last.map_or(since, |last| last.max(since)).min(until);
        let from = if until - begin <= self.grace { begin } else { until };
        self.intervals.add(Interval { from, until });
        if last == Some(from) {
            return Confirmed::Extended;
        }
        let known = last.into_iter().chain(self.others.newest_until(from)).max();
        let Some(known) = known else { return Confirmed::Began { gap: None } };
        let cause = if last.is_none_or(|last| begin > last) { after } else { GapCause::NoEcho };
        self.causes.insert(from, cause);
        let gap = Interval { from: known, until: from };
        Confirmed::Began { gap: (known < from).then_some((gap, cause)) }
    }

    /// Detects a clock that was set back: drops everything proven after `now` and starts
    /// again there. Returns the least amount by which it moved.
    pub fn step_back(&mut self, now: DateTime<Utc>) -> Option<TimeDelta> {
        let last = self.intervals.last()?.until;
        if last <= now {
            return None;
        }
        self.cut_others(now);
        self.floor = self.floor.map(|floor| floor.min(now));
        // A later interruption may belong to the new clock.
        self.broken = self.broken.filter(|(at, _)| *at > now);
        let (earliest, times) = self.set_back.unwrap_or((now, 0));
        self.set_back = Some((earliest.min(now), times.saturating_add(1)));
        self.intervals.forget_after(now);
        self.intervals.add(Interval { from: now, until: now });
        let begun = self.intervals.last()?.from;
        let _of_the_future = self.causes.split_off(&(begun + TimeDelta::milliseconds(1)));
        if begun == now {
            self.causes.insert(now, GapCause::ClockStep);
        }
        Some(last - now)
    }

    /// Drops everything proven after `now`, because the clock was set and shows `now`.
    pub fn forget_the_future(&mut self, now: DateTime<Utc>) {
        self.step_back(now);
        self.cut_others(now);
        if let Some((at, _)) = &mut self.broken {
            *at = now.min(*at);
        }
    }

    /// Forgets what others have proven after `now`.
    fn cut_others(&mut self, now: DateTime<Utc>) {
        if self.others.last().is_some_and(|last| last.until > now) {
            self.others.forget_after(now);
            self.others_cut = Some(self.others_cut.map_or(now, |earlier| earlier.min(now)));
        }
    }

    /// The instant after which nothing that others have proven counts any more, if that has to
    /// be saved.
    pub fn others_cut(&self) -> Option<DateTime<Utc>> {
        self.others_cut
    }

    /// Forgets what was proven before `instant`, and lets nothing be proven before it: the
    /// heartbeats of that time are not vouched for.
    pub fn begin_at(&mut self, instant: DateTime<Utc>) {
        self.intervals.forget_before(instant);
        self.causes = self.causes.split_off(&instant);
        self.floor = Some(self.floor.map_or(instant, |floor| floor.max(instant)));
    }

    /// The instant before which nothing is vouched for, if there is one.
    pub fn begins_at(&self) -> Option<DateTime<Utc>> {
        self.floor
    }

    /// The proofs of this instance while it stood by, after those that were `found` in the database
    /// when it took over. Returns it with the gaps that nobody has listened to in between.
    #[must_use]
    pub fn after(self, found: Self) -> (Self, Vec<Gap>) {
        let known = found.intervals().last().map(|last| last.until);
        let first = self.intervals.iter().next().map(|first| first.from);
        let mut merged = found.with(self.listened());
        (merged.broken, merged.floor, merged.set_back) = (self.broken, self.floor, self.set_back);
        let mut gaps = Vec::new();
        if let (Some(known), Some(first), Some(last)) = (known, first, merged.proven_until()) {
            if known < first {
                merged.causes.entry(first).or_insert(GapCause::NotRunning);
            }
            gaps = merged.gaps(known.min(last), last);
        }
        (merged, gaps)
    }

    /// The most by which the clocks of others may differ from this one. Their heartbeats may
    /// be dated too early by as much, so a silence has to exceed the timeout by as much.
    pub fn width(&self) -> TimeDelta {
        let others = if self.others.is_empty() { TimeDelta::zero() } else { self.others_width };
        others.max(self.beside_width)
    }

    /// The most by which the clocks of those that listen beside this one differ from it.
    pub fn beside_width(&self) -> TimeDelta {
        self.beside_width
    }

    /// Sets the most by which the clocks of those that listen beside this one differ from it.
    pub fn set_beside_width(&mut self, width: TimeDelta) {
        self.beside_width = width;
    }

    /// The end of the newest proof of this instance.
    pub fn proven_until(&self) -> Option<DateTime<Utc>> {
        self.intervals.last().map(|interval| interval.until)
    }

    /// The intervals that count: those of this instance, and those of others.
    pub fn intervals(&self) -> Cow<'_, Intervals> {
        if self.others.is_empty() {
            return Cow::Borrowed(&self.intervals);
        }
        Cow::Owned(self.others.clone().union(&self.intervals))
    }

    /// The intervals of this instance with the causes of the gaps before them, oldest first.
    pub fn listened(&self) -> impl DoubleEndedIterator<Item = Listened> {
        self.intervals.iter().map(|&interval| {
            let after = self.causes.get(&interval.from).copied();
            Listened { interval, after }
        })
    }

    /// The change that turns the saved coverage `earlier` into this one. `None` if they
    /// are the same.
    pub fn since(&self, earlier: &Self) -> Option<Change> {
        let same = self.intervals.iter().zip(earlier.intervals.iter());
        let same = same.take_while(|(now, then)| now == then).count();
        let now = self.intervals.iter().nth(same);
        let then = earlier.intervals.iter().nth(same);
        self.change(now.into_iter().chain(then).map(|interval| interval.from).min())
    }

    /// The change that turns any saved coverage into this one, for a database whose
    /// contents are unknown. `None` if nothing is proven.
    pub fn whole(&self) -> Option<Change> {
        self.change(self.own_since())
    }

    /// The change that replaces what was saved from `from` on, and from where the clock was set
    /// back to: the database has older intervals than this coverage, so those in the future of
    /// a clock that was set back far may not be in memory.
    fn change(&self, from: Option<DateTime<Utc>>) -> Option<Change> {
        let set_back = self.set_back.map(|(earliest, _)| earliest);
        let from = from.into_iter().chain(set_back).min()?;
        let replaced = |listened: &Listened| listened.interval.until >= from;
        let intervals: Vec<_> = self.listened().filter(replaced).collect();
        let from = intervals.first().map_or(from, |oldest| oldest.interval.from.min(from));
        Some(Change { from, is_set_back: set_back.is_some(), intervals })
    }

    /// The saved coverage without the intervals that this one has pruned. They stay in the
    /// database. What the clock was set back over is not pruned but wrong.
    #[must_use]
    pub fn unpruned_of(&self, saved: &Self) -> Self {
        let mut unpruned = saved.clone();
        let set_back = self.set_back.map(|(earliest, _)| earliest);
        if let Some(since) = self.own_since().into_iter().chain(set_back).min() {
            unpruned.intervals.drop_before(since);
        }
        unpruned
    }

    /// The part of `earlier` that is still proven. After a clock was set back, what
    /// shrinks must be saved before the heartbeats, and what grows after them. Time that
    /// the clock shows for the second time does not count as the same time.
    #[must_use]
    pub fn kept_of(&self, earlier: &Self) -> Self {
        let mut intervals = self.intervals.intersection(&earlier.intervals);
        if let Some((earliest, _)) = self.set_back {
            intervals.forget_after(earliest);
        }
        Self {
            intervals,
            others: self.others.clone(),
            unproven: self.unproven.clone(),
            others_width: self.others_width,
            beside_width: self.beside_width,
            others_cut: None,
            floor: None,
            causes: earlier.causes.clone(),
            grace: self.grace,
            broken: None,
            set_back: self.set_back,
        }
    }

    /// Records that `saved`, a copy of this coverage, was saved.
    pub fn is_saved(&mut self, saved: &Self) {
        if self.set_back == saved.set_back {
            self.set_back = None;
        }
        if self.others_cut == saved.others_cut {
            self.others_cut = None;
        }
    }

    /// Breaks the listening at `at`, because something received then was thrown away.
    pub fn interrupt(&mut self, at: DateTime<Utc>, cause: GapCause) {
        self.broken = Some((at, cause));
    }

    /// The gaps in the time from `from` until `until`, oldest first.
    pub fn gaps(&self, from: DateTime<Utc>, until: DateTime<Utc>) -> Vec<Gap> {
        let gaps = self.intervals().gaps(from, until).into_iter();
        let cause = |gap: &Interval| self.causes.get(&gap.until).copied();
        let mut gaps: Vec<_> = gaps.map(|gap| Gap::new(gap, cause(&gap))).collect();
        self.name_unproven(&mut gaps);
        gaps
    }

    /// Drops what no timeout up to `longest` needs. If a connection breaks all the time,
    /// keeps only the newest `count` intervals.
    pub fn prune(&mut self, longest: Duration, count: usize) {
        let mut needed = self.intervals().into_owned();
        needed.prune(longest.saturating_add(self.width().to_std().unwrap_or_default()));
        needed.keep_newest(count);
        if let Some(oldest) = needed.iter().next() {
            self.intervals.drop_before(oldest.from);
            self.others.drop_before(oldest.from);
            self.causes = self.causes.split_off(&oldest.from);
        }
    }

    /// The beginning of the oldest proof of this instance that is still kept.
    pub(super) fn own_since(&self) -> Option<DateTime<Utc>> {
        self.intervals.iter().next().map(|oldest| oldest.from)
    }

    /// The beginning of the oldest proof that is still kept.
    pub fn proven_since(&self) -> Option<DateTime<Utc>> {
        let others = self.others.iter().next().map(|oldest| oldest.from);
        self.own_since().into_iter().chain(others).min()
    }

    /// The instant before which a silence exceeds `silence`, and the width of the clocks.
    fn exceeded(&self, now: DateTime<Utc>, silence: Duration) -> Option<DateTime<Utc>> {
        let width = self.width().to_std().unwrap_or_default();
        self.intervals().cutoff(now, silence.saturating_add(width))
    }

    /// The cutoffs of the default timeout and of each timeout in `own`.
    pub fn cutoffs(&self, now: DateTime<Utc>, default: Duration, own: &[Duration]) -> Cutoffs {
        let cutoff = |timeout| Cutoff { timeout, instant: self.exceeded(now, timeout) };
        Cutoffs { default: cutoff(default), own: own.iter().copied().map(cutoff).collect() }
    }

    /// The cutoffs of lateness. A device is late if more than two thirds of its timeout were
    /// listened to since its last heartbeat, and it is not offline.
    ///
    /// A device with a heartbeat every third of its timeout is never late, even if one of them
    /// is lost. Devices of one timeout and that interval that fall silent together are all
    /// late once the first of them is offline.
    pub fn late_cutoffs(&self, now: DateTime<Utc>, default: Duration, own: &[Duration]) -> Cutoffs {
        let cutoff = |timeout: Duration| {
            let late = timeout - timeout / 3;
            Cutoff { timeout, instant: self.exceeded(now, late) }
        };
        Cutoffs { default: cutoff(default), own: own.iter().copied().map(cutoff).collect() }
    }

    /// The cutoffs of silence and of lateness at one moment.
    pub fn both_cutoffs(
        &self,
        now: DateTime<Utc>,
        default: Duration,
        own: &[Duration],
    ) -> BothCutoffs {
        let (silent, late) =
            (self.cutoffs(now, default, own), self.late_cutoffs(now, default, own));
        BothCutoffs { silent, late }
    }

    /// The listened time that is missing until a device with this timeout can be found
    /// silent. `None` if one can.
    pub fn missing_for(&self, timeout: Duration) -> Option<Duration> {
        let proven: TimeDelta = self.intervals().iter().map(Interval::length).sum();
        let timeout = TimeDelta::from_std(timeout).unwrap_or(TimeDelta::MAX);
        let missing = timeout.checked_add(&self.width()).unwrap_or(TimeDelta::MAX) - proven;
        (missing >= TimeDelta::zero()).then(|| missing.to_std().unwrap_or_default())
    }
}

/// The limit for one timeout: a device last seen before it is silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cutoff {
    /// The timeout of the devices that it applies to.
    pub timeout: Duration,
    /// The limit. `None` if there is not enough coverage to call a device silent.
    pub instant: Option<DateTime<Utc>>,
}

/// The cutoffs of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cutoffs {
    /// The cutoff for devices that have the default timeout.
    pub default: Cutoff,
    /// The cutoffs for devices with their own timeout, one for each timeout.
    pub own: Vec<Cutoff>,
}

impl Cutoffs {
    /// A device seen at or after this instant is not silent, whatever its timeout. `None`
    /// if no device is silent.
    pub fn latest(&self) -> Option<DateTime<Utc>> {
        let all = self.own.iter().chain([&self.default]);
        all.filter_map(|cutoff| cutoff.instant).max()
    }

    /// True if a device is silent by these cutoffs, or late by those of lateness. `timeout` is
    /// its own, if that is in effect.
    pub fn silences(
        &self,
        status: Status,
        last_seen_at: Option<DateTime<Utc>>,
        timeout: Option<Duration>,
    ) -> bool {
        let cutoff = match timeout {
            None => Some(&self.default),
            Some(own) => self.own.iter().find(|cutoff| cutoff.timeout == own),
        };
        let instant = cutoff.and_then(|cutoff| cutoff.instant);
        let is_before = last_seen_at.zip(instant).is_some_and(|(seen, cutoff)| seen < cutoff);
        status.on_silence() != status && is_before
    }
}

/// The cutoffs of silence and those of lateness at one moment, for the same timeouts in the same
/// order. No cutoff of silence is later than its cutoff of lateness, so what is not late is not
/// silent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BothCutoffs {
    silent: Cutoffs,
    late: Cutoffs,
}

impl BothCutoffs {
    /// The cutoffs of silence.
    pub fn silent(&self) -> &Cutoffs {
        &self.silent
    }

    /// The cutoffs of lateness.
    pub fn late(&self) -> &Cutoffs {
        &self.late
    }
}

#[cfg(test)]
mod tests {
    use super::intervals::tests::{at, interval, intervals};
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A coverage with confirmations every five seconds.
    struct Growing(Coverage);

    impl Growing {
        fn new() -> Self {
            Self(Coverage::new(5 * SECOND))
        }

        fn confirm(&mut self, since: i64, until: i64) -> Confirmed {
            self.0.confirm(at(since), at(until), GapCause::Disconnected)
        }

        fn proves(&self, list: &[(i64, i64)]) {
            assert_eq!(*self.0.intervals(), intervals(list));
        }
    }

    fn began(from: i64, until: i64, cause: GapCause) -> Confirmed {
        Confirmed::Began { gap: Some((interval(from, until), cause)) }
    }

    #[test]
    fn confirmations_that_follow_each_other_are_one_interval() {
        let mut coverage = Growing::new();
        assert_eq!(coverage.confirm(0, 2), Confirmed::Began { gap: None });
        for until in [7, 12, 27, 42] {
            assert_eq!(coverage.confirm(0, until), Confirmed::Extended);
        }
        coverage.proves(&[(0, 42)]);
    }

    #[test]
    fn the_time_between_confirmations_too_far_apart_is_a_gap() {
        let mut coverage = Growing::new();
        coverage.confirm(0, 10);
        assert_eq!(coverage.confirm(0, 26), began(10, 26, GapCause::NoEcho));
        coverage.proves(&[(0, 10), (26, 26)]);
    }

    #[test]
    fn a_new_connection_is_a_gap_however_short() {
        let mut coverage = Growing::new();
        coverage.confirm(0, 10);
        assert_eq!(coverage.confirm(11, 13), began(10, 11, GapCause::Disconnected));
        coverage.proves(&[(0, 10), (11, 13)]);
    }

    #[test]
    fn a_clock_set_back_drops_what_was_proven_after_the_new_time() {
        let mut coverage = Growing::new();
        coverage.confirm(0, 10);
        coverage.confirm(100, 105);
        let by = TimeDelta::seconds(102);
        assert_eq!(coverage.confirm(100, 3), Confirmed::SteppedBack { by });
        coverage.proves(&[(0, 3)]);
        assert_eq!(coverage.confirm(0, 8), Confirmed::Extended);
        assert_eq!(coverage.0.gaps(at(0), at(8)), [], "the causes after the new time are dropped");
    }

    #[test]
    fn an_interruption_before_the_clock_was_set_back_breaks_nothing_after_it() {
        let mut coverage = Growing::new();
        coverage.confirm(0, 10);
        coverage.0.interrupt(at(90), GapCause::Shed);
        // It may still happen.
        assert_eq!(coverage.confirm(0, 12), Confirmed::Extended);
        coverage.proves(&[(0, 10)]);
        coverage.0.forget_the_future(at(13));
        assert_eq!(coverage.confirm(0, 17), began(10, 13, GapCause::Shed));
        coverage.proves(&[(0, 10), (13, 17)]);
    }

    #[test]
    fn an_interruption_after_the_first_proof_of_a_clock_set_back_breaks_what_follows() {
        let mut coverage = Growing::new();
        coverage.confirm(0, 100);
        coverage.0.interrupt(at(99), GapCause::Shed);
        coverage.confirm(0, 98);
        assert_eq!(coverage.confirm(0, 103), began(98, 99, GapCause::Shed));
    }

    #[test]
    fn a_clock_set_back_into_a_gap_or_before_everything_leaves_proofs_of_no_length() {
        let mut coverage = Growing::new();
        coverage.confirm(0, 10);
        coverage.confirm(100, 105);
        coverage.confirm(100, 50);
        coverage.proves(&[(0, 10), (50, 50)]);
        let cause = Some(GapCause::ClockStep);
        assert_eq!(coverage.0.gaps(at(0), at(50)), [Gap::new(interval(10, 50), cause)]);
        coverage.confirm(-99, -7);
        coverage.proves(&[(-7, -7)]);
    }

    fn change(from: i64, intervals: &[Listened]) -> Option<Change> {
        Some(Change { from: at(from), is_set_back: false, intervals: intervals.to_vec() })
    }

    fn set_back(from: i64, intervals: &[Listened]) -> Option<Change> {
        change(from, intervals).map(|change| Change { is_set_back: true, ..change })
    }

    #[test]
    fn only_what_is_new_has_to_be_saved() {
        let mut coverage = Growing::new();
        coverage.confirm(0, 10);
        let saved = coverage.0.clone();
        assert_eq!(coverage.0.since(&saved), None);
        coverage.confirm(0, 15);
        coverage.confirm(20, 25);
        let extended = Listened { interval: interval(0, 15), after: None };
        let after = Some(GapCause::Disconnected);
        let begun = Listened { interval: interval(20, 25), after };
        assert_eq!(coverage.0.since(&saved), change(0, &[extended, begun]));
        let saved = coverage.0.clone();
        coverage.confirm(20, 12);
        let shortened = Listened { interval: interval(0, 12), after: None };
        assert_eq!(coverage.0.since(&saved), set_back(0, &[shortened]));
        let mut coverage = Growing(saved.clone());
        coverage.confirm(0, 15);
        // What came later is no longer true.
        assert_eq!(coverage.0.since(&saved), set_back(0, &[extended]));
    }

    #[test]
    fn a_clock_set_back_before_everything_replaces_everything_that_was_saved() {
        let mut coverage = Growing::new();
        coverage.confirm(100, 110);
        let saved = coverage.0.clone();
        coverage.confirm(50, 60);
        let kept = coverage.0.kept_of(&saved);
        assert_eq!(kept.since(&saved), set_back(60, &[]), "first, what is no longer true goes");
        let after = Some(GapCause::ClockStep);
        let begun = Listened { interval: interval(60, 60), after };
        assert_eq!(coverage.0.since(&kept), set_back(60, &[begun]), "then comes what is true now");
    }

    #[test]
    fn a_message_thrown_away_breaks_the_listening_at_that_instant() {
        let mut coverage = Growing::new();
        coverage.confirm(0, 10);
        coverage.0.interrupt(at(12), GapCause::Shed);
        assert_eq!(coverage.confirm(0, 11), Confirmed::Extended);
        coverage.proves(&[(0, 10)]);
        assert_eq!(coverage.confirm(0, 14), began(10, 12, GapCause::Shed));
        coverage.proves(&[(0, 10), (12, 14)]);
        assert_eq!(coverage.confirm(0, 19), Confirmed::Extended);
    }

    #[test]
    fn a_saved_coverage_is_restored_with_its_causes() {
        let mut coverage = Growing::new();
        coverage.confirm(0, 10);
        coverage.confirm(20, 25);
        let restored = Coverage::new(5 * SECOND).with(coverage.0.listened());
        assert_eq!(restored, coverage.0);
    }

    #[test]
    fn a_coverage_that_begins_at_an_instant_proves_nothing_before_it() {
        let mut coverage = Growing::new();
        coverage.confirm(0, 4);
        coverage.confirm(0, 10);
        coverage.0.begin_at(at(7));
        coverage.proves(&[(7, 10)]);
        coverage.0.begin_at(at(12));
        coverage.proves(&[]);
        coverage.confirm(0, 11);
        coverage.proves(&[]);
        coverage.confirm(0, 16);
        coverage.proves(&[(12, 16)]);
        coverage.0.begin_at(at(3));
        coverage.proves(&[(12, 16)]);
    }

    fn listened(from: i64, until: i64) -> Listened {
        Listened { interval: interval(from, until), after: None }
    }

    /// A coverage of which another instance has proven a part.
    fn beside(others: &[(i64, i64)], own: &[(i64, i64)]) -> Coverage {
        let own = own.iter().map(|&(from, until)| listened(from, until));
        Coverage { others: intervals(others), ..Coverage::new(5 * SECOND).with(own) }
    }

    #[test]
    fn what_stood_by_without_a_break_continues_what_was_found_without_a_gap() {
        let mut standby = Growing::new();
        standby.confirm(95, 108);
        let (merged, gaps) = standby.0.after(beside(&[(0, 100)], &[(-50, -20)]));
        assert_eq!(gaps, []);
        assert_eq!(*merged.intervals(), intervals(&[(-50, -20), (0, 108)]));
        assert_eq!(merged.proven_since(), Some(at(-50)));
        let mut merged = Growing(merged);
        assert_eq!(merged.confirm(95, 113), Confirmed::Extended);
        // Only its own is saved.
        let change = merged.0.since(&beside(&[(0, 100)], &[(-50, -20)])).expect("it has grown");
        assert_eq!(change.intervals, [listened(95, 113)]);
    }

    #[test]
    fn a_standby_that_began_too_late_leaves_a_gap() {
        let mut standby = Growing::new();
        standby.confirm(104, 108);
        let (_, gaps) = standby.0.after(beside(&[(0, 100)], &[]));
        let cause = Some(GapCause::NotRunning);
        assert_eq!(gaps, [Gap::new(interval(100, 104), cause)]);
    }

    #[test]
    fn the_first_proof_after_another_instance_has_a_gap_from_that_ones_last() {
        let mut coverage = Growing(beside(&[(0, 100)], &[(-50, -20)]));
        assert_eq!(coverage.confirm(103, 105), began(100, 103, GapCause::Disconnected));
        let mut coverage = Growing(beside(&[(0, 100)], &[]));
        assert_eq!(coverage.confirm(98, 100), Confirmed::Began { gap: None });
    }

    #[test]
    fn a_clock_set_back_forgets_what_others_have_proven_later_and_says_so_until_it_is_saved() {
        let mut coverage = Growing(beside(&[(0, 100)], &[(90, 120)]));
        coverage.confirm(90, 60);
        assert_eq!(*coverage.0.intervals(), intervals(&[(0, 60)]));
        assert_eq!(coverage.0.others_cut(), Some(at(60)));
        let saved = coverage.0.clone();
        coverage.0.is_saved(&saved);
        assert_eq!(coverage.0.others_cut(), None);
        let mut coverage = Growing(beside(&[(0, 100)], &[(-50, -20)]));
        coverage.0.forget_the_future(at(40));
        assert_eq!(coverage.0.others_cut(), Some(at(40)), "also if nothing of its own is later");
    }

    #[test]
    fn pruning_drops_what_neither_this_instance_nor_another_is_needed_for() {
        let mut coverage = beside(&[(0, 10), (20, 40)], &[(-50, -20), (35, 60)]);
        coverage.prune(30 * SECOND, 100);
        assert_eq!(*coverage.intervals(), intervals(&[(20, 60)]));
        coverage.prune(10 * SECOND, 100);
        assert_eq!(*coverage.intervals(), intervals(&[(20, 60)]));
    }

    use proptest::prelude::*;

    const TIMEOUT: Duration = Duration::from_secs(180);

    fn is_late(coverage: &Coverage, now: i64, seen: i64) -> bool {
        let cutoffs = coverage.late_cutoffs(at(now), TIMEOUT, &[]);
        cutoffs.silences(Status::Online, Some(at(seen)), None)
    }

    fn is_silent(coverage: &Coverage, now: i64, seen: i64) -> bool {
        let cutoffs = coverage.cutoffs(at(now), TIMEOUT, &[]);
        cutoffs.silences(Status::Online, Some(at(seen)), None)
    }

    #[test]
    fn a_device_is_late_by_two_thirds_of_its_own_timeout() {
        let mut coverage = Growing::new();
        for until in (0..=400).step_by(5) {
            coverage.confirm(0, until);
        }
        let own = Duration::from_secs(30);
        let cutoffs = coverage.0.late_cutoffs(at(400), TIMEOUT, &[own]);
        let is_late = |seen, timeout| cutoffs.silences(Status::Error, Some(at(seen)), timeout);
        assert_eq!([279, 280].map(|seen| is_late(seen, None)), [true, false]);
        assert_eq!([379, 380].map(|seen| is_late(seen, Some(own))), [true, false]);
        assert!(!is_late(0, Some(Duration::from_secs(31))), "its timeout was set since");
        for status in [Status::Offline, Status::Provisioning] {
            assert!(!cutoffs.silences(status, Some(at(0)), None));
        }
        assert!(!cutoffs.silences(Status::Online, None, None));
    }

    #[test]
    fn a_silent_device_can_be_found_once_its_timeout_was_listened_to() {
        let mut coverage = Growing::new();
        assert_eq!(coverage.0.missing_for(TIMEOUT), Some(TIMEOUT));
        for until in (0..=100).step_by(5) {
            coverage.confirm(0, until);
        }
        assert_eq!(coverage.0.missing_for(TIMEOUT), Some(Duration::from_secs(80)));
        for until in (100..=190).step_by(5) {
            coverage.confirm(0, until);
        }
        assert_eq!(coverage.0.missing_for(TIMEOUT), None);
        assert!(coverage.0.cutoffs(at(190), TIMEOUT, &[]).default.instant.is_some());
    }

    proptest! {
        #[test]
        fn a_device_that_is_heard_every_third_of_its_timeout_is_never_late(
            list in proptest::collection::vec((0_i64..2000, 1_i64..300), 0..12),
            offset in 0_i64..60,
            now in 60_i64..2400,
        ) {
            let listened = list.into_iter().map(|(from, length)| Listened {
                interval: interval(from, from + length),
                after: None,
            });
            let coverage = Coverage::new(5 * SECOND).with(listened);
            let last = offset + (now - offset) / 60 * 60;
            // Also if one of its heartbeats was lost.
            prop_assert!(!is_late(&coverage, now, last));
            prop_assert!(!is_late(&coverage, now, last - 60));
        }

        #[test]
        fn devices_that_fall_silent_together_are_late_once_the_first_is_offline(
            list in proptest::collection::vec((0_i64..2000, 1_i64..300), 0..12),
            first in 0_i64..2000,
            after in 0_i64..60,
            now in 0_i64..2400,
        ) {
            let listened = list.into_iter().map(|(from, length)| Listened {
                interval: interval(from, from + length),
                after: None,
            });
            let coverage = Coverage::new(5 * SECOND).with(listened);
            if is_silent(&coverage, now, first) {
                prop_assert!(is_late(&coverage, now, first + after));
            }
            prop_assert!(!is_silent(&coverage, now, first) || is_late(&coverage, now, first));
        }

        #[test]
        fn no_cutoff_of_silence_is_later_than_that_of_lateness(
            own_proofs in proptest::collection::vec((0_i64..2000, 1_i64..300), 0..12),
            others in proptest::collection::vec((0_i64..2000, 1_i64..300), 0..12),
            widths in (0_i64..30_000, 0_i64..30_000),
            timeouts in proptest::collection::vec(1_u64..900, 0..6),
            default in 1_u64..2_000_000,
            now in 0_i64..2400,
        ) {
            let proven = |list: Vec<(i64, i64)>| {
                list.into_iter().map(|(from, length)| interval(from, from + length))
            };
            let listened = proven(own_proofs).map(|interval| Listened { interval, after: None });
            let coverage = Coverage {
                others: proven(others).collect(),
                others_width: TimeDelta::milliseconds(widths.0),
                beside_width: TimeDelta::milliseconds(widths.1),
                ..Coverage::new(5 * SECOND).with(listened)
            };
            let longest = Duration::from_secs(u64::MAX);
            let own = timeouts.into_iter().map(Duration::from_secs).chain([longest]);
            let own: Vec<_> = own.collect();
            let both = coverage.both_cutoffs(at(now), Duration::from_millis(default), &own);
            prop_assert_eq!(both.silent.own.len(), both.late.own.len());
            let silent = both.silent.own.iter().chain([&both.silent.default]);
            for (silent, late) in silent.zip(both.late.own.iter().chain([&both.late.default])) {
                prop_assert_eq!(silent.timeout, late.timeout);
                // No instant is earlier than any.
                prop_assert!(silent.instant <= late.instant, "{silent:?} {late:?}");
            }
        }
    }
}
