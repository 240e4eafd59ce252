use super::client::{Client, End, kinds};
use crate::receiver::codec::testing::{publish, publish_with};
use crate::receiver::codec::{Reason, Version};

const TOPIC: &str = "devices/pump/heartbeat";
const ELSEWHERE: &str = "devices/pump/status";

/// A message at QoS 1 with a topic alias, of MQTT 5.
fn aliased(id: u16, topic: &str, alias: u16) -> Vec<u8> {
    let [high, low] = alias.to_be_bytes();
    publish_with(Version::V5, 1, id, topic, &[0x23, high, low], "")
}

/// Sends a message that must end the session.
#[track_caller]
fn ends(message: &[u8]) -> Reason {
    let mut client = Client::connected(Version::V5);
    let answer = client.send(message);
    let Some(End::ByServer(reason)) = client.end else { panic!("{:?}", client.end) };
    assert_eq!((kinds(&answer), answer[2]), (vec![0xe0], reason as u8));
    reason
}

#[test]
fn an_alias_stands_for_its_topic_until_it_gets_another() {
    let mut client = Client::connected(Version::V5);
    client.send(aliased(1, TOPIC, 1));
    client.send(aliased(2, "devices/fan/heartbeat", 64));
    client.send(aliased(3, "", 1));
    client.send(aliased(4, "", 64));
    client.send(aliased(5, "devices/lamp/heartbeat", 1));
    client.send(aliased(6, "", 1));
    assert_eq!(client.heartbeats, ["pump", "fan", "pump", "fan", "lamp", "lamp"]);
}

#[test]
fn an_alias_of_a_topic_that_is_no_heartbeats_is_one_too() {
    let mut client = Client::connected(Version::V5);
    client.send(aliased(1, ELSEWHERE, 1));
    let answer = client.send(aliased(2, "", 1));
    assert_eq!((answer[0], &answer[2..5]), (0x40, &[0, 2, 0x90][..]));
    assert_eq!(client.refusals.counts, [(Reason::TopicNameInvalid, 2)]);
}

#[test]
fn an_alias_of_a_message_that_was_counted_before_holds() {
    let mut client = Client::connected(Version::V5);
    client.send(publish(Version::V5, 2, 7, TOPIC, ""));
    client.send(publish_with(Version::V5, 2, 7, "devices/fan/heartbeat", &[0x23, 0, 1], ""));
    client.send(aliased(8, "", 1));
    assert_eq!(client.heartbeats, ["pump", "fan"]);
}

#[test]
fn an_alias_that_was_not_set_on_this_connection_ends_the_session() {
    assert_eq!(ends(&aliased(1, "", 1)), Reason::Protocol);
    assert_eq!(ends(&aliased(1, "", 64)), Reason::Protocol);
}

#[test]
fn an_alias_of_0_or_above_the_maximum_ends_the_session() {
    for alias in [0, 65, u16::MAX] {
        assert_eq!(ends(&aliased(1, TOPIC, alias)), Reason::TopicAliasInvalid);
        assert_eq!(ends(&aliased(1, "", alias)), Reason::TopicAliasInvalid);
    }
}
