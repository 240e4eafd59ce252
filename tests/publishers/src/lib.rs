//! Clients that publish what tests and benchmarks need.
//!
//! - [`Devices`]: a fleet as in the field, by paho.
//! - [`flood()`]: many heartbeats at QoS 1, all of them acknowledged, by paho.
//! - [`Fleet`]: a fleet as fast as possible, in raw packets.
//! - [`Publisher`]: a fleet at equal intervals, in raw packets.
//! - [`RawClient`]: single packets that a library would not send.

pub mod packet;

mod devices;
mod fleet;
mod flood;
mod heartbeat;
mod publisher;
mod raw_client;

pub use devices::Devices;
pub use fleet::{Fleet, last_of};
pub use flood::flood;
pub use heartbeat::{id, uptime};
pub use publisher::Publisher;
pub use raw_client::RawClient;
