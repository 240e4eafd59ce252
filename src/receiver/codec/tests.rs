//! Packets as another implementation writes them are read as it means them.
//!
//! rmqtt-codec is a codec of its own, and reads some packets that it should not. What it writes
//! is right.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use proptest::prelude::*;
use rmqtt_codec::types::{Protocol, Publish as Message, QoS};
use rmqtt_codec::{v3, v5};
use tokio_util::codec::{Decoder, Encoder};

use super::{Accepted, Answers, Delivery, Packet, Publish, Reason, Version, connect, packet};

const MAX_PACKET: u32 = 16 * 1024;

fn old(packet: v3::Packet) -> BytesMut {
    let mut bytes = BytesMut::new();
    v3::Codec::new(0).encode(packet, &mut bytes).expect("it can be written");
    bytes
}

fn new(packet: v5::Packet) -> BytesMut {
    let mut bytes = BytesMut::new();
    v5::Codec::new(0, 0).encode(packet, &mut bytes).expect("it can be written");
    bytes
}

fn words() -> impl Strategy<Value = ByteString> {
    "[a-zü$/ ]{0,20}".prop_map(ByteString::from)
}

fn user_properties() -> impl Strategy<Value = Vec<(ByteString, ByteString)>> {
    prop::collection::vec((words(), words()), 0..3)
}

fn bytes() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

prop_compose! {
    fn properties()(
        alias in 0..3_u16,
        expiry in 0..3_u32,
        data in prop::option::of(bytes()),
        kind in prop::option::of(words()),
        is_utf8_payload in any::<bool>(),
        response_topic in prop::option::of(words()),
        user_properties in user_properties(),
    ) -> v5::PublishProperties {
        v5::PublishProperties {
            topic_alias: NonZeroU16::new(alias),
            correlation_data: data,
            message_expiry_interval: NonZeroU32::new(expiry),
            content_type: kind,
            user_properties,
            is_utf8_payload,
            response_topic,
            subscription_ids: Vec::new(),
        }
    }
}

prop_compose! {
    fn message()(
        qos in 0..3_u8,
        dup in any::<bool>(),
        retain in any::<bool>(),
        topic in "[a-zü$/]{1,20}",
        id in 1..=u16::MAX,
        payload in bytes(),
        properties in properties(),
    ) -> Message {
        Message {
            dup: dup && qos > 0,
            retain,
            qos: QoS::try_from(qos).expect("0, 1 or 2"),
            topic: topic.into(),
            packet_id: if qos > 0 { NonZeroU16::new(id) } else { None },
            payload,
            properties: Some(properties),
        }
    }
}

/// The message as it is to be read.
fn read_as(message: &Message, version: Version) -> Packet<'_> {
    let delivery = match (message.qos, message.packet_id) {
        (QoS::AtLeastOnce, Some(id)) => Delivery::AtLeastOnce(id),
        (QoS::ExactlyOnce, Some(id)) => Delivery::ExactlyOnce(id),
        _ => Delivery::AtMostOnce,
    };
    let alias = message.properties.as_ref().and_then(|properties| properties.topic_alias);
    Packet::Publish(Publish {
        topic: &message.topic,
        alias: if version == Version::V5 { alias } else { None },
        payload: &message.payload,
        delivery,
    })
}

