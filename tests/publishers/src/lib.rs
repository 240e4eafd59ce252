//! Clients that publish what tests and benchmarks need.
//!
//! - [`Devices`]: a fleet as in the field, by paho.
//! - [`flood()`]: many heartbeats at QoS 1, all of them acknowledged, by paho.
//! - [`Publisher`]: a fleet as fast as possible, in raw packets.
//! - [`RawClient`]: single packets that a library would not send.

pub mod packet;

mod devices;
mod flood;
mod publisher;
mod raw_client;

pub use devices::Devices;
pub use flood::flood;
pub use publisher::{Publisher, SECONDS_PER_ROUND, id, last_of};
pub use raw_client::RawClient;
