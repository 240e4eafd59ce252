//! TLS at the embedded broker: who is let in, and a line for each who is not.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output};

use openssl::ssl::{SslConnector, SslConnectorBuilder, SslFiletype, SslMethod, SslStream};

use crate::support::certificates::Certificates;
use crate::support::service::{Place, Service};
use crate::support::users::{with_users, write_users};
use publishers::{RawClient, packet};
use servers::process::program;
use servers::{PATIENCE, eventually};

/// A connection was refused because of TLS.
const REFUSED: &str = "WARN receiver address= reason=tls";

/// A place whose broker has that certificate.
fn place(files: &Certificates, certificate: &str) -> Place {
    let file = |ending: &str| files.path(&format!("{certificate}.{ending}"));
    Place::new()
        .with("MQTT__EMBEDDED__TLS_LISTEN", "127.0.0.1:0")
        .with("MQTT__EMBEDDED__TLS_CERT_FILE", &file("pem"))
        .with("MQTT__EMBEDDED__TLS_KEY_FILE", &file("key"))
}

/// A place whose clients need a certificate that `ca` has signed.
fn place_for_certificates(files: &Certificates) -> Place {
    place(files, "broker").with("MQTT__EMBEDDED__TLS_CLIENT_CA_FILE", &files.path("ca.pem"))
}

fn listening(place: &Place) -> Service {
    let service = place.start();
    service.await_listening();
    service
}

/// Publishes a heartbeat at QoS 1 with mosquitto_pub.
fn publish(port: u16, device: &str, more: &[&str]) -> Output {
    Command::new(program("mosquitto_pub", "mosquitto-clients", &[]))
        .args(["-h", "localhost", "-p", &port.to_string(), "-i", device, "-q", "1", "-n"])
        .args(["-V", "5", "-t", &format!("devices/{device}/heartbeat")])
        .args(more)
        .output()
        .expect("it starts")
}

/// A client that trusts `ca`.
struct Client(SslConnector);

impl Client {
    fn new(files: &Certificates) -> Self {
        Self(Self::builder(files).build())
    }

    /// A client with a certificate.
    fn with_certificate(files: &Certificates, certificate: &str) -> Self {
        let mut connector = Self::builder(files);
        let file = |ending: &str| files.path(&format!("{certificate}.{ending}"));
        connector.set_certificate_chain_file(file("pem")).expect("a certificate");
        connector.set_private_key_file(file("key"), SslFiletype::PEM).expect("a key");
        Self(connector.build())
    }

    fn builder(files: &Certificates) -> SslConnectorBuilder {
        let mut connector = SslConnector::builder(SslMethod::tls_client()).expect("TLS");
        connector.set_ca_file(files.path("ca.pem")).expect("a certificate");
        connector
    }

    fn connect(&self, port: u16) -> SslStream<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("the port is open");
        stream.set_read_timeout(Some(PATIENCE)).expect("it is not zero");
        self.0.connect("localhost", stream).expect("it trusts the certificate")
    }
}

/// Logs in. `None` if the connection is refused.
fn log_in(stream: &mut SslStream<TcpStream>, client_id: &str) -> Option<(u8, Vec<u8>)> {
    stream.write_all(&packet::connect(client_id, None)).ok()?;
    packet::read(stream)
}

fn is_accepted(answer: &Option<(u8, Vec<u8>)>) -> bool {
    *answer == Some((0x20, vec![0, 0]))
}

#[test]
fn devices_that_know_the_authority_are_heard_over_tls() {
    let files = Certificates::new();
    let place = place(&files, "broker");
    let service = listening(&place);
    let (port, ca) = (service.tls_port(), files.path("ca.pem"));
    for (device, version) in [("new", "tlsv1.3"), ("old", "tlsv1.2")] {
        let sent = publish(port, device, &["--cafile", &ca, "--tls-version", version]);
        assert!(sent.status.success(), "{version}: {}", String::from_utf8_lossy(&sent.stderr));
    }
    place.await_statuses(&["new online", "old online"]);
    let refused = service.metric("heartbeatd_receiver_refused_total{reason=\"tls\"}");
    assert_eq!(refused, 0.0);
    // The plain listener is still there.
    let mut plain = RawClient::connect(service.broker_port(), "plain", None).expect("accepted");
    plain.publish("devices/plain/heartbeat", b"");
    place.await_statuses(&["new online", "old online", "plain online"]);
}

