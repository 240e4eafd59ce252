//! The MQTT client. Turns paho's callbacks and reason codes into [`Event`]s.
//!
//! paho calls back on its own thread. A message is parsed right there, and its heartbeat
//! goes into an inbox that the ingest empties in one go. No packet, topic or payload
//! travels any further.

use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use futures::future::LocalBoxFuture;
use paho_mqtt as paho;
use paho_mqtt::ReasonCode;

use super::broker::Broker;
use super::connection::{ClientError, Connection, Granted, PATIENCE};
use super::diagnosis::Probe;
use super::entries::Entries;
use super::reason::{Filter, Of, disconnected, failed, not_connected, not_subscribed};
use crate::clock::{Clock, Reading};
use crate::config::{BrokerUrl, MqttConfig, MqttVersion};
use crate::domain::device_id::is_reserved;
use crate::domain::{EchoIgnored, EchoToken, GroupMark, Heartbeat, Rejection, TopicPattern};
use crate::inbox::{Event, Inbox};
use crate::logging::line_budget::LineBudget;
use crate::metrics::Metrics;

/// The waits between attempts to connect: short enough not to miss much when a broker
/// restarts, long enough not to burden a broker that is in trouble.
const RECONNECT_MIN: Duration = Duration::from_secs(1);
const RECONNECT_MAX: Duration = Duration::from_secs(10);

/// The time for the broker to acknowledge the last echoes. After it paho closes the connection
/// without waiting any longer.
const LAST_MESSAGES: Duration = Duration::from_secs(2);

/// The log target of the actor that uses this client.
const TARGET: &str = "mqtt_ingest";

/// A client that listens for heartbeats.
pub struct Client {
    paho: paho::AsyncClient,
    options: paho::ConnectOptions,
    broker: String,
    subscription: Subscription,
    echo_topic: Option<String>,
    inbox: Arc<Inbox>,
    connections: Arc<AtomicU64>,
    clock: Clock,
    /// The quality of service of echoes: the lower of what the broker accepts and grants.
    qos: Arc<AtomicU8>,
    /// The highest quality of service that the broker accepts, as its CONNACK said.
    max_qos: Arc<AtomicU8>,
    /// False if the broker has no shared subscriptions, as its CONNACK said. It may grant one
    /// nevertheless, which then brings nothing.
    shares: Arc<AtomicBool>,
    probe: Option<Probe>,
    entries: Entries,
}

struct Subscription {
    /// The filter of the heartbeats, without a group.
    topic: String,
    share_group: Option<String>,
    /// The topic of echoes, if the subscription to the heartbeats does not include it.
    echo_topic: Option<String>,
    qos: u8,
    version: MqttVersion,
    client_id: String,
}

impl Subscription {
    /// The filter that is subscribed to for heartbeats. The mark of the database is a part of the
    /// group's name, so that a database that was rolled back leaves behind the members that it
    /// does not know of, and members on two databases take nothing from each other.
    fn filter(&self, mark: GroupMark) -> String {
        let topic = &self.topic;
        match &self.share_group {
            None => topic.clone(),
            Some(group) => format!("$share/{group}.{mark}/{topic}"),
        }
    }
}

