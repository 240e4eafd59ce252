//! The source of time.
//!
//! Code that needs the time takes a [`Clock`], so that a test can stop it, move it or set
//! it back. Every instant in the service has whole milliseconds, the resolution of the
//! database, so that a time read back equals the time that was written.

use std::time::Instant;

use chrono::{SubsecRound, Utc};

pub use crate::domain::Reading;

/// A source of the current time.
pub type Clock = fn() -> Reading;

/// Reads the machine's clocks.
#[expect(clippy::disallowed_methods, reason = "this is the place")]
pub fn system_clock() -> Reading {
    Reading { wall: Utc::now().trunc_subsecs(3), monotonic: Instant::now() }
}
