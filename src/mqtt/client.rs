//! The MQTT client: paho's options, callbacks and reason codes, made into
//! [`Event`]s.
//!
//! paho calls back on a thread of its own. A message is parsed right there and
//! its heartbeat put into an inbox, which the ingest empties in one go: no
//! packet, topic or payload travels any further.

use std::sync::Arc;
use std::time::Duration;

use paho_mqtt as paho;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::TopicPattern;
use crate::clock::Clock;
use crate::config::{MqttConfig, MqttVersion};
use crate::domain::{Heartbeat, Rejection};
use crate::metrics::Metrics;

/// The waits between attempts to connect: short enough not to miss much of a
/// broker that restarts, long enough not to be a burden on one that is down.
const RECONNECT_MIN: Duration = Duration::from_secs(1);
const RECONNECT_MAX: Duration = Duration::from_secs(10);

/// How long one attempt may take, and how long a broker may think about a
/// subscription.
const PATIENCE: Duration = Duration::from_secs(10);

/// Something that happened on the connection, in the order in which it did.
#[derive(Debug)]
pub enum Event {
    /// The broker accepted the connection; nothing is subscribed yet.
    Connected,
    /// The connection is gone; paho is already trying again.
    Disconnected {
        /// What is known about it.
        why: String,
    },
    /// A device lives.
    Heartbeat(Heartbeat),
    /// A message is no evidence of life.
    Rejected(Rejection),
    /// Messages were thrown away unread: `mqtt.max_backlog` were waiting.
    Shed(u64),
}

/// What is wrong with the connection.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The client could not be made, or a file for TLS not be used.
    #[error("cannot set up the MQTT client: {0}")]
    Setup(Box<paho::Error>),
    /// The broker was not reached, or refused.
    #[error("cannot connect: {0}")]
    Connect(Box<paho::Error>),
    /// The broker did not accept the subscription.
    #[error(
        "cannot subscribe to {topic}: {source}; the broker must allow {client_id:?} to read it"
    )]
    Subscribe {
        /// Which.
        topic: String,
        /// As whom.
        client_id: String,
        /// What the broker says.
        source: Box<paho::Error>,
    },
    /// The broker did not answer.
    #[error(
        "cannot subscribe to {topic}: no answer within {}",
        humantime::format_duration(PATIENCE)
    )]
    NoAnswer {
        /// To which subscription.
        topic: String,
    },
}

/// Where the broker is and how to get in.
#[derive(Clone, Debug)]
pub struct Broker {
    /// `mqtt://` or `mqtts://`, host and port.
    pub uri: String,
    /// Name and password, if it wants them.
    pub credentials: Option<(String, String)>,
}

impl Broker {
    /// The configured one; `None`: the embedded broker is meant.
    pub fn configured(config: &MqttConfig) -> Option<Self> {
        let url = config.url.as_ref()?;
        let port = url.port().unwrap_or(if url.scheme() == "mqtts" { 8883 } else { 1883 });
        let uri = format!("{}://{}:{port}", url.scheme(), url.host_str().unwrap_or_default());
        let password = config.password.as_ref().map_or("", |password| password.reveal());
        let credentials = config.username.clone().map(|name| (name, password.to_owned()));
        Some(Self { uri, credentials })
    }
}

/// A client that listens for heartbeats.
pub struct Client {
    paho: paho::AsyncClient,
    options: paho::ConnectOptions,
    subscription: Subscription,
    inbox: Arc<Inbox>,
}

struct Subscription {
    topic: String,
    qos: i32,
    version: MqttVersion,
    client_id: String,
}

