//! heartbeatd's tables as Rust types.
//!
//! Times are whole milliseconds since the Unix epoch, in UTC, because integers compare
//! exactly on every database. RFC 3339 texts with fractions of varying length do not.

pub mod delivery;
pub mod device;
pub mod device_removal;
pub mod listener;
pub mod listening_interval;
pub mod status_transition;

mod status;
pub use status::Status;
