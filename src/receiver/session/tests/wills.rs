use super::client::{Client, code, refused};
use crate::receiver::codec::testing::{VERSIONS, connect, text};
use crate::receiver::codec::{Reason, Version};
use crate::receiver::session::Refusal;

const TOPIC: &str = "devices/pump/heartbeat";

#[test]
fn flags_of_a_will_need_a_will() {
    for version in VERSIONS {
        for flags in [0b0000_1010, 0b0001_0010, 0b0010_0010] {
            let (_, reason) = refused(connect(version, "c").flags(flags).bytes());
            assert_eq!(reason, Reason::Malformed, "{version:?} {flags:b}");
        }
    }
}

#[test]
fn a_will_has_quality_of_service_0_1_or_2() {
    for version in VERSIONS {
        let with_will = connect(version, "c").will("gone", "");
        for qos in 0..3 {
            let connect = with_will.clone().flags(0b110 | qos << 3);
            let mut client = Client::new();
            client.send(connect.bytes());
            assert_eq!(client.end, None, "{version:?} {qos}");
        }
        let (_, reason) = refused(with_will.flags(0b110 | 3 << 3).bytes());
        assert_eq!(reason, Reason::Malformed);
    }
}

#[test]
fn a_will_is_accepted_and_never_published() {
    for version in VERSIONS {
        let mut client = Client::new();
        let answer = client.send(connect(version, "c").will(TOPIC, "{}").bytes());
        assert_eq!(code(&answer), 0);
        client.be_ended(&Refusal::new(Reason::KeepAliveTimeout, "silent"));
        assert!(client.heartbeats.is_empty());
    }
}

#[test]
fn a_will_needs_a_topic_that_can_be_published_to() {
    for version in VERSIONS {
        for (topic, reason) in [
            ("", Reason::TopicNameInvalid),
            ("a/+", Reason::TopicNameInvalid),
            ("#", Reason::TopicNameInvalid),
            ("a\0", Reason::Malformed),
        ] {
            let refused = refused(connect(version, "c").will(topic, "").bytes());
            assert_eq!(refused.1, reason, "{version:?} {topic:?}");
        }
    }
}

#[test]
fn a_will_of_5_may_have_properties() {
    let all = [
        &[0x18, 0, 0, 0, 5, 0x01, 1, 0x02, 0, 0, 0, 0, 0x03, 0, 1, b'a', 0x08, 0, 1, b'b'][..],
        &[0x09, 0, 1, 0xff, 0x26, 0, 1, b'k', 0, 1, b'v'],
    ]
    .concat();
    let length = u8::try_from(all.len()).expect("short");
    let will = |properties: &[u8]| [properties.to_vec(), text("gone"), text("m")];
    let connect = |will: &[Vec<u8>]| connect(Version::V5, "c").and(0b100, will).bytes();
    let mut client = Client::new();
    let answer = client.send(connect(&will(&[&[length][..], &all].concat())));
    assert_eq!(code(&answer), 0);
    let (answer, _) = refused(connect(&will(&[2, 0x23, 1])));
    assert_eq!(code(&answer), 0x81, "a property of another packet");
}
