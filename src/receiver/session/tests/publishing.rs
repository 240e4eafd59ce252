use super::client::{Client, End, NOTHING, kinds, packets};
use crate::receiver::codec::testing::{
    OLD, VERSIONS, connect, packet, publish, publish_with, release, text,
};
use crate::receiver::codec::{Reason, Version};

const TOPIC: &str = "devices/pump/heartbeat";
const ELSEWHERE: &str = "devices/pump/status";

/// Sends a packet that must end the session.
#[track_caller]
fn ends(version: Version, packet: impl AsRef<[u8]>) -> Reason {
    let mut client = Client::connected(version);
    let answer = client.send(packet);
    let Some(End::ByServer(reason)) = client.end else { panic!("{:?}", client.end) };
    match version {
        Version::V5 => {
            assert_eq!(kinds(&answer), [0xe0]);
            assert_eq!(answer[2], reason as u8);
        }
        Version::V31 | Version::V311 => assert_eq!(answer, NOTHING),
    }
    assert!(client.heartbeats.is_empty());
    reason
}

#[test]
fn a_message_at_qos_0_is_counted_and_not_answered() {
    for version in VERSIONS {
        let mut client = Client::connected(version);
        assert_eq!(client.send(publish(version, 0, 0, TOPIC, "{}")), NOTHING);
        assert_eq!(client.heartbeats, ["pump"]);
    }
}

#[test]
fn a_message_at_qos_1_is_counted_and_acknowledged() {
    for version in VERSIONS {
        let mut client = Client::connected(version);
        assert_eq!(client.send(publish(version, 1, 0x1234, TOPIC, "{}")), [0x40, 2, 0x12, 0x34]);
        assert_eq!(client.heartbeats, ["pump"]);
    }
}

#[test]
fn a_message_at_qos_1_that_is_sent_again_is_acknowledged_again() {
    for version in VERSIONS {
        let mut client = Client::connected(version);
        let mut message = publish(version, 1, 7, TOPIC, "{}");
        client.send(&message);
        message[0] |= 0b1000;
        assert_eq!(client.send(message), [0x40, 2, 0, 7]);
    }
}

#[test]
fn a_message_at_qos_2_is_counted_when_its_first_half_arrives() {
    for version in VERSIONS {
        let mut client = Client::connected(version);
        assert_eq!(client.send(publish(version, 2, 7, TOPIC, "{}")), [0x50, 2, 0, 7]);
        assert_eq!(client.heartbeats, ["pump"]);
        assert_eq!(client.send(release(7)), [0x70, 2, 0, 7]);
        assert_eq!(client.heartbeats, ["pump"]);
    }
}

#[test]
fn a_repeated_packet_id_at_qos_2_is_answered_and_not_counted_twice() {
    for version in VERSIONS {
        let mut client = Client::connected(version);
        let mut message = publish(version, 2, 7, TOPIC, "{}");
        client.send(&message);
        message[0] |= 0b1000;
        for _ in 0..3 {
            assert_eq!(client.send(&message), [0x50, 2, 0, 7]);
        }
        assert_eq!(client.heartbeats, ["pump"]);
        client.send(release(7));
        client.send(&message);
        assert_eq!(client.heartbeats, ["pump", "pump"], "the identifier is free again");
    }
}

#[test]
fn all_packet_ids_may_wait_for_their_second_half_at_once() {
    for version in VERSIONS {
        let mut client = Client::connected(version);
        for id in 1..=u16::MAX {
            assert_eq!(kinds(&client.send(publish(version, 2, id, TOPIC, ""))), [0x50]);
        }
        assert_eq!(client.heartbeats.len(), usize::from(u16::MAX));
        assert_eq!(client.send(release(u16::MAX)), [0x70, 2, 0xff, 0xff]);
    }
}

#[test]
fn an_unknown_second_half_is_answered() {
    for version in OLD {
        assert_eq!(Client::connected(version).send(release(9)), [0x70, 2, 0, 9]);
    }
    assert_eq!(Client::connected(Version::V5).send(release(9)), [0x70, 3, 0, 9, 0x92]);
}

#[test]
fn a_second_half_of_5_may_have_a_reason_and_properties() {
    for tail in [&[0][..], &[0, 0], &[0x92, 0], &[0, 6, 0x1f, 0, 3, b'w', b'h', b'y']] {
        let mut client = Client::connected(Version::V5);
        client.send(publish(Version::V5, 2, 7, TOPIC, ""));
        let release = packet(0x62, &[&[0, 7], tail]);
        assert_eq!(client.send(release), [0x70, 2, 0, 7], "{tail:x?}");
    }
    for tail in [&[0x10][..], &[0, 1], &[0, 0, 0]] {
        assert_eq!(ends(Version::V5, packet(0x62, &[&[0, 7], tail])), Reason::Malformed);
        assert_eq!(ends(Version::V311, packet(0x62, &[&[0, 7], tail])), Reason::Malformed);
    }
}

