use super::client::{Client, End, NOTHING, kinds};
use crate::receiver::codec::testing::{
    DISCONNECT, OLD, PING, VERSIONS, connect, packet, publish, text,
};
use crate::receiver::codec::{Reason, Version};
use crate::receiver::session::Refusal;

const TOPIC: &str = "devices/pump/heartbeat";

#[test]
fn a_ping_is_answered() {
    for version in VERSIONS {
        assert_eq!(Client::connected(version).send(PING), [0xd0, 0]);
    }
}

#[test]
fn a_disconnect_ends_the_session_without_an_answer() {
    for version in VERSIONS {
        let mut client = Client::connected(version);
        assert_eq!(client.send(DISCONNECT), NOTHING);
        assert_eq!(client.end, Some(End::ByClient));
    }
}

#[test]
fn a_disconnect_of_5_may_have_a_reason_and_properties() {
    for body in [&[4][..], &[0, 0], &[0x98, 5, 0x11, 0, 0, 0, 0], &[0, 6, 0x1f, 0, 3, 1, 2, 3]] {
        let mut client = Client::connected(Version::V5);
        client.send(packet(0xe0, &[body]));
        assert_eq!(client.end, Some(End::ByClient), "{body:x?}");
    }
}

#[test]
fn nothing_after_a_disconnect_is_handled() {
    for version in VERSIONS {
        let mut client = Client::connected(version);
        let heartbeat = publish(version, 1, 1, TOPIC, "");
        assert_eq!(client.send([&DISCONNECT[..], &heartbeat].concat()), NOTHING);
        assert_eq!(client.send(&heartbeat), NOTHING);
        assert!(client.heartbeats.is_empty());
    }
}

#[test]
fn nothing_after_an_error_is_handled_and_everything_before_is() {
    for version in VERSIONS {
        let mut client = Client::connected(version);
        let heartbeat = publish(version, 1, 1, TOPIC, "");
        let answer = client.send([&heartbeat[..], &[0x20, 2, 0, 0], &heartbeat].concat());
        assert_eq!(client.send(&heartbeat), NOTHING);
        assert_eq!(client.heartbeats, ["pump"]);
        let told = if version == Version::V5 { &[0x40, 0xe0][..] } else { &[0x40] };
        assert_eq!(kinds(&answer), told);
    }
}

#[test]
fn a_disconnect_must_not_ask_for_a_session_that_the_connect_did_not() {
    let keeping = packet(0xe0, &[&[0, 5, 0x11, 0, 0, 0, 60]]);
    let mut client = Client::connected(Version::V5);
    let answer = client.send(&keeping);
    assert_eq!((answer[0], answer[2]), (0xe0, 0x82));
    let mut client = Client::new();
    client.send(connect(Version::V5, "c").properties(&[0x11, 0, 0, 0, 60]).bytes());
    client.send(&keeping);
    assert_eq!(client.end, Some(End::ByClient));
}

#[test]
fn packets_for_clients_end_the_session() {
    for version in VERSIONS {
        for first in [0x20, 0x40, 0x50, 0x70, 0x90, 0xb0, 0xd0] {
            let mut client = Client::connected(version);
            client.send(packet(first, &[&[0, 1]]));
            assert_eq!(client.end, Some(End::ByServer(Reason::Protocol)), "{first:x}");
        }
    }
}

#[test]
fn auth_ends_the_session_because_no_method_is_supported() {
    let mut client = Client::connected(Version::V5);
    let method = [&[0x18, 4, 0x15][..], &text("m")].concat();
    let answer = client.send(packet(0xf0, &[&method]));
    assert_eq!((answer[0], answer[2]), (0xe0, 0x82));
    for version in OLD {
        let mut client = Client::connected(version);
        client.send(packet(0xf0, &[]));
        assert_eq!(client.end, Some(End::ByServer(Reason::Malformed)));
    }
}

#[test]
fn a_packet_that_is_too_large_ends_the_session_with_its_header() {
    for version in VERSIONS {
        for length in [&[0xfe, 0x7f][..], &[0xff, 0xff, 0xff, 0x7f]] {
            let mut client = Client::connected(version);
            let answer = client.send([&[0x30][..], length].concat());
            assert_eq!(client.end, Some(End::ByServer(Reason::PacketTooLarge)));
            assert_eq!(answer.get(2).copied(), (version == Version::V5).then_some(0x95));
        }
        let mut client = Client::connected(version);
        client.send([0x30, 0xfd, 0x7f]);
        assert_eq!(client.end, None, "with its header it has 16 KiB");
    }
}

#[test]
fn the_server_says_why_it_ends_a_session_in_5_and_only_once() {
    let taken_over = Refusal::new(Reason::SessionTakenOver, "another connection");
    for version in VERSIONS {
        let mut client = Client::connected(version);
        let answer = client.be_ended(&taken_over);
        match version {
            Version::V5 => assert_eq!((answer[0], answer[2]), (0xe0, 0x8e)),
            Version::V31 | Version::V311 => assert_eq!(answer, NOTHING),
        }
        assert_eq!(client.be_ended(&taken_over), NOTHING, "it is told once");
        assert_eq!(client.send(PING), NOTHING);
    }
    assert_eq!(Client::new().be_ended(&taken_over), NOTHING, "nobody has said who it is");
}
