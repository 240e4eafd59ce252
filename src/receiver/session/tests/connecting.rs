use super::client::{Client, End, NOTHING, code, kinds, refused};
use crate::receiver::codec::testing::{
    ConnectPacket, DISCONNECT, OLD, PING, VERSIONS, connect, packet, publish, subscribe, text,
};
use crate::receiver::codec::{Accepted, Reason, Version};
use crate::receiver::session::Refusal;

const TOPIC: &str = "devices/pump/heartbeat";

#[test]
fn the_first_packet_must_be_a_connect() {
    for first in [
        PING.to_vec(),
        DISCONNECT.to_vec(),
        publish(Version::V311, 0, 0, TOPIC, ""),
        subscribe(Version::V5, 1, &[("#", 0)]),
        packet(0x11, &[b"\0\x04MQTT\x04\x02\0\0\0\x01a"]),
        packet(0xf0, &[]),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00".to_vec(),
    ] {
        let (answer, reason) = refused(&first);
        assert_eq!((answer, reason), (vec![], Reason::Protocol), "{first:x?}");
    }
}

#[test]
fn a_second_connect_ends_the_session() {
    for version in VERSIONS {
        let mut client = Client::connected(version);
        let answer = client.send(connect(version, "c").bytes());
        assert_eq!(client.end, Some(End::ByServer(Reason::Protocol)));
        match version {
            Version::V5 => assert_eq!((answer[0], answer[2]), (0xe0, 0x82)),
            Version::V31 | Version::V311 => assert_eq!(answer, NOTHING),
        }
    }
}

#[test]
fn another_protocol_is_told_that_its_version_is_not_accepted() {
    for name in ["MQTT2", "mqtt", "MQIsdq", "", "AMQP"] {
        let connect = ConnectPacket { name: text(name), ..connect(Version::V311, "c") };
        let refused = refused(connect.bytes());
        assert_eq!(refused, (vec![0x20, 2, 0, 1], Reason::UnsupportedVersion), "{name}");
    }
}

#[test]
fn an_unknown_protocol_level_is_answered_with_code_1() {
    let is_known = |version, level| match version {
        Version::V31 => level == 3,
        Version::V311 | Version::V5 => level == 4 || level == 5,
    };
    for version in VERSIONS {
        // 0x83 and 0x84 are those of mosquitto's bridge, which then tries again without 0x80.
        for level in (0..=255).filter(|&level| !is_known(version, level)) {
            let connect = ConnectPacket { level, ..connect(version, "c") };
            let refused = refused(connect.bytes());
            assert_eq!(refused, (vec![0x20, 2, 0, 1], Reason::UnsupportedVersion), "{level}");
        }
    }
}

#[test]
fn the_version_is_refused_as_soon_as_it_is_known() {
    let mut client = Client::new();
    assert_eq!(client.send(b"\x10\x7f\0\x04MQT"), NOTHING);
    assert_eq!(client.end, None);
    assert_eq!(client.send(b"T\x09"), [0x20, 2, 0, 1]);
}

#[test]
fn the_reserved_flag_of_a_connect_must_be_0() {
    for version in VERSIONS {
        let (answer, reason) = refused(connect(version, "c").flags(0b11).bytes());
        assert_eq!(reason, Reason::Malformed);
        match version {
            Version::V5 => assert_eq!(code(&answer), 0x81),
            Version::V31 | Version::V311 => assert_eq!(answer, NOTHING),
        }
    }
}

#[test]
fn the_flags_announce_the_user_name_and_the_password() {
    for version in VERSIONS {
        let mut client = Client::new();
        client.send(connect(version, "c").user("ann", "secret").bytes());
        let connect = client.connect.expect("it was read");
        assert_eq!(connect.user.as_deref(), Some("ann"));
        assert_eq!(connect.password.as_deref(), Some(&b"secret"[..]));
        assert!(!format!("{connect:?}").contains("secret"));
        assert!(!format!("{connect:?}").contains("115"), "nor its bytes");
    }
}

#[test]
fn a_field_without_its_flag_is_refused_and_so_is_a_flag_without_its_field() {
    for version in VERSIONS {
        let surplus = connect(version, "c").and(0, &[text("ann")]);
        assert_eq!(refused(surplus.bytes()).1, Reason::Malformed);
    }
    for version in [Version::V311, Version::V5] {
        let missing = connect(version, "c").and(0b1000_0000, &[]);
        assert_eq!(refused(missing.bytes()).1, Reason::Malformed);
    }
}

