//! MQTT: the client that listens, and the broker in this process.
//!
//! Nothing of MQTT leaves this module but [`Event`]s.

mod client;
mod connection;
mod diagnosis;
#[cfg(feature = "embedded-broker")]
mod embedded;
mod inbox;
mod reason;
mod topic;

pub use client::{Broker, Client};
pub use connection::{ClientError, Connection, Granted};
#[cfg(feature = "embedded-broker")]
pub(crate) use embedded::check_users_file;
#[cfg(feature = "embedded-broker")]
pub use embedded::{EmbeddedBroker, EmbeddedError, THREAD_NAME as EMBEDDED_BROKER_THREAD};
pub use inbox::{Event, Inbox};
pub use topic::{InvalidTopicPattern, TopicPattern};

use crate::domain::{EchoIgnored, EchoToken};

/// The files that the client has open: its connection, paho's waker, and the probe that
/// finds out why there is no connection.
pub(crate) const CLIENT_OPEN_FILES: u64 = 4;

/// The files that the embedded broker has open for this service: its listener, and its end
/// of the client's connection.
#[cfg(feature = "embedded-broker")]
pub(crate) const EMBEDDED_OPEN_FILES: u64 = 2;

/// Where the service publishes to itself unless told otherwise; a client id is one
/// topic level.
pub fn echo_topic(client_id: &str) -> String {
    format!("heartbeatd/{client_id}/echo")
}

/// A token that nobody else can guess.
///
/// # Errors
///
/// If the operating system has no random numbers.
pub fn random_token() -> std::io::Result<EchoToken> {
    let mut bits = [0; 16];
    openssl::rand::rand_bytes(&mut bits)?;
    Ok(EchoToken::new(u128::from_ne_bytes(bits)))
}

/// Says that somebody else publishes to the echo topic.
pub(crate) fn warn_of_foreign_echo(topic: &str, why: EchoIgnored) {
    log::warn!(
        target: "mqtt_ingest", topic, reason = why.as_str();
        "ignored an echo that is not this service's: somebody else publishes to its echo topic; \
         only this client should be allowed to"
    );
}
