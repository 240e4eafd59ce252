//! The clients of real devices against the real binary with its embedded broker.
//!
//! mosquitto's, paho C and paho Python run as they are. Those of Arduino and ESP-IDF need their
//! hardware, and rumqttc would add versions of crates that are there already: here are the
//! packets that their sources write.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use paho_mqtt as paho;

use crate::support::service::{Place, Service};
use publishers::packet::{self, packet, text};
use servers::mosquitto::publish;
use servers::process::program;
use servers::{PATIENCE, eventually};

/// A service in which nobody goes offline while a test runs.
fn start() -> (Place, Service) {
    let place = Place::new().with("HEARTBEAT__TIMEOUT", "1h");
    let service = place.start();
    service.await_listening();
    (place, service)
}

/// Waits until these devices are online, and no other, with this many heartbeats.
#[track_caller]
fn await_online(place: &Place, service: &Service, devices: &[String], heartbeats: f64) {
    let mut expected: Vec<_> = devices.iter().map(|id| format!("{id} online")).collect();
    expected.sort();
    let expected: Vec<_> = expected.iter().map(String::as_str).collect();
    place.await_statuses(&expected);
    service.await_metric("heartbeatd_heartbeats_total", heartbeats);
    let total = service.metric("heartbeatd_heartbeats_total");
    assert!((total - heartbeats).abs() < 0.5, "{total} instead of {heartbeats}");
}

#[test]
fn a_topic_may_have_levels_that_begin_with_a_dollar() {
    let place = Place::new().with("MQTT__TOPIC", "devices/+/$hb");
    let place = place.with("MQTT__ECHO_TOPIC", "devices/$echo");
    let service = place.start();
    service.await_listening();
    publish(service.broker_port(), "devices/pump/$hb", b"{}", &[]);
    place.await_statuses(&["pump online"]);
}

#[test]
fn mosquitto_pub_in_every_version_and_quality_of_service() {
    let (place, service) = start();
    let port = service.broker_port();
    let mut devices = Vec::new();
    for version in ["mqttv31", "mqttv311", "mqttv5"] {
        for qos in ["0", "1", "2"] {
            let device = format!("${version}-{qos}");
            let topic = format!("devices/{device}/heartbeat");
            let client = ["-V", version, "-q", qos, "-r", "-k", "65535"];
            let will = ["--will-topic", "devices/will/heartbeat", "--will-retain"];
            let will = [&will[..], &["--will-payload", "{}", "--will-qos", qos]].concat();
            publish(port, &topic, b"{}", &[&client[..], &will].concat());
            devices.push(device);
        }
    }
    await_online(&place, &service, &devices, 9.0);
}

