//! A log for events that come in batches of any size.

use std::time::Duration;

use log::Level;

use super::line_budget::LineBudget;

/// The number of items that are logged one by one within [`LOGGED_WITHIN`]. So a fleet
/// that changes all the time writes five lines a second. The rest go to `debug`.
const LOGGED_PER_BATCH: u32 = 20;
const LOGGED_WITHIN: Duration = Duration::from_secs(4);

/// Logs batches of any size: the first items, the rest at `debug`, and then their number.
#[derive(Clone, Debug)]
pub struct BatchLog {
    target: &'static str,
    level: Level,
    what: &'static str,
    items: LineBudget,
    counts: LineBudget,
}

impl BatchLog {
    /// Creates a log of `what`, such as "status changes", at `level`.
    pub fn new(target: &'static str, level: Level, what: &'static str) -> Self {
        let items = LineBudget::of(target, what, LOGGED_PER_BATCH, LOGGED_WITHIN);
        let counts = LineBudget::new(target, format!("counts of {what}"));
        Self { target, level, what, items, counts }
    }

    /// Logs the items of a batch. `line` writes one of them at the given level.
    pub fn log<T>(&self, batch: &[T], line: impl Fn(Level, &T)) {
        let mut shown = 0;
        for item in batch {
            let admitted = self.items.admits();
            shown += usize::from(admitted);
            line(if admitted { self.level } else { Level::Debug }, item);
        }
        let (count, &Self { target, level, what, .. }) = (batch.len(), self);
        if shown < count {
            let told =
                if shown == 0 { "all of them".to_owned() } else { format!("all but {shown}") };
            self.counts.spend(|| {
                log::log!(target: target, level, count; "{what}: {told} are logged at debug");
            });
        }
    }
}
