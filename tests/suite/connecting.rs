//! Connecting, the messages about failures, and topics that no broker should pass on.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};

use openssl::ssl::{SslAcceptor, SslFiletype, SslMethod};

use crate::support::certificates::Certificates;
use crate::support::events::{CANNOT_CONNECT, CONNECTED, DISCONNECTED, NO_ECHO, UNANSWERED};
use crate::support::fake_broker::{Behaviour, FakeBroker};
use crate::support::service::Place;
use servers::mosquitto::{Mosquitto, heartbeat, publish};
use servers::process::{free_port, output, program};

const INVALID_TOPICS: &str = r#"heartbeatd_heartbeats_rejected_total{reason="invalid_topic"}"#;

#[test]
fn invalid_topics_are_counted_and_ignored() {
    for version in ["3.1.1", "5"] {
        let topics: [&[u8]; 6] = [
            b"devices/a\0b/heartbeat",
            b"devices/\xff/heartbeat",
            b"devices/\0/heartbeat",
            b"devices/\xed\xa0\x80/heartbeat",
            b"\0",
            b"devices/pump/heartbeat",
        ];
        let messages = topics.map(<[u8]>::to_vec).to_vec();
        let broker = FakeBroker::start(Behaviour { messages, ..Behaviour::default() });
        let place = Place::new()
            .with("HEARTBEAT__TIMEOUT", "10m")
            .with("MQTT__VERSION", version)
            .with("MQTT__URL", &broker.url());
        let service = place.start();
        service.await_listening();
        place.await_statuses(&["pump online"]);
        service.await_metric(INVALID_TOPICS, 5.0);
        service.await_words("WARN mqtt_ingest reason=invalid_topic", &["U+0000"]);
        // The echoes still come back.
        service.await_metric("heartbeatd_echo_latency_seconds_count", 2.0);
    }
}

#[test]
fn a_first_subscription_that_is_never_answered_leads_to_a_new_connection() {
    let broker = FakeBroker::start(Behaviour { unanswered: 1, ..Behaviour::default() });
    let place = Place::new().with("MQTT__URL", &broker.url());
    let service = place.start();
    service.await_event(UNANSWERED);
    service.await_listening();
    assert_eq!(broker.subscriptions(), 2);
    service.await_metric("heartbeatd_echo_latency_seconds_count", 2.0);
}

/// A heartbeatd whose echo comes through the subscription of the heartbeats.
fn with_echo_inside(url: &str) -> Place {
    Place::new()
        .with("HEARTBEAT__TIMEOUT", "10m")
        .with("MQTT__URL", url)
        .with("MQTT__ECHO_TOPIC", "devices/heartbeatd-echo-heartbeatd/heartbeat")
}

#[test]
fn an_echo_within_the_heartbeats_proves_and_is_not_a_device() {
    let broker = Mosquitto::start();
    let place = with_echo_inside(&broker.url());
    let service = place.start();
    service.await_metric("heartbeatd_echo_latency_seconds_count", 2.0);
    // The echo of another instance.
    heartbeat(broker.port, "heartbeatd-echo-other", b"0123456789abcdef0123456789abcdef");
    heartbeat(broker.port, "pump", b"");
    place.await_statuses(&["pump online"]);
    service.await_metric("heartbeatd_messages_unmatched_total", 1.0);
    for payload in [&b"0123456789abcdef0123456789abcdef"[..], b"nonsense", b""] {
        publish(broker.port, "devices/heartbeatd-echo-heartbeatd/heartbeat", payload, &[]);
    }
    service.await_metric(r#"heartbeatd_echoes_ignored_total{reason="unknown"}"#, 3.0);
    let topic = "devices/heartbeatd-echo-heartbeatd/heartbeat";
    service.await_event(&format!("WARN mqtt_ingest topic={topic} reason=unknown"));
    place.await_statuses(&["pump online"]);
}

#[test]
fn an_echo_within_the_heartbeats_is_missed_with_them() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let acl = folder.path().join("acl");
    // The service may publish its echo, and read everything but heartbeats.
    std::fs::write(&acl, "topic write devices/+/heartbeat\ntopic readwrite heartbeatd/#\n")
        .expect("a file");
    let broker = Mosquitto::start_with(&format!("acl_file {}", acl.display()));
    let place = with_echo_inside(&broker.url()).with("MQTT__VERSION", "3.1.1");
    let service = place.start();
    service.await_event(CONNECTED);
    service.await_event("ERROR mqtt_ingest");
    assert_eq!(service.get("/readyz").0, 503);
    assert_eq!(service.metric("heartbeatd_echo_latency_seconds_count"), 0.0);
}