proptest! {
    #[test]
    fn messages_are_read_as_they_are_meant(message in message()) {
        for version in [Version::V31, Version::V311, Version::V5] {
            let bytes = match version {
                Version::V5 => new(v5::Packet::Publish(Box::new(message.clone()))),
                _ => old(v3::Packet::Publish(Box::new(message.clone()))),
            };
            let read = packet(version, &bytes, MAX_PACKET);
            prop_assert_eq!(read, Ok(Some((read_as(&message, version), bytes.len()))));
        }
    }

    #[test]
    fn requests_are_read_as_they_are_meant(
        id in 1..=u16::MAX,
        filters in prop::collection::vec(("[a-z$/]{1,9}", 0..3_u8, any::<bool>()), 1..4),
        sub_id in 0..300_u32,
        user_properties in user_properties(),
    ) {
        let packet_id = NonZeroU16::new(id).expect("not 0");
        let qos = |qos: u8| QoS::try_from(qos).expect("0, 1 or 2");
        let texts = || filters.iter().map(|(filter, _, _)| ByteString::from(&**filter));
        let asked = filters.iter().map(|(_, qos, _)| *qos).collect();
        let expected = Packet::Subscribe { id: packet_id, first: &filters[0].0, asked };
        let subscribe = old(v3::Packet::Subscribe {
            packet_id,
            topic_filters: texts().zip(filters.iter().map(|(_, asked, _)| qos(*asked))).collect(),
        });
        let read = packet(Version::V311, &subscribe, MAX_PACKET);
        prop_assert_eq!(read, Ok(Some((expected.clone(), subscribe.len()))));
        let options = filters.iter().map(|(_, asked, flag)| v5::SubscriptionOptions {
            qos: qos(*asked),
            retain_as_published: *flag,
            ..v5::SubscriptionOptions::default()
        });
        let subscribe = new(v5::Packet::Subscribe(v5::Subscribe {
            packet_id,
            id: NonZeroU32::new(sub_id),
            user_properties: user_properties.clone(),
            topic_filters: texts().zip(options).collect(),
        }));
        let read = packet(Version::V5, &subscribe, MAX_PACKET);
        prop_assert_eq!(read, Ok(Some((expected, subscribe.len()))));
        let unsubscribe = new(v5::Packet::Unsubscribe(v5::Unsubscribe {
            packet_id,
            user_properties,
            topic_filters: texts().collect(),
        }));
        let expected = Packet::Unsubscribe { id: packet_id, filters: filters.len() };
        let read = packet(Version::V5, &unsubscribe, MAX_PACKET);
        prop_assert_eq!(read, Ok(Some((expected, unsubscribe.len()))));
    }

    #[test]
    fn connects_are_read_as_they_are_meant(
        clean in any::<bool>(),
        keep_alive in any::<u16>(),
        client_id in "[a-z]{1,30}",
        user in prop::option::of((words(), bytes())),
        will in prop::option::of(("[a-z/]{1,9}", bytes(), 0..3_u8, any::<bool>())),
        expiry in 0..3_u32,
        max_packet in 0..999_u32,
        wants_reasons in any::<bool>(),
        user_properties in user_properties(),
    ) {
        let (username, password) = user.clone().unzip();
        let qos = |qos: u8| QoS::try_from(qos).expect("0, 1 or 2");
        let old_will = will.clone().map(|(topic, message, asked, retain)| v3::LastWill {
            qos: qos(asked),
            retain,
            topic: topic.into(),
            message,
        });
        for level in [3, 4] {
            let mut bytes = old(v3::Packet::Connect(Box::new(v3::Connect {
                protocol: Protocol(level),
                clean_session: clean,
                keep_alive,
                client_id: (&*client_id).into(),
                last_will: old_will.clone(),
                username: username.clone(),
                password: password.clone(),
                cert: None,
            })));
            // It writes level 4 for 3.1 as well.
            let name = bytes.windows(2).position(|window| window == b"dp" || window == b"TT");
            bytes[name.expect("MQIsdp or MQTT") + 2] = level;
            let (read, size) = connect(&bytes, MAX_PACKET).expect("right").expect("complete");
            prop_assert_eq!(size, bytes.len());
            let version = if level == 3 { Version::V31 } else { Version::V311 };
            prop_assert_eq!((read.version, read.keep_alive), (version, keep_alive));
            prop_assert_eq!(&read.client_id, &client_id);
            prop_assert_eq!(read.keeps_session, !clean);
            prop_assert_eq!(read.user.as_deref(), username.as_deref());
            prop_assert_eq!(read.password.as_deref(), password.as_deref());
        }
        let new_will = will.map(|(topic, message, asked, retain)| v5::LastWill {
            qos: qos(asked),
            retain,
            topic: topic.into(),
            message,
            will_delay_interval_sec: Some(1),
            correlation_data: None,
            message_expiry_interval: None,
            content_type: Some("t".into()),
            user_properties: user_properties.clone(),
            is_utf8_payload: Some(false),
            response_topic: None,
        });
        let bytes = new(v5::Packet::Connect(Box::new(v5::Connect {
            clean_start: clean,
            keep_alive,
            client_id: (&*client_id).into(),
            last_will: new_will,
            username: username.clone(),
            password: password.clone(),
            session_expiry_interval_secs: expiry,
            request_problem_info: wants_reasons,
            max_packet_size: NonZeroU32::new(max_packet),
            user_properties,
            ..v5::Connect::default()
        })));
        let (read, size) = connect(&bytes, MAX_PACKET).expect("right").expect("complete");
        prop_assert_eq!(size, bytes.len());
        prop_assert_eq!((read.version, read.keep_alive), (Version::V5, keep_alive));
        prop_assert_eq!(&read.client_id, &client_id);
        prop_assert_eq!(read.keeps_session, expiry > 0);
        prop_assert_eq!(read.wants_reasons, wants_reasons);
        prop_assert_eq!(read.max_packet, if max_packet == 0 { u32::MAX } else { max_packet });
        prop_assert_eq!(read.user.as_deref(), username.as_deref());
        prop_assert_eq!(read.password.as_deref(), password.as_deref());
    }
}

