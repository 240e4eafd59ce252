//! Users at the embedded broker: who gets in, and what each of them may publish.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::service::{Place, Service};
use crate::support::users::{with_users, write_users};
use publishers::packet::{self, packet, text};
use servers::{PATIENCE, eventually};

/// A service with these users, whose password is "secret".
fn start(lines: &str) -> (Place, Service) {
    let place = with_users(Place::new().with("HEARTBEAT__TIMEOUT", "10m"), lines);
    let service = place.start();
    service.await_listening();
    (place, service)
}

/// A client that knows only bytes, of version 3, 4 or 5.
struct Client {
    stream: TcpStream,
    level: u8,
}

impl Client {
    fn new(service: &Service, level: u8) -> Self {
        Self::at(service.broker_port(), level)
    }

    fn at(port: u16, level: u8) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("a listener");
        stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
        Self { stream, level }
    }

    /// Connects as a user, and gets in.
    fn connect(service: &Service, level: u8, id: &str, user: &str) -> Self {
        let mut client = Self::new(service, level);
        client.send(&connect(level, id, user, "secret"));
        let (first, connack) = client.read().expect("a CONNACK");
        assert_eq!((first, &connack[..2]), (0x20, &[0, 0][..]), "{connack:x?}");
        client
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("it is connected");
    }

    fn read(&mut self) -> Option<(u8, Vec<u8>)> {
        packet::read(&mut self.stream)
    }

    /// Publishes a heartbeat, with packet id 7 if there is one.
    fn publish(&mut self, device: &str, qos: u8) {
        let topic = text(&format!("devices/{device}/heartbeat"));
        let id: &[u8] = if qos > 0 { &[0, 7] } else { &[] };
        let properties: &[u8] = if self.level == 5 { &[0] } else { &[] };
        self.send(&packet(0x30 | qos << 1, &[&topic[..], id, properties, b"{}"].concat()));
    }

    /// Waits for the end of the connection, after no other packet.
    #[track_caller]
    fn await_close(mut self) {
        let mut rest = Vec::new();
        if let Err(error) = self.stream.read_to_end(&mut rest) {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "it is not closed: {error}");
        }
        assert_eq!(rest, [0; 0]);
    }

    #[track_caller]
    fn expect(&mut self, first: u8, body: &[u8]) {
        assert_eq!(self.read(), Some((first, body.to_vec())));
    }

    /// Everything that was sent before is handled, and has no more answers.
    #[track_caller]
    fn expect_no_more(&mut self) {
        self.send(&[0xc0, 0]);
        self.expect(0xd0, &[]);
    }
}

fn connect(level: u8, id: &str, user: &str, password: &str) -> Vec<u8> {
    let name = if level == 3 { "MQIsdp" } else { "MQTT" };
    let properties = if level == 5 { vec![0] } else { Vec::new() };
    let head = [text(name), vec![level, 0b1100_0010, 0, 60], properties];
    packet(0x10, &[head.concat(), text(id), text(user), text(password)].concat())
}

const NOT_AUTHORIZED: &str = "heartbeatd_receiver_refused_total{reason=\"not_authorized\"}";

#[test]
fn a_user_without_the_right_is_told_as_its_version_can_and_nothing_counts() {
    let (place, service) = start("pump-17:HASH\nhall-3:HASH:hall-3-* gate\\ 1\n");
    // A device that counts, to see that nothing else does.
    Client::connect(&service, 4, "hall", "hall-3").publish("hall-3-fan", 0);
    service.await_metric("heartbeatd_heartbeats_total", 1.0);
    for level in [3, 4, 5] {
        let mut client = Client::connect(&service, level, "pump", "pump-17");
        for qos in 0..3 {
            client.publish("pump-18", qos);
            match (level, qos) {
                (_, 0) => (),
                // Not authorized, and why.
                (5, _) => {
                    let (first, body) = client.read().expect("an answer");
                    let expected = if qos == 1 { 0x40 } else { 0x50 };
                    assert_eq!((first, &body[..3]), (expected, &[0, 7, 0x87][..]));
                    let told = String::from_utf8_lossy(&body[3..]);
                    assert!(told.contains("the user may not publish for"), "{told}");
                }
                // These versions have no other answer; without one the message would come again.
                (_, 1) => client.expect(0x40, &[0, 7]),
                (_, _) => {
                    client.expect(0x50, &[0, 7]);
                    client.send(&packet(0x62, &[0, 7]));
                    client.expect(0x70, &[0, 7]);
                }
            }
            client.expect_no_more();
        }
    }
    // Neither another user's device nor one that a pattern almost matches.
    let mut hall = Client::connect(&service, 4, "hall", "hall-3");
    for device in ["pump-17", "hall-3", "hall-30", "gate 2", "HALL-3-fan", "x-hall-3-fan"] {
        hall.publish(device, 1);
        hall.expect(0x40, &[0, 7]);
    }
    assert_eq!(service.metric(NOT_AUTHORIZED), 9.0 + 6.0);
    let event = "WARN receiver address= client=pump user=pump-17";
    service.await_words(event, &["refused a message", "pump-18", "heartbeatd user list"]);
    // What it may do counts, and is there when all of the above would be.
    for device in ["hall-3-", "gate 1"] {
        hall.publish(device, 1);
        hall.expect(0x40, &[0, 7]);
    }
    Client::connect(&service, 5, "pump", "pump-17").publish("pump-17", 0);
    place.await_statuses(&[
        "gate 1 online",
        "hall-3- online",
        "hall-3-fan online",
        "pump-17 online",
    ]);
    assert_eq!(service.metric("heartbeatd_heartbeats_total"), 4.0);
}

