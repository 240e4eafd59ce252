//! The configuration: `config.toml`, overlaid with the environment, validated
//! before anything starts.
//!
//! Loading opens no port and no database: `heartbeatd check-config` does nothing
//! else.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

mod bounds;
mod error;
mod files;
mod load;

pub(crate) use self::bounds::MAX_TIMEOUT;
pub use self::error::{ConfigError, Place};
pub use self::load::Loaded;
use crate::mqtt::TopicPattern;
pub use crate::secrets::{BrokerUrl, DatabaseUrl, InvalidUrl, Secret};

/// The prefix of the environment variables that override keys:
/// `HEARTBEATD_MQTT__URL` is `mqtt.url`.
pub const ENVIRONMENT_PREFIX: &str = "HEARTBEATD";

/// Where the configuration is looked for when no path is given.
pub const DEFAULT_PATH: &str = "config.toml";

/// All that can be configured. [`Config::default`] is what `config.toml` in the
/// repository spells out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// When a device counts as silent, and how often that is looked at.
    pub heartbeat: HeartbeatConfig,
    /// Who may register.
    pub devices: DevicesConfig,
    /// The broker.
    pub mqtt: MqttConfig,
    /// The database.
    pub database: DatabaseConfig,
    /// Health and metrics.
    pub http: HttpConfig,
    /// Handing over offline devices.
    pub alerts: AlertsConfig,
    /// Past status changes.
    pub history: HistoryConfig,
}

/// `[heartbeat]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HeartbeatConfig {
    /// How long a device may be silent before it is offline.
    #[serde(with = "crate::duration")]
    pub timeout: Duration,
    /// How often silent devices are looked for.
    #[serde(with = "crate::duration")]
    pub check_interval: Duration,
    /// How often received heartbeats are written to the database.
    #[serde(with = "crate::duration")]
    pub flush_interval: Duration,
    /// How far a device's clock may be off before a warning is logged.
    #[serde(with = "crate::duration")]
    pub max_clock_skew: Duration,
}

impl Default for HeartbeatConfig {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(180),
            check_interval: Duration::from_secs(60),
            flush_interval: Duration::from_secs(1),
            max_clock_skew: Duration::from_secs(30),
        }
    }
}

/// `[devices]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DevicesConfig {
    /// Whether a device's first heartbeat registers it.
    pub auto_register: bool,
    /// How many devices heartbeats may register; also bounds the memory.
    pub max_devices: u64,
    /// How many devices heartbeats may register in a second, once the burst is used up.
    pub registration_rate: u64,
    /// How many devices heartbeats may register at once.
    pub registration_burst: u64,
}

impl Default for DevicesConfig {
    fn default() -> Self {
        Self {
            auto_register: true,
            max_devices: 1_000_000,
            registration_rate: 1_000,
            registration_burst: 100_000,
        }
    }
}

/// `[mqtt]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MqttConfig {
    /// `mqtt://host:1883` or `mqtts://host:8883`; unset: the embedded broker.
    pub url: Option<BrokerUrl>,
    /// The name by which the broker knows this instance.
    pub client_id: String,
    /// Where heartbeats are published; exactly one level is `+`, the device id.
    pub topic: TopicPattern,
    /// The quality of service of the subscription: 0, 1 or 2.
    pub qos: u8,
    /// How long the connection may be idle before it is probed.
    #[serde(with = "crate::duration")]
    pub keep_alive: Duration,
    /// How often the service proves to itself that it is listening.
    #[serde(with = "crate::duration")]
    pub echo_interval: Duration,
    /// Where that is published; unset: see [`MqttConfig::echo_topic`].
    pub echo_topic: Option<String>,
    /// Several instances share the heartbeats of one group.
    pub share_group: Option<String>,
    /// The version of the protocol.
    pub version: MqttVersion,
    /// Who this instance is to the broker.
    pub username: Option<String>,
    /// What proves it.
    pub password: Option<Secret>,
    /// A file that holds the password instead.
    pub password_file: Option<PathBuf>,
    /// The certificate authority that signed the broker's certificate (PEM).
    pub ca_file: Option<PathBuf>,
    /// This instance's certificate (PEM).
    pub cert_file: Option<PathBuf>,
    /// The key of that certificate (PEM).
    pub key_file: Option<PathBuf>,
    /// How many received messages may wait to be processed.
    pub max_backlog: usize,
    /// The broker in this process.
    pub embedded: EmbeddedConfig,
}