#[test]
fn answers_come_in_the_order_of_messages() {
    for version in VERSIONS {
        let mut client = Client::connected(version);
        let messages = [
            publish(version, 1, 3, TOPIC, ""),
            publish(version, 2, 1, TOPIC, ""),
            publish(version, 0, 0, TOPIC, ""),
            publish(version, 1, 2, TOPIC, ""),
            release(1),
        ];
        let answer = client.send(messages.concat());
        let answers = packets(&answer).into_iter().map(|(first, body)| (first, body[1]));
        assert_eq!(answers.collect::<Vec<_>>(), [(0x40, 3), (0x50, 1), (0x40, 2), (0x70, 1)]);
        assert_eq!(client.heartbeats.len(), 4);
    }
}

#[test]
fn a_retained_message_is_a_live_heartbeat() {
    for version in VERSIONS {
        let mut client = Client::connected(version);
        let mut message = publish(version, 1, 7, TOPIC, "{}");
        message[0] |= 1;
        assert_eq!(client.send(message), [0x40, 2, 0, 7]);
        let mut empty = publish(version, 0, 0, TOPIC, "");
        empty[0] |= 1;
        assert_eq!(client.send(empty), NOTHING);
        assert_eq!(client.heartbeats, ["pump", "pump"]);
    }
}

#[test]
fn a_payload_may_be_anything() {
    for version in VERSIONS {
        let mut client = Client::connected(version);
        for payload in ["", "\0", "not json", &"x".repeat(16_000)] {
            assert_eq!(client.send(publish(version, 0, 0, TOPIC, payload)), NOTHING);
        }
        assert_eq!(client.heartbeats.len(), 4);
    }
}

#[test]
fn quality_of_service_3_ends_the_session() {
    for version in VERSIONS {
        assert_eq!(ends(version, publish(version, 3, 1, TOPIC, "")), Reason::Malformed);
    }
}

#[test]
fn a_message_at_qos_0_must_not_claim_to_be_sent_again() {
    for version in [Version::V311, Version::V5] {
        let mut message = publish(version, 0, 0, TOPIC, "");
        message[0] |= 0b1000;
        assert_eq!(ends(version, message), Reason::Protocol);
    }
}

#[test]
fn a_packet_identifier_is_not_0() {
    for version in VERSIONS {
        for qos in [1, 2] {
            assert_eq!(ends(version, publish(version, qos, 0, TOPIC, "")), Reason::Protocol);
        }
        assert_eq!(ends(version, release(0)), Reason::Protocol);
    }
}

#[test]
fn a_topic_to_publish_to_has_no_wildcard_and_is_not_empty() {
    for version in VERSIONS {
        for topic in ["devices/+/heartbeat", "#", "devices/pump/heartbeat#", "+"] {
            let reason = ends(version, publish(version, 1, 1, topic, ""));
            assert_eq!(reason, Reason::TopicNameInvalid, "{topic}");
        }
    }
    for version in OLD {
        assert_eq!(ends(version, publish(version, 1, 1, "", "")), Reason::TopicNameInvalid);
    }
    assert_eq!(ends(Version::V5, publish(Version::V5, 1, 1, "", "")), Reason::Protocol);
}

#[test]
fn a_topic_is_utf_8_without_u_0000() {
    for version in VERSIONS {
        for broken in [&b"devices/\xff/heartbeat"[..], b"devices/a\0/heartbeat", b"\xed\xa0\x80"] {
            let message = packet(0x30, &[&text(broken), &[0]]);
            assert_eq!(ends(version, message), Reason::Malformed, "{broken:x?}");
        }
    }
}

#[test]
fn u_feff_is_part_of_a_topic_and_not_of_a_device_id() {
    for version in VERSIONS {
        let mut client = Client::connected(version);
        let answer = client.send(publish(version, 1, 1, "devices/\u{feff}pump/heartbeat", ""));
        assert_eq!(kinds(&answer), [0x40]);
        assert!(client.heartbeats.is_empty());
        assert!(client.rejections[0].contains("U+FEFF"), "{:?}", client.rejections);
    }
}

#[test]
fn device_ids_may_begin_with_a_dollar_sign_and_have_128_characters() {
    let long = "ü".repeat(128);
    for version in VERSIONS {
        let mut client = Client::connected(version);
        for id in ["$SYS", "$share", "$", "a b", &long] {
            client.send(publish(version, 1, 1, &format!("devices/{id}/heartbeat"), ""));
        }
        assert_eq!(client.heartbeats, ["$SYS", "$share", "$", "a b", &long]);
    }
}

#[test]
fn a_message_of_5_that_does_not_count_is_refused_with_a_reason() {
    let mut client = Client::connected(Version::V5);
    let answer = client.send(publish(Version::V5, 1, 7, ELSEWHERE, ""));
    let answer = packets(&answer).remove(0);
    assert_eq!((answer.0, &answer.1[..3]), (0x40, &[0, 7, 0x90][..]));
    let words = String::from_utf8_lossy(&answer.1[7..]);
    assert!(words.contains(ELSEWHERE) && words.contains("devices/+/heartbeat"), "{words}");
    let answer = client.send(publish(Version::V5, 2, 8, ELSEWHERE, ""));
    assert_eq!((answer[0], &answer[2..5]), (0x50, &[0, 8, 0x90][..]));
    let invalid = client.send(publish(Version::V5, 1, 9, "devices/ a/heartbeat", ""));
    assert_eq!((invalid[0], &invalid[2..5]), (0x40, &[0, 9, 0x90][..]));
    assert_eq!(client.heartbeats, [""; 0]);
    assert_eq!(client.refusals.counts, [(Reason::TopicNameInvalid, 2)]);
    assert_eq!(client.end, None);
}

