//! The MQTT client: paho's options, callbacks and reason codes, made into
//! [`Event`]s.
//!
//! paho calls back on a thread of its own. A message is parsed right there and
//! its heartbeat put into an inbox, which the ingest empties in one go: no
//! packet, topic or payload travels any further.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use paho_mqtt as paho;

use super::TopicPattern;
use super::inbox::{Event, Inbox};
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

/// What is wrong with the connection.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The client could not be made, or a file for TLS not be used.
    #[error("cannot set up the MQTT client: {0}")]
    Setup(Box<paho::Error>),
    /// The broker was not reached, or refused.
    #[error("cannot connect: {0}")]
    Connect(Box<paho::Error>),
    /// The broker refuses the subscription, or one of the two.
    #[error("cannot subscribe to {topic}: {why}; the broker must allow {client_id:?} to read it")]
    Subscribe {
        /// Which.
        topic: String,
        /// As whom.
        client_id: String,
        /// What the broker says.
        why: String,
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
        let password = config.password.as_ref().map_or("", |password| password.reveal());
        let credentials = config.username.clone().map(|name| (name, password.to_owned()));
        Some(Self { uri: url.to_string(), credentials })
    }
}

/// A client that listens for heartbeats.
pub struct Client {
    paho: paho::AsyncClient,
    options: paho::ConnectOptions,
    subscription: Subscription,
    echo: Option<Echo>,
    inbox: Arc<Inbox>,
}

struct Subscription {
    topic: String,
    qos: i32,
    version: MqttVersion,
    client_id: String,
}

/// What the service publishes to itself.
#[derive(Clone)]
struct Echo {
    topic: String,
    /// Tells this process's echoes from anybody else's messages.
    nonce: String,
}

impl Echo {
    fn new(config: &MqttConfig) -> Option<Self> {
        if config.echo_interval.is_zero() {
            return None;
        }
        // The standard library's hashers are seeded at random.
        let nonce = format!("{:016x}", RandomState::new().build_hasher().finish());
        Some(Self { topic: super::echo_topic(&config.client_id), nonce })
    }

    fn payload(&self, round: u64, sent_at: DateTime<Utc>) -> String {
        format!("{} {round} {}", self.nonce, sent_at.timestamp_millis())
    }

    fn read(&self, payload: &[u8]) -> Option<Event> {
        let text = str::from_utf8(payload).ok()?.strip_prefix(&*self.nonce)?;
        let (round, millis) = text.strip_prefix(' ')?.split_once(' ')?;
        let sent_at = DateTime::from_timestamp_millis(millis.parse().ok()?)?;
        Some(Event::Echo { round: round.parse().ok()?, sent_at })
    }
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
        let echo = Echo::new(config);
        let receiver = Receiver { topic: config.topic.clone(), echo: echo.clone(), clock, metrics };
        listen(&paho, &inbox, receiver);
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
            echo,
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
        // One packet for both: they take effect together.
        let topics: Vec<&str> = [topic.as_str()].into_iter().chain(self.echo_topic()).collect();
        let qos = vec![*qos; topics.len()];
        let token = match version {
            MqttVersion::V5 => {
                // Retained messages are no evidence of life: not even sent.
                let options = paho::SubscribeOptionsBuilder::new()
                    .retain_handling(paho::RetainHandling::DontSendRetained)
                    .finalize();
                let options = vec![options; topics.len()];
                self.paho.subscribe_many_with_options(&topics, &qos, &options, None)
            }
            MqttVersion::V311 => self.paho.subscribe_many(&topics, &qos),
        };
        let topics: Vec<String> = topics.into_iter().map(str::to_owned).collect();
        let client_id = client_id.clone();
        async move {
            let topic = topics.join(" and ");
            match tokio::time::timeout(PATIENCE, token).await {
                Ok(Ok(response)) => {
                    let granted = response.subscribe_many_response().unwrap_or_default();
                    match refused(&topics, &granted) {
                        None => Ok(()),
                        Some((topic, why)) => Err(ClientError::Subscribe { topic, client_id, why }),
                    }
                }
                Ok(Err(error)) => {
                    Err(ClientError::Subscribe { topic, client_id, why: error.to_string() })
                }
                Err(_elapsed) => Err(ClientError::NoAnswer { topic }),
            }
        }
    }

    /// Where the echo is published; `None`: it is turned off.
    pub fn echo_topic(&self) -> Option<&str> {
        self.echo.as_ref().map(|echo| echo.topic.as_str())
    }

    /// Publishes an echo, which comes back as [`Event::Echo`] after everything
    /// that is on its way to this client. With the echo turned off it only passes
    /// through the inbox: being connected is then the evidence.
    pub fn send_echo(&self, round: u64, sent_at: DateTime<Utc>) {
        let Some(echo) = &self.echo else {
            return self.inbox.push(Event::Echo { round, sent_at });
        };
        let qos = self.subscription.qos;
        let message = paho::Message::new(&echo.topic, echo.payload(round, sent_at), qos);
        // One that fails does not come back, and that is what is looked at.
        if let Err(error) = self.paho.try_publish(message) {
            log::debug!(target: "mqtt_ingest", "echo: {error}");
        }
    }

    /// Says goodbye. What had arrived by then is in the inbox.
    pub fn disconnect(&self) -> impl Future<Output = ()> + use<> {
        // For a broker that acknowledges the last echoes; then paho closes the
        // connection without it, which takes no time.
        const LAST_MESSAGES: Duration = Duration::from_secs(2);
        let options = paho::DisconnectOptionsBuilder::new().timeout(LAST_MESSAGES).finalize();
        let token = self.paho.disconnect(options);
        async move {
            if let Ok(Err(error)) = tokio::time::timeout(2 * LAST_MESSAGES, token).await {
                log::debug!(target: "mqtt_ingest", "disconnect: {error}");
            }
        }
    }
}

