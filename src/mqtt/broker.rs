//! The broker to connect to.

use crate::config::MqttConfig;

/// The broker's address and the credentials for it.
#[derive(Clone, Debug)]
pub struct Broker {
    /// The address: `mqtt://` or `mqtts://`, host and port.
    pub uri: String,
    /// The user name and the password, if the broker wants them.
    pub credentials: Option<(String, String)>,
    /// The key or the option that has the address, for a hint at what would be right.
    pub setting: &'static str,
}

impl Broker {
    /// The configured broker. `None` if the embedded one is meant.
    pub fn configured(config: &MqttConfig) -> Option<Self> {
        let url = config.url.as_ref()?;
        let password = config.password.as_ref().map_or("", |password| password.reveal());
        let credentials = config.username.clone().map(|name| (name, password.to_owned()));
        Some(Self { uri: url.to_string(), credentials, setting: "mqtt.url" })
    }
}