impl Client {
    /// Creates the client without connecting it. What it receives goes into `inbox`.
    ///
    /// # Errors
    ///
    /// [`ClientError::Setup`], for example if `mqtt.ca_file` cannot be read.
    pub fn new(
        config: &MqttConfig,
        broker: &Broker,
        inbox: Arc<Inbox>,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Result<Self, ClientError> {
        let create = creation(&broker.uri, &config.client_id).finalize();
        let paho = paho::AsyncClient::new(create).map_err(setup)?;
        warn_of_unused_files(config, broker);
        let connections = Arc::default();
        let echo_topic = config.echo_topic();
        let receiver = Receiver {
            topic: config.topic.clone(),
            echo_topic: echo_topic.clone(),
            clock,
            metrics,
            strange: super::foreign_echoes("foreign messages on the echo topic"),
        };
        listen(&paho, &inbox, &connections, receiver);
        let qos = Arc::new(AtomicU8::new(config.qos.into()));
        let entries = Entries::new(config, broker, Arc::clone(&qos))?;
        Ok(Self {
            paho,
            options: connect_options(config, broker)?,
            broker: broker.uri.clone(),
            subscription: Subscription {
                topic: config.topic.to_string(),
                share_group: config.share_group.clone(),
                echo_topic: echo_topic
                    .clone()
                    .filter(|topic| config.topic.device_level(topic).is_none()),
                qos: config.qos.into(),
                version: config.version,
                client_id: config.client_id.clone(),
            },
            echo_topic,
            inbox,
            connections,
            clock,
            qos,
            max_qos: Arc::new(AtomicU8::new(2)),
            shares: Arc::new(AtomicBool::new(true)),
            probe: Probe::new(broker, config),
            entries,
        })
    }
}

impl Connection for Client {
    fn inbox(&self) -> Arc<Inbox> {
        Arc::clone(&self.inbox)
    }

    fn broker(&self) -> &str {
        &self.broker
    }

    fn client_id(&self) -> &str {
        &self.subscription.client_id
    }

    fn topic(&self) -> &str {
        &self.subscription.topic
    }

    fn echo_topic(&self) -> Option<&str> {
        self.echo_topic.as_deref()
    }

    fn number(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }

    fn connect(&self) -> LocalBoxFuture<'static, Result<(), ClientError>> {
        // First, so that they are there when the first echo goes out.
        self.entries.connect();
        let token = self.paho.connect(self.options.clone());
        let (max_qos, shares) = (Arc::clone(&self.max_qos), Arc::clone(&self.shares));
        Box::pin(async move {
            let accepted =
                token.await.map_err(|error| match not_connected(&error, Of::Service) {
                    Some(why) => ClientError::Refused(why),
                    None => ClientError::Connect(failed(&error)),
                })?;
            let byte = |code| accepted.properties().get(code).and_then(|found| found.get_byte());
            let max = byte(paho::PropertyCode::MaximumQos);
            max_qos.store(max.unwrap_or(2), Ordering::SeqCst);
            let available = byte(paho::PropertyCode::SharedSubscriptionAvailable);
            shares.store(available != Some(0), Ordering::SeqCst);
            Ok(())
        })
    }

