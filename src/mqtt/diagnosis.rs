//! Finds out why the broker cannot be reached. Needed because paho says "TCP/TLS connect
//! failure" for nine different reasons.

mod peer;

use std::fmt::Display;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use futures::channel::oneshot;
use openssl::ssl::{HandshakeError, SslConnector, SslFiletype, SslMethod, SslVerifyMode};
use openssl::x509::X509VerifyResult;

use self::peer::Answer;
use super::broker::Broker;
use crate::config::{MqttConfig, MqttVersion};

/// The longest time for one step: connecting, or waiting for an answer.
const STEP: Duration = Duration::from_secs(3);

/// The longest time for the whole diagnosis. The steps take less; a name server may take
/// longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// The address to connect to, and the files for TLS.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    host: String,
    port: u16,
    setting: &'static str,
    tls: bool,
    version: MqttVersion,
    ca_file: Option<PathBuf>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
}

/// A reason, in a sentence that hints at the remedy.
type Reason = String;

impl Probe {
    /// A probe of that broker. `None` if its address is not a host and a port.
    pub(super) fn new(broker: &Broker, config: &MqttConfig) -> Option<Self> {
        let (scheme, address) = broker.uri.split_once("://")?;
        let (host, port) = address.rsplit_once(':')?;
        Some(Self {
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: port.parse().ok()?,
            setting: broker.setting,
            tls: scheme == "mqtts",
            version: config.version,
            ca_file: config.ca_file.clone(),
            cert_file: config.cert_file.clone(),
            key_file: config.key_file.clone(),
        })
    }

    /// Connects as the client does, on a separate thread. Returns the fault, if it finds
    /// one.
    pub(super) async fn run(self) -> Option<Reason> {
        let host = self.host.clone();
        let (answer, answered) = oneshot::channel();
        let run = move || answer.send(self.find_fault().err());
        std::thread::Builder::new().name("mqtt_diagnosis".to_owned()).spawn(run).ok()?;
        match tokio::time::timeout(PATIENCE, answered).await {
            Ok(reason) => reason.ok().flatten(),
            Err(_elapsed) => Some(format!("the address of {host:?} was not found in time")),
        }
    }

    fn find_fault(&self) -> Result<(), Reason> {
        let address = self.resolve()?;
        if self.tls { self.handshake(address) } else { self.ask(address) }
    }

    fn resolve(&self) -> Result<SocketAddr, Reason> {
        let Self { host, port, .. } = self;
        let unknown = |why: &dyn Display| format!("there is no host {host:?}: {why}");
        let addresses: Vec<_> =
            (host.as_str(), *port).to_socket_addrs().map_err(|error| unknown(&error))?.collect();
        let mut reason = unknown(&"it has no address");
        // One address of each kind says enough.
        for address in addresses.into_iter().take(2) {
            match TcpStream::connect_timeout(&address, STEP) {
                Ok(_) => return Ok(address),
                Err(error) => reason = self.unreachable(address, &error),
            }
        }
        Err(reason)
    }

    fn open(&self, address: SocketAddr) -> Result<TcpStream, Reason> {
        let open = || {
            let stream = TcpStream::connect_timeout(&address, STEP)?;
            stream.set_read_timeout(Some(STEP))?;
            stream.set_write_timeout(Some(STEP))?;
            Ok(stream)
        };
        open().map_err(|error| self.unreachable(address, &error))
    }

    /// Asks for MQTT on a separate connection.
    fn plain_answer(&self, address: SocketAddr) -> Result<Answer, Reason> {
        let mut stream = self.open(address)?;
        let asked = stream
            .set_read_timeout(Some(peer::READ_TIMEOUT))
            .and_then(|()| peer::ask(&mut stream, self.version));
        asked.map_err(|error| self.unreachable(address, &error))
    }

