//! The properties in packets of MQTT 5.

use super::Malformed;
use super::reader::Reader;

pub(super) const PAYLOAD_FORMAT: u8 = 0x01;
pub(super) const MESSAGE_EXPIRY: u8 = 0x02;
pub(super) const CONTENT_TYPE: u8 = 0x03;
pub(super) const RESPONSE_TOPIC: u8 = 0x08;
pub(super) const CORRELATION_DATA: u8 = 0x09;
pub(super) const SUBSCRIPTION_ID: u8 = 0x0b;
pub(super) const SESSION_EXPIRY: u8 = 0x11;
pub(super) const ASSIGNED_CLIENT_ID: u8 = 0x12;
pub(super) const SERVER_KEEP_ALIVE: u8 = 0x13;
pub(super) const AUTHENTICATION_METHOD: u8 = 0x15;
pub(super) const AUTHENTICATION_DATA: u8 = 0x16;
pub(super) const REQUEST_PROBLEMS: u8 = 0x17;
pub(super) const WILL_DELAY: u8 = 0x18;
pub(super) const REQUEST_RESPONSE: u8 = 0x19;
pub(super) const REASON_STRING: u8 = 0x1f;
pub(super) const RECEIVE_MAXIMUM: u8 = 0x21;
pub(super) const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
pub(super) const TOPIC_ALIAS: u8 = 0x23;
pub(super) const USER: u8 = 0x26;
pub(super) const MAXIMUM_PACKET_SIZE: u8 = 0x27;

/// A set of properties, one bit for each. The highest number is 42.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowed(u64);

impl Allowed {
    /// The properties with these numbers.
    pub(super) const fn of(mut numbers: &[u8]) -> Self {
        let mut bits = 0;
        while let [number, rest @ ..] = numbers {
            bits |= 1 << *number;
            numbers = rest;
        }
        Self(bits)
    }

    fn has(self, number: u8) -> bool {
        number < 64 && self.0 & (1 << number) != 0
    }
}

/// The value of a property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// One that is 0 or 1.
    Flag(bool),
    /// A number of two bytes.
    Short(u16),
    /// A number of four bytes, or of one to four.
    Long(u32),
    /// A text, two texts, or bytes. They are checked; nothing depends on them.
    Other,
}

/// Reads the properties at this place of a packet, and calls `take` with each. Any other than
/// the `allowed` ones is refused, and so is one that is there twice.
pub(super) fn each(
    reader: &mut Reader<'_>,
    allowed: Allowed,
    mut take: impl FnMut(u8, Value) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let length = reader.variable()?;
    let mut properties = Reader::new(reader.take(length as usize)?);
    let mut seen = Allowed(0);
    while !properties.is_empty() {
        // All numbers of the standard have one byte.
        let number = properties.byte()?;
        if !allowed.has(number) {
            return Err(Malformed::Field("a property does not exist, or not in this packet"));
        }
        if seen.has(number) && number != USER {
            return Err(Malformed::Forbidden("a property is there twice"));
        }
        seen.0 |= 1 << number;
        take(number, value(number, &mut properties)?)?;
    }
    Ok(())
}

/// Reads properties that change nothing.
pub(super) fn skip(reader: &mut Reader<'_>, allowed: Allowed) -> Result<(), Malformed> {
    each(reader, allowed, |_, _| Ok(()))
}

/// Reads the value of a property.
fn value(number: u8, properties: &mut Reader<'_>) -> Result<Value, Malformed> {
    match number {
        PAYLOAD_FORMAT | REQUEST_PROBLEMS | REQUEST_RESPONSE => match properties.byte()? {
            0 => Ok(Value::Flag(false)),
            1 => Ok(Value::Flag(true)),
            _ => Err(Malformed::Forbidden("a property is neither 0 nor 1")),
        },
        RECEIVE_MAXIMUM | TOPIC_ALIAS_MAXIMUM | TOPIC_ALIAS => properties.short().map(Value::Short),
        MESSAGE_EXPIRY | SESSION_EXPIRY | WILL_DELAY | MAXIMUM_PACKET_SIZE => {
            properties.long().map(Value::Long)
        }
        SUBSCRIPTION_ID => properties.variable().map(Value::Long),
        CONTENT_TYPE | AUTHENTICATION_METHOD | REASON_STRING => {
            properties.text().map(|_| Value::Other)
        }
        RESPONSE_TOPIC => properties.topic().map(|_| Value::Other),
        CORRELATION_DATA | AUTHENTICATION_DATA => properties.bytes().map(|_| Value::Other),
        USER => {
            properties.text()?;
            properties.text().map(|_| Value::Other)
        }
        _ => Err(Malformed::Field("a property does not exist")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOME: Allowed = Allowed::of(&[MESSAGE_EXPIRY, USER, PAYLOAD_FORMAT, RESPONSE_TOPIC]);

    fn read(bytes: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut numbers = Vec::new();
        let mut reader = Reader::new(bytes);
        each(&mut reader, SOME, |number, _| {
            numbers.push(number);
            Ok(())
        })?;
        reader.end()?;
        Ok(numbers)
    }

    #[test]
    fn properties_are_read_in_their_order() {
        let bytes = [12, 0x02, 0, 0, 0, 0, 0x26, 0, 1, b'a', 0, 0, 0x26];
        assert_eq!(read(&bytes[..12]), Err(Malformed::Length));
        assert_eq!(read(&[&[11], &bytes[1..12]].concat()), Ok(vec![MESSAGE_EXPIRY, USER]));
        assert_eq!(read(&[0]), Ok(vec![]));
    }

    #[test]
    fn a_property_of_another_packet_is_refused() {
        for number in [SESSION_EXPIRY, 0x00, 0x2b, 0x3f, 0x40, 0xff] {
            let refused = read(&[5, number, 0, 0, 0, 1]);
            assert!(matches!(refused, Err(Malformed::Field(_))), "{number:#x}: {refused:?}");
        }
    }

    #[test]
    fn only_user_properties_may_be_there_twice() {
        let twice = read(&[4, 0x01, 0, 0x01, 0]);
        assert_eq!(twice, Err(Malformed::Forbidden("a property is there twice")));
        assert_eq!(read(&[10, 0x26, 0, 0, 0, 0, 0x26, 0, 0, 0, 0]), Ok(vec![USER, USER]));
    }

    #[test]
    fn values_are_checked() {
        assert_eq!(read(&[2, 0x01, 1]), Ok(vec![PAYLOAD_FORMAT]));
        assert!(matches!(read(&[2, 0x01, 2]), Err(Malformed::Forbidden(_))));
        assert_eq!(read(&[4, 0x08, 0, 1, b'a']), Ok(vec![RESPONSE_TOPIC]));
        assert_eq!(read(&[4, 0x08, 0, 1, b'#']), Err(Malformed::Topic));
        assert_eq!(read(&[6, 0x26, 0, 1, 0, 0, 0]), Err(Malformed::Text));
        assert_eq!(read(&[3, 0x08, 0, 9]), Err(Malformed::Length));
    }
}
