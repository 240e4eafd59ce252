//! A log of what comes in batches of any size.

use std::time::Duration;

use log::Level;

use super::line_budget::LineBudget;

/// How many items of batches are logged one by one, and within which time:
/// a fleet that changes all the time writes five lines a second. The rest go to `debug`.
const LOGGED_PER_BATCH: u32 = 20;
const LOGGED_WITHIN: Duration = Duration::from_secs(4);

/// Logs what comes in batches of any size: a few lines, the rest at `debug`,
/// and then how many there were.
#[derive(Clone, Debug)]
pub struct BatchLog {
    target: &'static str,
    level: Level,
    what: &'static str,
    items: LineBudget,
    counts: LineBudget,
}

impl BatchLog {
    /// A log of `what`, such as "status changes", at `level`.
    pub fn new(target: &'static str, level: Level, what: &'static str) -> Self {
        let items = LineBudget::of(target, what, LOGGED_PER_BATCH, LOGGED_WITHIN);
        let counts = LineBudget::new(target, format!("counts of {what}"));
        Self { target, level, what, items, counts }
    }

    /// Logs the items of a batch; `line` writes one of them at the level it is given.
    pub fn log<T>(&self, batch: &[T], line: impl Fn(Level, &T)) {
        let mut shown = 0;
        for item in batch {
            let admitted = self.items.admits();
            shown += usize::from(admitted);
            line(if admitted { self.level } else { Level::Debug }, item);
        }
        let (count, &Self { target, level, what, .. }) = (batch.len(), self);
        if shown < count {
            self.counts.spend(|| {
                log::log!(target: target, level, count; "{what}: {shown} are shown, the rest at debug");
            });
        }
    }
}
