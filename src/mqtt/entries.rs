//! The connections to the other nodes of a broker cluster, through which echoes go in. Nothing
//! comes back by them: the service is subscribed at one node only.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use futures::future::LocalBoxFuture;
use paho_mqtt as paho;

use super::broker::Broker;
use super::client::{connect_options, creation, setup};
use super::connection::ClientError;
use super::diagnosis::Probe;
use crate::config::MqttConfig;
use crate::domain::EchoToken;

/// The other nodes. A connection that is lost is restored by paho.
pub(super) struct Entries {
    nodes: Vec<Node>,
    /// Their addresses.
    urls: Vec<String>,
    /// The quality of service of echoes.
    qos: Arc<AtomicU8>,
    /// True once it has begun to connect.
    begun: AtomicBool,
}

struct Node {
    paho: paho::AsyncClient,
    options: paho::ConnectOptions,
    probe: Option<Probe>,
}

impl Node {
    fn new(config: &MqttConfig, broker: &Broker, client_id: &str) -> Result<Self, ClientError> {
        let create = creation(&broker.uri, client_id).finalize();
        let paho = paho::AsyncClient::new(create).map_err(setup)?;
        let options = connect_options(config, broker)?;
        Ok(Self { paho, options, probe: Probe::new(broker, config) })
    }
}

impl Entries {
    /// Creates the clients without connecting them. The credentials are those for `broker`.
    pub(super) fn new(
        config: &MqttConfig,
        broker: &Broker,
        qos: Arc<AtomicU8>,
    ) -> Result<Self, ClientError> {
        let (mut nodes, mut urls) = (Vec::new(), Vec::new());
        for (url, client_id) in config.other_entries() {
            let node = Broker {
                uri: url.to_string(),
                credentials: broker.credentials.clone(),
                setting: "mqtt.entry_urls",
            };
            nodes.push(Node::new(config, &node, &client_id)?);
            urls.push(node.uri);
        }
        Ok(Self { nodes, urls, qos, begun: AtomicBool::new(false) })
    }

    pub(super) fn urls(&self) -> &[String] {
        &self.urls
    }

    /// Begins to connect to all of them, which goes on by itself.
    pub(super) fn connect(&self) {
        if self.begun.swap(true, Ordering::SeqCst) {
            return;
        }
        for Node { paho, options, .. } in &self.nodes {
            // Nobody waits for it: a node that cannot be reached is noticed with each echo.
            drop(paho.connect(options.clone()));
        }
    }

    /// True if there is a connection to a node.
    pub(super) fn reaches(&self, node: usize) -> bool {
        self.nodes.get(node).is_some_and(|node| node.paho.is_connected())
    }

    /// Publishes an echo through a node. False if there is no connection to it.
    pub(super) fn send_echo(&self, node: usize, topic: &str, token: EchoToken) -> bool {
        if !self.reaches(node) {
            return false;
        }
        let Some(Node { paho, .. }) = self.nodes.get(node) else { return false };
        let qos = i32::from(self.qos.load(Ordering::SeqCst));
        let message = paho::Message::new(topic, token.to_string(), qos);
        // An echo that could not be sent does not come back, which is noticed anyway.
        if let Err(error) = paho.try_publish(message) {
            log::debug!(target: "mqtt_ingest", entry = self.urls[node]; "echo: {error}");
        }
        true
    }

    /// Finds out why a node cannot be reached, see
    /// [`Connection::diagnose`](super::Connection::diagnose).
    pub(super) fn diagnose(&self, node: usize) -> LocalBoxFuture<'static, Option<String>> {
        let probe = self.nodes.get(node).and_then(|node| node.probe.clone());
        Box::pin(async {
            let found = probe?.run().await?;
            // The remedies name the key of the usual broker.
            Some(found.replace("mqtt.url", "mqtt.entry_urls"))
        })
    }
}
