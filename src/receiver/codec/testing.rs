//! The packets of clients, for tests: as bytes, so that they can also be wrong.

use super::Version;

/// All versions.
pub(in crate::receiver) const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

/// The versions without properties.
pub(in crate::receiver) const OLD: [Version; 2] = [Version::V31, Version::V311];

/// A packet: its first byte, the length of the rest, and the rest.
pub(in crate::receiver) fn packet(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    [&[first][..], &length(body.len()), &body].concat()
}

/// A length in one to four bytes.
pub(in crate::receiver) fn length(mut length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let more = if length > 0x7f { 0x80 } else { 0 };
        bytes.push((length & 0x7f) as u8 | more);
        length >>= 7;
        if length == 0 {
            return bytes;
        }
    }
}

/// A text with its length before it.
pub(in crate::receiver) fn text(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    let length = u16::try_from(text.len()).expect("MQTT allows 65,535 bytes");
    [&length.to_be_bytes(), text].concat()
}

/// Properties with their length before them; nothing before MQTT 5.
pub(in crate::receiver) fn properties(version: Version, properties: &[u8]) -> Vec<u8> {
    if version == Version::V5 {
        [&length(properties.len()), properties].concat()
    } else {
        Vec::new()
    }
}

/// A CONNECT that can be changed.
#[derive(Clone, Debug)]
pub(in crate::receiver) struct ConnectPacket {
    pub(in crate::receiver) version: Version,
    pub(in crate::receiver) name: Vec<u8>,
    pub(in crate::receiver) level: u8,
    pub(in crate::receiver) flags: u8,
    pub(in crate::receiver) keep_alive: u16,
    pub(in crate::receiver) properties: Vec<u8>,
    /// The fields after the properties.
    pub(in crate::receiver) payload: Vec<u8>,
}

/// A CONNECT of the client `id` with a new session and a keep-alive of a minute.
pub(in crate::receiver) fn connect(version: Version, id: &str) -> ConnectPacket {
    let (name, level) = match version {
        Version::V31 => ("MQIsdp", 3),
        Version::V311 => ("MQTT", 4),
        Version::V5 => ("MQTT", 5),
    };
    ConnectPacket {
        version,
        name: text(name),
        level,
        flags: 0b10,
        keep_alive: 60,
        properties: Vec::new(),
        payload: text(id),
    }
}

impl ConnectPacket {
    /// Sets these flags.
    pub(in crate::receiver) fn flags(self, flags: u8) -> Self {
        Self { flags, ..self }
    }

    /// Adds these properties.
    pub(in crate::receiver) fn properties(self, properties: &[u8]) -> Self {
        Self { properties: [&self.properties, properties].concat(), ..self }
    }

    /// Sets these flags too, and adds fields.
    pub(in crate::receiver) fn and(self, flags: u8, fields: &[Vec<u8>]) -> Self {
        let payload = [self.payload, fields.concat()].concat();
        Self { flags: self.flags | flags, payload, ..self }
    }

    /// Adds a will at QoS 1 that is to be retained.
    pub(in crate::receiver) fn will(self, topic: &str, message: &str) -> Self {
        let properties = properties(self.version, &[]);
        self.and(0b10_1100, &[properties, text(topic), text(message)])
    }

    /// Adds a user name and a password.
    pub(in crate::receiver) fn user(self, name: &str, password: &str) -> Self {
        self.and(0b1100_0000, &[text(name), text(password)])
    }

    /// The bytes.
    pub(in crate::receiver) fn bytes(&self) -> Vec<u8> {
        let properties = properties(self.version, &self.properties);
        let [high, low] = self.keep_alive.to_be_bytes();
        let fields = [self.level, self.flags, high, low];
        packet(0x10, &[&self.name, &fields, &properties, &self.payload])
    }
}

/// A message. `id` is left out at QoS 0.
pub(in crate::receiver) fn publish(
    version: Version,
    qos: u8,
    id: u16,
    topic: &str,
    payload: &str,
) -> Vec<u8> {
    publish_with(version, qos, id, topic, &[], payload)
}

/// A message with properties.
pub(in crate::receiver) fn publish_with(
    version: Version,
    qos: u8,
    id: u16,
    topic: &str,
    of_it: &[u8],
    payload: &str,
) -> Vec<u8> {
    let id = if qos > 0 { id.to_be_bytes().to_vec() } else { Vec::new() };
    let properties = properties(version, of_it);
    packet(0x30 | qos << 1, &[&text(topic), &id, &properties, payload.as_bytes()])
}

/// The second half of a message at QoS 2.
pub(in crate::receiver) fn release(id: u16) -> Vec<u8> {
    packet(0x62, &[&id.to_be_bytes()])
}

/// A request for messages.
pub(in crate::receiver) fn subscribe(version: Version, id: u16, filters: &[(&str, u8)]) -> Vec<u8> {
    let filters: Vec<_> = filters.iter().flat_map(|(f, qos)| [text(f), vec![*qos]]).collect();
    packet(0x82, &[&id.to_be_bytes(), &properties(version, &[]), &filters.concat()])
}

/// The end of subscriptions.
pub(in crate::receiver) fn unsubscribe(version: Version, id: u16, filters: &[&str]) -> Vec<u8> {
    let filters: Vec<_> = filters.iter().map(text).collect();
    packet(0xa2, &[&id.to_be_bytes(), &properties(version, &[]), &filters.concat()])
}

/// A sign of life of the connection.
pub(in crate::receiver) const PING: [u8; 2] = [0xc0, 0];

/// The end of the connection.
pub(in crate::receiver) const DISCONNECT: [u8; 2] = [0xe0, 0];
