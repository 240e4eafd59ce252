//! What heartbeats, statuses and silence are: pure rules, no I/O, no clock.
//!
//! Time comes in as an argument, so every rule here can be tested by stating
//! instants.

pub mod coverage;
pub mod device_id;
pub mod heartbeat;
pub mod status;

pub use coverage::{Confirmed, Coverage, Cutoffs, Interval, Intervals};
pub use device_id::DeviceId;
pub use heartbeat::{Heartbeat, Rejection};
pub use status::{Status, Transition};
