//! A client that publishes heartbeats for many devices, for `heartbeatd simulate`.

use std::collections::VecDeque;
use std::time::Duration;

use futures::FutureExt;
use paho_mqtt as paho;
use paho_mqtt::ReasonCode;

use super::broker::Broker;
use super::client::{connect_options, creation, setup};
use super::connection::ClientError;
use super::connection::PATIENCE;
use super::diagnosis::Probe;
use super::reason::{Of, failed, not_connected, not_published};
use crate::config::MqttConfig;

/// The number of messages that may be on their way. Bounds the memory. It is 20,000 messages a
/// second for a broker that is a tenth of a second away; paho looks through all of them for each
/// new one.
const WINDOW: usize = 2_000;

/// The longest time to wait for the oldest of them before it counts as lost.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(5);

/// The time for the broker to acknowledge the last messages.
const LAST_MESSAGES: Duration = Duration::from_secs(2);

/// A client that only publishes. After a loss it reconnects by itself; what is published
/// meanwhile is lost, as it would be in the field.
pub(crate) struct Publisher {
    paho: paho::AsyncClient,
    options: paho::ConnectOptions,
    probe: Option<Probe>,
    qos: i32,
    /// The messages on their way, oldest first.
    sent: VecDeque<paho::DeliveryToken>,
    /// The number of messages that the broker refused, and the reason for the first one.
    refused: u64,
    refusal: Option<ReasonCode>,
}

/// A message that was not published, because there is no connection or the broker does not
/// take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotPublished;

impl Publisher {
    /// Creates the client without connecting it. The version, the keep-alive and TLS are as in
    /// `config`.
    ///
    /// # Errors
    ///
    /// [`ClientError::Setup`], for example if `mqtt.ca_file` cannot be read.
    pub(crate) fn new(
        config: &MqttConfig,
        broker: &Broker,
        client_id: &str,
        qos: u8,
    ) -> Result<Self, ClientError> {
        let create = creation(&broker.uri, client_id)
            // Otherwise it is a hundred.
            .max_buffered_messages(2 * WINDOW as i32)
            .finalize();
        let paho = paho::AsyncClient::new(create).map_err(setup)?;
        let options = connect_options(config, broker)?;
        let probe = Probe::new(broker, config);
        let (qos, sent) = (qos.into(), VecDeque::new());
        Ok(Self { paho, options, probe, qos, sent, refused: 0, refusal: None })
    }

    /// Connects.
    ///
    /// # Errors
    ///
    /// If the broker cannot be reached or refuses the connection, with the reason that a
    /// diagnosis finds.
    pub(crate) async fn connect(&self) -> Result<(), ClientError> {
        let connecting = self.paho.connect(self.options.clone());
        let why = match tokio::time::timeout(2 * PATIENCE, connecting).await {
            Ok(Ok(_accepted)) => return Ok(()),
            Ok(Err(error)) => match not_connected(&error, Of::Simulation) {
                Some(why) => return Err(ClientError::Refused(why)),
                None => failed(&error),
            },
            Err(_elapsed) => "no answer from the broker".to_owned(),
        };
        let found = match self.probe.clone() {
            Some(probe) => probe.run().await,
            None => None,
        };
        Err(ClientError::Connect(found.unwrap_or(why)))
    }

    /// True while there is a connection.
    pub(crate) fn is_connected(&self) -> bool {
        self.paho.is_connected()
    }

    /// The number of messages that the broker has refused so far. It says so with MQTT 5 only, and
    /// not of those with quality of service 0.
    pub(crate) fn refused(&mut self) -> u64 {
        while let Some(answer) = self.sent.front_mut().and_then(FutureExt::now_or_never) {
            self.sent.pop_front();
            self.note(answer);
        }
        self.refused
    }

    /// The reason why the broker has refused the first of them, and what would be right for a
    /// simulation whose devices have these ids.
    pub(crate) fn refusal(&self, ids: &str) -> Option<String> {
        self.refusal.map(|reason| not_published(reason, ids))
    }

    fn note(&mut self, answer: paho::Result<()>) {
        if let Err(paho::Error::ReasonCode(reason, _)) = answer {
            self.refused += 1;
            self.refusal.get_or_insert(reason);
        }
    }

    /// Waits a moment for the broker to acknowledge the last messages, or to refuse them.
    pub(crate) async fn settle(&mut self) {
        let all = async {
            while let Some(oldest) = self.sent.front_mut() {
                let answer = oldest.await;
                self.sent.pop_front();
                self.note(answer);
            }
        };
        // The others count as sent.
        let _ = tokio::time::timeout(LAST_MESSAGES, all).await;
    }

    /// Publishes a message. Waits while too many are on their way.
    ///
    /// # Errors
    ///
    /// [`NotPublished`] if there is no connection or the broker does not take the message.
    pub(crate) async fn publish(
        &mut self,
        topic: &str,
        payload: &[u8],
    ) -> Result<(), NotPublished> {
        if self.sent.len() >= WINDOW {
            self.await_half().await;
        }
        let message = paho::Message::new(topic, payload, self.qos);
        let token = self.paho.try_publish(message).map_err(|_| NotPublished)?;
        self.sent.push_back(token);
        Ok(())
    }

    /// Waits until half the messages that are on their way have arrived, or the connection is
    /// lost.
    async fn await_half(&mut self) {
        while self.sent.len() > WINDOW / 2 {
            let Some(oldest) = self.sent.pop_front() else { return };
            match tokio::time::timeout(ACKNOWLEDGED_WITHIN, oldest).await {
                Ok(answer) => self.note(answer),
                Err(_elapsed) => self.sent.clear(),
            }
            if !self.is_connected() {
                self.sent.clear();
            }
        }
    }

    /// Waits a moment for the broker to acknowledge the last messages, and disconnects.
    pub(crate) async fn disconnect(self) {
        let options = paho::DisconnectOptionsBuilder::new().timeout(LAST_MESSAGES).finalize();
        let disconnected = self.paho.disconnect(options);
        // It is gone either way.
        let _ = tokio::time::timeout(2 * LAST_MESSAGES, disconnected).await;
    }
}