impl Default for MqttConfig {
    fn default() -> Self {
        Self {
            url: None,
            client_id: "heartbeatd".to_owned(),
            topic: TopicPattern::default(),
            qos: 1,
            keep_alive: Duration::from_secs(30),
            echo_interval: Duration::from_secs(5),
            echo_topic: None,
            share_group: None,
            version: MqttVersion::V5,
            username: None,
            password: None,
            password_file: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
            max_backlog: 1_000_000,
            embedded: EmbeddedConfig::default(),
        }
    }
}

impl MqttConfig {
    /// Where echoes are published: `mqtt.echo_topic`, else `heartbeatd/CLIENT_ID/echo`,
    /// or with the embedded broker a reserved device's topic, so that the very
    /// subscription of the heartbeats is proven. `None` with `echo_interval` at zero.
    pub fn echo_topic(&self) -> Option<String> {
        if self.echo_interval.is_zero() {
            return None;
        }
        let inside = self.url.is_none() && self.share_group.is_none();
        Some(match &self.echo_topic {
            Some(topic) => topic.clone(),
            None if inside => self.topic.topic_of(&self.reserved_id()),
            None => crate::mqtt::echo_topic(&self.client_id),
        })
    }

    /// The device id under which this instance may publish its echoes.
    pub(crate) fn reserved_id(&self) -> String {
        format!("{}{}", crate::domain::device_id::RESERVED_PREFIX, self.client_id)
    }

    /// How often listening is confirmed: by an echo, or with `echo_interval` at
    /// zero once a second for as long as the subscription stands.
    pub fn confirm_interval(&self) -> Duration {
        const WITHOUT_ECHO: Duration = Duration::from_secs(1);
        if self.echo_interval.is_zero() { WITHOUT_ECHO } else { self.echo_interval }
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
    /// As `mqtt.version` has it.
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
            other => Err(format!("{other:?} is no version of MQTT: \"5\" or \"3.1.1\"")),
        }
    }
}

/// `[mqtt.embedded]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmbeddedConfig {
    /// Where devices connect to; port 0: any free one.
    #[serde(deserialize_with = "address")]
    pub listen: SocketAddr,
    /// Who may connect, as `mosquitto_passwd` writes it; unset: anybody, from
    /// this machine only.
    pub users_file: Option<PathBuf>,
}

fn address<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| {
        let expected = &"an IP address with a port, such as \"127.0.0.1:1883\" or \"[::1]:1883\"";
        serde::de::Error::invalid_value(serde::de::Unexpected::Str(&text), expected)
    })
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 1883)), users_file: None }
    }
}

/// `[database]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DatabaseConfig {
    /// `sqlite://PATH?mode=rwc` or `postgres://USER@HOST/NAME`.
    pub url: DatabaseUrl,
    /// A file that holds the URL instead.
    pub url_file: Option<PathBuf>,
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        Self { url: "sqlite://heartbeatd.db?mode=rwc".to_owned().into(), url_file: None }
    }
}

/// `[http]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Where `/healthz`, `/readyz` and `/metrics` are served.
    pub listen: HttpListen,
    /// What a request that changes something has to present.
    pub token: Option<Secret>,
    /// A file that holds the token instead.
    pub token_file: Option<PathBuf>,
}

impl Default for HttpConfig {
    fn default() -> Self {
        let listen = HttpListen::At(SocketAddr::from(([127, 0, 0, 1], 8080)));
        Self { listen, token: None, token_file: None }
    }
}

/// Where HTTP is served, if at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpListen {
    /// Not at all.
    Off,
    /// Here; port 0: any free one.
    At(SocketAddr),
}

/// `[alerts]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AlertsConfig {
    /// How long the alert sink may take for one delivery.
    #[serde(with = "crate::duration")]
    pub timeout: Duration,
}

impl Default for AlertsConfig {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(30) }
    }
}

/// `[history]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HistoryConfig {
    /// How long status changes are kept.
    #[serde(with = "crate::duration")]
    pub retention: Duration,
}

impl Default for HistoryConfig {
    fn default() -> Self {
        Self { retention: Duration::from_secs(90 * 24 * 60 * 60) }
    }
}

impl<'de> Deserialize<'de> for HttpListen {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "off" => Ok(Self::Off),
            address => address.parse().map(Self::At).map_err(|_| {
                let expected = &"\"off\" or an address such as \"127.0.0.1:8080\"";
                serde::de::Error::invalid_value(serde::de::Unexpected::Str(address), expected)
            }),
        }
    }
}

impl Serialize for HttpListen {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => serializer.serialize_str("off"),
            Self::At(address) => serializer.collect_str(address),
        }
    }
}

impl Config {
    /// Reads `path` (without one: `config.toml` in the working directory, if
    /// there is one) and the environment, and validates what they say.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] that names the key, its value and what is allowed.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        Loaded::read(path).map(|loaded| loaded.config)
    }
}
