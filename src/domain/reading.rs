//! A reading of both clocks.

use std::time::Instant;

use chrono::{DateTime, Utc};

/// Both clocks of the machine, read together.
///
/// A wall clock can be set, a monotonic one cannot. Only two readings tell whether
/// the wall clock was set between them; a wall time and a monotonic time that were
/// read at different moments tell nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The wall clock, in whole milliseconds.
    pub wall: DateTime<Utc>,
    /// The monotonic clock. It stands still while the machine sleeps.
    pub monotonic: Instant,
}
