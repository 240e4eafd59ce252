//! MQTT: the client that listens, and the broker in this process.
//!
//! Nothing of MQTT leaves this module but [`Event`]s.

mod client;
#[cfg(feature = "embedded-broker")]
mod embedded;
mod inbox;
mod topic;

pub use client::{Broker, Client, ClientError};
#[cfg(feature = "embedded-broker")]
pub use embedded::{EmbeddedBroker, EmbeddedError, THREAD_NAME as EMBEDDED_BROKER_THREAD};
pub use inbox::{Event, Inbox};
pub use topic::{InvalidTopicPattern, TopicPattern};

/// Where the service publishes to itself; a client id is one topic level.
pub fn echo_topic(client_id: &str) -> String {
    format!("heartbeatd/{client_id}/echo")
}