    /// Asks on a plain connection whether the peer speaks MQTT or TLS.
    fn ask(&self, address: SocketAddr) -> Result<(), Reason> {
        let answer = self.plain_answer(address)?;
        // A TLS server neither waits for more after input that is not TLS, nor answers
        // with text.
        let may_be_tls = match &answer {
            Answer::Closed => true,
            Answer::Other(bytes) => peer::describe(bytes).0.is_none(),
            Answer::Mqtt | Answer::Mqtt311 | Answer::Nothing => false,
        };
        if may_be_tls {
            self.find_tls(address)?;
        }
        self.expect_mqtt(address, &answer)
    }

    fn expect_mqtt(&self, address: SocketAddr, answer: &Answer) -> Result<(), Reason> {
        let (over, port) = if self.tls { (" over TLS", 8883) } else { ("", 1883) };
        let right = format!(
            "{} should have the host and port of an MQTT broker (usually {port})",
            self.setting
        );
        let reason = match answer {
            Answer::Mqtt311 if self.version == MqttVersion::V5 => format!(
                "{address} speaks MQTT 3.1.1 but not 5: mqtt.version should be \"{}\"",
                MqttVersion::V311.as_str()
            ),
            Answer::Mqtt | Answer::Mqtt311 => return Ok(()),
            Answer::Nothing => format!(
                "{address} accepts connections but does not answer MQTT{over} within {}: {right}; \
                 if it has, the broker hangs or is overloaded",
                crate::duration::format(peer::PATIENCE)
            ),
            Answer::Closed => format!(
                "{address} accepts connections and closes them without an answer to MQTT{over}: \
                 {right}; if it has, the broker does not take this client or mqtt.version = \
                 \"{}\", or is down behind a proxy",
                self.version.as_str()
            ),
            Answer::Other(bytes) => match peer::describe(bytes) {
                (Some(protocol), said) => format!(
                    "{address} speaks {protocol} instead of MQTT{over} (it answers {said}): {right}"
                ),
                (None, said) => {
                    format!("{address} does not speak MQTT{over} (it answers {said}): {right}")
                }
            },
        };
        Err(reason)
    }

    /// Finds out whether the peer speaks TLS where plain MQTT was expected.
    fn find_tls(&self, address: SocketAddr) -> Result<(), Reason> {
        let Ok(mut builder) = SslConnector::builder(SslMethod::tls_client()) else { return Ok(()) };
        // No data is sent, so the certificate does not matter.
        builder.set_verify(SslVerifyMode::NONE);
        let speaks_tls = match builder.build().connect(&self.host, self.open(address)?) {
            Ok(_) => true,
            Err(HandshakeError::Failure(failed)) => failed.error().to_string().contains("alert"),
            Err(_) => false,
        };
        if !speaks_tls {
            return Ok(());
        }
        Err(format!(
            "{address} speaks TLS, but {} does not ask for it: it should begin with mqtts://, or \
             have the port for plain MQTT (usually 1883)",
            self.setting
        ))
    }

    fn connector(&self) -> Result<SslConnector, Reason> {
        let mut builder = SslConnector::builder(SslMethod::tls_client())
            .map_err(|error| format!("TLS cannot be used: {error}"))?;
        let unusable = |key: &str, path: &PathBuf, error: &dyn Display| {
            format!("{key} = {path:?} cannot be used: {error}; it should be a PEM file")
        };
        if let Some(file) = &self.ca_file {
            builder.set_ca_file(file).map_err(|error| unusable("mqtt.ca_file", file, &error))?;
        }
        if let Some(file) = &self.cert_file {
            builder
                .set_certificate_chain_file(file)
                .map_err(|error| unusable("mqtt.cert_file", file, &error))?;
        }
        if let Some(file) = &self.key_file {
            // Setting the key compares it with the certificate.
            let set = builder.set_private_key_file(file, SslFiletype::PEM);
            let fits = set.and_then(|()| builder.check_private_key());
            fits.map_err(|error| {
                if error.to_string().contains("mismatch") {
                    "mqtt.key_file is not the key of mqtt.cert_file: they should be a pair"
                        .to_owned()
                } else {
                    unusable("mqtt.key_file", file, &error)
                }
            })?;
        }
        Ok(builder.build())
    }