#[test]
fn an_echo_topic_inside_a_share_group_is_refused() {
    let place = with_echo_inside("mqtt://localhost").with("MQTT__SHARE_GROUP", "fleet");
    let out = place.run(&["check-config"]);
    let errors = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(78), "{errors}");
    assert!(errors.contains("mqtt.echo_topic") && errors.contains("mqtt.share_group"), "{errors}");
}

#[test]
fn a_broker_that_grants_less_is_accepted_and_that_is_logged_once() {
    for (max, version, asked) in
        [(0, "5", "1"), (1, "5", "2"), (0, "3.1.1", "2"), (1, "3.1.1", "2")]
    {
        let broker = Mosquitto::start_with(&format!("max_qos {max}"));
        let place = Place::new()
            .with("HEARTBEAT__TIMEOUT", "10m")
            .with("MQTT__URL", &broker.url())
            .with("MQTT__VERSION", version)
            .with("MQTT__QOS", asked);
        let service = place.start();
        service.await_metric("heartbeatd_echo_latency_seconds_count", 10.0);
        let granted = format!("WARN mqtt_ingest asked={asked} granted={max}");
        let log = service.log().join("\n");
        assert_eq!(service.events(&granted).len(), 1, "{log}");
        assert_eq!(service.events(DISCONNECTED).len(), 0, "{log}");
    }
}

#[test]
fn the_granted_qos_counts_when_a_broker_accepts_less_than_it_says() {
    let behaviour = Behaviour { refuses_qos_above: Some(0), ..Behaviour::default() };
    let broker = FakeBroker::start(behaviour);
    let place = Place::new().with("MQTT__URL", &broker.url()).with("MQTT__VERSION", "3.1.1");
    let service = place.start();
    service.await_metric("heartbeatd_echo_latency_seconds_count", 3.0);
}

#[test]
fn losses_right_after_connecting_suggest_another_client_with_the_same_id() {
    let broker = FakeBroker::start(Behaviour { closes: 4, ..Behaviour::default() });
    let place = Place::new().with("MQTT__URL", &broker.url());
    let service = place.start();
    let lost_early = "WARN mqtt_ingest client_id=heartbeatd times=";
    let line = service.await_event(lost_early);
    assert!(line.contains("does another client use mqtt.client_id"), "{line}");
    service.await_metric("heartbeatd_echo_latency_seconds_count", 2.0);
    assert_eq!(service.events(lost_early), [line]);
}

#[test]
fn a_broker_on_all_addresses_is_logged_with_the_address_of_the_connection() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let users = folder.path().join("users").display().to_string();
    let passwd = program("mosquitto_passwd", "mosquitto", &["/usr/bin"]);
    output(Command::new(passwd).args(["-c", "-b", &users, "fleet", "s3cret"]));
    for (listen, host) in [("0.0.0.0:0", "127.0.0.1"), ("[::]:0", "[::1]")] {
        let place = Place::new()
            .with("MQTT__EMBEDDED__USERS_FILE", &users)
            .with("MQTT__EMBEDDED__LISTEN", listen);
        let service = place.start();
        let line = service.await_event(CONNECTED);
        assert!(line.contains(&format!("broker=mqtt://{host}:")), "{line}");
        service.await_listening();
    }
}