    /// Needed on every connect: the session is clean, and paho does not repeat
    /// subscriptions.
    fn subscribe(&self, mark: GroupMark) -> LocalBoxFuture<'static, Result<Granted, ClientError>> {
        let filter = self.subscription.filter(mark);
        let Subscription { echo_topic, qos, version, client_id, .. } = &self.subscription;
        if self.subscription.share_group.is_some() && !self.shares.load(Ordering::SeqCst) {
            let asked = Filter { key: "mqtt.topic", client_id, of: 1 };
            let why = not_subscribed(Some(ReasonCode::SharedSubscriptionsNotSupported), asked);
            let (topic, client_id) = (filter, client_id.clone());
            return Box::pin(ready(Err(ClientError::Subscribe { topic, client_id, why })));
        }
        // One packet for both, so that they take effect together.
        let topics: Vec<&str> =
            [filter.as_str()].into_iter().chain(echo_topic.as_deref()).collect();
        let asked = vec![i32::from(*qos); topics.len()];
        let token = match version {
            MqttVersion::V5 => {
                // A retained message is not evidence of life, so the broker need not send
                // it.
                let options = paho::SubscribeOptionsBuilder::new()
                    .retain_handling(paho::RetainHandling::DontSendRetained)
                    .finalize();
                let options = vec![options; topics.len()];
                self.paho.subscribe_many_with_options(&topics, &asked, &options, None)
            }
            MqttVersion::V311 => self.paho.subscribe_many(&topics, &asked),
        };
        let topics: Vec<String> = topics.into_iter().map(str::to_owned).collect();
        let (asked, client_id) = (*qos, client_id.clone());
        let (qos, max_qos) = (Arc::clone(&self.qos), Arc::clone(&self.max_qos));
        Box::pin(async move {
            let topic = topics.join(" and ");
            match tokio::time::timeout(PATIENCE, token).await {
                Ok(Ok(response)) => {
                    let codes = response.subscribe_many_response().unwrap_or_default();
                    match refused(&topics, &codes, &client_id) {
                        None => {
                            let least = codes.iter().filter_map(|&code| u8::try_from(code).ok());
                            let least = least.min().unwrap_or(asked).min(asked);
                            let granted = least.min(max_qos.load(Ordering::SeqCst));
                            qos.store(granted, Ordering::SeqCst);
                            Ok(Granted { asked, granted })
                        }
                        Some((topic, why)) => Err(ClientError::Subscribe { topic, client_id, why }),
                    }
                }
                Ok(Err(error)) => {
                    let code = failed_code(&error).map(|code| code as i32);
                    Err(match code.and_then(|code| refused(&topics, &[code], &client_id)) {
                        Some((topic, why)) => ClientError::Subscribe { topic, client_id, why },
                        None => ClientError::Lost { topic, why: failed(&error) },
                    })
                }
                Err(_elapsed) => Err(ClientError::NoAnswer { topic }),
            }
        })
    }

    fn send_echo(&self, token: EchoToken) {
        let Some(topic) = &self.echo_topic else {
            return self.inbox.offer_echo(token, (self.clock)());
        };
        let qos = i32::from(self.qos.load(Ordering::SeqCst));
        let message = paho::Message::new(topic, token.to_string(), qos);
        // An echo that could not be sent does not come back, which is noticed anyway.
        if let Err(error) = self.paho.try_publish(message) {
            log::debug!(target: TARGET, "echo: {error}");
        }
    }

    fn entries(&self) -> &[String] {
        self.entries.urls()
    }

    fn reaches(&self, node: usize) -> bool {
        self.entries.reaches(node)
    }

    fn send_echo_through(&self, node: usize, token: EchoToken) -> bool {
        let topic = self.echo_topic.as_deref();
        topic.is_some_and(|topic| self.entries.send_echo(node, topic, token))
    }

    fn diagnose_entry(&self, node: usize) -> LocalBoxFuture<'static, Option<String>> {
        self.entries.diagnose(node)
    }

    fn unsubscribe(&self, mark: GroupMark) -> LocalBoxFuture<'static, bool> {
        let token = self.paho.unsubscribe(self.subscription.filter(mark));
        Box::pin(async move {
            matches!(tokio::time::timeout(LAST_MESSAGES, token).await, Ok(Ok(_acknowledged)))
        })
    }

    fn disconnect(&self) -> LocalBoxFuture<'static, ()> {
        let options = paho::DisconnectOptionsBuilder::new().timeout(LAST_MESSAGES).finalize();
        let token = self.paho.disconnect(options);
        Box::pin(async move {
            if let Ok(Err(error)) = tokio::time::timeout(2 * LAST_MESSAGES, token).await {
                log::debug!(target: TARGET, "disconnect: {error}");
            }
        })
    }

    fn diagnose(&self) -> LocalBoxFuture<'static, Option<String>> {
        let probe = self.probe.clone();
        Box::pin(async { probe?.run().await })
    }
}