    fn handshake(&self, address: SocketAddr) -> Result<(), Reason> {
        let connector = self.connector()?;
        match connector.connect(&self.host, self.open(address)?) {
            Ok(mut stream) => {
                let _as_before = stream.get_ref().set_read_timeout(Some(peer::READ_TIMEOUT));
                match peer::ask(&mut stream, self.version) {
                    Ok(answer) => self.expect_mqtt(address, &answer),
                    // In TLS 1.3 a refusal of this client's certificate comes afterwards.
                    Err(error) if error.to_string().contains("alert") => {
                        Err(self.refused(address, &error))
                    }
                    // The connection ended without a TLS close_notify.
                    Err(_) => self.expect_mqtt(address, &Answer::Closed),
                }
            }
            Err(HandshakeError::SetupFailure(error)) => Err(format!("TLS cannot be used: {error}")),
            Err(HandshakeError::Failure(failed)) => {
                let verified = failed.ssl().verify_result();
                if verified != X509VerifyResult::OK {
                    return Err(self.not_verified(verified));
                }
                let error = failed.error();
                if error.to_string().contains("alert") {
                    return Err(self.refused(address, error));
                }
                Err(self.no_tls(address, error))
            }
            Err(HandshakeError::WouldBlock(_)) => {
                Err(self.no_tls(address, &"no answer to the TLS handshake"))
            }
        }
    }

    fn not_verified(&self, verified: X509VerifyResult) -> Reason {
        // X509_V_ERR_*, which the crate names by number only.
        let (what, right) = match verified.as_raw() {
            10 => ("has expired".to_owned(), "the broker needs a new one".to_owned()),
            9 => (
                "is not valid yet".to_owned(),
                "the clock of this machine or the certificate is wrong".to_owned(),
            ),
            62 | 64 => (
                format!("is for another name than {:?}", self.host),
                format!("{} should use a name that is in the certificate", self.setting),
            ),
            2 | 18..=21 => {
                let given = self.ca_file.as_ref();
                let right = given.map_or_else(
                    || "set mqtt.ca_file to the authority that signed it".to_owned(),
                    |file| {
                        format!("mqtt.ca_file = {file:?} should be the authority that signed it")
                    },
                );
                ("is signed by an unknown authority".to_owned(), right)
            }
            _ => ("is not accepted".to_owned(), "the broker needs another one".to_owned()),
        };
        format!("the broker's certificate {what} ({}): {right}", verified.error_string())
    }

    /// The broker refused the handshake, most likely this client's certificate.
    fn refused(&self, address: SocketAddr, error: &dyn Display) -> Reason {
        let right = if self.cert_file.is_some() {
            "mqtt.cert_file should be one that the broker's authority has signed and that is valid"
        } else {
            "if it wants a certificate of its clients, set mqtt.cert_file and mqtt.key_file"
        };
        format!("{address} refuses the TLS handshake ({error}): {right}")
    }

    fn no_tls(&self, address: SocketAddr, error: &dyn Display) -> Reason {
        let setting = self.setting;
        match self.plain_answer(address) {
            Ok(Answer::Mqtt) => format!(
                "{address} speaks MQTT without TLS: {setting} should begin with mqtt://, or have the \
                 port for TLS (usually 8883)"
            ),
            Ok(answer @ Answer::Other(_))
                if let Err(reason) = self.expect_mqtt(address, &answer) =>
            {
                reason
            }
            _ => format!(
                "{address} does not complete the TLS handshake ({error}): {setting} should have the \
                 host and port of a broker that speaks TLS (usually 8883)"
            ),
        }
    }

    fn unreachable(&self, address: SocketAddr, error: &std::io::Error) -> Reason {
        match error.kind() {
            ErrorKind::ConnectionRefused => format!(
                "connection refused: nothing listens on {address}; the broker should run there, or \
                 {} have another host or port",
                self.setting
            ),
            ErrorKind::TimedOut | ErrorKind::WouldBlock => format!(
                "no answer from {address} within {}: it is down, or a firewall drops the packets",
                crate::duration::format(STEP)
            ),
            _ => format!("{address} cannot be reached: {error}"),
        }
    }
}