/// Starts a mosquitto with that certificate. Returns the port on which it speaks TLS too.
fn tls_broker(files: &Certificates, file: &str, more: &str) -> (Mosquitto, u16) {
    let port = free_port();
    let broker = Mosquitto::start_with(&format!(
        "listener {port} 127.0.0.1\nallow_anonymous true\ncertfile {}\nkeyfile {}\n\
         cafile {}\n{more}",
        files.path(&format!("{file}.pem")),
        files.path(&format!("{file}.key")),
        files.path("ca.pem"),
    ));
    (broker, port)
}

#[track_caller]
fn assert_said(place: &Place, parts: &[&str]) {
    let service = place.start();
    let line = service.await_event(CANNOT_CONNECT);
    for part in parts {
        assert!(line.contains(part), "no {part:?} in {line}");
    }
}

#[test]
fn a_failed_tls_connection_is_logged_with_its_cause_and_remedy() {
    let files = Certificates::new();
    let tls = |port: u16, ca: &str| {
        let url = format!("mqtts://localhost:{port}");
        Place::new().with("MQTT__URL", &url).with("MQTT__CA_FILE", &files.path(ca))
    };
    let (broker, port) = tls_broker(&files, "broker", "");
    assert_said(&tls(port, "other-ca.pem"), &["unknown authority", "mqtt.ca_file"]);
    let mismatch = tls(port, "ca.pem")
        .with("MQTT__CERT_FILE", &files.path("client.pem"))
        .with("MQTT__KEY_FILE", &files.path("broker.key"));
    assert_mismatch_is_said(&mismatch);
    assert_said(&tls(broker.port, "ca.pem"), &["speaks MQTT without TLS", "mqtt://"]);
    let plain = Place::new().with("MQTT__URL", &format!("mqtt://localhost:{port}"));
    assert_said(&plain, &["speaks TLS", "mqtts://"]);
    let (_broker, port) = tls_broker(&files, "expired", "");
    assert_said(&tls(port, "ca.pem"), &["certificate has expired"]);
    let (_broker, port) = tls_broker(&files, "elsewhere", "");
    assert_said(&tls(port, "ca.pem"), &["is for another name than", "localhost"]);
    let (_broker, port) = tls_broker(&files, "broker", "require_certificate true");
    assert_said(&tls(port, "ca.pem"), &["refuses the TLS handshake", "mqtt.cert_file"]);
    let complete = tls(port, "ca.pem")
        .with("MQTT__CERT_FILE", &files.path("client.pem"))
        .with("MQTT__KEY_FILE", &files.path("client.key"));
    complete.start().await_metric("heartbeatd_echo_latency_seconds_count", 2.0);
}

/// Asserts that the mismatch is reported at startup.
#[track_caller]
fn assert_mismatch_is_said(place: &Place) {
    let service = place.start();
    service.await_words("ERROR heartbeatd", &["mqtt.key_file", "mqtt.cert_file"]);
}

#[test]
fn a_failed_connection_is_logged_with_its_cause_and_remedy() {
    let place = |url: &str| Place::new().with("MQTT__URL", url);
    let unused = free_port();
    assert_said(&place(&format!("mqtt://127.0.0.1:{unused}")), &["connection refused", "mqtt.url"]);
    assert_said(&place("mqtt://nowhere.invalid:1883"), &["there is no host", "nowhere.invalid"]);
    for (code, parts) in [
        (1, ["version", "mqtt.version"]),
        (2, ["dentifier", "mqtt.client_id"]),
        (3, ["unavailable", "log should say why"]),
        (4, ["assword", "mqtt.username"]),
        (5, ["uthori", "mqtt.username"]),
    ] {
        let broker = FakeBroker::start(Behaviour { connack: code, ..Behaviour::default() });
        assert_said(&place(&broker.url()).with("MQTT__VERSION", "3.1.1"), &parts);
    }
    for (code, parts) in [
        (1, ["broker", "mqtt_ingest"]),
        (0x84, ["ersion", "mqtt.version"]),
        (0x85, ["dentifier", "mqtt.client_id"]),
        (0x86, ["assword", "mqtt.username"]),
        (0x87, ["uthori", "mqtt.username"]),
        (0x88, ["unavailable", "log should say why"]),
        (0x89, ["busy", "fewer clients"]),
        (0x8a, ["anned", "lift the ban"]),
        (0x95, ["0x95", "limit on packets"]),
        (0x97, ["0x97", "raised"]),
        (0x9c, ["0x9C", "mqtt.url"]),
        (0x9d, ["0x9D", "mqtt.url"]),
        (0x9f, ["0x9F", "limit should be raised"]),
    ] {
        let broker = FakeBroker::start(Behaviour { connack: code, ..Behaviour::default() });
        assert_said(&place(&broker.url()), &parts);
    }
    let behaviour = Behaviour { refuses_v5: true, ..Behaviour::default() };
    let parts = ["speaks MQTT 3.1.1 but not 5", "mqtt.version should be \"3.1.1\""];
    assert_said(&place(&FakeBroker::start(behaviour).url()), &parts);
}

