//! Finds out whether a peer speaks MQTT.
//!
//! It sends a CONNECT, as any client does. The CONNECT has no client identifier: the
//! broker makes one up, so that no session is taken over, not even this service's, and
//! the new one ends with the connection. It has no credentials: a refusal is an answer
//! too, and an unknown peer must not learn a password. It has no will and is followed by
//! a DISCONNECT, so nothing is published.

use std::io::{self, ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use crate::config::MqttVersion;
use crate::logging::escape::{Hex, Quoted};

/// The keep-alive of the CONNECT: the shortest that no broker refuses.
const KEEP_ALIVE_SECONDS: u8 = 10;

/// The longest wait for an answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// The longest wait for an answer to the end of a line.
const NUDGE: Duration = Duration::from_secs(1);

/// The number of bytes of an answer that are read: enough for a first line, or for any
/// CONNACK up to its flags.
const ENOUGH: usize = 64;

/// The time after which a read has to return if nothing arrives.
pub(super) const READ_TIMEOUT: Duration = Duration::from_millis(100);

/// An answer to a CONNECT.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// A CONNACK.
    Mqtt,
    /// A CONNACK as in MQTT 3.1.1, even if MQTT 5 was asked for.
    Mqtt311,
    /// No answer in time.
    Nothing,
    /// The peer closed the connection.
    Closed,
    /// The beginning of an answer that is not MQTT.
    Other(Vec<u8>),
}

/// Sends a CONNECT and returns the answer. The reads of `stream` should time out after
/// [`READ_TIMEOUT`].
///
/// # Errors
///
/// If the connection fails in another way than by being closed, for example in TLS.
pub(super) fn ask(stream: &mut (impl Read + Write), version: MqttVersion) -> io::Result<Answer> {
    const DISCONNECT: [u8; 2] = [0xe0, 0];
    // A peer that speaks first may have said something and left; it can still be read.
    let _closed = stream.write_all(connect(version));
    let mut answer = hear(stream, PATIENCE)?;
    if answer == Answer::Nothing {
        // A server of a text protocol waits for the end of the line.
        let _closed = stream.write_all(b"\r\n\r\n");
        answer = match hear(stream, NUDGE)? {
            // The nudge may be why it closed; what counts is that it did not answer.
            Answer::Closed => Answer::Nothing,
            answer => answer,
        };
    }
    if matches!(answer, Answer::Mqtt | Answer::Mqtt311) {
        let _closed = stream.write_all(&DISCONNECT);
    }
    Ok(answer)
}

/// A CONNECT for a clean session without a client identifier. In MQTT 5 it ends with the
/// connection.
fn connect(version: MqttVersion) -> &'static [u8] {
    const CLEAN: u8 = 2;
    match version {
        MqttVersion::V311 => {
            &[0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 4, CLEAN, 0, KEEP_ALIVE_SECONDS, 0, 0]
        }
        MqttVersion::V5 => {
            &[0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 5, CLEAN, 0, KEEP_ALIVE_SECONDS, 0, 0, 0]
        }
    }
}

fn hear(stream: &mut impl Read, patience: Duration) -> io::Result<Answer> {
    let deadline = Instant::now() + patience;
    let mut heard = Vec::new();
    let mut closed = false;
    while !closed && Instant::now() < deadline {
        let mut more = [0; ENOUGH];
        match stream.read(&mut more) {
            Ok(0) => closed = true,
            Ok(count) => heard.extend_from_slice(&more[..count]),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => (),
                ErrorKind::ConnectionReset
                | ErrorKind::ConnectionAborted
                | ErrorKind::BrokenPipe
                | ErrorKind::UnexpectedEof => closed = true,
                _ => return Err(error),
            },
        }
        if is_connack(&heard) {
            return Ok(if is_of_3_1_1(&heard) { Answer::Mqtt311 } else { Answer::Mqtt });
        }
        if heard.len() >= ENOUGH || heard.contains(&b'\n') {
            break;
        }
    }
    Ok(match (heard.is_empty(), closed) {
        (false, _) => Answer::Other(heard),
        (true, true) => Answer::Closed,
        (true, false) => Answer::Nothing,
    })
}

/// True for the type, the length and the flags of a CONNACK.
fn is_connack(bytes: &[u8]) -> bool {
    const LENGTH_BYTES: usize = 4;
    let Some((0x20, rest)) = bytes.split_first() else { return false };
    let length = rest.iter().take(LENGTH_BYTES).position(|byte| byte & 0x80 == 0);
    let flags = length.and_then(|last| rest.get(last + 1));
    rest.first().is_some_and(|&length| length >= 2) && flags.is_some_and(|&flags| flags <= 1)
}

/// True for a CONNACK without properties, or with a return code that MQTT 5 does not have.
fn is_of_3_1_1(connack: &[u8]) -> bool {
    matches!(connack, [_, 2, ..] | [_, 3..=0x7f, _, 1..=0x7f, ..])
}

