//! What is really so, in milliseconds since the beginning, whatever a clock shows.

use std::collections::BTreeMap;

/// A step of the clock up to this may go unnoticed, `docs/reliability.md` says.
const UNNOTICED: i64 = 500;

/// A step of at least this is noticed, also beside some that are not.
const NOTICED: i64 = 6 * UNNOTICED;

/// A stretch of time, without its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    pub from: i64,
    pub until: i64,
}

/// When heartbeats would have reached the service, and when they did.
///
/// What the service was handed is lost by a crash until it is written. Where it is not
/// known if it was, the truth is what makes a device's silence longer.
#[derive(Debug, Default)]
pub struct Truth {
    /// The time whose heartbeats reached the service and cannot be lost any more.
    listened: Vec<Stretch>,
    /// And that which a crash would lose, unless it is among the first `perhaps`.
    handed: Vec<Stretch>,
    perhaps: usize,
    /// When each device was last heard, so that it cannot be lost any more.
    heard: BTreeMap<usize, i64>,
    /// And where a crash would lose that.
    handed_heard: Vec<(usize, i64)>,
    /// And when it really was, whether the service still knows that or not.
    last_heard: BTreeMap<usize, i64>,
    flushing: Option<Flushing>,
    /// The steps of the clock, and how long each was; below zero, it was set back.
    steps: Vec<(i64, i64)>,
}

/// What a flush has taken.
#[derive(Clone, Copy, Debug)]
struct Flushing {
    stretches: usize,
    heard: usize,
    /// When it began.
    at: i64,
    /// What `perhaps` was then.
    perhaps: usize,
}

impl Truth {
    pub fn is_handed(&mut self, stretch: Stretch) {
        let apart = self.flushing.is_some() || self.perhaps == self.handed.len();
        if let Some(last) = self.handed.last_mut()
            && last.until == stretch.from
            && !apart
        {
            last.until = stretch.until;
            return;
        }
        self.handed.push(stretch);
    }

    pub fn is_heard(&mut self, device: usize, at: i64) {
        self.handed_heard.push((device, at));
        self.last_heard.insert(device, at);
    }

    pub fn count_heard(&self) -> usize {
        self.handed_heard.len()
    }

    /// Some of what was handed over last was thrown away, nobody knows what.
    pub fn unhand(&mut self, heard: usize, from: i64) {
        self.handed_heard.truncate(heard);
        self.handed.retain(|stretch| stretch.from < from);
        if let Some(last) = self.handed.last_mut() {
            last.until = last.until.min(from);
        }
    }

    /// A transaction of a flush begins. If it is not the first one, those before were not
    /// the last; unless this is another flush, which only `surely` rules out.
    pub fn portion_begins(&mut self, now: i64, surely: bool) {
        let (stretches, heard) = (self.handed.len(), self.handed_heard.len());
        let begun = Flushing { stretches, heard, at: now, perhaps: self.perhaps };
        let Some(first) = self.flushing else {
            self.flushing = Some(begun);
            return;
        };
        if surely && self.last_step() < Some(first.at) {
            self.perhaps = first.perhaps;
        } else {
            self.flushing = Some(Flushing { stretches, ..first });
        }
    }

    /// The flush is through; without a transaction if there was nothing to write.
    pub fn is_flushed(&mut self) {
        let all = (self.handed.len(), self.handed_heard.len());
        let taken = self.flushing.take().map(|taken| (taken.stretches, taken.heard));
        let (stretches, heard) = taken.unwrap_or(all);
        self.listened.extend(self.handed.drain(..stretches));
        self.perhaps = self.perhaps.saturating_sub(stretches);
        self.heard.extend(self.handed_heard.drain(..heard));
    }

    pub fn flush_failed(&mut self) {
        self.flushing = None;
    }

    /// A transaction of the flush was committed, and the service does not know.
    pub fn may_be_flushed(&mut self) {
        if let Some(Flushing { stretches, .. }) = self.flushing {
            self.perhaps = self.perhaps.max(stretches);
        }
    }

    pub fn crash(&mut self) {
        self.flushing = None;
        self.listened.extend(self.handed.drain(..).take(self.perhaps));
        self.perhaps = 0;
        self.handed_heard.clear();
    }

    pub fn clock_steps(&mut self, now: i64, by: i64) {
        self.steps.push((now, by));
    }

    pub fn heard(&self, device: usize) -> Option<i64> {
        self.heard.get(&device).copied()
    }

    /// When the device was last heard, unless a flush does not know that yet. Where a crash
    /// or a full store has lost it, the service may look for a device that is dead for longer.
    pub fn dead_since(&self, device: usize) -> Option<i64> {
        let last = self.last_heard.get(&device).copied();
        last.filter(|_| self.heard_again(device).is_none())
    }

    /// When the device was heard again, if a flush does not know that yet.
    pub fn heard_again(&self, device: usize) -> Option<i64> {
        let again = self.handed_heard.iter().find(|(heard, _)| *heard == device);
        again.map(|(_, at)| *at)
    }

    /// How much was listened to from `from` until `until`.
    pub fn listened(&self, from: i64, until: i64) -> i64 {
        let clipped =
            |stretch: &Stretch| (stretch.until.min(until) - stretch.from.max(from)).max(0);
        let certain = self.listened.iter().rev().take_while(|stretch| stretch.until > from);
        certain.map(clipped).sum::<i64>() + self.handed.iter().map(clipped).sum::<i64>()
    }

    /// Until when is known for sure.
    pub fn listened_until(&self) -> i64 {
        self.listened.last().map_or(0, |stretch| stretch.until)
    }

    /// How far a clock may have been off since `from` without being noticed. What was proven
    /// before it was set back by so little reaches beyond that moment as well.
    pub fn unnoticed(&self, from: i64) -> i64 {
        let since = self.steps.iter().filter(|(at, _)| *at >= from - NOTICED);
        since.map(|(_, by)| by.abs().min(UNNOTICED)).sum()
    }

    /// By how much the clock was set since `from`, in all.
    pub fn set_by(&self, from: i64) -> i64 {
        self.steps.iter().filter(|(at, _)| *at >= from - NOTICED).map(|(_, by)| by.abs()).sum()
    }

    /// True if the clock shows something else than it would if it had not been set after
    /// `from` and before `until`. That it was wrong for a while in between may go unnoticed.
    /// A step in the millisecond `from` may have been before the clock was read in it.
    fn is_set(&self, from: i64, until: i64) -> bool {
        let steps = self.steps.iter().filter(|(at, _)| from < *at && *at < until);
        steps.map(|(_, by)| by).sum::<i64>().abs() >= NOTICED
    }

    /// True if the clock has shown the right time at `until` and at a moment from `begun` until
    /// `since`, as far as two readings can tell. Two steps of which one makes up for the
    /// other may lie on both sides of `since`.
    pub fn is_steady(&self, begun: i64, since: i64, until: i64) -> bool {
        let before_steps = self.steps.iter().map(|(at, _)| at - 1);
        let mut moments = before_steps.filter(|at| (begun..since).contains(at)).chain([since]);
        begun <= since && moments.any(|from| !self.is_set(from, until))
    }

    /// When the clock was last set before `now`, by more than may go unnoticed.
    pub fn last_noticed(&self, now: i64) -> Option<i64> {
        let noticed = self.steps.iter().filter(|(at, by)| *at < now && by.abs() >= NOTICED);
        noticed.map(|(at, _)| *at).max()
    }

    pub fn last_step(&self) -> Option<i64> {
        self.steps.last().map(|(at, _)| *at)
    }
}
