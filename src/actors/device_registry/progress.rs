//! Notices work on the database that gets no further, because a statement that waits does
//! not report it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The flushes and checks that are running.
#[derive(Debug, Default)]
pub(super) struct Progress(Mutex<Vec<Working>>);

#[derive(Debug)]
struct Working {
    what: &'static str,
    last_step: Instant,
    number: u64,
}

/// Work that has got no further for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stall {
    /// The work that was asked for.
    pub(super) what: &'static str,
    /// The time since its last step.
    pub(super) lasts: Duration,
}

/// A piece of work. It ends when this is dropped.
pub(super) struct Work {
    progress: Arc<Progress>,
    number: u64,
}

impl Progress {
    /// Notes that a piece of work begins.
    pub(super) fn begin(self: &Arc<Self>, what: &'static str) -> Work {
        let mut works = self.0.lock();
        let number = works.last().map_or(0, |last| last.number + 1);
        works.push(Working { what, last_step: Instant::now(), number });
        Work { progress: Arc::clone(self), number }
    }

    /// The work that has stood still for the longest time, if any is running.
    pub(super) fn longest_wait(&self, now: Instant) -> Option<Stall> {
        let works = self.0.lock();
        let waits = works.iter().map(|work| Stall {
            what: work.what,
            lasts: now.saturating_duration_since(work.last_step),
        });
        waits.max_by_key(|stall| stall.lasts)
    }
}

impl Work {
    /// Notes that a step of it is done.
    pub(super) fn step(&self) {
        let mut works = self.progress.0.lock();
        if let Some(work) = works.iter_mut().find(|work| work.number == self.number) {
            work.last_step = Instant::now();
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.progress.0.lock().retain(|work| work.number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_stands_still_from_its_last_step_until_it_ends() {
        let progress = Arc::new(Progress::default());
        let began = Instant::now();
        let longest = |after| {
            let stall = progress.longest_wait(began + Duration::from_secs(after));
            stall.map(|stall| (stall.what, stall.lasts.as_secs()))
        };
        assert_eq!(longest(60), None);
        let flush = progress.begin("flush");
        let check = progress.begin("check");
        assert!(matches!(longest(60), Some((_, 59..=60))));
        drop(flush);
        assert!(matches!(longest(60), Some(("check", 59..=60))));
        check.step();
        drop(check);
        assert_eq!(longest(60), None);
    }
}
