//! Where the time comes from.
//!
//! Whoever needs the time is given a [`Clock`], so a test can stop, move or
//! turn it back. Every instant in the service has whole milliseconds, the
//! resolution of the database: what was written compares equal to what is read.

use chrono::{DateTime, SubsecRound, Utc};

/// A source of the current time.
pub type Clock = fn() -> DateTime<Utc>;

/// The machine's wall clock, in whole milliseconds.
pub fn wall_clock() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(3)
}
