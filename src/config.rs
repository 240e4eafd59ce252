//! The configuration: `config.toml`, overlaid with the environment.
//!
//! All of it is read and checked before anything starts: each value as it is parsed
//! (`values`), then the rules between keys (`consistency`). Loading opens no port and no
//! database. `heartbeatd check-config` loads the configuration, checks the files that it
//! names and prints it.
//!
//! The defaults are those of the `config.toml` in the repository, which is compiled in.
//! A new key is a field here, a line there, and if it has bounds a function in `values`.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use serde::{Deserialize, Serialize};

mod consistency;
mod database;
mod error;
mod files;
mod load;
mod tokens;
mod values;

pub use self::database::DatabaseConfig;
pub use self::error::{ConfigError, Place};
pub(crate) use self::files::ServerTls;
pub use self::load::Loaded;
pub(crate) use self::load::read_secret;
pub use self::tokens::{Scope, TokenConfig, TokenHash, TokenName};
pub(crate) use self::values::MAX_TIMEOUT;
use self::values::echo_interval;
pub use self::values::{InvalidValue, NonZeroDuration, Qos, WholeSeconds};
use crate::domain::TopicPattern;
pub use crate::secrets::{BrokerUrl, DatabaseUrl, InvalidUrl, Secret};

/// The prefix of the environment variables that override keys: `HEARTBEATD_MQTT__URL`
/// sets `mqtt.url`.
pub const ENVIRONMENT_PREFIX: &str = "HEARTBEATD";

/// The path of the configuration if none is given.
pub const DEFAULT_PATH: &str = "config.toml";

/// The file that explains every key and has every default.
const DEFAULTS: &str = include_str!("../config.toml");

/// The whole configuration. [`Config::default`] is what `config.toml` in the repository
/// says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The silence after which a device is offline, and the intervals of the work.
    pub heartbeat: HeartbeatConfig,
    /// The devices that may register.
    pub devices: DevicesConfig,
    /// The broker.
    pub mqtt: MqttConfig,
    /// The database.
    pub database: DatabaseConfig,
    /// The API, health and metrics.
    pub http: HttpConfig,
    /// The delivery of offline devices.
    pub alerts: AlertsConfig,
    /// Past status changes.
    pub history: HistoryConfig,
}

impl Default for Config {
    fn default() -> Self {
        static PARSED: LazyLock<Config> = LazyLock::new(|| {
            toml::from_str(DEFAULTS).expect("the config.toml that is compiled in is valid")
        });
        PARSED.clone()
    }
}

/// `[heartbeat]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeartbeatConfig {
    /// The silence after which a device is offline, unless it has its own timeout.
    #[serde(deserialize_with = "values::timeout")]
    pub timeout: NonZeroDuration,
    /// The time between two checks for silent devices.
    #[serde(deserialize_with = "values::check_interval")]
    pub check_interval: NonZeroDuration,
    /// The time between two writes of received heartbeats to the database.
    #[serde(deserialize_with = "values::flush_interval")]
    pub flush_interval: NonZeroDuration,
    /// The skew of a device's clock above which a warning is logged.
    #[serde(
        deserialize_with = "values::max_clock_skew",
        serialize_with = "crate::duration::serialize"
    )]
    pub max_clock_skew: Duration,
}

/// `[devices]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DevicesConfig {
    /// True if a device's first heartbeat registers it.
    pub auto_register: bool,
    /// The size of the fleet at which heartbeats stop registering devices; also bounds the
    /// memory.
    #[serde(deserialize_with = "values::device_count")]
    pub max_devices: u64,
    /// The devices that heartbeats may register per second, once the burst is used up.
    #[serde(deserialize_with = "values::registrations")]
    pub registration_rate: u64,
    /// The devices that heartbeats may register at once.
    #[serde(deserialize_with = "values::registrations")]
    pub registration_burst: u64,
}

/// `[mqtt]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MqttConfig {
    /// `mqtt://host:1883` or `mqtts://host:8883`; unset: the embedded broker.
    pub url: Option<BrokerUrl>,
    /// The nodes of the broker's cluster at which devices connect; empty: only `url`.
    #[serde(deserialize_with = "values::entry_urls")]
    pub entry_urls: Vec<BrokerUrl>,
    /// The name by which the broker knows this instance.
    #[serde(deserialize_with = "values::topic_level")]
    pub client_id: String,
    /// The topic of heartbeats; exactly one level is `+`, the device id.
    pub topic: TopicPattern,
    /// The quality of service of the subscription and the echoes.
    pub qos: Qos,
    /// The idle time after which the connection is probed.
    pub keep_alive: WholeSeconds,
    /// The time between two echoes, which prove that the service is listening. `None`:
    /// being connected is the proof.
    #[serde(with = "echo_interval")]
    pub echo_interval: Option<NonZeroDuration>,
    /// The topic of echoes; for the default see [`MqttConfig::echo_topic`].
    pub echo_topic: Option<String>,
    /// The group whose members share the heartbeats.
    #[serde(default, deserialize_with = "values::share_group")]
    pub share_group: Option<String>,
    /// The way to deal with a member of the group that has stopped.
    pub fence: FenceMode,
    /// The longest time by which a heartbeat may come after an echo; for the default see
    /// [`MqttConfig::settle`].
    #[serde(default, with = "values::settle")]
    pub settle: Option<Duration>,
    /// The version of the protocol.
    pub version: MqttVersion,
    /// The user name for the broker.
    #[serde(default, deserialize_with = "values::username")]
    pub username: Option<String>,
    /// The password for the broker.
    pub password: Option<Secret>,
    /// A file that holds the password instead.
    pub password_file: Option<PathBuf>,
    /// The certificate authority that signed the broker's certificate (PEM); unset: those
    /// that the system trusts.
    pub ca_file: Option<PathBuf>,
    /// This instance's certificate (PEM).
    pub cert_file: Option<PathBuf>,
    /// The key of that certificate (PEM).
    pub key_file: Option<PathBuf>,
    /// The maximum number of received messages that may wait to be processed.
    #[serde(deserialize_with = "values::backlog")]
    pub max_backlog: usize,
    /// The broker in this process.
    pub embedded: EmbeddedConfig,
}

