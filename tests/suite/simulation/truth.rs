//! The truth, in milliseconds since the beginning, whatever a clock shows.

use std::collections::BTreeMap;

/// The largest step of the clock that may go unnoticed, according to
/// `docs/reliability.md`.
const UNNOTICED: i64 = 500;

/// The smallest step that is noticed even beside some that are not.
const NOTICED: i64 = 6 * UNNOTICED;

/// A stretch of time, without its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    pub from: i64,
    pub until: i64,
}

/// The times at which heartbeats would have reached the service, and at which they did.
///
/// A crash loses what the service was handed until it is written. Where it is unknown
/// whether it was written, the truth is whatever makes a device's silence longer.
#[derive(Debug, Default)]
pub struct Truth {
    /// The time whose heartbeats reached the service and can no longer be lost.
    listened: Vec<Stretch>,
    /// The time that a crash would lose, unless it is among the first `perhaps`.
    handed: Vec<Stretch>,
    perhaps: usize,
    /// The time at which each device was last heard, as far as it can no longer be lost.
    heard: BTreeMap<usize, i64>,
    /// The same, as far as a crash would lose it.
    handed_heard: Vec<(usize, i64)>,
    /// The time at which it was really last heard, whether the service still knows it or
    /// not.
    last_heard: BTreeMap<usize, i64>,
    flushing: Option<Flushing>,
    /// The steps of the clock, each with its size, negative if the clock was set back.
    steps: Vec<(i64, i64)>,
}

/// The contents of a flush.
#[derive(Clone, Copy, Debug)]
struct Flushing {
    stretches: usize,
    heard: usize,
    /// The time at which it began.
    at: i64,
    /// The value of `perhaps` at that time.
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

    /// Takes back what was handed over last, because some unknown part of it was thrown
    /// away.
    pub fn unhand(&mut self, heard: usize, from: i64) {
        self.handed_heard.truncate(heard);
        self.handed.retain(|stretch| stretch.from < from);
        if let Some(last) = self.handed.last_mut() {
            last.until = last.until.min(from);
        }
    }

    /// Notes that a transaction of a flush begins. If it is not the first one, those
    /// before it were not the last, unless this is another flush, which only `surely`
    /// rules out.
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

    /// Notes that the flush is done, without a transaction if there was nothing to write.
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

    /// Notes that a transaction of the flush was committed without the service knowing
    /// it.
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

    /// The time at which the device was last heard, unless a flush does not know that
    /// yet. Where a crash or a full store has lost it, the service may look for a device
    /// that has been dead for longer.
    pub fn dead_since(&self, device: usize) -> Option<i64> {
        let last = self.last_heard.get(&device).copied();
        last.filter(|_| self.heard_again(device).is_none())
    }

    /// The time at which the device was heard again, if a flush does not know that yet.
    pub fn heard_again(&self, device: usize) -> Option<i64> {
        let again = self.handed_heard.iter().find(|(heard, _)| *heard == device);
        again.map(|(_, at)| *at)
    }

    /// The time from `from` until `until` in which the service listened.
    pub fn listened(&self, from: i64, until: i64) -> i64 {
        let clipped =
            |stretch: &Stretch| (stretch.until.min(until) - stretch.from.max(from)).max(0);
        let certain = self.listened.iter().rev().take_while(|stretch| stretch.until > from);
        certain.map(clipped).sum::<i64>() + self.handed.iter().map(clipped).sum::<i64>()
    }

    /// The time until which listening is certain.
    pub fn listened_until(&self) -> i64 {
        self.listened.last().map_or(0, |stretch| stretch.until)
    }

    /// The most by which the clock may have been off unnoticed since `from`. What was
    /// proven before it was set back by so little reaches beyond that moment as well.
    pub fn unnoticed(&self, from: i64) -> i64 {
        let since = self.steps.iter().filter(|(at, _)| *at >= from - NOTICED);
        since.map(|(_, by)| by.abs().min(UNNOTICED)).sum()
    }

    /// The total amount by which the clock was set since `from`.
    pub fn set_by(&self, from: i64) -> i64 {
        self.steps.iter().filter(|(at, _)| *at >= from - NOTICED).map(|(_, by)| by.abs()).sum()
    }

    /// True if the clock shows a different time than if it had not been set after `from`
    /// and before `until`. It may have been wrong for a while in between unnoticed. A
    /// step in the millisecond `from` may have come before the clock was read in it.
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

    /// The time at which the clock was last set before `now` by more than may go
    /// unnoticed.
    pub fn last_noticed(&self, now: i64) -> Option<i64> {
        let noticed = self.steps.iter().filter(|(at, by)| *at < now && by.abs() >= NOTICED);
        noticed.map(|(at, _)| *at).max()
    }

    pub fn last_step(&self) -> Option<i64> {
        self.steps.last().map(|(at, _)| *at)
    }
}
