//! The answers of a server, as the bytes of each version.

use std::num::NonZeroU16;

use bytes::{BufMut, BytesMut};

use super::{Connect, Reason, Version, properties};

/// The first bytes of answers.
const CONNACK: u8 = 0x20;
const PUBACK: u8 = 0x40;
const PUBREC: u8 = 0x50;
const PUBCOMP: u8 = 0x70;
const SUBACK: u8 = 0x90;
const UNSUBACK: u8 = 0xb0;
const PINGRESP: u8 = 0xd0;
const DISCONNECT: u8 = 0xe0;

/// The number of bytes in waiting answers from which reasons are no longer given in words. A
/// client that sends nothing but nonsense would get a hundred times as much back.
const MAX_WORDY: usize = 1024;

/// The terms on which a client is accepted, as its CONNACK tells them.
#[derive(Clone, Debug, Default)]
pub(in crate::receiver) struct Accepted {
    /// The client id, if the server chose it.
    pub(in crate::receiver) assigned_id: Option<String>,
    /// The keep-alive in seconds that holds instead of the client's.
    pub(in crate::receiver) keep_alive: Option<u16>,
    /// True if the client asked for a session that outlives its connection, which none does.
    pub(in crate::receiver) session_ends: bool,
    /// The largest packet that this server takes, in bytes.
    pub(in crate::receiver) max_packet: u32,
    /// The number of topic aliases that a client may use.
    pub(in crate::receiver) max_aliases: u16,
}

/// Answers to one client, as bytes to be sent.
#[derive(Debug)]
pub(in crate::receiver) struct Answers {
    version: Version,
    /// True if the client takes reasons in words.
    words: bool,
    /// The largest packet that the client takes, in bytes.
    max_packet: u32,
    bytes: BytesMut,
}

impl Answers {
    /// No answers yet, to a client of this version.
    pub(in crate::receiver) fn new(version: Version) -> Self {
        Self { version, words: true, max_packet: u32::MAX, bytes: BytesMut::new() }
    }

    /// No answers yet, to the client whose CONNECT this is.
    pub(in crate::receiver) fn to(connect: &Connect) -> Self {
        let Connect { version, wants_reasons: words, max_packet, .. } = *connect;
        Self { words, max_packet, ..Self::new(version) }
    }

    /// The version of the client.
    pub(in crate::receiver) fn version(&self) -> Version {
        self.version
    }

    /// The bytes so far, which are not given a second time.
    pub(in crate::receiver) fn take(&mut self) -> BytesMut {
        std::mem::take(&mut self.bytes)
    }

    /// Accepts a connection. There is never a session from before.
    ///
    /// A capability that is not mentioned is there, and so are all: QoS 2, because what arrives
    /// twice on a connection counts once. Retained messages, because a device that sends one,
    /// or has such a will, must get in; there is nobody to whom one would be sent later.
    /// Wildcards, subscription identifiers and shared subscriptions, because the standard wants
    /// a client that uses what is not available to be thrown out. A device that asks for
    /// commands must not lose its heartbeats: each of its subscriptions is refused by the
    /// SUBACK, as the standard allows.
    pub(in crate::receiver) fn accept(&mut self, accepted: Accepted) {
        if self.version != Version::V5 {
            return self.bytes.put_slice(&[CONNACK, 2, 0, 0]);
        }
        let mut properties = Vec::new();
        if accepted.session_ends {
            properties.put_u8(properties::SESSION_EXPIRY);
            properties.put_u32(0);
        }
        properties.put_u8(properties::MAXIMUM_PACKET_SIZE);
        properties.put_u32(accepted.max_packet);
        if let Some(id) = accepted.assigned_id {
            put_text(&mut properties, properties::ASSIGNED_CLIENT_ID, &id);
        }
        properties.put_u8(properties::TOPIC_ALIAS_MAXIMUM);
        properties.put_u16(accepted.max_aliases);
        if let Some(seconds) = accepted.keep_alive {
            properties.put_u8(properties::SERVER_KEEP_ALIVE);
            properties.put_u16(seconds);
        }
        self.put(CONNACK, &[0, 0], &properties, &[]);
    }

    /// Refuses a connection.
    pub(in crate::receiver) fn refuse(&mut self, reason: Reason, why: &str) {
        match self.version {
            Version::V31 | Version::V311 => {
                self.bytes.put_slice(&[CONNACK, 2, 0, reason.in_old_connack()]);
            }
            Version::V5 => self.put_with_words(CONNACK, &[0, reason.in_connack()], why, &[]),
        }
    }

    /// Acknowledges a message at QoS 1.
    pub(in crate::receiver) fn acknowledge(&mut self, id: NonZeroU16) {
        self.put_id(PUBACK, id);
    }

    /// Acknowledges the first half of a message at QoS 2.
    pub(in crate::receiver) fn receive(&mut self, id: NonZeroU16) {
        self.put_id(PUBREC, id);
    }

    /// Acknowledges the second half of a message at QoS 2. `known` is false if its first half
    /// did not arrive on this connection.
    pub(in crate::receiver) fn complete(&mut self, id: NonZeroU16, known: bool) {
        const NOT_FOUND: u8 = 0x92;
        if known || self.version != Version::V5 {
            return self.put_id(PUBCOMP, id);
        }
        let [high, low] = id.get().to_be_bytes();
        self.put_whole(&[PUBCOMP, 3, high, low, NOT_FOUND]);
    }

    /// Answers a message at QoS 1 that does not count. Before MQTT 5 there is only the
    /// acknowledgement.
    pub(in crate::receiver) fn reject(&mut self, id: NonZeroU16, reason: Reason, why: &str) {
        self.put_rejection(PUBACK, id, reason, why);
    }

