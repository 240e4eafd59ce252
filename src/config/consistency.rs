//! The rules between keys, and those for secrets, which may come from files.

use std::fmt;

use super::values::{MAX_MQTT_BYTES, is_unseen};
use super::{Config, ConfigError, EmbeddedConfig, HttpConfig, MqttConfig, MqttVersion, Secret};
use crate::domain::device_id::{RESERVED_PREFIX, is_reserved};
use crate::secrets::HIDDEN;

/// The minimum number of characters of a token. A shorter one is easy to guess.
const MIN_TOKEN_CHARACTERS: usize = 8;

impl Config {
    /// Checks what no value can tell by itself: the keys that belong together, and the
    /// secrets. [`Config::load`] does this; call it for a configuration that was changed.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] for the first key that cannot work.
    pub fn validate(&self) -> Result<(), ConfigError> {
        validate_mqtt(&self.mqtt)?;
        self.validate_group()?;
        validate_entries(&self.mqtt)?;
        validate_http(&self.http)?;
        self.database.validate()
    }
}

impl Config {
    /// Members of a group find out by the database and by their echoes what all of them have heard.
    fn validate_group(&self) -> Result<(), ConfigError> {
        let MqttConfig { share_group, url, version, echo_interval, .. } = &self.mqtt;
        let Some(group) = share_group else { return Ok(()) };
        let needs = |valid, expected: &str| {
            check("mqtt.share_group", format!("{group:?}"), valid, expected)
        };
        needs(
            url.is_some(),
            "unset, or mqtt.url set to a broker: the embedded one has no other clients",
        )?;
        needs(
            *version == MqttVersion::V5,
            "unset, or mqtt.version = \"5\": a broker of MQTT 3.1.1 may know no shared \
             subscriptions, grants one that brings nothing, and cannot say so",
        )?;
        needs(
            echo_interval.is_some(),
            "unset, or mqtt.echo_interval above 0s: a heartbeat that one member has missed is \
             received by no other, so each has to prove what it hears",
        )?;
        needs(
            !self.database.url.is_sqlite(),
            "unset, or database.url set to a PostgreSQL: members of a group share one database",
        )
    }
}

/// An entry of a cluster is proven by an echo that is published there and comes back by `mqtt.url`.
fn validate_entries(mqtt: &MqttConfig) -> Result<(), ConfigError> {
    let MqttConfig { entry_urls, url, echo_interval, .. } = mqtt;
    if entry_urls.is_empty() {
        return Ok(());
    }
    let check = |value, valid, expected: &str| check("mqtt.entry_urls", value, valid, expected);
    let all = || entry_urls.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    check(
        all(),
        url.is_some(),
        "unset, or mqtt.url set to a node of the cluster: the embedded broker has no others",
    )?;
    check(
        all(),
        echo_interval.is_some(),
        "unset, or mqtt.echo_interval above 0s: what enters at a node is proven by an echo that \
         goes in there",
    )?;
    let mut earlier = entry_urls.iter();
    while let Some(url) = earlier.next_back() {
        let is_new = !earlier.as_slice().contains(url);
        check(format!("{url} twice"), is_new, "each node once")?;
    }
    Ok(())
}

fn validate_http(http: &HttpConfig) -> Result<(), ConfigError> {
    if let Some(token) = &http.token {
        validate_token(token)?;
    }
    for (index, token) in http.tokens.iter().enumerate() {
        let is_new = http.tokens[..index].iter().all(|other| other.name != token.name);
        let expected = "each token needs a name of its own";
        check("http.tokens", format!("{:?} twice", token.name.as_str()), is_new, expected)?;
    }
    let Some(address) = http.listen.address() else { return Ok(()) };
    let expected = "a loopback address such as 127.0.0.1:8080, or set http.token or http.tokens \
                    (`heartbeatd token new NAME`), or http.public = true if everybody who reaches \
                    this address may see the devices";
    let guarded = address.ip().to_canonical().is_loopback() || http.has_token() || http.public;
    check("http.listen", address, guarded, expected)
}

