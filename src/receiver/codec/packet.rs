//! The packets that a client sends after its CONNECT.

use std::num::NonZeroU16;

use super::frame::{self, Frame};
use super::properties::{self, Allowed, Value};
use super::reader::Reader;
use super::{Malformed, Version};

/// A packet from a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::receiver) enum Packet<'a> {
    /// A message.
    Publish(Publish<'a>),
    /// The second half of a message at QoS 2.
    Release(NonZeroU16),
    /// A request for messages.
    Subscribe {
        /// The packet identifier.
        id: NonZeroU16,
        /// The first of the topic filters.
        first: &'a str,
        /// The quality of service that is asked for, one for each filter.
        asked: Vec<u8>,
    },
    /// The end of subscriptions.
    Unsubscribe {
        /// The packet identifier.
        id: NonZeroU16,
        /// The number of topic filters.
        filters: usize,
    },
    /// A sign of life of the connection, not of a device.
    Ping,
    /// The end of the connection.
    Disconnect {
        /// True if the session is to be kept after all.
        keeps_session: bool,
    },
    /// A packet that exists, but that no client has a reason to send here: its name.
    Unexpected(&'static str),
}

/// A message from a client. One that is to be retained is the same: there is nobody to send it
/// to later, and to the receiver it is as live as any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::receiver) struct Publish<'a> {
    /// The topic. Empty if an alias stands for it.
    pub(in crate::receiver) topic: &'a str,
    /// The alias that stands for the topic from here on, if there is one.
    pub(in crate::receiver) alias: Option<NonZeroU16>,
    /// The payload, which may be anything.
    pub(in crate::receiver) payload: &'a [u8],
    /// The quality of service.
    pub(in crate::receiver) delivery: Delivery,
}

/// The quality of service of a message, with its packet identifier.
#[expect(clippy::enum_variant_names, reason = "they are the names of the standard")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::receiver) enum Delivery {
    /// QoS 0.
    AtMostOnce,
    /// QoS 1.
    AtLeastOnce(NonZeroU16),
    /// QoS 2.
    ExactlyOnce(NonZeroU16),
}

/// Reads the next packet of a client that has sent its CONNECT, and its size in bytes. `None`
/// if it is not complete.
pub(in crate::receiver) fn packet(
    version: Version,
    bytes: &[u8],
    max_packet: u32,
) -> Result<Option<(Packet<'_>, usize)>, Malformed> {
    let Some(frame) = frame::next(bytes, max_packet)? else { return Ok(None) };
    Ok(Some((read(version, frame)?, frame.size)))
}