#[test]
fn a_refused_message_at_qos_2_has_no_second_half_in_5() {
    let mut client = Client::connected(Version::V5);
    client.send(publish(Version::V5, 2, 7, ELSEWHERE, ""));
    client.send(publish(Version::V5, 2, 7, TOPIC, ""));
    assert_eq!(client.heartbeats, ["pump"], "the identifier is free");
}

#[test]
fn a_message_that_does_not_count_is_acknowledged_before_5() {
    for version in OLD {
        let mut client = Client::connected(version);
        let message = publish(version, 2, 8, ELSEWHERE, "");
        assert_eq!(client.send(publish(version, 1, 7, ELSEWHERE, "")), [0x40, 2, 0, 7]);
        assert_eq!(client.send(&message), [0x50, 2, 0, 8]);
        assert_eq!(client.send(&message), [0x50, 2, 0, 8]);
        assert_eq!(client.send(release(8)), [0x70, 2, 0, 8]);
        assert!(client.heartbeats.is_empty());
        assert_eq!(client.refusals.counts, [(Reason::TopicNameInvalid, 2)], "once each");
    }
}

#[test]
fn only_the_service_publishes_its_echoes() {
    let echo = "devices/heartbeatd-echo-1/heartbeat";
    let token = "0123456789abcdef0123456789abcdef";
    for version in VERSIONS {
        let mut client = Client::connected(version);
        client.send(publish(version, 0, 0, echo, token));
        assert!(client.echoes.is_empty() && client.heartbeats.is_empty());
        assert_eq!(client.refusals.counts, [(Reason::TopicNameInvalid, 1)]);
        let mut service = Client::service(version);
        service.send(publish(version, 0, 0, echo, token));
        assert_eq!(service.echoes.len(), 1);
        service.send(publish(version, 0, 0, echo, "no token"));
        assert_eq!(service.echoes.len(), 1);
    }
}

#[test]
fn a_message_of_5_may_have_every_property_for_servers() {
    let all = [
        &[0x01, 1, 0x02, 0, 0, 0, 0, 0x23, 0, 1, 0x08, 0, 1, b'a', 0x09, 0, 1, 0xff][..],
        &[0x26, 0, 0, 0, 0, 0x26, 0, 0, 0, 0, 0x03, 0, 1, b'c'],
    ]
    .concat();
    let mut client = Client::connected(Version::V5);
    client.send(publish_with(Version::V5, 1, 7, TOPIC, &all, "{}"));
    assert_eq!(client.heartbeats, ["pump"], "an expiry of 0 is one, too");
}

#[test]
fn properties_of_a_message_have_values_of_the_standard() {
    for (properties, reason) in [
        (&[0x01, 2][..], Reason::Protocol),
        (&[0x01, 0, 0x01, 0], Reason::Protocol),
        (&[0x0b, 1], Reason::Protocol),
        (&[0x08, 0, 1, b'+'], Reason::TopicNameInvalid),
        (&[0x08, 0, 1, 0], Reason::Malformed),
        (&[0x11, 0, 0, 0, 1], Reason::Malformed),
        (&[0x26, 0, 0], Reason::Malformed),
    ] {
        let message = publish_with(Version::V5, 0, 0, TOPIC, properties, "");
        assert_eq!(ends(Version::V5, message), reason, "{properties:x?}");
    }
}

#[test]
fn a_client_that_wants_no_reasons_gets_none_in_words() {
    let mut client = Client::new();
    client.send(connect(Version::V5, "c").properties(&[0x17, 0]).bytes());
    let answer = client.send(publish(Version::V5, 1, 7, ELSEWHERE, ""));
    assert_eq!(answer, [0x40, 3, 0, 7, 0x90]);
}

#[test]
fn no_answer_is_larger_than_the_client_takes() {
    for max in 1..120_u8 {
        let mut client = Client::new();
        let properties = [0x27, 0, 0, 0, max];
        let mut answers = client.send(connect(Version::V5, "c").properties(&properties).bytes());
        answers.extend(client.send(publish(Version::V5, 1, 7, ELSEWHERE, "")));
        answers.extend(client.send(publish(Version::V5, 1, 8, TOPIC, "")));
        answers.extend(client.send(release(9)));
        answers.extend(client.send(packet(0xf0, &[])));
        let mut sizes = packets(&answers).into_iter().map(|(_, body)| body.len() + 2);
        assert!(sizes.all(|size| size <= usize::from(max)), "{max} {answers:x?}");
        let acknowledged = kinds(&answers).contains(&0x40);
        assert_eq!(acknowledged, max >= 4, "{max}");
    }
}