/// Asserts that mosquitto_pub cannot publish, and that a line says why.
#[track_caller]
fn assert_refused(service: &Service, port: u16, more: &[&str], words: &[&str]) {
    let sent = publish(port, "stranger", more);
    assert!(!sent.status.success(), "{words:?}: it was accepted");
    service.await_words(REFUSED, words);
}

#[test]
fn a_client_that_refuses_the_certificate_is_named_with_its_reason() {
    let files = Certificates::new();
    let (ca, other) = (files.path("ca.pem"), files.path("other-ca.pem"));
    for (certificate, trusted, words) in [
        ("broker", &other, &["tls_cert_file", "does not know the authority"][..]),
        ("expired", &ca, &["tls_cert_file", "has expired"]),
        ("elsewhere", &ca, &["tls_cert_file", "subject alternative names"]),
    ] {
        let place = place(&files, certificate);
        let service = listening(&place);
        assert_refused(&service, service.tls_port(), &["--cafile", trusted], words);
        if certificate == "expired" {
            service.await_words("WARN receiver until=", &["has expired", "renew it"]);
        }
    }
}

#[test]
fn a_client_whose_certificate_is_refused_is_named_with_the_reason() {
    let files = Certificates::new();
    files.sign("late", "late", -1);
    files.sign_by("other-ca", "foreign", "foreign", 30);
    let place = place_for_certificates(&files);
    let service = listening(&place);
    let (port, ca) = (service.tls_port(), files.path("ca.pem"));
    assert_refused(&service, port, &["--cafile", &ca], &["no certificate", "tls_client_ca_file"]);
    for (client, words) in [
        ("late", "its certificate is refused: certificate has expired"),
        ("foreign", "no authority in mqtt.embedded.tls_client_ca_file has signed its certificate"),
    ] {
        let (certificate, key) =
            (files.path(&format!("{client}.pem")), files.path(&format!("{client}.key")));
        let own = ["--cafile", &ca, "--cert", &certificate, "--key", &key];
        assert_refused(&service, port, &own, &[words]);
    }
    assert!(place.json(&["device", "list", "--json"]).as_array().is_some_and(Vec::is_empty));
    assert_eq!(service.metric("heartbeatd_receiver_refused_total{reason=\"tls\"}"), 3.0);
}

#[test]
fn the_certificate_is_the_user_and_speaks_for_its_own_device_only() {
    let files = Certificates::new();
    files.sign("pump-17", "pump-17", 30);
    let place = place_for_certificates(&files);
    let service = listening(&place);
    let (port, ca) = (service.tls_port(), files.path("ca.pem"));
    let (certificate, key) = (files.path("pump-17.pem"), files.path("pump-17.key"));
    let own = ["--cafile", &ca, "--cert", &certificate, "--key", &key];
    // In MQTT 5 it is told.
    let sent = publish(port, "pump-18", &own);
    assert!(
        String::from_utf8_lossy(&sent.stderr).contains("Not authorized"),
        "{}",
        String::from_utf8_lossy(&sent.stderr)
    );
    let line = service.await_words("WARN receiver client=pump-18 user=pump-17", &["pump-18"]);
    assert!(line.contains("may not publish for"), "{line}");
    // A name and a password change nothing.
    publish(port, "pump-18", &[&own[..], &["-u", "pump-18", "-P", "x"]].concat());
    assert!(publish(port, "pump-17", &own).status.success());
    place.await_statuses(&["pump-17 online"]);
    let refused = service.metric("heartbeatd_receiver_refused_total{reason=\"not_authorized\"}");
    assert_eq!(refused, 2.0);
}

