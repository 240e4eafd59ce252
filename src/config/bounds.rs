//! What the types alone do not say of the values.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::{Config, ConfigError, EmbeddedConfig, InvalidUrl, MqttConfig};
use crate::domain::device_id::{RESERVED_PREFIX, is_invisible, is_reserved};
use crate::duration;
use crate::secrets::HIDDEN;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The longest timeout of a device. Longer ones say that nobody will ever know.
pub(crate) const MAX_TIMEOUT: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// A token that can be guessed within a second protects nothing.
const MIN_TOKEN_CHARACTERS: usize = 8;

/// MQTT gives the length of a text two bytes.
const MAX_MQTT_BYTES: usize = 65_535;

impl Config {
    /// Checks what the types alone do not say: bounds, and what belongs together.
    ///
    /// # Errors
    ///
    /// A [`ConfigError::Value`] for the first value that cannot work.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.validate_durations()?;
        self.validate_numbers()?;
        validate_mqtt(&self.mqtt)?;
        if let Some(token) = &self.http.token {
            let long = token.reveal().chars().count() >= MIN_TOKEN_CHARACTERS;
            let expected = "at least 8 characters, because a shorter one can be guessed";
            check("http.token", HIDDEN, long || token.is_placeholder(), expected)?;
            let valid = !token.reveal().contains(char::is_control);
            let expected =
                "no line break and no other control character, because no header holds one";
            check("http.token", HIDDEN, valid, expected)?;
        }
        self.database.url.check().map_err(|InvalidUrl { shown, expected }| ConfigError::Value {
            key: "database.url".to_owned(),
            value: shown,
            expected,
            place: None,
        })
    }

    fn validate_durations(&self) -> Result<(), ConfigError> {
        let Self { heartbeat, alerts, history, mqtt, .. } = self;
        within(
            "heartbeat.timeout",
            heartbeat.timeout,
            MILLISECOND..=MAX_TIMEOUT,
            "a device that may be silent for longer is not watched",
        )?;
        within(
            "heartbeat.check_interval",
            heartbeat.check_interval,
            MILLISECOND..=DAY,
            "a silent device is found up to this much later",
        )?;
        within(
            "heartbeat.flush_interval",
            heartbeat.flush_interval,
            Duration::from_millis(10)..=HOUR,
            "each flush is a transaction, and a kill -9 loses what came since the last",
        )?;
        within(
            "heartbeat.max_clock_skew",
            heartbeat.max_clock_skew,
            Duration::ZERO..=365 * DAY,
            "a clock that is off by more was never set",
        )?;
        if !mqtt.echo_interval.is_zero() {
            within(
                "mqtt.echo_interval",
                mqtt.echo_interval,
                Duration::from_millis(100)..=HOUR,
                "or 0s to turn the echo off: one has to come back before the next is sent, and \
                 silence is proven only up to the last",
            )?;
        }
        within(
            "alerts.timeout",
            alerts.timeout,
            Duration::from_millis(100)..=HOUR,
            "a sink on another machine needs its time, and one that hangs is to be noticed",
        )?;
        within(
            "history.retention",
            history.retention,
            SECOND..=36_500 * DAY,
            "a change is kept until somebody can have looked at it",
        )?;
        let whole_seconds = mqtt.keep_alive.subsec_nanos() == 0
            && (1..=u64::from(u16::MAX)).contains(&mqtt.keep_alive.as_secs());
        let keep_alive = duration::format(mqtt.keep_alive);
        let expected = "whole seconds, 1s to 65535s, because MQTT gives it two bytes";
        check("mqtt.keep_alive", keep_alive, whole_seconds, expected)
    }

    fn validate_numbers(&self) -> Result<(), ConfigError> {
        const MANY: u64 = 100_000_000;
        let memory = "because each may take 150 bytes of memory";
        let fleet = "because no fleet has more";
        for (key, number, of) in [
            ("devices.max_devices", self.devices.max_devices, memory),
            ("devices.registration_rate", self.devices.registration_rate, fleet),
            ("devices.registration_burst", self.devices.registration_burst, fleet),
            ("mqtt.max_backlog", self.mqtt.max_backlog as u64, memory),
        ] {
            let valid = (1..=MANY).contains(&number);
            check(key, number, valid, format!("at least 1 and at most {MANY}, {of}"))?;
        }
        check("mqtt.qos", self.mqtt.qos, self.mqtt.qos <= 2, "0, 1 or 2")
    }
}

fn validate_mqtt(mqtt: &MqttConfig) -> Result<(), ConfigError> {
    check_topic_level("mqtt.client_id", &mqtt.client_id)?;
    if let Some(group) = &mqtt.share_group {
        check_topic_level("mqtt.share_group", group)?;
    }
    check_echo_topic(mqtt)?;
    check_embedded_topics(mqtt)?;
    if cfg!(not(feature = "embedded-broker")) && mqtt.url.is_none() {
        let expected = "set the URL of a broker, because this heartbeatd was built without one";
        return Err(ConfigError::Missing { key: "mqtt.url", expected: expected.to_owned() });
    }
    let topic = mqtt.topic.to_string();
    // A device's id, a share group and their separators fit beside it.
    let fits = topic.len() <= MAX_MQTT_BYTES - 1024;
    check("mqtt.topic", "***", fits, "shorter than 64 KB, which is MQTT's bound on topics")?;
    validate_credentials(mqtt)?;
    let EmbeddedConfig { listen, users_file } = &mqtt.embedded;
    check(
        "mqtt.embedded.listen",
        listen,
        listen.ip().is_loopback() || users_file.is_some(),
        "a loopback address such as 127.0.0.1:1883, or set mqtt.embedded.users_file: \
         whoever can reach another address can report for every device",
    )
}

