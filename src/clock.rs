//! The source of time.
//!
//! Everything that needs the time is given a [`Clock`], so a test can stop, move or
//! turn it back. Every instant in the service has whole milliseconds, the
//! resolution of the database: a time that was written compares equal to the same
//! time read back.

use std::time::Instant;

use chrono::{SubsecRound, Utc};

pub use crate::domain::Reading;

/// A source of the current time.
pub type Clock = fn() -> Reading;

/// The machine's clocks.
#[expect(clippy::disallowed_methods, reason = "this is the place")]
pub fn system_clock() -> Reading {
    Reading { wall: Utc::now().trunc_subsecs(3), monotonic: Instant::now() }
}
