//! The MQTT client that listens, those through which echoes enter elsewhere, and the one that publishes for `heartbeatd simulate`.
//!
//! Only [`Event`]s leave this module; the rest of the crate knows nothing about MQTT.

mod broker;
mod client;
mod connection;
mod diagnosis;
mod entries;
mod fencer;
mod publisher;
mod reason;

pub use crate::inbox::{Event, Inbox};
pub use broker::Broker;
pub use client::Client;
pub use connection::{ClientError, Connection, Granted};
pub use fencer::{EndSession, Fencer};
pub(crate) use publisher::Publisher;

use std::time::Duration;

use crate::domain::{EchoIgnored, EchoToken};
use crate::logging::line_budget::LineBudget;

/// The number of files that the client has open: its connection, paho's waker, and the
/// probe that diagnoses a failed connection.
pub(crate) const CLIENT_OPEN_FILES: u64 = 4;

/// The number of files that each other node of `mqtt.entry_urls` takes: its connection, and the
/// probe that diagnoses why there is none.
pub(crate) const ENTRY_OPEN_FILES: u64 = 2;

/// Returns a token that no other client can guess.
///
/// # Errors
///
/// If the operating system has no random numbers.
pub fn random_token() -> std::io::Result<EchoToken> {
    let mut bits = [0; 16];
    openssl::rand::rand_bytes(&mut bits)?;
    Ok(EchoToken::new(u128::from_ne_bytes(bits)))
}

/// The budget of warnings of [`warn_of_foreign_echo`]. Another instance may publish an echo every few
/// seconds for ever.
pub(crate) fn foreign_echoes(kind: &'static str) -> LineBudget {
    LineBudget::of("mqtt_ingest", kind, 1, Duration::from_secs(60))
}

/// Warns that another client publishes to the echo topic.
pub(crate) fn warn_of_foreign_echo(topic: &str, why: EchoIgnored) {
    log::warn!(
        target: "mqtt_ingest", topic, reason = why.as_str();
        "ignored an echo that is not this service's: another client publishes to its echo topic. \
         Another instance needs an mqtt.echo_topic of its own, and nobody else should be allowed to"
    );
}