#[test]
fn mqtt_3_1_may_announce_a_user_name_that_is_not_there() {
    let mut client = Client::new();
    let announced = connect(Version::V31, "c").and(0b1100_0000, &[]);
    assert_eq!(client.send(announced.bytes()), [0x20, 2, 0, 0]);
    let connect = client.connect.expect("it was read");
    assert_eq!((connect.user, connect.password), (None, None));
}

#[test]
fn a_password_needs_a_user_name_in_3_1_1_only() {
    let with_password = |version| connect(version, "c").and(0b0100_0000, &[text("p")]).bytes();
    assert_eq!(refused(with_password(Version::V311)), (vec![], Reason::Malformed));
    for version in [Version::V31, Version::V5] {
        let mut client = Client::new();
        assert_eq!(code(&client.send(with_password(version))), 0);
    }
}

#[test]
fn texts_of_a_connect_are_utf_8_without_u_0000() {
    for version in VERSIONS {
        for broken in [&b"a\0"[..], b"\xff", b"\xed\xa0\x80"] {
            let id = ConnectPacket { payload: text(broken), ..connect(version, "") };
            assert_eq!(refused(id.bytes()).1, Reason::Malformed);
            let user = connect(version, "c").and(0b1000_0000, &[text(broken)]);
            assert_eq!(refused(user.bytes()).1, Reason::Malformed);
        }
    }
}

#[test]
fn connack_says_that_no_session_was_kept_and_none_will_be() {
    for version in OLD {
        for flags in [0, 0b10] {
            let mut client = Client::new();
            let answer = client.send(connect(version, "c").flags(flags).bytes());
            assert_eq!(answer, [0x20, 2, 0, 0]);
        }
    }
    let mut client = Client::new();
    let keeping = connect(Version::V5, "c").flags(0).properties(&[0x11, 0, 0, 0, 60]);
    let answer = client.send(keeping.bytes());
    assert_eq!(code(&answer), 0);
    assert_eq!(answer[5..10], [0x11, 0, 0, 0, 0], "the session expires at once");
}

#[test]
fn connack_of_5_denies_no_capability() {
    let mut client = Client::new();
    let answer = client.send(connect(Version::V5, "c").bytes());
    // The largest packet, 16 KiB, and 64 aliases: what is not there has its default, which is
    // QoS 2, retained messages, 65,535 messages on their way, and all kinds of subscriptions.
    assert_eq!(answer, [0x20, 11, 0, 0, 8, 0x27, 0, 0, 0x40, 0, 0x22, 0, 64]);
}

#[test]
fn the_server_chooses_a_client_id_in_5_and_tells_it() {
    for flags in [0, 0b10] {
        let accepted = Accepted { assigned_id: Some("auto-1".to_owned()), ..Accepted::default() };
        let mut client = Client::new().accepted(accepted);
        let answer = client.send(connect(Version::V5, "").flags(flags).bytes());
        assert_eq!(code(&answer), 0, "{flags}");
        let id = [&[0x12][..], &text("auto-1")].concat();
        assert!(answer.windows(id.len()).any(|window| window == id), "{answer:x?}");
    }
}

#[test]
fn the_keep_alive_of_the_server_is_told_in_5() {
    let accepted = || Accepted { keep_alive: Some(3600), ..Accepted::default() };
    let mut client = Client::new().accepted(accepted());
    let answer = client.send(connect(Version::V5, "c").bytes());
    assert!(answer.windows(3).any(|window| window == [0x13, 0x0e, 0x10]), "{answer:x?}");
    let mut client = Client::new().accepted(accepted());
    assert_eq!(client.send(connect(Version::V311, "c").bytes()), [0x20, 2, 0, 0]);
}

#[test]
fn an_empty_client_id_needs_a_new_session_in_3_1_1() {
    let mut client = Client::new();
    assert_eq!(client.send(connect(Version::V311, "").bytes()), [0x20, 2, 0, 0]);
    let kept = connect(Version::V311, "").flags(0);
    assert_eq!(refused(kept.bytes()), (vec![0x20, 2, 0, 2], Reason::ClientIdNotValid));
}

#[test]
fn client_ids_may_be_long_and_of_any_characters() {
    for id in ["0123456789abcdefghijklmnopqrstuvwxyzABC", "pump 17/ü$€#+", &"x".repeat(300)] {
        for version in VERSIONS {
            let mut client = Client::new();
            client.send(connect(version, id).bytes());
            assert_eq!(client.connect.expect("it was read").client_id, id);
        }
    }
}