/// The subscriptions that the broker did not grant, and the reasons. Needed because paho
/// takes any answer to several subscriptions for a success.
fn refused(topics: &[String], granted: &[i32], client_id: &str) -> Option<(String, String)> {
    // The echo's is the second one.
    let keys = ["mqtt.topic", "mqtt.echo_topic"];
    let granted = granted.iter().map(Some).chain(std::iter::repeat(None));
    let refused = topics.iter().zip(keys).zip(granted);
    // A grant is a QoS; anything else is a reason code.
    let refused = refused.filter(|(_, code)| !matches!(code, Some(0..=2)));
    let (topics, mut whys): (Vec<_>, Vec<_>) = refused
        .map(|((topic, key), code)| {
            // A code is a byte; C may have turned one above 127 into a negative number.
            let code = code.map(|code| ReasonCode::from(code.cast_unsigned() & 0xff));
            (&**topic, not_subscribed(code, Filter { key, client_id, of: topics.len() }))
        })
        .unzip();
    whys.dedup();
    (!topics.is_empty()).then(|| (topics.join(" and "), whys.join("; and ")))
}

/// The code of an answer that paho takes for a failure, as it does if there is only one.
fn failed_code(error: &paho::Error) -> Option<ReasonCode> {
    match error {
        paho::Error::ReasonCode(code, _) => Some(*code),
        // MQTT 3.1.1, which has only 0x80.
        paho::Error::Failure => Some(ReasonCode::UnspecifiedError),
        _ => None,
    }
}

fn warn_of_unused_files(config: &MqttConfig, broker: &Broker) {
    let is_tls = config.entry_urls.iter().any(BrokerUrl::is_tls);
    if is_tls || broker.uri.starts_with("mqtts://") {
        return;
    }
    for (key, file) in [
        ("mqtt.ca_file", &config.ca_file),
        ("mqtt.cert_file", &config.cert_file),
        ("mqtt.key_file", &config.key_file),
    ] {
        if file.is_some() {
            log::warn!(
                target: TARGET, broker = broker.uri;
                "{key} is set but not used: TLS needs an mqtt.url that begins with mqtts://"
            );
        }
    }
}

pub(super) fn setup(error: paho::Error) -> ClientError {
    ClientError::Setup(error.to_string())
}

/// The options by which each client is created. Nothing outlives the process, because messages kept by a broker
/// would be stale.
pub(super) fn creation(uri: &str, client_id: &str) -> paho::CreateOptionsBuilder {
    let create = paho::CreateOptionsBuilder::new();
    create.server_uri(uri).client_id(client_id).persistence(paho::PersistenceType::None)
}

/// The options of a connection that is restored whenever it is lost.
pub(super) fn connect_options(
    config: &MqttConfig,
    broker: &Broker,
) -> Result<paho::ConnectOptions, ClientError> {
    let mut options = options(config, broker)?;
    options.connect_timeout(PATIENCE).automatic_reconnect(RECONNECT_MIN, RECONNECT_MAX);
    Ok(options.finalize())
}

/// The options of a connection that is made once.
pub(super) fn connect_options_for_once(
    config: &MqttConfig,
    broker: &Broker,
    patience: Duration,
) -> Result<paho::ConnectOptions, ClientError> {
    let mut options = options(config, broker)?;
    options.connect_timeout(patience);
    Ok(options.finalize())
}

fn options(
    config: &MqttConfig,
    broker: &Broker,
) -> Result<paho::ConnectOptionsBuilder, ClientError> {
    let mut options = match config.version {
        MqttVersion::V5 => {
            let mut options = paho::ConnectOptionsBuilder::new_v5();
            options.clean_start(true);
            options
        }
        MqttVersion::V311 => {
            let mut options = paho::ConnectOptionsBuilder::new_v3();
            options.clean_session(true);
            options
        }
    };
    options.keep_alive_interval(config.keep_alive.get());
    if let Some((name, password)) = &broker.credentials {
        options.user_name(name).password(password.as_str());
    }
    if broker.uri.starts_with("mqtts://") {
        options.ssl_options(tls_options(config).map_err(setup)?);
    }
    Ok(options)
}

