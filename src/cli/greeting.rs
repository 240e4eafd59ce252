//! The first lines of the log: the addresses of the service, and a command to try it.

use std::net::SocketAddr;

use log::info;

use crate::address::reachable;
use crate::config::MqttConfig;
use crate::{App, Config, duration};

/// Logs the addresses of the service and a command to try it.
pub(super) fn greet(app: &App, config: &Config) {
    let timeout = duration::format(config.heartbeat.timeout.get());
    let check_interval = duration::format(config.heartbeat.check_interval.get());
    let database = config.database.url.to_string();
    let version = env!("CARGO_PKG_VERSION");
    info!(target: "heartbeatd", database, timeout, check_interval; "heartbeatd {version}");
    if let Some(address) = app.http_address() {
        info!(target: "heartbeatd", "page on http://{address}/, API on /api/v1");
        info!(target: "heartbeatd", "metrics on http://{address}/metrics, health on /healthz and /readyz");
    }
    let embedded = app.broker_address();
    if let Some(address) = embedded {
        let reach =
            if address.ip().is_loopback() { ", reachable from this machine only" } else { "" };
        info!(target: "heartbeatd", "embedded broker on {address}{reach}");
    }
    let tls = app.broker_tls_address();
    if let Some(address) = tls {
        info!(target: "heartbeatd", "embedded broker with TLS on {address}");
    }
    if let Some(command) = command_to_try(&config.mqtt, embedded.or(tls), embedded.is_none()) {
        info!(target: "heartbeatd", "send a heartbeat: {command}");
    }
}

/// A command that sends a heartbeat from this machine. What only the user knows stands in
/// capitals.
fn command_to_try(
    mqtt: &MqttConfig,
    embedded: Option<SocketAddr>,
    embedded_tls: bool,
) -> Option<String> {
    let (host, port, tls, named) = match (&mqtt.url, embedded) {
        (_, Some(address)) if embedded_tls => {
            // The name and the authority of the certificate are the user's to know.
            let certificate = match mqtt.embedded.tls_client_ca_file {
                Some(_) => " --cert CERTIFICATE --key KEY",
                None => "",
            };
            let tls = format!(" --cafile AUTHORITY{certificate}");
            let named = certificate.is_empty() && mqtt.embedded.users_file.is_some();
            ("HOST".to_owned(), address.port(), tls, named)
        }
        (_, Some(address)) => {
            let address = reachable(address);
            (
                address.ip().to_string(),
                address.port(),
                String::new(),
                mqtt.embedded.users_file.is_some(),
            )
        }
        (Some(url), None) => {
            // mosquitto_pub takes an IPv6 address without brackets.
            let host = url.host().trim_matches(['[', ']']).to_owned();
            let tls = if url.is_tls() { tls_arguments(mqtt) } else { String::new() };
            (host, url.port(), tls, mqtt.username.is_some())
        }
        (None, None) => return None,
    };
    let user = if named { " -u NAME -P PASSWORD" } else { "" };
    let topic = quoted(&mqtt.topic.topic_of("my-device"));
    Some(format!(
        "mosquitto_pub -h {host} -p {port}{tls}{user} -q 1 -t {topic} -m '{{\"uptime_seconds\": 60}}'"
    ))
}

fn tls_arguments(mqtt: &MqttConfig) -> String {
    let mut arguments = match &mqtt.ca_file {
        Some(file) => format!(" --cafile {}", quoted(&file.to_string_lossy())),
        None => " --capath /etc/ssl/certs".to_owned(),
    };
    if mqtt.cert_file.is_some() {
        // The broker asks for a certificate, and a device has another one than the service.
        arguments.push_str(" --cert CERTIFICATE --key KEY");
    }
    arguments
}

/// Quotes the text so that a shell reads it as one word.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_');
    if text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(change: impl FnOnce(&mut MqttConfig), embedded: Option<&str>) -> String {
        let mut mqtt = Config::default().mqtt;
        change(&mut mqtt);
        let embedded = embedded.map(|address| address.parse().expect("an address"));
        command_to_try(&mqtt, embedded, false).expect("there is a broker")
    }

    fn with_url(url: &str, change: impl FnOnce(&mut MqttConfig)) -> String {
        command(
            |mqtt| {
                mqtt.url = Some(url.parse().expect("a URL"));
                change(mqtt);
            },
            None,
        )
    }

    #[test]
    fn the_command_fits_the_embedded_broker() {
        for (address, expected) in [
            ("127.0.0.1:1883", "-h 127.0.0.1 -p 1883 -q 1"),
            ("0.0.0.0:1884", "-h 127.0.0.1 -p 1884 -q 1"),
            ("[::]:1883", "-h ::1 -p 1883 -q 1"),
            ("[::1]:1883", "-h ::1 -p 1883 -q 1"),
            ("192.168.1.5:1883", "-h 192.168.1.5 -p 1883 -q 1"),
        ] {
            let command = command(|_| (), Some(address));
            assert!(command.contains(expected), "{address}: {command}");
        }
        let users = |mqtt: &mut MqttConfig| mqtt.embedded.users_file = Some("users".into());
        let command = command(users, Some("0.0.0.0:1883"));
        assert!(command.contains("-p 1883 -u NAME -P PASSWORD -q 1"), "{command}");
    }

    #[test]
    fn the_command_fits_the_broker_of_the_url() {
        let command = with_url("mqtt://[::1]", |_| ());
        assert!(command.contains("-h ::1 -p 1883 -q 1"), "{command}");
        let command = with_url("mqtts://broker.example", |_| ());
        assert!(command.contains("-p 8883 --capath /etc/ssl/certs -q 1"), "{command}");
        let command = with_url("mqtts://broker.example:8884", |mqtt| {
            mqtt.ca_file = Some("/etc/my ca.pem".into());
            mqtt.cert_file = Some("cert.pem".into());
            mqtt.username = Some("heartbeatd".to_owned());
            mqtt.topic = "my fleet/+".parse().expect("a topic");
        });
        let expected = "mosquitto_pub -h broker.example -p 8884 --cafile '/etc/my ca.pem' \
                        --cert CERTIFICATE --key KEY -u NAME -P PASSWORD -q 1 \
                        -t 'my fleet/my-device' -m";
        assert!(command.contains(expected), "{command}");
    }
}