#[test]
fn the_connection_of_another_user_with_the_same_client_id_is_not_thrown_out() {
    let (place, service) = start("ann:HASH\nbob:HASH\n");
    for (level, refused) in [(4, &[0, 2][..]), (5, &[0, 0x85])] {
        let id = format!("shared-{level}");
        let mut ann = Client::connect(&service, level, &id, "ann");
        let mut bob = Client::new(&service, level);
        bob.send(&connect(level, &id, "bob", "secret"));
        let (first, connack) = bob.read().expect("a CONNACK");
        assert_eq!((first, &connack[..2]), (0x20, refused));
        bob.await_close();
        ann.publish("ann", 0);
        ann.expect_no_more();
        let event = format!("WARN receiver client={id} user=bob reason=client_id");
        service.await_words(&event, &["another user is connected"]);
        // Its own user takes it over.
        Client::connect(&service, level, &id, "ann").expect_no_more();
    }
    place.await_statuses(&["ann online"]);
}

#[test]
fn a_stranger_is_told_the_same_whether_its_name_or_its_password_is_wrong() {
    let (_place, service) = start("ann:HASH\nbob:HASH\n");
    for (level, code) in [(3, 4), (4, 4), (5, 0x86)] {
        let answers =
            [("ann", "wrong", "the password is wrong"), ("eve", "secret", "no such user")].map(
                |(user, password, said)| {
                    let mut client = Client::new(&service, level);
                    client.send(&connect(level, "device", user, password));
                    let answer = client.read();
                    client.await_close();
                    let event =
                        format!("WARN receiver client=device user={user} reason=bad_credentials");
                    service.await_words(&event, &["refused a connection", said, "heartbeatd user"]);
                    answer.expect("a CONNACK")
                },
            );
        assert_eq!(answers[0], answers[1]);
        let (first, connack) = &answers[0];
        assert_eq!((*first, &connack[..2]), (0x20, &[0, code][..]));
    }
}

#[test]
fn a_user_that_is_removed_is_disconnected_and_the_others_stay() {
    let (place, service) = start("ann:HASH\nbob:HASH\ncarl:HASH:c-*\n");
    let mut connected: Vec<_> = ["ann", "bob", "carl"]
        .map(|user| Client::connect(&service, 5, user, user))
        .into_iter()
        .collect();
    // The next line has other rights.
    write_users(&place, "bob:HASH\ncarl:HASH:d-*\n");
    service.signal("HUP");
    for gone in [connected.remove(2), connected.remove(0)] {
        let mut gone = gone;
        let (first, body) = gone.read().expect("a DISCONNECT");
        assert_eq!((first, body[0]), (0xe0, 0x98), "administrative action");
        gone.await_close();
    }
    service.await_words("WARN receiver client=ann user=ann", &["removed or has changed"]);
    connected[0].publish("bob", 1);
    let (first, body) = connected[0].read().expect("it is connected");
    assert_eq!((first, &body[..2]), (0x40, &[0, 7][..]));
    let mut ann = Client::new(&service, 4);
    ann.send(&connect(4, "ann", "ann", "secret"));
    ann.expect(0x20, &[0, 4]);
    place.await_statuses(&["bob online"]);
}

/// All of them were let in before. `RECONNECTING=5000` makes them as many as the documentation
/// says.
#[test]
fn users_that_reconnect_at_once_are_all_let_in_within_seconds() {
    let asked = std::env::var("RECONNECTING").ok().and_then(|text| text.parse().ok());
    let count: usize = asked.unwrap_or(1000);
    let lines: Vec<_> = (0..count).map(|n| format!("d{n}:HASH\n")).collect();
    let (_place, service) = start(&lines.concat());
    let port = service.broker_port();
    let arrive = |n: usize| {
        let mut client = Client::at(port, 4);
        let name = format!("d{n}");
        client.send(&connect(4, &name, &name, "secret"));
        client
    };
    let mut former = Vec::new();
    for n in 0..count {
        let mut client = arrive(n);
        client.expect(0x20, &[0, 0]);
        former.push(client);
    }
    // Their connections are broken, which the service does not know.
    let began = Instant::now();
    let mut again: Vec<_> = (0..count).map(arrive).collect();
    for client in &mut again {
        client.expect(0x20, &[0, 0]);
    }
    let took = began.elapsed();
    println!("{count} users that reconnect at once are let in within {took:?}");
    assert!(took < Duration::from_secs(20), "{took:?}");
    eventually("the former connections have ended", || {
        let connections = service.metric("heartbeatd_receiver_connections");
        (connections == count as f64 + 1.0).then_some(())
    });
}
