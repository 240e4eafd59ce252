use super::client::{Client, End, packets};
use crate::receiver::codec::testing::{
    OLD, VERSIONS, packet, properties, publish, subscribe, text, unsubscribe,
};
use crate::receiver::codec::{Reason, Version};
use crate::receiver::session::What;

const FILTERS: [(&str, u8); 3] = [("commands/pump", 1), ("#", 2), ("$share/g/a", 0)];

#[track_caller]
fn ends(version: Version, packet: &[u8]) -> Reason {
    let mut client = Client::connected(version);
    client.send(packet);
    match client.end {
        Some(End::ByServer(reason)) => reason,
        other => panic!("{version:?} {packet:x?} {other:?}"),
    }
}

#[test]
fn a_subscription_is_refused_by_its_own_answer() {
    let mut client = Client::connected(Version::V311);
    let answer = client.send(subscribe(Version::V311, 0x1234, &FILTERS));
    assert_eq!(answer, [0x90, 5, 0x12, 0x34, 0x80, 0x80, 0x80]);
    let mut client = Client::connected(Version::V5);
    let answer = client.send(subscribe(Version::V5, 0x1234, &FILTERS));
    let (first, body) = packets(&answer).remove(0);
    assert_eq!((first, &body[..2]), (0x90, &[0x12, 0x34][..]));
    assert_eq!(body[3..5], [0x1f, 0], "words of fewer than 256 bytes");
    let (words, codes) = body[6..].split_at(body[5].into());
    assert!(String::from_utf8_lossy(words).contains("nobody may subscribe"), "{body:x?}");
    assert_eq!(codes, [0x87; 3]);
}

#[test]
fn mqtt_3_1_has_no_refusal_of_a_subscription() {
    let mut client = Client::connected(Version::V31);
    let answer = client.send(subscribe(Version::V31, 7, &FILTERS));
    assert_eq!(answer, [0x90, 5, 0, 7, 1, 2, 0]);
    assert_eq!(client.refusals.counts, [(Reason::NotAuthorized, 1)]);
}

#[test]
fn a_refused_subscription_ends_nothing_and_is_mentioned() {
    for version in VERSIONS {
        let mut client = Client::connected(version);
        client.send(subscribe(version, 7, &FILTERS));
        client.send(publish(version, 0, 0, "devices/pump/heartbeat", ""));
        assert_eq!((client.end, client.heartbeats), (None, vec!["pump".to_owned()]));
        let (what, refusal) = client.refusals.first.expect("it was refused");
        assert_eq!(what, What::Subscription);
        assert!(refusal.why.contains("\"commands/pump\" and 2 more"), "{}", refusal.why);
    }
}

#[test]
fn the_service_itself_may_subscribe() {
    for version in VERSIONS {
        let mut service = Client::service(version);
        let answer = service.send(subscribe(version, 7, &FILTERS));
        let expected = match version {
            Version::V31 | Version::V311 => &[0x90, 5, 0, 7, 1, 2, 0][..],
            Version::V5 => &[0x90, 6, 0, 7, 0, 1, 2, 0],
        };
        assert_eq!(answer, expected);
    }
}

#[test]
fn an_unsubscribe_is_answered() {
    for version in OLD {
        let mut client = Client::connected(version);
        assert_eq!(client.send(unsubscribe(version, 7, &["a", "b"])), [0xb0, 2, 0, 7]);
    }
    let mut client = Client::connected(Version::V5);
    let answer = client.send(unsubscribe(Version::V5, 7, &["a", "b"]));
    assert_eq!(answer, [0xb0, 5, 0, 7, 0, 0x11, 0x11]);
    assert_eq!(client.end, None);
}

#[test]
fn a_request_needs_a_packet_identifier() {
    for version in VERSIONS {
        assert_eq!(ends(version, &subscribe(version, 0, &FILTERS)), Reason::Protocol);
        assert_eq!(ends(version, &unsubscribe(version, 0, &["a"])), Reason::Protocol);
    }
}

#[test]
fn a_request_has_at_least_one_topic_filter_and_none_is_empty() {
    for version in VERSIONS {
        assert_eq!(ends(version, &subscribe(version, 1, &[])), Reason::Protocol);
        assert_eq!(ends(version, &unsubscribe(version, 1, &[])), Reason::Protocol);
        assert_eq!(ends(version, &subscribe(version, 1, &[("a", 0), ("", 0)])), Reason::Malformed);
        assert_eq!(ends(version, &unsubscribe(version, 1, &["a", ""])), Reason::Malformed);
    }
}

#[test]
fn a_topic_filter_is_utf_8_without_u_0000() {
    for version in VERSIONS {
        for broken in [&b"\xff"[..], b"a\0b"] {
            for (first, options) in [(0x82, &[0][..]), (0xa2, &[])] {
                let filter = [&text(broken), options].concat();
                let request = packet(first, &[&[0, 1], &properties(version, &[]), &filter]);
                assert_eq!(ends(version, &request), Reason::Malformed);
            }
        }
    }
}

#[test]
fn the_flags_of_a_request_are_those_of_the_standard() {
    for version in VERSIONS {
        for request in [subscribe(version, 1, &FILTERS), unsubscribe(version, 1, &["a"])] {
            for flags in (0..16).filter(|&flags| flags != 2) {
                let mut request = request.clone();
                request[0] = request[0] & 0xf0 | flags;
                // MQTT 3.1 marks a request that is sent again.
                if version == Version::V31 && flags == 0b1010 {
                    let mut client = Client::connected(version);
                    client.send(&request);
                    assert_eq!(client.end, None);
                } else {
                    assert_eq!(ends(version, &request), Reason::Malformed, "{flags:b}");
                }
            }
        }
    }
}

#[test]
fn the_options_of_a_subscription_are_those_of_the_standard() {
    for version in VERSIONS {
        assert_eq!(ends(version, &subscribe(version, 1, &[("a", 3)])), Reason::Protocol);
    }
    for version in OLD {
        for bit in 2..8 {
            let reserved = subscribe(version, 1, &[("a", 1 << bit)]);
            assert_eq!(ends(version, &reserved), Reason::Malformed);
        }
    }
    for reserved in [0x40, 0x80] {
        let reserved = subscribe(Version::V5, 1, &[("a", reserved)]);
        assert_eq!(ends(Version::V5, &reserved), Reason::Malformed);
    }
    let retain_handling = subscribe(Version::V5, 1, &[("a", 0x30)]);
    assert_eq!(ends(Version::V5, &retain_handling), Reason::Protocol);
    let shared = subscribe(Version::V5, 1, &[("$share/g/a", 0b100)]);
    assert_eq!(ends(Version::V5, &shared), Reason::Protocol);
    let all = subscribe(Version::V5, 1, &[("a", 0b10_1110)]);
    let mut client = Client::connected(Version::V5);
    client.send(&all);
    assert_eq!(client.end, None);
}

#[test]
fn a_subscription_of_5_may_have_an_identifier_once_and_not_0() {
    let with =
        |of_it: &[u8]| packet(0x82, &[&[0, 1], &properties(Version::V5, of_it), &text("a"), &[0]]);
    let mut client = Client::connected(Version::V5);
    client.send(with(&[0x0b, 0xff, 0x7f, 0x26, 0, 0, 0, 0]));
    assert_eq!(client.end, None);
    assert_eq!(ends(Version::V5, &with(&[0x0b, 0])), Reason::Protocol);
    assert_eq!(ends(Version::V5, &with(&[0x0b, 1, 0x0b, 1])), Reason::Protocol);
    assert_eq!(ends(Version::V5, &with(&[0x23, 0, 1])), Reason::Malformed);
}