/// Starts a peer that does this with each connection. Returns its port.
fn peer(talk: impl Fn(TcpStream) + Clone + Send + 'static) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let talk = talk.clone();
            std::thread::spawn(move || talk(stream));
        }
    });
    port
}

/// Peers that are not brokers, each with the beginning of the message about it.
const PEERS: [(Manner, &str); 8] = [
    (Manner::Silent, "accepts connections but does not answer MQTT"),
    (Manner::Closes, "accepts connections and closes them without an answer to MQTT"),
    (Manner::Greets(b"SSH-2.0-OpenSSH_9.2p1\r\n"), "speaks SSH instead of MQTT"),
    (Manner::Greets(b"220 \"mail\" ready\r\n"), "does not speak MQTT"),
    (Manner::Answers(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "speaks HTTP instead of MQTT"),
    (Manner::Answers(b"AMQP\0\0\x09\x01"), "speaks AMQP instead of MQTT"),
    (Manner::Answers(b"\xff\xfe\xfd"), "does not speak MQTT"),
    (Manner::AnswersLines(b"<html>Bad request</html>"), "speaks HTTP instead of MQTT"),
];

#[derive(Clone, Copy, Debug)]
enum Manner {
    /// It reads everything and says nothing.
    Silent,
    /// It closes the connection at once.
    Closes,
    /// It says this first.
    Greets(&'static [u8]),
    /// It says this once it has heard anything.
    Answers(&'static [u8]),
    /// It says this after a whole line.
    AnswersLines(&'static [u8]),
}

impl Manner {
    fn talk(self, mut stream: impl Read + Write) -> Option<()> {
        match self {
            Self::Silent => (),
            Self::Closes => return None,
            Self::Greets(text) => stream.write_all(text).ok()?,
            Self::Answers(text) => {
                stream.read_exact(&mut [0]).ok()?;
                stream.write_all(text).ok()?;
            }
            Self::AnswersLines(text) => {
                let mut byte = [0];
                while byte != *b"\n" {
                    stream.read_exact(&mut byte).ok()?;
                }
                stream.write_all(text).ok()?;
            }
        }
        std::io::copy(&mut stream, &mut std::io::sink()).ok().map(drop)
    }

    /// The part of the answer that the message shows.
    fn shown(self) -> &'static str {
        match self {
            Self::Silent => "within 3s",
            Self::Closes => "mqtt.version = \"5\"",
            Self::Greets(b"220 \"mail\" ready\r\n") => r#"it answers "220 \"mail\" ready""#,
            Self::Greets(_) => r#"it answers "SSH-2.0-OpenSSH_9.2p1""#,
            Self::Answers([b'H', ..]) => r#"it answers "HTTP/1.1 400 Bad Request""#,
            Self::Answers([b'A', ..]) => "the bytes 41 4d 51 50 00 00 09 01",
            Self::Answers(_) => "the bytes ff fe fd",
            Self::AnswersLines(_) => "<html>",
        }
    }
}

/// Asserts the message about each peer. They run at the same time, because some are slow.
fn assert_all_said(url: &str, key_file: Option<&str>, ports: Vec<(u16, Vec<String>)>) {
    let started: Vec<_> = ports
        .into_iter()
        .map(|(port, parts)| {
            let place = Place::new().with("MQTT__URL", &format!("{url}:{port}"));
            let place = match key_file {
                Some(file) => place.with("MQTT__CA_FILE", file),
                None => place,
            };
            let service = place.start();
            (place, service, parts)
        })
        .collect();
    for (_place, service, parts) in started {
        let line = service.await_event(CANNOT_CONNECT);
        for part in parts {
            assert!(line.contains(&part), "no {part:?} in {line}");
        }
    }
}

#[test]
fn a_peer_that_is_not_a_broker_is_recognised() {
    let peers = PEERS.map(|(manner, said)| {
        let port = peer(move |stream| {
            let _ = manner.talk(stream);
        });
        let parts = [&format!("127.0.0.1:{port} {said}"), manner.shown(), "mqtt.url", "1883"];
        (port, parts.map(str::to_owned).to_vec())
    });
    assert_all_said("mqtt://127.0.0.1", None, peers.to_vec());
}

#[test]
fn a_peer_that_is_not_a_broker_is_recognised_over_tls() {
    let files = Certificates::new();
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).expect("TLS");
    acceptor.set_certificate_chain_file(files.path("broker.pem")).expect("a certificate");
    acceptor.set_private_key_file(files.path("broker.key"), SslFiletype::PEM).expect("a key");
    let acceptor = acceptor.build();
    let peers = PEERS.map(|(manner, said)| {
        let acceptor = acceptor.clone();
        let port = peer(move |stream| {
            let _ = acceptor.accept(stream).ok().and_then(|stream| manner.talk(stream));
        });
        let parts =
            [&format!("127.0.0.1:{port} {said} over TLS"), manner.shown(), "mqtt.url", "8883"];
        (port, parts.map(str::to_owned).to_vec())
    });
    assert_all_said("mqtts://localhost", Some(&files.path("ca.pem")), peers.to_vec());
}

#[test]
fn a_probe_takes_over_no_session_and_reveals_no_secret() {
    let broker = Mosquitto::start_with("allow_zero_length_clientid false");
    let place = Place::new().with("MQTT__URL", &broker.url());
    let service = place.start();
    service.await_listening();
    // The same broker behind a peer that lets only probes through.
    let (heard, port) = (Arc::new(Mutex::new(Vec::new())), broker.port);
    let notes = Arc::clone(&heard);
    let probed = peer(move |mut stream| {
        let mut packet = [0; 1024];
        let length = stream.read(&mut packet).unwrap_or(0);
        let packet = &packet[..length];
        let is_probe = packet.ends_with(&[0, 0, 0]);
        if !is_probe {
            return;
        }
        let mut upstream = TcpStream::connect(("127.0.0.1", port)).expect("the broker listens");
        upstream.write_all(packet).expect("it reads");
        let mut answer = [0; 64];
        let count = upstream.read(&mut answer).unwrap_or(0);
        notes.lock().expect("no thread panics").push((packet.to_vec(), answer[..count].to_vec()));
        let _ = stream.write_all(&answer[..count]);
    });
    let other = Place::new()
        .with("MQTT__URL", &format!("mqtt://127.0.0.1:{probed}"))
        .with("MQTT__USERNAME", "watcher")
        .with("MQTT__PASSWORD", "correct-horse");
    let probing = other.start();
    probing.await_event(CANNOT_CONNECT);
    let heard = heard.lock().expect("no thread panics").clone();
    let [(packet, answer)] = &heard[..] else { panic!("one probe: {heard:?}") };
    let text = String::from_utf8_lossy(packet);
    assert!(["watcher", "correct-horse", "heartbeatd"].iter().all(|s| !text.contains(s)), "{text}");
    assert_eq!(answer[0], 0x20, "a CONNACK, whatever it says");
    assert_eq!(service.events(DISCONNECTED).len(), 0);
}

#[test]
fn a_refused_subscription_is_logged_with_its_remedy() {
    let inside = ["cannot subscribe to devices/+/heartbeat: "];
    let outside = ["cannot subscribe to devices/+/heartbeat and heartbeatd/heartbeatd/echo: "];
    for (version, code, parts) in [
        ("3.1.1", 0x80, ["Unspecified error (0x80)", "access rules should allow \"heartbeatd\""]),
        ("5", 0x80, ["Unspecified error (0x80)", "log should say what is wrong"]),
        ("5", 0x87, ["Not authorized (0x87)", "access rules should allow \"heartbeatd\""]),
        ("5", 0x8f, ["0x8F", "mqtt.topic should be one that the broker accepts"]),
        ("5", 0x97, ["0x97", "more subscriptions"]),
        ("5", 0x9e, ["0x9E", "mqtt.share_group should be unset"]),
        ("5", 0xa1, ["0xA1", "the broker is at fault"]),
        ("5", 0xa2, ["0xA2", "the broker should allow wildcards"]),
    ] {
        let behaviour = Behaviour { suback: Some(code), ..Behaviour::default() };
        let broker = FakeBroker::start(behaviour);
        let place = |place: Place| place.with("MQTT__VERSION", version);
        // paho handles an answer to one filter and one to two differently.
        for (place, topics) in [
            (place(with_echo_inside(&broker.url())), inside),
            (place(Place::new().with("MQTT__URL", &broker.url())), outside),
        ] {
            let service = place.start();
            let line = service.await_words("ERROR mqtt_ingest", &["cannot subscribe to"]);
            for part in topics.iter().chain(&parts) {
                assert!(line.contains(part), "no {part:?} in {line}");
            }
        }
    }
}

#[test]
fn a_connection_closed_by_the_broker_is_logged_with_its_remedy() {
    for (code, parts) in [
        (0x87, ["0x87", "mqtt.echo_topic"]),
        (0x8b, ["0x8B", "back soon"]),
        (0x8e, ["same client id", "mqtt.client_id"]),
        (0x97, ["0x97", "limit"]),
        (0x9d, ["0x9D", "mqtt.url"]),
    ] {
        let behaviour = Behaviour { disconnect: Some(code), ..Behaviour::default() };
        let broker = FakeBroker::start(behaviour);
        let place = Place::new().with("MQTT__URL", &broker.url());
        let service = place.start();
        let line = service.await_event(DISCONNECTED);
        for part in parts {
            assert!(line.contains(part), "no {part:?} in {line}");
        }
    }
}

#[test]
fn a_silent_port_blocks_nothing() {
    let silent = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let port = silent.local_addr().expect("it is bound").port();
    let place = Place::new().with("MQTT__URL", &format!("mqtts://localhost:{port}"));
    let service = place.start();
    service.await_words(CANNOT_CONNECT, &["TLS handshake"]);
    assert_eq!(service.get("/healthz").0, 200);
}

#[test]
fn unused_tls_files_beside_a_plain_url_are_logged() {
    let files = Certificates::new();
    let broker = Mosquitto::start();
    let place =
        Place::new().with("MQTT__URL", &broker.url()).with("MQTT__CA_FILE", &files.path("ca.pem"));
    let service = place.start();
    service
        .await_words("WARN mqtt_ingest broker=", &["mqtt.ca_file is set but not used", "mqtts://"]);
    service.await_listening();
}

#[test]
fn a_process_that_was_stopped_reports_no_fault_and_sends_no_burst_of_echoes() {
    let broker = Mosquitto::start();
    let place = Place::new().with("MQTT__URL", &broker.url());
    let service = place.start();
    let echoes = "heartbeatd_echo_latency_seconds_count";
    service.await_metric(echoes, 2.0);
    let before = service.metric(echoes);
    service.signal("STOP");
    // 25 echo intervals, more than the patience for missing echoes.
    #[expect(clippy::disallowed_methods, reason = "nothing may happen for this long")]
    std::thread::sleep(std::time::Duration::from_secs(5));
    service.signal("CONT");
    service.await_metric(echoes, before + 1.0);
    let burst = service.metric(echoes) - before;
    assert!(burst < 15.0, "{burst} echoes at once");
    service.await_metric(echoes, before + 20.0);
    assert_eq!([service.events(NO_ECHO), service.events(DISCONNECTED)].concat().len(), 0);
}