#[test]
fn the_common_name_is_the_user_in_the_users_file_with_its_patterns() {
    let files = Certificates::new();
    for name in ["pump-17", "gateway", "stranger"] {
        files.sign(name, name, 30);
    }
    let place = place_for_certificates(&files).with("HEARTBEAT__TIMEOUT", "10m");
    let place = with_users(place, "pump-17:HASH\ngateway:HASH:hall-*\n");
    let service = listening(&place);
    let (port, ca) = (service.tls_port(), files.path("ca.pem"));
    let publish_as = |name: &str, device: &str, more: &[&str]| {
        let (certificate, key) =
            (files.path(&format!("{name}.pem")), files.path(&format!("{name}.key")));
        let own = ["--cafile", &ca, "--cert", &certificate, "--key", &key];
        let sent = publish(port, device, &[&own[..], more].concat());
        let said = String::from_utf8_lossy(&sent.stderr).into_owned();
        assert!(sent.status.success() || said.contains("authorized"), "{name} {device}: {said}");
        said
    };
    let refused_message = |user: &str, device: &str| {
        let event = format!("WARN receiver client={device} user={user}");
        service.await_words(&event, &["may not publish for", device, "heartbeatd user list"]);
    };
    for (name, device) in [("pump-17", "pump-18"), ("gateway", "gateway"), ("gateway", "x-hall-1")]
    {
        assert!(publish_as(name, device, &[]).contains("Not authorized"), "{name} {device}");
        refused_message(name, device);
    }
    // The name and the password of another user change nothing.
    publish_as("pump-17", "hall-1", &["-u", "gateway", "-P", "secret"]);
    refused_message("pump-17", "hall-1");
    publish_as("stranger", "elsewhere", &["-u", "gateway", "-P", "secret"]);
    service.await_words(
        "WARN receiver client=elsewhere user=stranger reason=not_authorized",
        &["certificate is of \"stranger\"", "no such user", "heartbeatd user add"],
    );
    assert_eq!(publish_as("pump-17", "pump-17", &[]), "");
    assert_eq!(publish_as("gateway", "hall-2", &[]), "");
    place.await_statuses(&["hall-2 online", "pump-17 online"]);
}

#[test]
fn a_user_with_a_certificate_that_is_removed_is_disconnected() {
    let files = Certificates::new();
    let place = with_users(place_for_certificates(&files), "client:HASH\nother:HASH\n");
    let service = listening(&place);
    let client = Client::with_certificate(&files, "client");
    let mut connected = client.connect(service.tls_port());
    assert!(is_accepted(&log_in(&mut connected, "client")));
    write_users(&place, "other:HASH\n");
    service.signal("HUP");
    let end = connected.read(&mut [0]);
    assert!(matches!(end, Ok(0)), "it is not closed: {end:?}");
    service.await_words(
        "WARN receiver client=client user=client reason=user_changed",
        &["removed or has changed"],
    );
    let mut again = client.connect(service.tls_port());
    let not_authorized = Some((0x20, vec![0, 5]));
    assert_eq!(log_in(&mut again, "client"), not_authorized);
    write_users(&place, "client:HASH\n");
    service.signal("HUP");
    eventually("it is let in again", || {
        is_accepted(&log_in(&mut client.connect(service.tls_port()), "client")).then_some(())
    });
}

#[test]
fn each_listener_recognises_the_language_of_the_other() {
    let files = Certificates::new();
    let place = place(&files, "broker");
    let service = listening(&place);
    let (tls, plain, ca) = (service.tls_port(), service.broker_port(), files.path("ca.pem"));
    assert_refused(&service, tls, &[], &["MQTT without TLS", "tls_listen"]);
    assert_refused(&service, plain, &["--cafile", &ca], &["speaks TLS", "tls_listen"]);
    let mut browser = TcpStream::connect(("127.0.0.1", tls)).expect("the port is open");
    browser.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("it is open");
    service.await_words(REFUSED, &["HTTP"]);
}

