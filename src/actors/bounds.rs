//! How much is done at once, and how much is kept.

use std::time::Duration;

use crate::domain::coverage::MAX_INTERVALS;
use crate::domain::delivery::MAX_PAGE;

/// The sizes of portions and pages, and what else bounds memory and the length of a
/// transaction. They are no settings: a test lowers them to meet every boundary with a
/// small fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// How many heartbeats one transaction writes: what a flush needs besides the
    /// heartbeats themselves does not grow with their number.
    pub written_at_once: usize,
    /// How many devices a check takes in one go from the database. Bounds the memory of
    /// a check, however many are silent.
    pub stale_at_once: usize,
    /// How many devices a check marks or clamps in one transaction, between which
    /// flushes get their turn.
    pub marked_at_once: usize,
    /// How many old transitions, and how many listening intervals, a check deletes at
    /// most; at one check a minute that is more than ten million a day.
    pub pruned_at_once: u64,
    /// How many alerts are delivered at once at most.
    pub delivered_at_once: usize,
    /// How many listening intervals are kept at most.
    pub max_intervals: usize,
    /// How much coverage is kept even if no timeout needs it now: a longer one may be
    /// set later.
    pub coverage_kept: Duration,
    /// How long the clock must have run undisturbed before history is deleted by it: one
    /// that is wrong after a start without a battery or a network is set within minutes.
    pub steady_before_pruning: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            written_at_once: 10_000,
            stale_at_once: 100_000,
            marked_at_once: 10_000,
            pruned_at_once: 10_000,
            delivered_at_once: MAX_PAGE,
            max_intervals: MAX_INTERVALS,
            coverage_kept: Duration::from_secs(24 * 60 * 60),
            steady_before_pruning: Duration::from_secs(60 * 60),
        }
    }
}
