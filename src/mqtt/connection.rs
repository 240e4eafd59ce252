//! The interface between the ingest and an MQTT client. A test can put its own broker
//! behind it.

use std::sync::Arc;
use std::time::Duration;

use futures::future::LocalBoxFuture;

use crate::domain::{EchoToken, GroupMark};
use crate::inbox::Inbox;

/// The longest time for one attempt to connect, and for the broker's answer to a
/// subscription.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to a broker that is restored whenever it is lost.
///
/// [`Client`](super::Client) is the real one. Everything that happens goes into the
/// inbox.
pub trait Connection {
    /// The inbox with everything that happens, in order.
    fn inbox(&self) -> Arc<Inbox>;

    /// The address of the broker, for the log.
    fn broker(&self) -> &str;

    /// The name by which the broker knows this client.
    fn client_id(&self) -> &str;

    /// The topic of the heartbeats, without a group.
    fn topic(&self) -> &str;

    /// The topic on which echoes are published. `None` if none are sent, because being
    /// connected counts as the evidence.
    fn echo_topic(&self) -> Option<&str>;

    /// The number of the newest connection, as in
    /// [`Event::Connected`](super::Event::Connected); 0 before the first.
    fn number(&self) -> u64;

    /// Connects. An error is about the first attempt only. The client retries until it
    /// succeeds, which is an [`Event::Connected`](super::Event::Connected).
    fn connect(&self) -> LocalBoxFuture<'static, Result<(), ClientError>>;

    /// Subscribes to the heartbeats and the echo. Needed on every
    /// [`Event::Connected`](super::Event::Connected). In a group, `mark` is a part of the
    /// group's name.
    fn subscribe(&self, mark: GroupMark) -> LocalBoxFuture<'static, Result<Granted, ClientError>>;

    /// Ends the subscription to the heartbeats, and goes on receiving echoes. True if the broker
    /// has acknowledged it: from then on it gives none to this client.
    fn unsubscribe(&self, mark: GroupMark) -> LocalBoxFuture<'static, bool>;

    /// Publishes an echo. It comes back as [`Event::Echo`](super::Event::Echo) after
    /// everything that is on its way to this client. Without an echo topic it only passes
    /// through the inbox.
    fn send_echo(&self, token: EchoToken);

    /// The addresses of the other nodes of the broker's cluster at which devices connect. Each has a
    /// connection, which is restored by itself once [`connect`](Self::connect) was called.
    fn entries(&self) -> &[String] {
        &[]
    }

    /// True if there is a connection to another node, by its place among [`entries`](Self::entries).
    fn reaches(&self, _node: usize) -> bool {
        false
    }

    /// Publishes an echo through another node, by its place among [`entries`](Self::entries). It
    /// comes back as any other. False if there is no connection to that node.
    fn send_echo_through(&self, _node: usize, _token: EchoToken) -> bool {
        false
    }

    /// Finds out why another node cannot be reached, as [`diagnose`](Self::diagnose) does.
    fn diagnose_entry(&self, _node: usize) -> LocalBoxFuture<'static, Option<String>> {
        Box::pin(std::future::ready(None))
    }

    /// Ends the connection. Resolves when nothing more can arrive by it and everything that has
    /// arrived is in the inbox. If there is none at this moment, another one may follow by itself.
    fn disconnect(&self) -> LocalBoxFuture<'static, ()>;

    /// Finds out why the broker cannot be reached, which takes 20 seconds at most. `None`
    /// if no fault is found.
    fn diagnose(&self) -> LocalBoxFuture<'static, Option<String>> {
        Box::pin(std::future::ready(None))
    }
}

/// The quality of service that the broker grants to a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The quality of service that was asked for.
    pub asked: u8,
    /// The quality of service with which heartbeats and echoes arrive; not above `asked`.
    pub granted: u8,
}

/// A failure of the connection.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The client could not be created, or a file for TLS could not be used.
    #[error("cannot set up the MQTT client: {0}")]
    Setup(String),
    /// The broker could not be reached.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The broker refuses the connection, for this reason.
    #[error("cannot connect: {0}")]
    Refused(String),
    /// The broker refuses at least one of the subscriptions.
    #[error("cannot subscribe to {topic}: {why}")]
    Subscribe {
        /// The refused filters.
        topic: String,
        /// The name by which the broker knows this client.
        client_id: String,
        /// The broker's reason, and a hint at the remedy.
        why: String,
    },
    /// The connection was lost before the broker answered. It may have subscribed nevertheless.
    #[error("cannot subscribe to {topic}: {why}")]
    Lost {
        /// The filters that were asked for.
        topic: String,
        /// The reason, as far as it is known.
        why: String,
    },
    /// The broker did not answer.
    #[error("cannot subscribe to {topic}: no answer within {}", crate::duration::format(PATIENCE))]
    NoAnswer {
        /// The filters that were asked for.
        topic: String,
    },
}