#[test]
fn a_handshake_that_never_ends_is_cut_off() {
    let files = Certificates::new();
    let place = place(&files, "broker").with("MQTT__EMBEDDED__CONNECT_TIMEOUT", "300ms");
    let service = listening(&place);
    let mut stuck = TcpStream::connect(("127.0.0.1", service.tls_port())).expect("it is open");
    stuck.set_read_timeout(Some(PATIENCE)).expect("it is not zero");
    // The head of a record, and nothing of what it announces.
    stuck.write_all(&[0x16, 3, 1, 2, 0]).expect("it is open");
    assert_eq!(packet::read(&mut stuck), None);
    // One that says nothing after the handshake is cut off, too.
    let mut silent = Client::new(&files).connect(service.tls_port());
    assert_eq!(packet::read(&mut silent), None);
    service.await_metric("heartbeatd_receiver_refused_total{reason=\"connect_timeout\"}", 2.0);
}

#[test]
fn a_signal_makes_new_connections_use_new_files_and_a_broken_one_changes_nothing() {
    let files = Certificates::new();
    let place = place(&files, "broker");
    let service = listening(&place);
    let (port, client) = (service.tls_port(), Client::new(&files));
    let serial = |stream: &SslStream<TcpStream>| {
        let certificate = stream.ssl().peer_certificate().expect("a server has one");
        let serial = certificate.serial_number().to_bn().expect("a number");
        serial.to_hex_str().expect("a number").to_string()
    };
    let mut before = client.connect(port);
    assert!(is_accepted(&log_in(&mut before, "before")));
    files.sign("broker", "localhost", 30);
    service.signal("HUP");
    service.await_words("INFO receiver", &["read the certificates again"]);
    let mut after = client.connect(port);
    assert_ne!(serial(&before), serial(&after));
    assert!(is_accepted(&log_in(&mut after, "after")));

    std::fs::write(files.path("broker.key"), "-----BEGIN PRIVATE KEY-----\n").expect("a file");
    service.signal("HUP");
    service.await_words("ERROR receiver", &["stay as they were", "mqtt.embedded.tls_key_file"]);
    let still = client.connect(port);
    assert_eq!(serial(&after), serial(&still));
    // The old connection was not touched.
    before.write_all(&packet::publish("devices/before/heartbeat", b"")).expect("it is open");
    service.await_metric("heartbeatd_heartbeats_total", 1.0);
}

#[test]
fn without_a_plain_listener_the_service_has_one_for_itself_alone() {
    let files = Certificates::new();
    let place = place(&files, "broker").with("MQTT__EMBEDDED__LISTEN", "off");
    let service = listening(&place);
    let ca = files.path("ca.pem");
    assert!(publish(service.tls_port(), "pump", &["--cafile", &ca]).status.success());
    place.await_statuses(&["pump online"]);
    // No device keeps online, so the silence of this one is found: echoes come back.
    place.await_statuses(&["pump offline"]);
    let line = service.await_event("INFO mqtt_ingest broker=");
    let (_, port) = line.rsplit_once(':').expect(&line);
    let port = port.split(' ').next().and_then(|port| port.parse().ok()).expect(&line);
    assert!(RawClient::connect(port, "stranger", None).is_none());
    service.await_words(
        "WARN receiver client=stranger reason=not_authorized",
        &["mqtt.embedded.tls_listen"],
    );
    let greeted = service.log();
    let command = greeted.iter().find(|line| line.contains("send a heartbeat:"));
    let expected = format!("-h HOST -p {} --cafile AUTHORITY -q 1", service.tls_port());
    assert!(command.is_some_and(|line| line.contains(&expected)), "{command:?}");
}

#[test]
fn an_idle_connection_with_tls_takes_bounded_memory() {
    const CONNECTIONS: usize = 500;
    let files = Certificates::new();
    let place = place(&files, "broker");
    let service = listening(&place);
    let (port, client) = (service.tls_port(), Client::new(&files));
    let open = |n: usize| {
        let mut stream = client.connect(port);
        assert!(is_accepted(&log_in(&mut stream, &format!("idle-{n}"))));
        stream
    };
    let _warm: Vec<_> = (0..50).map(open).collect();
    let before = service.memory_kib();
    let _idle: Vec<_> = (50..50 + CONNECTIONS).map(open).collect();
    let each = (service.memory_kib() - before) as f64 / CONNECTIONS as f64;
    println!("{each:.1} KiB for each idle connection with TLS");
    assert!(each < 40.0, "{each:.1} KiB for each idle connection");
}