#[test]
fn mosquitto_pub_with_aliases_and_a_session_that_it_wants_to_keep() {
    let (place, service) = start();
    let device = "ü".repeat(128);
    let port = service.broker_port().to_string();
    let mut child = Command::new(program("mosquitto_pub", "mosquitto-clients", &[]))
        .args(["-h", "127.0.0.1", "-p", &port, "-V", "mqttv5", "-q", "2", "-l", "-i", "pump 17/ü"])
        .args(["-t", &format!("devices/{device}/heartbeat"), "-c", "-x", "3600"])
        .args(["-D", "publish", "topic-alias", "7"])
        .args(["-D", "publish", "message-expiry-interval", "0"])
        .args(["-D", "publish", "user-property", "firmware", "1.2.3"])
        .args(["-D", "connect", "receive-maximum", "1"])
        .args(["-D", "connect", "maximum-packet-size", "200"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("mosquitto_pub starts");
    let mut lines = child.stdin.take().expect("a pipe");
    lines.write_all(b"{}\n{}\n{}\n").expect("mosquitto_pub reads");
    drop(lines);
    assert!(child.wait().expect("it ends").success());
    await_online(&place, &service, &[device], 3.0);
}

#[test]
fn the_will_of_a_device_that_is_gone_is_not_published() {
    let (place, service) = start();
    let port = service.broker_port().to_string();
    let mut child = Command::new(program("mosquitto_pub", "mosquitto-clients", &[]))
        .args(["-h", "127.0.0.1", "-p", &port, "-l", "-t", "devices/pump/heartbeat"])
        .args(["--will-topic", "devices/will/heartbeat", "--will-payload", "{}"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("mosquitto_pub starts");
    let mut lines = child.stdin.take().expect("a pipe");
    lines.write_all(b"{}\n").expect("mosquitto_pub reads");
    service.await_metric("heartbeatd_heartbeats_total", 1.0);
    service.await_metric("heartbeatd_receiver_connections", 2.0);
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    eventually("its connection is gone", || {
        (service.metric("heartbeatd_receiver_connections") < 1.5).then_some(())
    });
    // What comes later is there, so what came before would be.
    publish(service.broker_port(), "devices/fan/heartbeat", b"{}", &[]);
    await_online(&place, &service, &["fan".to_owned(), "pump".to_owned()], 2.0);
}

fn paho_client(port: u16, version: u32, id: &str) -> paho::AsyncClient {
    let create = paho::CreateOptionsBuilder::new()
        .server_uri(format!("mqtt://127.0.0.1:{port}"))
        .client_id(id)
        .mqtt_version(version)
        .persistence(None)
        .finalize();
    let client = paho::AsyncClient::new(create).expect("a client");
    let mut options = paho::ConnectOptionsBuilder::with_mqtt_version(version);
    options
        .keep_alive_interval(Duration::from_secs(65_535))
        .will_message(paho::Message::new_retained("devices/will/heartbeat", "{}", 2));
    if version == paho::MQTT_VERSION_5 {
        options.clean_start(false);
    } else {
        options.clean_session(false);
    }
    let connected = client.connect(options.finalize()).wait_for(PATIENCE).expect("it gets in");
    let response = connected.connect_response().expect("an answer to a connect");
    assert!(!response.session_present);
    client
}

#[test]
fn paho_c_in_every_version_and_quality_of_service() {
    let (place, service) = start();
    let port = service.broker_port();
    let mut devices = Vec::new();
    for version in [paho::MQTT_VERSION_3_1, paho::MQTT_VERSION_3_1_1, paho::MQTT_VERSION_5] {
        let client = paho_client(port, version, &format!("device-{version}"));
        for qos in 0..3 {
            let device = format!("$paho-{version}-{qos}");
            let topic = format!("devices/{device}/heartbeat");
            let message = paho::Message::new_retained(topic, "{}", qos);
            client.publish(message).wait_for(PATIENCE).expect("it is acknowledged");
            devices.push(device);
        }
        client.disconnect(None).wait_for(PATIENCE).expect("it says goodbye");
    }
    await_online(&place, &service, &devices, 9.0);
}

#[test]
fn paho_c_learns_why_its_message_and_its_subscription_are_refused() {
    let (_place, service) = start();
    let client = paho_client(service.broker_port(), paho::MQTT_VERSION_5, "device");
    let elsewhere = paho::Message::new("devices/pump/status", "{}", 1);
    let refused = client.publish(elsewhere).wait_for(PATIENCE).expect_err("it does not count");
    assert!(format!("{refused:?}").contains("TopicNameInvalid"), "{refused:?}");
    let subscribed = client.subscribe("commands/pump", 1).wait_for(PATIENCE);
    let codes = subscribed.map(|response| response.reason_code());
    let refused = codes.map_or_else(|error| format!("{error:?}"), |code| format!("{code:?}"));
    assert!(refused.contains("NotAuthorized"), "{refused}");
    assert!(client.is_connected());
    let event = "WARN receiver client=device";
    service.await_words(event, &["refused a message", "devices/pump/status"]);
    service.await_words(event, &["refused a subscription", "commands/pump"]);
}

/// Publishes with each version and quality of service, and twice with an alias.
const PYTHON: &str = r#"
import sys
import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

port = int(sys.argv[1])
for name, version in [("31", mqtt.MQTTv31), ("311", mqtt.MQTTv311), ("5", mqtt.MQTTv5)]:
    session = {} if version == mqtt.MQTTv5 else {"clean_session": False}
    client = mqtt.Client("device-" + name, protocol=version, **session)
    client.will_set("devices/will/heartbeat", "{}", qos=2, retain=True)
    client.connect("127.0.0.1", port, keepalive=65535)
    client.loop_start()
    def publish(topic, qos, **more):
        sent = client.publish(topic, "{}", qos, retain=True, **more)
        sent.wait_for_publish(30)
        assert sent.is_published(), (topic, qos)
    for qos in range(3):
        publish("devices/$python-%s-%d/heartbeat" % (name, qos), qos)
    if version == mqtt.MQTTv5:
        alias = Properties(PacketTypes.PUBLISH)
        alias.TopicAlias = 1
        publish("devices/alias/heartbeat", 1, properties=alias)
    client.disconnect()
    client.loop_stop()
"#;

#[test]
fn paho_python_in_every_version_and_quality_of_service() {
    let (place, service) = start();
    // Debian's interpreter has Debian's packages.
    let python = program("python3", "python3-paho-mqtt", &["/usr/bin"]);
    let out = Command::new("/usr/bin/python3")
        .args(["-c", PYTHON, &service.broker_port().to_string()])
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", python.display()));
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "is python3-paho-mqtt installed? {errors}");
    let mut devices = vec!["alias".to_owned()];
    for version in ["31", "311", "5"] {
        devices.extend((0..3).map(|qos| format!("$python-{version}-{qos}")));
    }
    await_online(&place, &service, &devices, 10.0);
}

/// A device whose library is not on this machine.
struct Device(TcpStream);

impl Device {
    fn connect(service: &Service) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", service.broker_port())).expect("a listener");
        stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
        Self(stream)
    }

    /// Sends bytes in pieces of this size, as a device with a small buffer does.
    fn send(&mut self, bytes: &[u8], piece: usize) {
        for piece in bytes.chunks(piece) {
            self.0.write_all(piece).expect("it is connected");
        }
    }

    #[track_caller]
    fn expect(&mut self, answer: &[u8]) {
        let mut read = vec![0; answer.len()];
        self.0.read_exact(&mut read).expect("an answer");
        assert_eq!(read, answer);
    }
}

/// PubSubClient 2.8 as in `PubSubClient::connect` and `publish`: QoS 0, 3.1 or 3.1.1, a will,
/// user name and password, a buffer of 256 bytes that is sent in pieces of 80 on some shields,
/// and a subscription to its commands, whose answer it does not look at.
#[test]
fn arduinos_pubsubclient_in_3_1_and_3_1_1() {
    let (place, service) = start();
    for (name, level) in [("MQIsdp", 3), ("MQTT", 4)] {
        let mut device = Device::connect(&service);
        // Will at QoS 1 and retained, clean session; keep-alive 15 s.
        let flags = 0x04 | (1 << 3) | (1 << 5) | 0x02;
        let connect = [
            text(name),
            vec![level, flags, 0, 15],
            text(&format!("arduino-{level}")),
            text("devices/will/heartbeat"),
            text("offline"),
        ];
        device.send(&packet(0x10, &connect.concat()), 80);
        device.expect(&[0x20, 2, 0, 0]);
        let topic = text(&format!("devices/arduino-{level}/heartbeat"));
        // `publish_P` writes the payload byte by byte.
        device.send(&packet(0x31, &[&topic[..], br#"{"uptime_seconds":5}"#].concat()), 1);
        device.send(&packet(0x82, &[&[0, 2][..], &text("commands"), &[1]].concat()), 80);
        device.expect(&[0x90, 3, 0, 2, if level == 3 { 1 } else { 0x80 }]);
        device.send(&[0xc0, 0], 2);
        device.expect(&[0xd0, 0]);
        device.send(&[0xe0, 0], 2);
    }
    let devices = ["arduino-3", "arduino-4"].map(str::to_owned);
    await_online(&place, &service, &devices, 2.0);
}

/// esp-mqtt as in `mqtt_msg_connect` and `mqtt_msg_publish`: a keep-alive of 120 s, a user name
/// of no characters before a password, QoS 2 with packet identifiers from a random generator,
/// and a message that is sent again after a timeout.
#[test]
fn esp_idf_in_3_1_1() {
    let (place, service) = start();
    let mut device = Device::connect(&service);
    let flags = 0x80 | 0x40 | 0x02;
    let connect = [text("MQTT"), vec![4, flags, 0, 120], text("ESP32_7f0a10"), text(""), text("p")];
    device.send(&packet(0x10, &connect.concat()), 1024);
    device.expect(&[0x20, 2, 0, 0]);
    let topic = text("devices/$esp/heartbeat");
    let body = [&topic[..], &[0xbe, 0xef], b"{}"].concat();
    device.send(&packet(0x35, &body), 1024);
    device.expect(&[0x50, 2, 0xbe, 0xef]);
    device.send(&packet(0x3d, &body), 1024);
    device.expect(&[0x50, 2, 0xbe, 0xef]);
    device.send(&packet(0x62, &[0xbe, 0xef]), 1024);
    device.expect(&[0x70, 2, 0xbe, 0xef]);
    await_online(&place, &service, &["$esp".to_owned()], 1.0);
}

/// esp-mqtt as in `mqtt5_msg_connect` and `mqtt5_msg_publish`: properties in its order, a will
/// with properties, a topic alias and an expiry.
#[test]
fn esp_idf_in_5() {
    let (place, service) = start();
    let mut device = Device::connect(&service);
    let asked = [
        &[0x11, 0, 0, 0, 10, 0x27, 0, 0, 4, 0, 0x21, 0xff, 0xff, 0x22, 0, 2, 0x19, 1, 0x17, 1][..],
        &[0x26],
        &text("board"),
        &text("esp32"),
    ]
    .concat();
    let will = [&[0x18, 0, 0, 0, 10, 0x01, 1, 0x02, 0, 0, 0, 10][..], &[0x08], &text("/test")];
    let will = will.concat();
    let length = |properties: &[u8]| vec![u8::try_from(properties.len()).expect("short")];
    let connect = [
        text("MQTT"),
        vec![5, 0x04 | (1 << 3) | (1 << 5) | 0x02, 0, 120],
        length(&asked),
        asked.clone(),
        text("ESP32_7f0a10"),
        length(&will),
        will.clone(),
        text("devices/will/heartbeat"),
        text("gone"),
    ];
    device.send(&packet(0x10, &connect.concat()), 1024);
    let (first, connack) = packet::read(&mut device.0).expect("an answer");
    assert_eq!((first, &connack[..2]), (0x20, &[0, 0][..]));
    let properties = [&[0x01, 1, 0x02, 0, 0, 3, 0xe8, 0x23, 0, 1][..], &[0x26]].concat();
    let properties = [properties, text("k"), text("v")].concat();
    for topic in ["devices/$esp5/heartbeat", ""] {
        let of_it = [length(&properties), properties.clone()].concat();
        let body = [&text(topic)[..], &[0x12, 0x34], &of_it, b"{}"].concat();
        device.send(&packet(0x33, &body), 1024);
        device.expect(&[0x40, 2, 0x12, 0x34]);
    }
    device.send(&packet(0xe0, &[0, 0]), 1024);
    await_online(&place, &service, &["$esp5".to_owned()], 2.0);
}

/// rumqttc 0.25 as in `mqttbytes::v4`: the largest keep-alive, a will and a login after it, and
/// QoS 2.
#[test]
fn rumqttc_in_3_1_1() {
    let (place, service) = start();
    let mut device = Device::connect(&service);
    let flags = 0x04 | (2 << 3) | 0x20 | 0x80 | 0x40;
    let connect = [
        text("MQTT"),
        vec![4, flags, 0xff, 0xff],
        text("device"),
        text("devices/will/heartbeat"),
        text("{}"),
        text("ann"),
        text("secret"),
    ];
    device.send(&packet(0x10, &connect.concat()), 4096);
    device.expect(&[0x20, 2, 0, 0]);
    let topic = text("devices/$rumqttc/heartbeat");
    // All that is queued goes out at once.
    let queued = [
        packet(0x30, &[&topic[..], b"{}"].concat()),
        packet(0x33, &[&topic[..], &[0, 1], b"{}"].concat()),
        packet(0x35, &[&topic[..], &[0, 2], b"{}"].concat()),
    ];
    device.send(&queued.concat(), 4096);
    device.expect(&[0x40, 2, 0, 1, 0x50, 2, 0, 2]);
    device.send(&packet(0x62, &[0, 2]), 4096);
    device.expect(&[0x70, 2, 0, 2]);
    device.send(&[0xe0, 0], 4096);
    await_online(&place, &service, &["$rumqttc".to_owned()], 3.0);
}

/// rumqttc 0.25 as in `v5::mqttbytes`: the same, a will without properties, and aliases.
#[test]
fn rumqttc_in_5() {
    let (place, service) = start();
    let mut device = Device::connect(&service);
    let flags = 0x04 | (2 << 3) | 0x20;
    let connect = [
        text("MQTT"),
        vec![5, flags, 0xff, 0xff],
        vec![6, 0x21, 0, 100, 0x22, 0, 10],
        text("device"),
        vec![0],
        text("devices/will/heartbeat"),
        text("{}"),
    ];
    device.send(&packet(0x10, &connect.concat()), 4096);
    let (first, connack) = packet::read(&mut device.0).expect("an answer");
    assert_eq!((first, &connack[..2]), (0x20, &[0, 0][..]));
    for (id, topic) in [(1, "devices/$rumqttc/heartbeat"), (2, ""), (3, "")] {
        let body = [&text(topic)[..], &[0, id], &[3, 0x23, 0, 64], b"{}"].concat();
        device.send(&packet(0x35, &body), 4096);
        device.expect(&[0x50, 2, 0, id]);
        device.send(&packet(0x62, &[0, id]), 4096);
        device.expect(&[0x70, 2, 0, id]);
    }
    device.send(&[0xe0, 0], 4096);
    await_online(&place, &service, &["$rumqttc".to_owned()], 3.0);
}
