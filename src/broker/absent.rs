//! The stub for a binary without the embedded broker.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;

use crate::config::MqttConfig;
use crate::mqtt::Broker;

/// A broker that this binary does not contain.
pub struct EmbeddedBroker(Infallible);

/// The reason why the broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// This binary does not contain the embedded broker.
    #[error("mqtt.url is unset and this heartbeatd was built without the embedded broker")]
    Absent,
}

impl EmbeddedError {
    /// True if the configuration is at fault.
    pub fn is_config(&self) -> bool {
        true
    }
}

/// Accepts every file: `mqtt.embedded.users_file` is not used.
pub(crate) fn check_users_file(_: &Path) -> Result<(), String> {
    Ok(())
}

impl EmbeddedBroker {
    /// Fails.
    ///
    /// # Errors
    ///
    /// Always [`EmbeddedError::Absent`].
    pub async fn start(_: &MqttConfig, _: u64) -> Result<Self, EmbeddedError> {
        Err(EmbeddedError::Absent)
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        match self.0 {}
    }

    /// The address and the credentials with which this service connects to it.
    pub fn broker(&self) -> Broker {
        match self.0 {}
    }
}