/// The protocol of an answer that is not MQTT, if it is a well-known one, and the
/// beginning of the answer.
pub(super) fn describe(answer: &[u8]) -> (Option<&'static str>, String) {
    let line = answer.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let line = line.trim_ascii_end();
    let is_text = line.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t'));
    let Ok(text) = str::from_utf8(line) else { return (None, first_bytes(answer)) };
    let protocol = if text.starts_with("HTTP/") || text.to_ascii_lowercase().contains("html") {
        Some("HTTP")
    } else if text.starts_with("SSH-") {
        Some("SSH")
    } else if text.starts_with("AMQP") {
        Some("AMQP")
    } else {
        None
    };
    (protocol, if is_text { Quoted(text).to_string() } else { first_bytes(answer) })
}

fn first_bytes(answer: &[u8]) -> String {
    const SHOWN: usize = 8;
    let (shown, rest) = answer.split_at(answer.len().min(SHOWN));
    let more = if rest.is_empty() { "" } else { " …" };
    format!("the bytes {:#}{more}", Hex(shown))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// A peer that says these in turn, whatever it hears, and then falls silent or hangs
    /// up.
    struct Peer {
        says: VecDeque<&'static [u8]>,
        stays: bool,
        hears: Vec<u8>,
    }

    impl Read for Peer {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.says.pop_front() {
                Some(mut said) => said.read(buffer),
                None if self.stays => {
                    #[expect(
                        clippy::disallowed_methods,
                        reason = "a socket would block for as long"
                    )]
                    std::thread::sleep(Duration::from_millis(10));
                    Err(ErrorKind::WouldBlock.into())
                }
                None => Ok(0),
            }
        }
    }

    impl Write for Peer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.hears.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn asked(says: &[&'static [u8]], stays: bool) -> (Answer, Vec<u8>) {
        let says = says.iter().copied().collect();
        let mut peer = Peer { says, stays, hears: Vec::new() };
        let answer = ask(&mut peer, MqttVersion::V5).expect("no failure");
        (answer, peer.hears)
    }

    #[test]
    fn a_connack_whatever_it_says_is_mqtt_and_is_answered_with_a_disconnect() {
        for (says, expected) in [
            (&[&[0x20, 2, 0, 0][..]][..], Answer::Mqtt311),
            (&[&[0x20, 2, 0, 5]], Answer::Mqtt311),
            (&[&[0x20, 3, 0, 1, 0]], Answer::Mqtt311),
            (&[&[0x20, 3, 0, 0, 0]], Answer::Mqtt),
            (&[&[0x20], &[3, 0], &[0x87, 0]], Answer::Mqtt),
            (&[&[0x20, 0x80, 1, 0, 0x9d]], Answer::Mqtt),
        ] {
            let (answer, heard) = asked(says, true);
            assert_eq!(answer, expected, "{says:?}");
            assert_eq!(heard, [connect(MqttVersion::V5), &[0xe0, 0]].concat());
        }
    }

    #[test]
    fn what_is_not_mqtt_is_told_apart() {
        assert_eq!(asked(&[], false).0, Answer::Closed);
        assert_eq!(asked(&[], true).0, Answer::Nothing);
        for other in [&b" 220 ready\n"[..], b"\x20\x02\x07\x00\n", b"HTTP/1.1 400 No\r\n"] {
            assert_eq!(asked(&[other], false).0, Answer::Other(other.to_vec()));
        }
    }

    #[test]
    fn the_packet_names_no_client_no_user_and_its_own_length() {
        for (version, level) in [(MqttVersion::V311, 4), (MqttVersion::V5, 5)] {
            let packet = connect(version);
            assert_eq!(usize::from(packet[1]), packet.len() - 2);
            assert_eq!((packet[8], packet[9]), (level, 2), "nothing but a clean session");
            assert!(packet.ends_with(&[0, 0]), "an empty client identifier");
        }
    }

    #[test]
    fn an_answer_is_shown_bounded_and_named_if_it_is_known() {
        let long = [b'x'; 400];
        for (answer, protocol, shown) in [
            (
                &b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n"[..],
                Some("HTTP"),
                "\"HTTP/1.1 400 Bad Request\"",
            ),
            (b"<!DOCTYPE HTML>\n<html>", Some("HTTP"), "\"<!DOCTYPE HTML>\""),
            (b"SSH-2.0-OpenSSH_9.2\r\n", Some("SSH"), "\"SSH-2.0-OpenSSH_9.2\""),
            (b"AMQP\0\0\x09\x01", Some("AMQP"), "the bytes 41 4d 51 50 00 00 09 01"),
            (b"220 \"mail\"\r\n", None, "\"220 \\\"mail\\\"\""),
            (b"\x15\x03\x01\0\x02\x02\x16\0\0", None, "the bytes 15 03 01 00 02 02 16 00 …"),
            (b"\xff\xfe", None, "the bytes ff fe"),
            (&long, None, &format!("\"{}\"…", "x".repeat(100))),
        ] {
            assert_eq!(describe(answer), (protocol, shown.to_owned()));
        }
    }
}