impl MqttConfig {
    /// The topic on which echoes are published: `mqtt.echo_topic`, else
    /// `heartbeatd/CLIENT_ID/echo`. With the embedded broker and no share group, the default
    /// is a reserved device's topic, so that echoes prove the subscription of the heartbeats
    /// itself. `None` if there are no echoes.
    pub fn echo_topic(&self) -> Option<String> {
        self.echo_interval?;
        let inside = self.url.is_none() && self.share_group.is_none();
        Some(match &self.echo_topic {
            Some(topic) => topic.clone(),
            None if inside => self.topic.topic_of(&self.reserved_id()),
            None => format!("heartbeatd/{}/echo", self.client_id),
        })
    }

    /// The nodes at which devices connect besides `url`, where an echo of its own goes in. With
    /// each the client identifier of the connection to it.
    pub fn other_entries(&self) -> impl Iterator<Item = (&BrokerUrl, String)> {
        let numbered = self.entry_urls.iter().zip(1_usize..);
        numbered
            .filter(|(url, _)| self.url.as_ref() != Some(url))
            .map(|(url, number)| (url, format!("{}-entry-{number}", self.client_id)))
    }

    /// The longest time by which a heartbeat may come after an echo that was published after it:
    /// `mqtt.settle`, else nothing, or a second in a group, whose members a broker may serve by
    /// different threads.
    pub fn settle(&self) -> Duration {
        const IN_A_GROUP: Duration = Duration::from_secs(1);
        let usual = if self.share_group.is_some() { IN_A_GROUP } else { Duration::ZERO };
        self.settle.unwrap_or(usual)
    }

    /// The device id under which this instance may publish its echoes.
    pub(crate) fn reserved_id(&self) -> String {
        format!("{}{}", crate::domain::device_id::RESERVED_PREFIX, self.client_id)
    }

    /// The time between two confirmations of listening: that between echoes, or without
    /// echoes one second, for as long as the subscription stands.
    pub fn confirm_interval(&self) -> Duration {
        const WITHOUT_ECHO: Duration = Duration::from_secs(1);
        self.echo_interval.map_or(WITHOUT_ECHO, NonZeroDuration::get)
    }
}

/// The way to deal with a member of a group that has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub enum FenceMode {
    /// Another member ends its session at the broker, by connecting with its client identifier.
    #[serde(rename = "takeover")]
    Takeover,
    /// Nothing, because the broker binds identifiers to certificates or users. No silence counts
    /// until the member is back, or was removed by hand.
    #[serde(rename = "none")]
    None,
}

impl TryFrom<String> for FenceMode {
    type Error = InvalidValue;

    fn try_from(mode: String) -> Result<Self, InvalidValue> {
        match mode.as_str() {
            "takeover" => Ok(Self::Takeover),
            "none" => Ok(Self::None),
            _ => Err(InvalidValue("\"takeover\" or \"none\"")),
        }
    }
}

/// A version of MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub enum MqttVersion {
    /// MQTT 5.0.
    #[serde(rename = "5")]
    V5,
    /// MQTT 3.1.1.
    #[serde(rename = "3.1.1")]
    V311,
}

impl MqttVersion {
    /// The version as `mqtt.version` writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V5 => "5",
            Self::V311 => "3.1.1",
        }
    }
}

impl TryFrom<String> for MqttVersion {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "5" => Ok(Self::V5),
            "3.1.1" => Ok(Self::V311),
            other => Err(format!("{other:?} is not a version of MQTT: \"5\" or \"3.1.1\"")),
        }
    }
}