    /// Answers the first half of a message at QoS 2 that does not count. In MQTT 5 there is no
    /// second half then.
    pub(in crate::receiver) fn reject_half(&mut self, id: NonZeroU16, reason: Reason, why: &str) {
        self.put_rejection(PUBREC, id, reason, why);
    }

    /// Grants subscriptions, each with the quality of service that was asked for.
    pub(in crate::receiver) fn grant(&mut self, id: NonZeroU16, asked: &[u8]) {
        self.put(SUBACK, &id.get().to_be_bytes(), &[], asked);
    }

    /// Refuses subscriptions, one for each that is `asked`. MQTT 3.1 has no answer for that: it wants a server to
    /// grant what it will never do.
    pub(in crate::receiver) fn refuse_subscriptions(
        &mut self,
        id: NonZeroU16,
        asked: &[u8],
        why: &str,
    ) {
        const FAILURE: u8 = 0x80;
        let code = match self.version {
            Version::V31 => return self.grant(id, asked),
            Version::V311 => FAILURE,
            Version::V5 => Reason::NotAuthorized as u8,
        };
        let codes = vec![code; asked.len()];
        self.put_with_words(SUBACK, &id.get().to_be_bytes(), why, &codes);
    }

    /// Answers an UNSUBSCRIBE: there was no subscription.
    pub(in crate::receiver) fn unsubscribed(&mut self, id: NonZeroU16, filters: usize) {
        const NO_SUBSCRIPTION_EXISTED: u8 = 0x11;
        match self.version {
            Version::V31 | Version::V311 => self.put_id(UNSUBACK, id),
            Version::V5 => {
                let codes = vec![NO_SUBSCRIPTION_EXISTED; filters];
                self.put(UNSUBACK, &id.get().to_be_bytes(), &[], &codes);
            }
        }
    }

    /// Answers a PINGREQ.
    pub(in crate::receiver) fn pong(&mut self) {
        self.put_whole(&[PINGRESP, 0]);
    }

    /// Says why the connection ends, which only MQTT 5 allows.
    pub(in crate::receiver) fn disconnect(&mut self, reason: Reason, why: &str) {
        if self.version == Version::V5 {
            self.put_with_words(DISCONNECT, &[reason.in_disconnect()], why, &[]);
        }
    }

    /// Writes a PUBACK or PUBREC with a reason code. The properties may be left out as a whole.
    fn put_rejection(&mut self, first: u8, id: NonZeroU16, reason: Reason, why: &str) {
        if self.version != Version::V5 {
            return self.put_id(first, id);
        }
        let [high, low] = id.get().to_be_bytes();
        let fields = [high, low, reason.in_acknowledgement()];
        let words = self.words(why);
        let whole = self.packet(first, &fields, &words, &[]);
        if words.is_empty() || !self.fits(&whole) {
            self.put_whole(&[&[first, 3][..], &fields].concat());
        } else {
            self.put_whole(&whole);
        }
    }

    /// Writes a packet that has only an identifier.
    fn put_id(&mut self, first: u8, id: NonZeroU16) {
        let [high, low] = id.get().to_be_bytes();
        self.put_whole(&[first, 2, high, low]);
    }

    /// Writes a packet with a reason in words, which are left out if it is too large for the
    /// client with them.
    fn put_with_words(&mut self, first: u8, fields: &[u8], why: &str, payload: &[u8]) {
        let whole = self.packet(first, fields, &self.words(why), payload);
        if self.fits(&whole) {
            self.bytes.put_slice(&whole);
        } else {
            self.put(first, fields, &[], payload);
        }
    }

    /// Writes a packet, unless it is too large for the client. The standard wants such an answer
    /// to be left out, as if it had been sent.
    fn put(&mut self, first: u8, fields: &[u8], properties: &[u8], payload: &[u8]) {
        let packet = self.packet(first, fields, properties, payload);
        self.put_whole(&packet);
    }

    /// A packet. Only those of MQTT 5 have properties.
    fn packet(&self, first: u8, fields: &[u8], properties: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut body = fields.to_vec();
        if self.version == Version::V5 {
            put_length(&mut body, properties.len());
            body.put_slice(properties);
        }
        body.put_slice(payload);
        let mut packet = vec![first];
        put_length(&mut packet, body.len());
        packet.put_slice(&body);
        packet
    }

    /// Writes a packet, unless it is too large for the client.
    fn put_whole(&mut self, packet: &[u8]) {
        if self.fits(packet) {
            self.bytes.put_slice(packet);
        }
    }

    /// True if the client takes a packet of this size.
    fn fits(&self, packet: &[u8]) -> bool {
        packet.len() <= self.max_packet as usize
    }

    /// The property with a reason in words, or nothing. Its beginning is enough for the client.
    fn words(&self, why: &str) -> Vec<u8> {
        const MAX_CHARS: usize = 96;
        let mut property = Vec::new();
        if self.words && self.bytes.len() < MAX_WORDY {
            let end = why.char_indices().nth(MAX_CHARS).map_or(why.len(), |(end, _)| end);
            put_text(&mut property, properties::REASON_STRING, &why[..end]);
        }
        property
    }
}

/// Writes a property that is a text.
fn put_text(bytes: &mut Vec<u8>, property: u8, text: &str) {
    // Client ids that this server chooses and reasons are far shorter.
    if let Ok(length) = u16::try_from(text.len()) {
        bytes.put_u8(property);
        bytes.put_u16(length);
        bytes.put_slice(text.as_bytes());
    }
}

/// Writes a length in one to four bytes.
fn put_length(bytes: &mut Vec<u8>, mut length: usize) {
    loop {
        let more = if length > 0x7f { 0x80 } else { 0 };
        bytes.put_u8((length & 0x7f) as u8 | more);
        length >>= 7;
        if length == 0 {
            return;
        }
    }
}