#[test]
fn a_refused_connect_is_answered_in_its_version() {
    for (reason, old, new) in [
        (Reason::ClientIdNotValid, 2, 0x85),
        (Reason::QuotaExceeded, 3, 0x97),
        (Reason::ShuttingDown, 3, 0x88),
        (Reason::BadUserNameOrPassword, 4, 0x86),
        (Reason::NotAuthorized, 5, 0x87),
        (Reason::BadAuthenticationMethod, 3, 0x8c),
    ] {
        let refusal = Refusal::new(reason, "because");
        for version in OLD {
            let answer =
                Client::new().send_and_be_refused(&connect(version, "c").bytes(), &refusal);
            assert_eq!(answer, [0x20, 2, 0, old]);
        }
        let answer =
            Client::new().send_and_be_refused(&connect(Version::V5, "c").bytes(), &refusal);
        assert_eq!(code(&answer), new);
        assert_eq!(answer[4..], [&[10, 0x1f][..], &text("because")].concat());
    }
}

#[test]
fn connack_is_the_first_answer_also_if_other_packets_came_with_the_connect() {
    for version in VERSIONS {
        let mut client = Client::new();
        let together = [connect(version, "c").bytes(), PING.to_vec(), PING.to_vec()].concat();
        assert_eq!(kinds(&client.send(together)), [0x20, 0xd0, 0xd0]);
    }
}

#[test]
fn what_follows_a_refused_connect_is_not_handled() {
    for version in VERSIONS {
        let heartbeat = publish(version, 1, 1, TOPIC, "");
        let together = [connect(version, "c").bytes(), heartbeat.clone()].concat();
        let mut client = Client::new();
        let refusal = Refusal::new(Reason::NotAuthorized, "no");
        assert_eq!(kinds(&client.send_and_be_refused(&together, &refusal)), [0x20]);
        assert_eq!(client.send(heartbeat), NOTHING);
        assert!(client.heartbeats.is_empty());
    }
}

#[test]
fn a_connect_of_5_may_have_every_property_once() {
    let all = [
        &[0x11, 0, 0, 0, 1, 0x21, 0, 1, 0x27, 0, 0, 1, 0, 0x22, 0, 9, 0x19, 1, 0x17, 1][..],
        &[0x26, 0, 1, b'k', 0, 1, b'v', 0x26, 0, 1, b'k', 0, 1, b'v'],
        &[0x15, 0, 1, b'm', 0x16, 0, 1, 0xff],
    ]
    .concat();
    let mut client = Client::new();
    client.send(connect(Version::V5, "c").properties(&all).bytes());
    let read = client.connect.expect("it was read");
    assert!(read.has_method && read.keeps_session && read.wants_reasons);
    assert_eq!(read.max_packet, 256);
    for once in [
        &[0x11, 0, 0, 0, 1][..],
        &[0x21, 0, 1],
        &[0x27, 0, 0, 1, 0],
        &[0x22, 0, 9],
        &[0x19, 1],
        &[0x17, 1],
        &[0x15, 0, 1, b'm'],
    ] {
        let twice = connect(Version::V5, "c").properties(&[once, once].concat());
        assert_eq!(code(&refused(twice.bytes()).0), 0x82, "{once:x?}");
    }
}

#[test]
fn properties_of_a_connect_have_values_of_the_standard() {
    for (properties, expected) in [
        (&[0x21, 0, 0][..], 0x82),
        (&[0x27, 0, 0, 0, 0], 0x82),
        (&[0x17, 2], 0x82),
        (&[0x19, 2], 0x82),
        (&[0x16, 0, 0], 0x82),
        (&[0x23, 0, 1], 0x81),
        (&[0x7f], 0x81),
        (&[0x11, 0, 0], 0x81),
    ] {
        let (answer, _) = refused(connect(Version::V5, "c").properties(properties).bytes());
        assert_eq!(code(&answer), expected, "{properties:x?}");
    }
}

#[test]
fn a_connect_that_is_too_large_is_refused_before_it_is_read() {
    let mut begin = connect(Version::V5, "c").bytes()[2..].to_vec();
    begin.splice(0..0, [0x10, 0xff, 0xff, 0xff, 0x7f]);
    let (answer, reason) = refused(&begin);
    assert_eq!((code(&answer), reason), (0x95, Reason::PacketTooLarge));
    begin[11] = 4;
    assert_eq!(refused(&begin), (vec![], Reason::PacketTooLarge));
}
