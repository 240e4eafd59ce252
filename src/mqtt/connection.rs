//! What the ingest needs of an MQTT client; a test can supply a broker of its own.

use std::sync::Arc;

use futures::future::LocalBoxFuture;

use super::client::PATIENCE;
use super::inbox::Inbox;
use crate::domain::EchoToken;

/// A connection to a broker that is made again whenever it is lost.
///
/// [`Client`](super::Client) is the real one. What happens on it goes into the inbox.
pub trait Connection {
    /// What happens, in order.
    fn inbox(&self) -> Arc<Inbox>;

    /// The address of the broker, for the log.
    fn broker(&self) -> &str;

    /// The name by which the broker knows this client.
    fn client_id(&self) -> &str;

    /// What is subscribed to for heartbeats.
    fn topic(&self) -> &str;

    /// Where echoes are published. `None`: nowhere, because being connected is the
    /// evidence.
    fn echo_topic(&self) -> Option<&str>;

    /// The number of the newest connection, as in
    /// [`Event::Connected`](super::Event::Connected); 0 before the first.
    fn number(&self) -> u64;

    /// Connects. An error is only the first attempt's: the client retries until it
    /// succeeds, which is an [`Event::Connected`](super::Event::Connected).
    fn connect(&self) -> LocalBoxFuture<'static, Result<(), ClientError>>;

    /// Subscribes to the heartbeats and the echo. Needed on every
    /// [`Event::Connected`](super::Event::Connected).
    fn subscribe(&self) -> LocalBoxFuture<'static, Result<Granted, ClientError>>;

    /// Publishes an echo, which comes back as [`Event::Echo`](super::Event::Echo)
    /// after everything that is on its way to this client. Without an echo topic it
    /// only passes through the inbox.
    fn send_echo(&self, token: EchoToken);

    /// Says goodbye and ends the attempts to connect. Resolves when nothing more can
    /// arrive: all that had is in the inbox.
    fn disconnect(&self) -> LocalBoxFuture<'static, ()>;

    /// Finds out why no connection comes about, which takes some seconds at most.
    /// `None` if nothing is wrong as far as can be seen.
    fn diagnose(&self) -> LocalBoxFuture<'static, Option<String>> {
        Box::pin(std::future::ready(None))
    }
}

/// What the broker grants to a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The quality of service that was asked for.
    pub asked: u8,
    /// The one with which heartbeats and echoes arrive; not more than `asked`.
    pub granted: u8,
}

/// What is wrong with the connection.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The client could not be made, or a file for TLS not be used.
    #[error("cannot set up the MQTT client: {0}")]
    Setup(String),
    /// The broker was not reached.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The broker refuses the connection, and this is why.
    #[error("cannot connect: {0}")]
    Refused(String),
    /// The broker refuses the subscription, or one of the two.
    #[error("cannot subscribe to {topic}: {why}")]
    Subscribe {
        /// What was refused.
        topic: String,
        /// The name by which the broker knows this client.
        client_id: String,
        /// What the broker says, and what would be right.
        why: String,
    },
    /// The broker did not answer.
    #[error("cannot subscribe to {topic}: no answer within {}", crate::duration::format(PATIENCE))]
    NoAnswer {
        /// What was subscribed to.
        topic: String,
    },
}