fn tls_options(config: &MqttConfig) -> paho::Result<paho::SslOptions> {
    let mut options = paho::SslOptionsBuilder::new();
    options.enable_server_cert_auth(true).verify(true);
    if let Some(file) = &config.ca_file {
        options.trust_store(file)?;
    } else {
        options.disable_default_trust_store(false);
    }
    if let Some(file) = &config.cert_file {
        options.key_store(file)?;
    }
    if let Some(file) = &config.key_file {
        options.private_key(file)?;
    }
    Ok(options.finalize())
}

/// Makes paho's thread put everything that happens into the inbox.
fn listen(
    client: &paho::AsyncClient,
    inbox: &Arc<Inbox>,
    connections: &Arc<AtomicU64>,
    receiver: Receiver,
) {
    let (connected, number) = (Arc::clone(inbox), Arc::clone(connections));
    client.set_connected_callback(move |_| {
        let connection = number.fetch_add(1, Ordering::SeqCst) + 1;
        connected.push(Event::Connected { connection });
    });
    let (lost, number) = (Arc::clone(inbox), Arc::clone(connections));
    client.set_connection_lost_callback(move |_| {
        let connection = number.load(Ordering::SeqCst);
        lost.push(Event::Disconnected { connection, why: "the connection was lost".to_owned() });
    });
    let (closed, number) = (Arc::clone(inbox), Arc::clone(connections));
    client.set_disconnected_callback(move |_, properties, reason| {
        let connection = number.load(Ordering::SeqCst);
        let why = disconnected(reason, &properties);
        closed.push(Event::Disconnected { connection, why });
    });
    let received = Arc::clone(inbox);
    client.set_message_callback(move |_, message| {
        // `None` marks a lost connection, which has its own callback.
        if let Some(message) = message {
            receiver.receive(&message, &received);
        }
    });
}

/// The beginning of an invalid topic, as far as it is readable.
fn shown(topic: &[u8]) -> Box<str> {
    const BYTES: usize = 128;
    String::from_utf8_lossy(&topic[..topic.len().min(BYTES)]).into()
}

/// Turns messages into events, on paho's thread.
struct Receiver {
    topic: TopicPattern,
    echo_topic: Option<String>,
    clock: Clock,
    metrics: Arc<Metrics>,
    /// Limits the log lines about messages that other clients publish on the echo topic.
    strange: LineBudget,
}

impl Receiver {
    fn receive(&self, message: &paho::Message, inbox: &Inbox) {
        let now = (self.clock)();
        if let Some(topic) = message.invalid_topic() {
            return inbox.offer(Err(Rejection::InvalidTopic(shown(topic))), now);
        }
        let topic = message.topic();
        if self.echo_topic.as_deref() == Some(topic) {
            return self.receive_echo(message, now, inbox);
        }
        match self.topic.device_level(topic) {
            // The echo of an instance, this one or another.
            Some(device) if is_reserved(device) => self.metrics.unmatched(),
            Some(device) => inbox.offer(self.read(device, message, now), now),
            None => self.metrics.unmatched(),
        }
    }

    fn read(
        &self,
        device: &str,
        message: &paho::Message,
        now: Reading,
    ) -> Result<Heartbeat, Rejection> {
        let device_id = device.parse().map_err(Rejection::InvalidDeviceId)?;
        if message.retained() {
            return Err(Rejection::Retained { device_id });
        }
        let heartbeat = Heartbeat::parse(device_id, message.payload(), now.wall);
        if let Some(error) = &heartbeat.payload_error {
            self.metrics.payload_unreadable(error);
        }
        Ok(heartbeat)
    }

    fn receive_echo(&self, message: &paho::Message, now: Reading, inbox: &Inbox) {
        let token = str::from_utf8(message.payload()).ok().and_then(|text| text.parse().ok());
        match token {
            Some(token) if !message.retained() => inbox.offer_echo(token, now),
            _ => {
                let why =
                    if message.retained() { EchoIgnored::Retained } else { EchoIgnored::Unknown };
                self.metrics.echo_ignored(why);
                self.strange.spend(|| super::warn_of_foreign_echo(message.topic(), why));
            }
        }
    }
}