/// `[mqtt.embedded]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddedConfig {
    /// The address that devices connect to without TLS, if any.
    #[serde(deserialize_with = "embedded_listen")]
    pub listen: Listen,
    /// The users that may connect, in a file of `heartbeatd user` or `mosquitto_passwd`; unset:
    /// any client, from this machine only.
    pub users_file: Option<PathBuf>,
    /// The address that devices connect to with TLS; unset: none.
    #[serde(default, deserialize_with = "tls_listen")]
    pub tls_listen: Option<SocketAddr>,
    /// The certificate that devices see, followed by those that lead to its authority (PEM).
    pub tls_cert_file: Option<PathBuf>,
    /// The key of that certificate (PEM).
    pub tls_key_file: Option<PathBuf>,
    /// The authority that signed the devices' certificates (PEM). If set, each device needs
    /// one, and is the user that it names.
    pub tls_client_ca_file: Option<PathBuf>,
    /// The maximum number of clients besides this service; unset: as many as open files allow.
    #[serde(default, deserialize_with = "values::max_connections")]
    pub max_connections: Option<u64>,
    /// The maximum number of clients from one address, or from one /64 of IPv6.
    #[serde(deserialize_with = "values::connections")]
    pub max_connections_per_address: u64,
    /// The maximum number of connections whose CONNECT has not arrived.
    #[serde(deserialize_with = "values::connections")]
    pub max_pending: u64,
    /// The time within which a CONNECT has to arrive.
    #[serde(deserialize_with = "values::connect_timeout")]
    pub connect_timeout: NonZeroDuration,
    /// The maximum size of a packet, in bytes.
    #[serde(deserialize_with = "values::max_packet")]
    pub max_packet: u32,
    /// The keep-alive of a client that asks for a longer one or for none.
    #[serde(deserialize_with = "values::max_keep_alive")]
    pub max_keep_alive: WholeSeconds,
    /// The number of messages per second above which a client's socket is read later.
    #[serde(deserialize_with = "values::messages_per_second")]
    pub max_messages_per_second: u32,
}

fn embedded_listen<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Listen, D::Error> {
    let expected = "\"off\", or an IP address with a port, such as \"127.0.0.1:1883\" or \
                    \"[::1]:1883\"";
    Listen::parse(&String::deserialize(from)?, expected)
}

fn tls_listen<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(from)?;
    text.parse().map(Some).map_err(|_| {
        let expected = &"an IP address with a port, such as \"0.0.0.0:8883\" or \"[::]:8883\"";
        serde::de::Error::invalid_value(serde::de::Unexpected::Str(&text), expected)
    })
}

/// `[http]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpConfig {
    /// The address at which the API, health and metrics are served.
    pub listen: Listen,
    /// The names by which clients on this machine may call a service on loopback, besides
    /// `localhost` and its addresses.
    #[serde(deserialize_with = "tokens::names")]
    pub names: Vec<String>,
    /// True if everybody may read.
    pub public: bool,
    /// The maximum number of open event streams.
    #[serde(deserialize_with = "values::max_streams")]
    pub max_streams: usize,
    /// The token of an administrator.
    pub token: Option<Secret>,
    /// A file that holds that token instead.
    pub token_file: Option<PathBuf>,
    /// The tokens of others.
    #[serde(default, deserialize_with = "tokens::tokens")]
    pub tokens: Vec<TokenConfig>,
}

impl HttpConfig {
    /// True if there is any token.
    pub fn has_token(&self) -> bool {
        self.token.is_some() || !self.tokens.is_empty()
    }
}

/// The address to listen on, if any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// Nothing listens.
    Off,
    /// This address; port 0: any free one.
    At(SocketAddr),
}

/// `[alerts]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlertsConfig {
    /// The time that the alert sink may take for one delivery.
    #[serde(deserialize_with = "values::alert_timeout")]
    pub timeout: NonZeroDuration,
}

/// `[history]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryConfig {
    /// The time for which status changes are kept.
    #[serde(deserialize_with = "values::retention")]
    pub retention: NonZeroDuration,
}

impl Listen {
    /// The address, if there is one.
    pub fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Off => None,
            Self::At(address) => Some(address),
        }
    }

    fn parse<E: serde::de::Error>(text: &str, expected: &str) -> Result<Self, E> {
        match text {
            "off" => Ok(Self::Off),
            address => address
                .parse()
                .map(Self::At)
                .map_err(|_| E::invalid_value(serde::de::Unexpected::Str(address), &expected)),
        }
    }
}

impl<I: Into<IpAddr>> From<(I, u16)> for Listen {
    fn from(address: (I, u16)) -> Self {
        Self::At(address.into())
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let expected = "\"off\" or an address such as \"127.0.0.1:8080\"";
        Self::parse(&String::deserialize(from)?, expected)
    }
}

impl Serialize for Listen {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => serializer.serialize_str("off"),
            Self::At(address) => serializer.collect_str(address),
        }
    }
}

impl Config {
    /// True if several instances may use the database: one writes and the others stand by, or all
    /// of them are members of a group. All must prove what they hear, and only PostgreSQL is on
    /// no instance's machine.
    pub fn may_be_several(&self) -> bool {
        let MqttConfig { url, echo_interval, .. } = &self.mqtt;
        !self.database.url.is_sqlite() && url.is_some() && echo_interval.is_some()
    }

    /// Reads the file at `path` and the environment, and checks both. Without a path it is
    /// `config.toml` in the working directory, if there is such a file.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] that names the key, its value and what is allowed.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        Loaded::read(path).map(|loaded| loaded.config)
    }
}