/// Which subscriptions the broker did not grant, and why. paho itself takes an
/// answer to several for a success, whatever it says.
fn refused(topics: &[String], granted: &[i32]) -> Option<(String, String)> {
    // A grant is a QoS; whatever else there is, is a reason code.
    let granted = granted.iter().map(Some).chain(std::iter::repeat(None));
    let refused = topics.iter().zip(granted).filter(|(_, code)| !matches!(code, Some(0..=2)));
    let (topics, whys): (Vec<_>, Vec<_>) =
        refused.map(|(topic, code)| (&**topic, why(code))).unzip();
    (!topics.is_empty()).then(|| (topics.join(" and "), whys.join(" and ")))
}

fn why(code: Option<&i32>) -> String {
    // A code is a byte; of one above 127 C may have made a negative number.
    let code = code.map(|code| code.cast_unsigned() & 0xff);
    code.map_or("no answer".to_owned(), |code| paho::ReasonCode::from(code).to_string())
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
fn listen(client: &paho::AsyncClient, inbox: &Arc<Inbox>, receiver: Receiver) {
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
            receiver.receive(&message, &received);
        }
    });
}

/// Makes events of messages, on paho's thread.
struct Receiver {
    topic: TopicPattern,
    echo: Option<Echo>,
    clock: Clock,
    metrics: Arc<Metrics>,
}

impl Receiver {
    fn receive(&self, message: &paho::Message, inbox: &Inbox) {
        let Some(device) = self.topic.device_level(message.topic()) else {
            return self.receive_other(message, inbox);
        };
        inbox.offer(self.read(device, message));
    }

    fn read(&self, device: &str, message: &paho::Message) -> Result<Heartbeat, Rejection> {
        let device_id = device.parse().map_err(Rejection::InvalidDeviceId)?;
        if message.retained() {
            return Err(Rejection::Retained { device_id });
        }
        let heartbeat = Heartbeat::parse(device_id, message.payload(), (self.clock)().wall);
        if let Some(error) = &heartbeat.payload_error {
            self.metrics.payload_unreadable(error);
        }
        Ok(heartbeat)
    }

    fn receive_other(&self, message: &paho::Message, inbox: &Inbox) {
        let echo = self.echo.as_ref().filter(|echo| echo.topic == message.topic());
        match echo.and_then(|echo| echo.read(message.payload())) {
            Some(echo) => inbox.push(echo),
            None => self.metrics.unmatched(),
        }
    }
}
