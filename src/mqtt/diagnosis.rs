//! Finds out why no connection comes about: paho says "TCP/TLS connect failure" for
//! nine different reasons.

use std::fmt::Display;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use futures::channel::oneshot;
use openssl::ssl::{HandshakeError, SslConnector, SslFiletype, SslMethod, SslVerifyMode};
use openssl::x509::X509VerifyResult;

use super::client::Broker;
use crate::config::MqttConfig;

/// How long one step may take: to connect, or to wait for an answer.
const STEP: Duration = Duration::from_secs(3);

/// How long a broker that refuses this client's certificate may think about it.
const AFTERTHOUGHT: Duration = Duration::from_secs(1);

/// How long everything may take; a name server may take longer than that.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where to connect to, and with what.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    host: String,
    port: u16,
    tls: bool,
    ca_file: Option<PathBuf>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
}

/// The reason, in a sentence that says what would be right.
type Reason = String;

impl Probe {
    /// A probe of that broker. `None` if its address has another form than host and port.
    pub(super) fn new(broker: &Broker, config: &MqttConfig) -> Option<Self> {
        let (scheme, address) = broker.uri.split_once("://")?;
        let (host, port) = address.rsplit_once(':')?;
        Some(Self {
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: port.parse().ok()?,
            tls: scheme == "mqtts",
            ca_file: config.ca_file.clone(),
            cert_file: config.cert_file.clone(),
            key_file: config.key_file.clone(),
        })
    }

    /// Connects as the client does, on a thread of its own, and returns what is wrong,
    /// if anything.
    pub(super) async fn run(self) -> Option<Reason> {
        let host = self.host.clone();
        let (answer, answered) = oneshot::channel();
        let run = move || answer.send(self.find_fault().err());
        std::thread::Builder::new().name("mqtt_diagnosis".to_owned()).spawn(run).ok()?;
        match tokio::time::timeout(PATIENCE, answered).await {
            Ok(reason) => reason.ok().flatten(),
            Err(_elapsed) => Some(format!("the address of {host:?} is not found in time")),
        }
    }

    fn find_fault(&self) -> Result<(), Reason> {
        let address = self.resolve()?;
        if self.tls { self.handshake(address) } else { self.find_tls(address) }
    }

    fn resolve(&self) -> Result<SocketAddr, Reason> {
        let Self { host, port, .. } = self;
        let unknown = |why: &dyn Display| format!("there is no host {host:?}: {why}");
        let addresses: Vec<_> =
            (host.as_str(), *port).to_socket_addrs().map_err(|error| unknown(&error))?.collect();
        let mut reason = unknown(&"it has no address");
        // More than one of each kind does not say more.
        for address in addresses.into_iter().take(2) {
            match TcpStream::connect_timeout(&address, STEP) {
                Ok(_) => return Ok(address),
                Err(error) => reason = unreachable(address, &error),
            }
        }
        Err(reason)
    }

    fn open(address: SocketAddr) -> Result<TcpStream, Reason> {
        let open = || {
            let stream = TcpStream::connect_timeout(&address, STEP)?;
            stream.set_read_timeout(Some(STEP))?;
            stream.set_write_timeout(Some(STEP))?;
            Ok(stream)
        };
        open().map_err(|error| unreachable(address, &error))
    }

    /// A plain connection was tried: does the broker speak TLS here?
    fn find_tls(&self, address: SocketAddr) -> Result<(), Reason> {
        let Ok(mut builder) = SslConnector::builder(SslMethod::tls_client()) else { return Ok(()) };
        // Nothing is sent through it; only its language is of interest.
        builder.set_verify(SslVerifyMode::NONE);
        let speaks_tls = match builder.build().connect(&self.host, Self::open(address)?) {
            Ok(_) => true,
            Err(HandshakeError::Failure(failed)) => failed.error().to_string().contains("alert"),
            Err(_) => false,
        };
        if !speaks_tls {
            return Ok(());
        }
        Err(format!(
            "{address} speaks TLS, and mqtt.url is without: it should begin with mqtts://, or have \
             the port for plain MQTT (usually 1883)"
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
        match connector.connect(&self.host, Self::open(address)?) {
            Ok(mut stream) => {
                // In TLS 1.3 a refusal of this client's certificate comes afterwards.
                let _unlimited = stream.get_ref().set_read_timeout(Some(AFTERTHOUGHT));
                match stream.ssl_read(&mut [0]) {
                    Err(error) if error.to_string().contains("alert") => {
                        Err(self.refused(address, &error))
                    }
                    _ => Ok(()),
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
                "mqtt.url should have a name that is in the certificate".to_owned(),
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
        if speaks_plain_mqtt(address) {
            return format!(
                "{address} speaks MQTT without TLS: mqtt.url should begin with mqtt://, or have the \
                 port for TLS (usually 8883)"
            );
        }
        format!("{address} does not complete the TLS handshake ({error}): is it a port for TLS?")
    }
}

fn unreachable(address: SocketAddr, error: &std::io::Error) -> Reason {
    match error.kind() {
        ErrorKind::ConnectionRefused => format!(
            "connection refused: nothing listens on {address}; the broker should run there, or \
             mqtt.url have another host or port"
        ),
        ErrorKind::TimedOut | ErrorKind::WouldBlock => format!(
            "no answer from {address} within {}: it is down, or a firewall drops the packets",
            crate::duration::format(STEP)
        ),
        _ => format!("{address} cannot be reached: {error}"),
    }
}

/// Asks for a version of MQTT that does not exist: a broker refuses it in MQTT, and
/// keeps nothing.
fn speaks_plain_mqtt(address: SocketAddr) -> bool {
    const NO_SUCH_VERSION: [u8; 14] =
        [0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 0x7f, 2, 0, 10, 0, 0];
    let ask = || {
        let mut stream = Probe::open(address).ok()?;
        stream.write_all(&NO_SUCH_VERSION).ok()?;
        let mut answer = [0];
        stream.read_exact(&mut answer).ok()?;
        Some(answer[0])
    };
    ask() == Some(0x20)
}
