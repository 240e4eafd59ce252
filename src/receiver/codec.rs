//! Packets of MQTT 3.1, 3.1.1 and 5: from a client's bytes, and to the bytes of the answers.
//!
//! Hides from the session how the versions differ. Knows only what a client may send and what
//! a server without subscriptions answers. A packet is checked as a whole before anybody sees
//! it, and borrows from the bytes that it was read from: reading a message allocates nothing.
//!
//! Must never panic or read on, whatever the bytes are.

mod answer;
mod connect;
mod frame;
mod packet;
mod properties;
mod reader;
mod reason;
#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;

pub(super) use self::answer::{Accepted, Answers};
pub(super) use self::connect::{BadConnect, Connect, connect};
pub(super) use self::packet::{Delivery, Packet, Publish, packet};
pub(super) use self::reason::Reason;

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// MQTT 3.1, which calls itself `MQIsdp`.
    V31,
    /// MQTT 3.1.1.
    V311,
    /// MQTT 5.
    V5,
}

/// The reason why bytes are not a packet that a client may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    /// The first packet is another one.
    #[error("the first packet is not a CONNECT")]
    NoConnect,
    /// The CONNECT is of another protocol.
    #[error("the CONNECT is not one of MQTT: its protocol is neither MQTT nor MQIsdp")]
    Protocol,
    /// The CONNECT is of another version: its protocol level.
    #[error(
        "the CONNECT has protocol level {0}; this server speaks MQTT 3.1 (MQIsdp, level 3), \
         3.1.1 (MQTT, level 4) and 5 (MQTT, level 5)"
    )]
    Level(u8),
    /// The client id is empty where the session is to be kept.
    #[error("the client id is empty, which MQTT 3.1.1 allows only with clean session 1")]
    ClientId,
    /// A packet is too large.
    #[error("a packet has {size} bytes, and mqtt.embedded.max_packet allows {max}")]
    TooLarge {
        /// The size that the packet announces, in bytes.
        size: u32,
        /// The maximum size, in bytes.
        max: u32,
    },
    /// The first byte of a packet is not one that a client may send.
    #[error("a packet's type or flags do not exist")]
    Type,
    /// A text is not text.
    #[error("a text is not UTF-8, or has a U+0000")]
    Text,
    /// A message cannot be published to its topic.
    #[error("a topic is empty or has a wildcard")]
    Topic,
    /// A topic alias is 0.
    #[error("a topic alias is 0")]
    Alias,
    /// A field does not fit into its packet, or the packet has bytes after its last field.
    #[error("a packet's length does not fit what is in it")]
    Length,
    /// A field has a value that the standard does not know.
    #[error("a packet is malformed: {0}")]
    Field(&'static str),
    /// The packet can be read, but may not be sent.
    #[error("a packet breaks the protocol: {0}")]
    Forbidden(&'static str),
}

impl Malformed {
    /// The reason code that MQTT 5 has for it.
    pub(super) fn reason(self) -> Reason {
        match self {
            Self::NoConnect | Self::Forbidden(_) => Reason::Protocol,
            Self::Protocol | Self::Level(_) => Reason::UnsupportedVersion,
            Self::ClientId => Reason::ClientIdNotValid,
            Self::TooLarge { .. } => Reason::PacketTooLarge,
            Self::Topic => Reason::TopicNameInvalid,
            Self::Alias => Reason::TopicAliasInvalid,
            Self::Type | Self::Text | Self::Length | Self::Field(_) => Reason::Malformed,
        }
    }
}
