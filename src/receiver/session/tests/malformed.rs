use super::client::{Client, End, NOTHING};
use crate::receiver::codec::testing::{VERSIONS, connect, packet, publish, release};
use crate::receiver::codec::{Reason, Version};

#[track_caller]
fn ends(version: Version, packet: &[u8], reason: Reason) {
    let mut client = Client::connected(version);
    let answer = client.send(packet);
    assert_eq!(client.end, Some(End::ByServer(reason)), "{version:?} {packet:x?}");
    assert_eq!(answer.is_empty(), version != Version::V5);
}

#[test]
fn a_type_of_packet_that_does_not_exist_ends_the_session() {
    for version in VERSIONS {
        ends(version, &packet(0x00, &[]), Reason::Malformed);
        ends(version, &packet(0x0f, &[b"x"]), Reason::Malformed);
    }
}

#[test]
fn flags_that_are_reserved_end_the_session() {
    for version in VERSIONS {
        for (first, flags) in [(0x60, 2), (0xc0, 0), (0xe0, 0)] {
            for wrong in (0..8).filter(|&wrong| wrong != flags) {
                let body: &[u8] = if first == 0x60 { &[0, 1] } else { &[] };
                ends(version, &packet(first | wrong, &[body]), Reason::Malformed);
            }
        }
    }
}

#[test]
fn a_length_of_more_than_four_bytes_ends_the_session() {
    for version in VERSIONS {
        ends(version, &[0x30, 0xff, 0xff, 0xff, 0xff, 0x01], Reason::Malformed);
        ends(version, &[0xc0, 0x80, 0x80, 0x80, 0x80], Reason::Malformed);
    }
    let mut client = Client::new();
    assert_eq!(client.send([0x10, 0xff, 0xff, 0xff, 0xff]), NOTHING);
    assert_eq!(client.end, Some(End::ByServer(Reason::Malformed)));
}

#[test]
fn bytes_after_the_last_field_end_the_session() {
    for version in VERSIONS {
        ends(version, &packet(0xc0, &[&[0]]), Reason::Malformed);
        ends(version, &packet(0x62, &[&[0, 1, 0, 0, 0]]), Reason::Malformed);
    }
    for version in [Version::V31, Version::V311] {
        ends(version, &packet(0xe0, &[&[0]]), Reason::Malformed);
    }
    ends(Version::V5, &packet(0xe0, &[&[0, 0, 0]]), Reason::Malformed);
}

#[test]
fn a_packet_without_its_fields_ends_the_session() {
    for version in VERSIONS {
        for whole in [publish(version, 1, 1, "a", ""), release(1)] {
            let fields = &whole[2..];
            for length in 0..fields.len() {
                ends(version, &packet(whole[0], &[&fields[..length]]), Reason::Malformed);
            }
        }
        ends(version, &packet(0x82, &[&[0]]), Reason::Malformed);
        ends(version, &packet(0xa2, &[&[0]]), Reason::Malformed);
    }
}

#[test]
fn a_connect_without_its_fields_is_refused() {
    for version in VERSIONS {
        let whole = connect(version, "c").will("a", "b").user("ann", "secret").bytes();
        let fields = &whole[2..];
        for length in 0..fields.len() {
            let mut client = Client::new();
            let answer = client.send(packet(0x10, &[&fields[..length]]));
            // MQTT 3.1 allows to leave out the user name and the password.
            let may_end = [fields.len() - 13, fields.len() - 8].contains(&length);
            if version == Version::V31 && may_end {
                assert_eq!(client.end, None, "{length}");
                continue;
            }
            assert_eq!(client.end, Some(End::ByServer(Reason::Malformed)), "{length}");
            let knows_version = length > 6;
            let answers = version == Version::V5 && knows_version;
            assert_eq!(answer.get(3).copied(), answers.then_some(0x81), "{length}");
        }
    }
}