/// Reads answers as a client that uses rmqtt-codec does.
fn read_answers(answers: &mut Answers) -> Vec<v5::Packet> {
    let (mut bytes, mut codec) = (answers.take(), v5::Codec::new(0, 0));
    let mut packets = Vec::new();
    while let Some((packet, _)) = codec.decode(&mut bytes).expect("a client understands it") {
        packets.push(packet);
    }
    assert!(bytes.is_empty());
    packets
}

#[test]
fn answers_are_understood_as_they_are_meant() {
    let id = NonZeroU16::new(300).expect("not 0");
    let mut answers = Answers::new(Version::V5);
    answers.accept(Accepted {
        assigned_id: Some("auto-1".to_owned()),
        keep_alive: Some(3600),
        session_ends: true,
        max_packet: MAX_PACKET,
        max_aliases: 64,
    });
    answers.refuse(Reason::NotAuthorized, "no");
    answers.acknowledge(id);
    answers.reject(id, Reason::TopicNameInvalid, "elsewhere");
    answers.receive(id);
    answers.reject_half(id, Reason::NotAuthorized, "not yours");
    answers.complete(id, true);
    answers.complete(id, false);
    answers.grant(id, &[0, 2]);
    answers.refuse_subscriptions(id, &[1, 2], "nobody may");
    answers.unsubscribed(id, 2);
    answers.pong();
    answers.disconnect(Reason::SessionTakenOver, "another one");
    let ack = |reason_code, why: Option<&'static str>| v5::PublishAck {
        packet_id: id,
        reason_code,
        properties: Vec::new(),
        reason_string: why.map(ByteString::from_static),
    };
    let complete = |reason_code| v5::PublishAck2 {
        packet_id: id,
        reason_code,
        properties: Vec::new(),
        reason_string: None,
    };
    let subscribed = |status, why: Option<&'static str>| v5::SubscribeAck {
        packet_id: id,
        properties: Vec::new(),
        reason_string: why.map(ByteString::from_static),
        status,
    };
    use v5::SubscribeAckReason::{GrantedQos0, GrantedQos2, NotAuthorized};
    let expected = [
        v5::Packet::ConnectAck(Box::new(v5::ConnectAck {
            session_expiry_interval_secs: Some(0),
            max_packet_size: Some(MAX_PACKET),
            assigned_client_id: Some("auto-1".into()),
            topic_alias_max: 64,
            server_keepalive_sec: Some(3600),
            ..v5::ConnectAck::default()
        })),
        v5::Packet::ConnectAck(Box::new(v5::ConnectAck {
            reason_code: v5::ConnectAckReason::NotAuthorized,
            reason_string: Some("no".into()),
            ..v5::ConnectAck::default()
        })),
        v5::Packet::PublishAck(ack(v5::PublishAckReason::Success, None)),
        v5::Packet::PublishAck(ack(v5::PublishAckReason::TopicNameInvalid, Some("elsewhere"))),
        v5::Packet::PublishReceived(ack(v5::PublishAckReason::Success, None)),
        v5::Packet::PublishReceived(ack(v5::PublishAckReason::NotAuthorized, Some("not yours"))),
        v5::Packet::PublishComplete(complete(v5::PublishAck2Reason::Success)),
        v5::Packet::PublishComplete(complete(v5::PublishAck2Reason::PacketIdNotFound)),
        v5::Packet::SubscribeAck(subscribed(vec![GrantedQos0, GrantedQos2], None)),
        v5::Packet::SubscribeAck(subscribed(vec![NotAuthorized; 2], Some("nobody may"))),
        v5::Packet::UnsubscribeAck(v5::UnsubscribeAck {
            packet_id: id,
            properties: Vec::new(),
            reason_string: None,
            status: vec![v5::UnsubscribeAckReason::NoSubscriptionExisted; 2],
        }),
        v5::Packet::PingResponse,
        v5::Packet::Disconnect(v5::Disconnect {
            reason_code: v5::DisconnectReasonCode::SessionTakenOver,
            reason_string: Some("another one".into()),
            ..v5::Disconnect::default()
        }),
    ];
    assert_eq!(read_answers(&mut answers), expected);
}

#[test]
fn words_are_cut_at_a_character() {
    let mut answers = Answers::new(Version::V5);
    answers.disconnect(Reason::Malformed, &"ü".repeat(200));
    let packets = read_answers(&mut answers);
    let [v5::Packet::Disconnect(disconnect)] = &packets[..] else { panic!("{packets:?}") };
    assert_eq!(disconnect.reason_string.as_deref(), Some(&*"ü".repeat(96)));
}