#[test]
fn files_that_do_not_fit_end_the_start_with_their_key() {
    let files = Certificates::new();
    std::fs::write(files.path("der"), b"\x30\x82\xff").expect("a file");
    let made = Command::new("mkfifo").arg(files.path("pipe")).status();
    assert!(made.expect("mkfifo starts").success());
    let other = |key: &str, file: &str| {
        place_for_certificates(&files).with(&format!("MQTT__EMBEDDED__{key}"), &files.path(file))
    };
    for (place, expected) in [
        (other("TLS_KEY_FILE", "client.key"), "mqtt.embedded.tls_key_file"),
        (other("TLS_CERT_FILE", "broker.key"), "mqtt.embedded.tls_cert_file"),
        (other("TLS_CERT_FILE", "missing"), "mqtt.embedded.tls_cert_file"),
        (other("TLS_CLIENT_CA_FILE", "der"), "mqtt.embedded.tls_client_ca_file"),
        (other("TLS_CERT_FILE", "pipe"), "mqtt.embedded.tls_cert_file"),
        (other("TLS_KEY_FILE", "pipe"), "mqtt.embedded.tls_key_file"),
    ] {
        for command in ["check-config", "run"] {
            let out = place.run(&[command]);
            let errors = String::from_utf8_lossy(&out.stderr);
            assert_eq!(out.status.code(), Some(78), "{command}: {errors}");
            assert!(errors.contains(expected), "{command}: no {expected} in {errors}");
        }
    }
}

#[test]
fn keys_that_need_each_other_are_asked_for_and_plain_text_is_warned_about() {
    let files = Certificates::new();
    let checked = |keys: &[(&str, &str)]| {
        let place = keys.iter().fold(Place::new(), |place, (key, value)| {
            place.with(&format!("MQTT__EMBEDDED__{key}"), value)
        });
        let out = place.run(&["check-config"]);
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let (certificate, key) = (&*files.path("broker.pem"), &*files.path("broker.key"));
    let ca = &*files.path("ca.pem");
    let tls = [("TLS_CERT_FILE", certificate), ("TLS_KEY_FILE", key)];
    for (keys, expected) in [
        (&[("LISTEN", "off")][..], "mqtt.embedded.tls_listen"),
        (&[("TLS_LISTEN", "127.0.0.1:0")], "mqtt.embedded.tls_cert_file is not set"),
        (&[("TLS_KEY_FILE", key)], "mqtt.embedded.tls_cert_file is not set"),
        (&tls[..], "mqtt.embedded.tls_listen is not set"),
        (&[("TLS_CLIENT_CA_FILE", ca)], "mqtt.embedded.tls_listen is not set"),
        (&[tls[0], tls[1], ("TLS_LISTEN", "0.0.0.0:8883")], "mqtt.embedded.tls_client_ca_file"),
        (
            &[tls[0], tls[1], ("LISTEN", "127.0.0.1:1"), ("TLS_LISTEN", "127.0.0.1:1")],
            "another address than mqtt.embedded.listen",
        ),
    ] {
        let (code, errors) = checked(keys);
        assert_eq!(code, Some(78), "{keys:?}: {errors}");
        assert!(errors.contains(expected), "{keys:?}: no {expected:?} in {errors}");
    }
    let authority = ("TLS_CLIENT_CA_FILE", ca);
    let (code, errors) = checked(&[tls[0], tls[1], authority, ("TLS_LISTEN", "0.0.0.0:8883")]);
    assert_eq!((code, errors.contains("unencrypted")), (Some(0), false), "{errors}");
    let reachable = [("LISTEN", "0.0.0.0:1883"), ("USERS_FILE", "/dev/null")];
    let (_, errors) = checked(&reachable);
    assert!(errors.contains("unencrypted; mqtt.embedded.tls_listen encrypts them"), "{errors}");
    let (_, errors) =
        checked(&[&reachable[..], &tls[..], &[("TLS_LISTEN", "0.0.0.0:8883")]].concat());
    assert!(errors.contains("unencrypted; set it to a loopback address"), "{errors}");
}