/// Reads a whole packet.
fn read(version: Version, Frame { first, body, .. }: Frame<'_>) -> Result<Packet<'_>, Malformed> {
    /// A flag that MQTT 3.1 sets on any packet that is sent again.
    const AGAIN: u8 = 0b1000;
    let mut reader = Reader::new(body);
    let first = if version == Version::V31 { first & !AGAIN } else { first };
    Ok(match first {
        0x30..=0x3f => Packet::Publish(publish(version, first, reader)?),
        0x62 => Packet::Release(release(version, reader)?),
        0x82 => subscribe(version, reader)?,
        0xa2 => unsubscribe(version, reader)?,
        0xc0 => {
            reader.end()?;
            Packet::Ping
        }
        0xe0 => {
            let keeps_session = version == Version::V5 && disconnect(&mut reader)?;
            reader.end()?;
            Packet::Disconnect { keeps_session }
        }
        0x10 => Packet::Unexpected("a second CONNECT"),
        0x20 => Packet::Unexpected("CONNACK"),
        0x40 => Packet::Unexpected("PUBACK"),
        0x50 => Packet::Unexpected("PUBREC"),
        0x70 => Packet::Unexpected("PUBCOMP"),
        0x90 => Packet::Unexpected("SUBACK"),
        0xb0 => Packet::Unexpected("UNSUBACK"),
        0xd0 => Packet::Unexpected("PINGRESP"),
        0xf0 if version == Version::V5 => Packet::Unexpected("AUTH"),
        _ => return Err(Malformed::Type),
    })
}

/// Reads a message.
fn publish(version: Version, first: u8, mut reader: Reader<'_>) -> Result<Publish<'_>, Malformed> {
    let topic = reader.topic()?;
    let delivery = match (first >> 1) & 0b11 {
        0 if first & 0b1000 != 0 => {
            return Err(Malformed::Forbidden("a message at QoS 0 claims to be sent again"));
        }
        0 => Delivery::AtMostOnce,
        1 => Delivery::AtLeastOnce(reader.packet_id()?),
        2 => Delivery::ExactlyOnce(reader.packet_id()?),
        _ => return Err(Malformed::Field("a message has quality of service 3")),
    };
    let alias = if version == Version::V5 { alias(&mut reader)? } else { None };
    if topic.is_empty() && alias.is_none() {
        return Err(match version {
            Version::V31 | Version::V311 => Malformed::Topic,
            Version::V5 => Malformed::Forbidden("a message has neither a topic nor an alias"),
        });
    }
    Ok(Publish { topic, alias, payload: reader.rest(), delivery })
}

/// Reads the properties of a message, of which only the alias matters.
fn alias(reader: &mut Reader<'_>) -> Result<Option<NonZeroU16>, Malformed> {
    const ALLOWED: Allowed = Allowed::of(&[
        properties::PAYLOAD_FORMAT,
        properties::MESSAGE_EXPIRY,
        properties::TOPIC_ALIAS,
        properties::RESPONSE_TOPIC,
        properties::CORRELATION_DATA,
        properties::USER,
        properties::SUBSCRIPTION_ID,
        properties::CONTENT_TYPE,
    ]);
    let mut alias = None;
    properties::each(reader, ALLOWED, |number, value| {
        match (number, value) {
            (properties::TOPIC_ALIAS, Value::Short(number)) => {
                alias = Some(NonZeroU16::new(number).ok_or(Malformed::Alias)?);
            }
            (properties::SUBSCRIPTION_ID, _) => {
                return Err(Malformed::Forbidden("a client's message has a subscription id"));
            }
            _ => (),
        }
        Ok(())
    })?;
    Ok(alias)
}

/// Reads a PUBREL.
fn release(version: Version, mut reader: Reader<'_>) -> Result<NonZeroU16, Malformed> {
    const SUCCESS: u8 = 0;
    const NOT_FOUND: u8 = 0x92;
    const ALLOWED: Allowed = Allowed::of(&[properties::REASON_STRING, properties::USER]);
    let id = reader.packet_id()?;
    if version == Version::V5 && !reader.is_empty() {
        if !matches!(reader.byte()?, SUCCESS | NOT_FOUND) {
            return Err(Malformed::Field("a PUBREL has a reason code that does not exist"));
        }
        if !reader.is_empty() {
            properties::skip(&mut reader, ALLOWED)?;
        }
    }
    reader.end()?;
    Ok(id)
}

/// Reads a SUBSCRIBE.
fn subscribe(version: Version, mut reader: Reader<'_>) -> Result<Packet<'_>, Malformed> {
    const ALLOWED: Allowed = Allowed::of(&[properties::SUBSCRIPTION_ID, properties::USER]);
    let id = reader.packet_id()?;
    if version == Version::V5 {
        properties::each(&mut reader, ALLOWED, |_, value| match value {
            Value::Long(0) => Err(Malformed::Forbidden("a subscription id is 0")),
            _ => Ok(()),
        })?;
    }
    let (mut first, mut asked) = (None, Vec::new());
    while !reader.is_empty() {
        let filter = reader.filter()?;
        asked.push(options(version, filter, reader.byte()?)?);
        first.get_or_insert(filter);
    }
    let first = first.ok_or(Malformed::Forbidden("a SUBSCRIBE has no topic filter"))?;
    Ok(Packet::Subscribe { id, first, asked })
}

/// The quality of service among the options of a subscription.
fn options(version: Version, filter: &str, options: u8) -> Result<u8, Malformed> {
    const NO_LOCAL: u8 = 0b100;
    let reserved = if version == Version::V5 { 0b1100_0000 } else { 0b1111_1100 };
    if options & reserved != 0 {
        return Err(Malformed::Field("a reserved bit of a subscription is set"));
    }
    if (options >> 4) == 3 {
        return Err(Malformed::Forbidden("a subscription has retain handling 3"));
    }
    if options & NO_LOCAL != 0 && filter.starts_with("$share/") {
        return Err(Malformed::Forbidden("a shared subscription has the option no local"));
    }
    match options & 0b11 {
        3 => Err(Malformed::Forbidden("a subscription has quality of service 3")),
        asked => Ok(asked),
    }
}

/// Reads an UNSUBSCRIBE.
fn unsubscribe(version: Version, mut reader: Reader<'_>) -> Result<Packet<'_>, Malformed> {
    let id = reader.packet_id()?;
    if version == Version::V5 {
        properties::skip(&mut reader, Allowed::of(&[properties::USER]))?;
    }
    let mut filters = 0;
    while !reader.is_empty() {
        reader.filter()?;
        filters += 1;
    }
    if filters == 0 {
        return Err(Malformed::Forbidden("an UNSUBSCRIBE has no topic filter"));
    }
    Ok(Packet::Unsubscribe { id, filters })
}

/// Reads a DISCONNECT of MQTT 5. True if the session is to be kept.
fn disconnect(reader: &mut Reader<'_>) -> Result<bool, Malformed> {
    const ALLOWED: Allowed =
        Allowed::of(&[properties::SESSION_EXPIRY, properties::REASON_STRING, properties::USER]);
    let mut keeps_session = false;
    if !reader.is_empty() {
        // The client's reason changes nothing: a will is not published in any case.
        reader.byte()?;
    }
    if !reader.is_empty() {
        properties::each(reader, ALLOWED, |number, value| {
            if number == properties::SESSION_EXPIRY {
                keeps_session = value != Value::Long(0);
            }
            Ok(())
        })?;
    }
    Ok(keeps_session)
}