fn validate_token(token: &Secret) -> Result<(), ConfigError> {
    let long = token.reveal().chars().count() >= MIN_TOKEN_CHARACTERS;
    let expected = "at least 8 characters, because a shorter one can be guessed";
    check("http.token", HIDDEN, long || token.is_placeholder(), expected)?;
    let valid = !token.reveal().contains(char::is_control);
    let expected = "no line break and no other control character, because no header holds one";
    check("http.token", HIDDEN, valid, expected)
}

fn validate_mqtt(mqtt: &MqttConfig) -> Result<(), ConfigError> {
    check_echo_topic(mqtt)?;
    // Leaves room for a device's id, a share group and their separators.
    let fits = mqtt.topic.to_string().len() <= MAX_MQTT_BYTES - 1024;
    check("mqtt.topic", "…", fits, "shorter than 64 KB, which is MQTT's bound on topics")?;
    validate_credentials(mqtt)?;
    validate_embedded(&mqtt.embedded)
}

fn validate_embedded(embedded: &EmbeddedConfig) -> Result<(), ConfigError> {
    const LISTEN: &str = "mqtt.embedded.listen";
    const TLS_LISTEN: &str = "mqtt.embedded.tls_listen";
    const CERTIFICATE: &str = "mqtt.embedded.tls_cert_file";
    const KEY: &str = "mqtt.embedded.tls_key_file";
    let EmbeddedConfig { listen, users_file, tls_listen, .. } = embedded;
    let has_certificate = embedded.tls_cert_file.is_some();
    let has_key = embedded.tls_key_file.is_some();
    let has_authority = embedded.tls_client_ca_file.is_some();
    needs((TLS_LISTEN, tls_listen.is_some()), (CERTIFICATE, has_certificate))?;
    needs((CERTIFICATE, has_certificate), (KEY, has_key))?;
    needs((KEY, has_key), (CERTIFICATE, has_certificate))?;
    needs((CERTIFICATE, has_certificate), (TLS_LISTEN, tls_listen.is_some()))?;
    needs(("mqtt.embedded.tls_client_ca_file", has_authority), (TLS_LISTEN, tls_listen.is_some()))?;
    if let Some(address) = tls_listen {
        let expected = "a loopback address, or set mqtt.embedded.users_file or \
                        mqtt.embedded.tls_client_ca_file, because anyone who can reach another \
                        address can report for any device";
        let safe = address.ip().is_loopback() || users_file.is_some() || has_authority;
        check(TLS_LISTEN, address, safe, expected)?;
        let differ = address.port() == 0 || listen.address() != Some(*address);
        check(TLS_LISTEN, address, differ, "another address than mqtt.embedded.listen")?;
    }
    let Some(listen) = listen.address() else {
        let expected = "an address, or set mqtt.embedded.tls_listen, because devices could not \
                        connect at all";
        return check(LISTEN, "off", tls_listen.is_some(), expected);
    };
    check(
        LISTEN,
        listen,
        listen.ip().is_loopback() || users_file.is_some(),
        "a loopback address such as 127.0.0.1:1883, or set mqtt.embedded.users_file, because \
         anyone who can reach another address can report for any device",
    )
}

fn validate_credentials(mqtt: &MqttConfig) -> Result<(), ConfigError> {
    let MqttConfig { username, password, cert_file, key_file, .. } = mqtt;
    needs(("mqtt.password", password.is_some()), ("mqtt.username", username.is_some()))?;
    needs(("mqtt.cert_file", cert_file.is_some()), ("mqtt.key_file", key_file.is_some()))?;
    needs(("mqtt.key_file", key_file.is_some()), ("mqtt.cert_file", cert_file.is_some()))?;
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

/// Refuses a key that is set without the key that it needs. A `bool` is true if the key is
/// set.
fn needs(set: (&str, bool), needed: (&'static str, bool)) -> Result<(), ConfigError> {
    match (set, needed) {
        ((set, true), (key, false)) => {
            let expected = format!("set it as well, because {set} is set");
            Err(ConfigError::Missing { key, expected })
        }
        _ => Ok(()),
    }
}

/// Checks that an echo inside the heartbeats' filter comes back to this instance and cannot
/// be mistaken for a heartbeat.
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