impl Client {
    /// Makes the client; nothing is connected yet.
    ///
    /// # Errors
    ///
    /// [`ClientError::Setup`], for example if `mqtt.ca_file` cannot be read.
    pub fn new(
        config: &MqttConfig,
        broker: &Broker,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Result<Self, ClientError> {
        let create = paho::CreateOptionsBuilder::new()
            .server_uri(&broker.uri)
            .client_id(&config.client_id)
            // Nothing outlives the process: what a broker kept would be stale.
            .persistence(paho::PersistenceType::None)
            .finalize();
        let paho = paho::AsyncClient::new(create).map_err(setup)?;
        let inbox = Arc::new(Inbox::new(config.max_backlog));
        listen(&paho, &inbox, config.topic.clone(), clock, metrics);
        let filter = match &config.share_group {
            Some(group) => format!("$share/{group}/{}", config.topic),
            None => config.topic.to_string(),
        };
        Ok(Self {
            paho,
            options: connect_options(config, broker)?,
            subscription: Subscription {
                topic: filter,
                qos: config.qos.into(),
                version: config.version,
                client_id: config.client_id.clone(),
            },
            inbox,
        })
    }

    /// What the broker sends, in order.
    pub fn inbox(&self) -> Arc<Inbox> {
        Arc::clone(&self.inbox)
    }

    /// What is subscribed to.
    pub fn topic(&self) -> &str {
        &self.subscription.topic
    }

    /// Connects. An error is only the first attempt's: paho goes on trying until
    /// it succeeds, which is an [`Event::Connected`].
    ///
    /// # Errors
    ///
    /// [`ClientError::Connect`] if the first attempt failed.
    pub fn connect(&self) -> impl Future<Output = Result<(), ClientError>> + use<> {
        let token = self.paho.connect(self.options.clone());
        async { token.await.map(drop).map_err(|e| ClientError::Connect(Box::new(e))) }
    }

    /// Subscribes. To be done on every [`Event::Connected`]: the session is
    /// clean, and paho does not do it when it reconnects.
    ///
    /// # Errors
    ///
    /// If the broker refuses or does not answer.
    pub fn subscribe(&self) -> impl Future<Output = Result<(), ClientError>> + use<> {
        let Subscription { topic, qos, version, client_id } = &self.subscription;
        let token = match version {
            MqttVersion::V5 => {
                // Retained messages are no evidence of life: not even sent.
                let options = paho::SubscribeOptionsBuilder::new()
                    .retain_handling(paho::RetainHandling::DontSendRetained)
                    .finalize();
                self.paho.subscribe_with_options(topic.as_str(), *qos, options, None)
            }
            MqttVersion::V311 => self.paho.subscribe(topic.as_str(), *qos),
        };
        let (topic, client_id) = (topic.clone(), client_id.clone());
        async move {
            match tokio::time::timeout(PATIENCE, token).await {
                Ok(Ok(_granted)) => Ok(()),
                Ok(Err(source)) => {
                    let source = Box::new(source);
                    Err(ClientError::Subscribe { topic, client_id, source })
                }
                Err(_elapsed) => Err(ClientError::NoAnswer { topic }),
            }
        }
    }

    /// Says goodbye. What had arrived by then is in the inbox.
    pub fn disconnect(&self) -> impl Future<Output = ()> + use<> {
        const PATIENCE: Duration = Duration::from_secs(2);
        let token = self
            .paho
            .disconnect(paho::DisconnectOptionsBuilder::new().timeout(PATIENCE).finalize());
        async move {
            if let Ok(Err(error)) = tokio::time::timeout(PATIENCE, token).await {
                log::debug!(target: "mqtt_ingest", "disconnect: {error}");
            }
        }
    }
}

fn setup(error: paho::Error) -> ClientError {
    ClientError::Setup(Box::new(error))
}

fn connect_options(
    config: &MqttConfig,
    broker: &Broker,
) -> Result<paho::ConnectOptions, ClientError> {
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
    options
        .keep_alive_interval(config.keep_alive)
        .connect_timeout(PATIENCE)
        .automatic_reconnect(RECONNECT_MIN, RECONNECT_MAX);
    if let Some((name, password)) = &broker.credentials {
        options.user_name(name).password(password.as_str());
    }
    if broker.uri.starts_with("mqtts://") {
        options.ssl_options(tls_options(config).map_err(setup)?);
    }
    Ok(options.finalize())
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

/// Has paho's thread put what happens into the inbox.
fn listen(
    client: &paho::AsyncClient,
    inbox: &Arc<Inbox>,
    topic: TopicPattern,
    clock: Clock,
    metrics: Arc<Metrics>,
) {
    let connected = Arc::clone(inbox);
    client.set_connected_callback(move |_| connected.push(Event::Connected));
    let lost = Arc::clone(inbox);
    client.set_connection_lost_callback(move |_| {
        lost.push(Event::Disconnected { why: "the connection was lost".to_owned() });
    });
    let closed = Arc::clone(inbox);
    client.set_disconnected_callback(move |_, _, reason| {
        closed.push(Event::Disconnected { why: format!("the broker closed it: {reason}") });
    });
    let received = Arc::clone(inbox);
    client.set_message_callback(move |_, message| {
        // `None` marks a lost connection, which has a callback of its own.
        if let Some(message) = message {
            receive(&message, &received, &topic, clock, &metrics);
        }
    });
}

fn receive(
    message: &paho::Message,
    inbox: &Inbox,
    topic: &TopicPattern,
    clock: Clock,
    metrics: &Metrics,
) {
    let Some(device) = topic.device_level(message.topic()) else {
        metrics.unmatched();
        return;
    };
    let device_id = match device.parse() {
        Ok(id) => id,
        Err(invalid) => return inbox.offer(Event::Rejected(Rejection::InvalidDeviceId(invalid))),
    };
    if message.retained() {
        return inbox.offer(Event::Rejected(Rejection::Retained { device_id }));
    }
    match Heartbeat::parse(device_id, message.payload(), clock()) {
        Ok((heartbeat, dropped)) => {
            for field in dropped {
                metrics.field_dropped(field);
            }
            inbox.offer(Event::Heartbeat(heartbeat));
        }
        Err(rejection) => inbox.offer(Event::Rejected(rejection)),
    }
}

/// What happened and was not yet looked at. Filled by paho's thread, emptied as
/// a whole by the ingest: one lock for many messages on the one side, a short
/// one for each on the other.
#[derive(Debug)]
pub struct Inbox {
    waiting: Mutex<Waiting>,
    filled: Notify,
    max_backlog: usize,
}

#[derive(Debug, Default)]
struct Waiting {
    events: Vec<Event>,
    shed: u64,
}

impl Inbox {
    fn new(max_backlog: usize) -> Self {
        Self { waiting: Mutex::default(), filled: Notify::new(), max_backlog }
    }

    /// Puts in what must never be lost.
    fn push(&self, event: Event) {
        self.waiting.lock().events.push(event);
        self.filled.notify_one();
    }

    /// Puts in a message, or throws it away if too many are waiting.
    fn offer(&self, event: Event) {
        let first = {
            let mut waiting = self.waiting.lock();
            if waiting.events.len() >= self.max_backlog {
                waiting.shed += 1;
                return;
            }
            waiting.events.push(event);
            waiting.events.len() == 1
        };
        // Whoever empties the inbox takes all: one wake-up is enough.
        if first {
            self.filled.notify_one();
        }
    }

    /// All that is waiting, as soon as there is something.
    pub async fn take(&self) -> Vec<Event> {
        loop {
            let events = self.rest();
            if !events.is_empty() {
                return events;
            }
            self.filled.notified().await;
        }
    }

    /// All that is waiting, if anything.
    pub fn rest(&self) -> Vec<Event> {
        let mut waiting = self.waiting.lock();
        let shed = std::mem::take(&mut waiting.shed);
        if shed > 0 {
            waiting.events.push(Event::Shed(shed));
        }
        std::mem::take(&mut waiting.events)
    }
}
