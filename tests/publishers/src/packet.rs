//! The packets of MQTT 3.1.1, as bytes.

use std::io::Read;

/// The first byte of a CONNECT.
pub const CONNECT: u8 = 0x10;

/// The first byte of a PUBLISH at QoS 0.
pub const PUBLISH: u8 = 0x30;

/// The first byte of a PUBACK.
pub const PUBACK: u8 = 0x40;

/// The CONNACK that accepts a connection.
pub const ACCEPTED: [u8; 4] = [0x20, 2, 0, 0];

/// A whole packet: its first byte, the length of the rest, and the rest.
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    let mut length = body.len();
    loop {
        let more = if length > 0x7f { 0x80 } else { 0 };
        packet.push((length & 0x7f) as u8 | more);
        length >>= 7;
        if length == 0 {
            break;
        }
    }
    packet.extend_from_slice(body);
    packet
}

/// A text with its length before it.
///
/// # Panics
///
/// If it has more than 65,535 bytes.
pub fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("MQTT allows 65,535 bytes");
    [&length.to_be_bytes(), text.as_bytes()].concat()
}

/// A CONNECT with a clean session and a keep-alive of a minute.
pub fn connect(client_id: &str, will_topic: Option<&str>) -> Vec<u8> {
    let flags = if will_topic.is_some() { 0b110 } else { 0b10 };
    let will = will_topic.map_or_else(Vec::new, |topic| [text(topic), text("gone")].concat());
    packet(CONNECT, &[text("MQTT"), vec![4, flags, 0, 60], text(client_id), will].concat())
}

/// A PUBLISH at QoS 0.
pub fn publish(topic: &str, payload: &[u8]) -> Vec<u8> {
    packet(PUBLISH, &[&text(topic), payload].concat())
}

/// Reads a packet: its first byte and its body. `None` if the connection ends before.
pub fn read(stream: &mut impl Read) -> Option<(u8, Vec<u8>)> {
    let mut byte = [0];
    stream.read_exact(&mut byte).ok()?;
    let first = byte[0];
    let (mut length, mut shift) = (0, 0);
    loop {
        stream.read_exact(&mut byte).ok()?;
        length |= usize::from(byte[0] & 0x7f) << shift;
        shift += 7;
        if byte[0] < 0x80 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some((first, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for length in [0, 1, 127, 128, 16_383, 16_384, 70_000] {
            let body = vec![7; length];
            let packet = packet(PUBLISH, &body);
            assert_eq!(read(&mut packet.as_slice()), Some((PUBLISH, body)), "{length}");
            assert_eq!(read(&mut &packet[..packet.len() - 1]), None, "{length}");
        }
    }
}