fn validate_credentials(mqtt: &MqttConfig) -> Result<(), ConfigError> {
    let MqttConfig { username, password, cert_file, key_file, .. } = mqtt;
    needs(("mqtt.password", password.is_some()), ("mqtt.username", username.is_some()))?;
    needs(("mqtt.cert_file", cert_file.is_some()), ("mqtt.key_file", key_file.is_some()))?;
    needs(("mqtt.key_file", key_file.is_some()), ("mqtt.cert_file", cert_file.is_some()))?;
    if let Some(name) = &mqtt.username {
        let valid = !name.is_empty() && name.len() <= MAX_MQTT_BYTES && !name.contains(is_unseen);
        let expected = "1 to 65535 bytes, no control character, no invisible one";
        check("mqtt.username", format!("{name:?}"), valid, expected)?;
    }
    if let Some(password) = &mqtt.password {
        let password = password.reveal();
        let expected = "a password is expected, because an empty one protects nothing; without \
                        mqtt.password only the name is sent";
        check("mqtt.password", "\"\"", !password.is_empty(), expected)?;
        let valid = password.len() <= MAX_MQTT_BYTES && !password.contains('\0');
        check("mqtt.password", HIDDEN, valid, "at most 65535 bytes, none of them U+0000")?;
    }
    Ok(())
}

const MILLISECOND: Duration = Duration::from_millis(1);

/// Times are kept in milliseconds: a part of one would be lost without a word.
fn within(
    key: &str,
    value: Duration,
    bounds: RangeInclusive<Duration>,
    why: &str,
) -> Result<(), ConfigError> {
    let (least, most) = (duration::format(*bounds.start()), duration::format(*bounds.end()));
    let shown = duration::format(value);
    check(
        key,
        &shown,
        bounds.contains(&value),
        format!("at least {least} and at most {most}; {why}"),
    )?;
    let whole = value.subsec_nanos().is_multiple_of(MILLISECOND.subsec_nanos());
    check(key, &shown, whole, "whole milliseconds")
}

fn check(
    key: &str,
    value: impl fmt::Display,
    valid: bool,
    expected: impl Into<String>,
) -> Result<(), ConfigError> {
    if valid {
        return Ok(());
    }
    let (key, value, expected) = (key.to_owned(), value.to_string(), expected.into());
    Err(ConfigError::Value { key, value, expected, place: None })
}

/// Refuses a key that is set without the one that it needs; true: it is set.
fn needs(set: (&str, bool), needed: (&'static str, bool)) -> Result<(), ConfigError> {
    match (set, needed) {
        ((set, true), (key, false)) => {
            let expected = format!("set it as well, because {set} is set");
            Err(ConfigError::Missing { key, expected })
        }
        _ => Ok(()),
    }
}

/// An echo within the heartbeats' filter must not be a device's, and must come to this
/// instance.
fn check_echo_topic(mqtt: &MqttConfig) -> Result<(), ConfigError> {
    let Some(topic) = mqtt.echo_topic.clone().or_else(|| mqtt.echo_topic()) else { return Ok(()) };
    let check =
        |valid, expected: &str| check("mqtt.echo_topic", format!("{topic:?}"), valid, expected);
    let valid = (1..=1024).contains(&topic.len())
        && !topic.starts_with('$')
        && !topic.contains(|c: char| is_unseen(c) || matches!(c, '+' | '#'));
    check(
        valid,
        "1 to 1024 bytes, no '+', no '#', no control character, no invisible one, and no '$' at \
         the beginning, as in \"heartbeatd/CLIENT_ID/echo\"",
    )?;
    let Some(device) = mqtt.topic.device_level(&topic) else { return Ok(()) };
    let suggested = mqtt.topic.topic_of(&mqtt.reserved_id());
    check(
        is_reserved(device),
        &format!(
            "it matches mqtt.topic, where only device ids that begin with \"{RESERVED_PREFIX}\" \
             are reserved for echoes: {suggested:?}"
        ),
    )?;
    check(
        mqtt.share_group.is_none(),
        &format!(
            "outside mqtt.topic = \"{}\", because with mqtt.share_group another member of the \
             group would receive the echo",
            mqtt.topic
        ),
    )
}

/// The embedded broker takes a topic with a level that begins with `$` for invalid.
fn check_embedded_topics(mqtt: &MqttConfig) -> Result<(), ConfigError> {
    if mqtt.url.is_some() {
        return Ok(());
    }
    let expected = "no level that begins with '$', because the embedded broker does not take one; \
                    or mqtt.url, the URL of a broker that does";
    let topics =
        [("mqtt.topic", Some(mqtt.topic.to_string())), ("mqtt.echo_topic", mqtt.echo_topic())];
    for (key, topic) in topics {
        let topic = topic.unwrap_or_default();
        check(key, format!("{topic:?}"), !topic.contains("/$"), expected)?;
    }
    Ok(())
}

fn check_topic_level(key: &str, text: &str) -> Result<(), ConfigError> {
    let valid = !text.is_empty()
        && text.len() <= 128
        && !text.contains(|c: char| is_unseen(c) || matches!(c, '/' | '+' | '#'));
    let expected = "1 to 128 bytes, no control character, no invisible one, no '/', '+', '#'";
    check(key, format!("{text:?}"), valid, expected)
}

/// True for what a device id may not have either: two texts that differ are to look
/// different.
fn is_unseen(c: char) -> bool {
    c.is_control() || is_invisible(c)
}
