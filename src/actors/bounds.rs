//! Bounds on how much is done at once, and on how much is kept.

use std::time::Duration;

use crate::domain::coverage::MAX_INTERVALS;
use crate::domain::delivery::MAX_PAGE;

/// The sizes of portions and pages, and the other bounds on memory and on the length of a
/// transaction. They are not configurable. Only tests lower them, to meet every boundary with
/// a small fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The maximum number of heartbeats that one transaction writes. It keeps the memory that
    /// a flush needs, besides the heartbeats themselves, from growing with their number.
    pub written_at_once: usize,
    /// The maximum number of devices that a check reads from the database at once. It bounds
    /// the memory of a check, however many devices are silent.
    pub stale_at_once: usize,
    /// The maximum number of devices that a check marks or clamps in one transaction. Flushes
    /// get their turn between two transactions.
    pub marked_at_once: usize,
    /// The maximum number of old transitions that a check deletes, and of listening
    /// intervals. At one check a minute that is more than ten million a day.
    pub pruned_at_once: u64,
    /// The maximum number of alerts that are delivered at once.
    pub delivered_at_once: usize,
    /// The maximum number of listening intervals that are kept.
    pub max_intervals: usize,
    /// The coverage that is kept even if no timeout needs it now, because a longer timeout
    /// may be set later.
    pub coverage_kept: Duration,
    /// The time for which the clock must have run undisturbed before history is deleted by
    /// it. A clock that is wrong after a start without a battery or a network is set
    /// within minutes.
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
