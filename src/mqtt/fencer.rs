//! Ends the session of another client at the broker, by connecting with its identifier.
//!
//! The broker's answer says that the older session is gone ([MQTT-3.1.4-3], [MQTT-3.1.2-4]):
//! what it accepts afterwards goes to none of it, also not as a member of a shared subscription.

use std::time::Duration;

use futures::future::LocalBoxFuture;
use paho_mqtt as paho;

use super::broker::Broker;
use super::client::{connect_options_for_once, creation, setup};
use super::connection::ClientError;
use super::reason::{Of, failed, not_connected};
use crate::config::MqttConfig;

/// The longest time for one attempt.
const PATIENCE: Duration = Duration::from_secs(5);

/// Ends sessions of clients at the broker.
pub trait EndSession: Send + Sync {
    /// Ends the session of the client with this identifier. Resolves when nothing more is
    /// delivered to it. An error says why it may still be there.
    fn end_session(&self, client_id: &str) -> LocalBoxFuture<'static, Result<(), String>>;
}

/// Connects to the broker as this instance does, but by another name.
pub struct Fencer {
    options: paho::ConnectOptions,
    uri: String,
}

impl Fencer {
    /// A fencer at the broker of `config`.
    ///
    /// # Errors
    ///
    /// [`ClientError::Setup`], for example if `mqtt.ca_file` cannot be read.
    pub fn new(config: &MqttConfig, broker: &Broker) -> Result<Self, ClientError> {
        let options = connect_options_for_once(config, broker, PATIENCE)?;
        Ok(Self { options, uri: broker.uri.clone() })
    }
}

impl EndSession for Fencer {
    fn end_session(&self, client_id: &str) -> LocalBoxFuture<'static, Result<(), String>> {
        let create = creation(&self.uri, client_id).finalize();
        let (client, options) = (paho::AsyncClient::new(create), self.options.clone());
        let uri = self.uri.clone();
        Box::pin(async move {
            let client = client.map_err(|error| setup(error).to_string())?;
            let connecting = tokio::time::timeout(2 * PATIENCE, client.connect(options));
            match connecting.await {
                Ok(Ok(_accepted)) => (),
                Ok(Err(error)) => {
                    return Err(not_connected(&error, Of::Service)
                        .unwrap_or_else(|| format!("{uri}: {}", failed(&error))));
                }
                Err(_elapsed) => return Err("no answer from the broker".to_owned()),
            }
            // Whether the broker hears the goodbye makes no difference.
            let _ = tokio::time::timeout(PATIENCE, client.disconnect(None)).await;
            Ok(())
        })
    }
}
