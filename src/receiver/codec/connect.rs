//! The CONNECT, with which a client asks to get in.

use std::fmt;
use std::ops::Deref;

use super::frame::Header;
use super::properties::{self, Allowed, Value};
use super::reader::Reader;
use super::{Malformed, Version};

/// The first byte of a CONNECT.
const CONNECT: u8 = 0x10;

/// The name of MQTT 3.1.1 and 5, with its length before it.
const MQTT: &[u8] = b"\0\x04MQTT";

/// The name of MQTT 3.1, with its length before it.
const MQISDP: &[u8] = b"\0\x06MQIsdp";

/// A request for a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::receiver) struct Connect {
    /// The version in which the client speaks from here on.
    pub(in crate::receiver) version: Version,
    /// Empty if the server is to choose one.
    pub(in crate::receiver) client_id: String,
    /// The name of the user, if one logs in.
    pub(in crate::receiver) user: Option<String>,
    /// The password, if there is one.
    pub(in crate::receiver) password: Option<Password>,
    /// The longest time between two packets, in seconds; 0: no limit.
    pub(in crate::receiver) keep_alive: u16,
    /// True if the session is to be kept when the connection ends.
    pub(in crate::receiver) keeps_session: bool,
    /// True if an authentication method is asked for.
    pub(in crate::receiver) has_method: bool,
    /// True if a reason may be given in words.
    pub(in crate::receiver) wants_reasons: bool,
    /// The largest packet that the client takes, in bytes.
    pub(in crate::receiver) max_packet: u32,
}

/// A password, which is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::receiver) struct Password(Box<[u8]>);

impl Deref for Password {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The reason why a CONNECT cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::receiver) struct BadConnect {
    /// The version, as far as it could be read.
    pub(in crate::receiver) version: Option<Version>,
    /// The mistake in it.
    pub(in crate::receiver) why: Malformed,
}

/// Reads the CONNECT at the beginning of a connection, and its size in bytes. `None` if it is
/// not complete. It is decided as early as possible: a client of another protocol may wait for
/// an answer to what it has sent.
pub(in crate::receiver) fn connect(
    bytes: &[u8],
    max_packet: u32,
) -> Result<Option<(Connect, usize)>, BadConnect> {
    let unknown = |why| BadConnect { version: None, why };
    match bytes.first() {
        None => return Ok(None),
        Some(&CONNECT) => (),
        Some(_) => return Err(unknown(Malformed::NoConnect)),
    }
    let Some(header) = Header::read(bytes).map_err(unknown)? else { return Ok(None) };
    let Some(version) = version(bytes, header).map_err(unknown)? else { return Ok(None) };
    let bad = |why| BadConnect { version: Some(version), why };
    match header.frame(bytes, max_packet).map_err(bad)? {
        Some(frame) => {
            let connect = read(version, Reader::new(frame.body)).map_err(bad)?;
            Ok(Some((connect, frame.size)))
        }
        None => Ok(None),
    }
}

/// The version that a CONNECT asks for. `None` if too little has arrived to say.
fn version(bytes: &[u8], header: Header) -> Result<Option<Version>, Malformed> {
    let end = bytes.len().min(header.size as usize);
    let begin = bytes.get(header.length..end).unwrap_or_default();
    if let Some([level, ..]) = begin.strip_prefix(MQTT) {
        return match level {
            4 => Ok(Some(Version::V311)),
            5 => Ok(Some(Version::V5)),
            _ => Err(Malformed::Level(*level)),
        };
    }
    if let Some([level, ..]) = begin.strip_prefix(MQISDP) {
        return if *level == 3 { Ok(Some(Version::V31)) } else { Err(Malformed::Level(*level)) };
    }
    if !MQTT.starts_with(begin) && !MQISDP.starts_with(begin) {
        return Err(Malformed::Protocol);
    }
    if bytes.len() >= header.size as usize { Err(Malformed::Length) } else { Ok(None) }
}

/// The flags of a CONNECT.
#[derive(Clone, Copy)]
struct Flags(u8);

impl Flags {
    const CLEAN: u8 = 1 << 1;
    const WILL: u8 = 1 << 2;
    const WILL_QOS: u8 = 0b11 << 3;
    const WILL_RETAIN: u8 = 1 << 5;
    const PASSWORD: u8 = 1 << 6;
    const USER: u8 = 1 << 7;

    /// Reads the flags, which must not contradict each other.
    fn read(reader: &mut Reader<'_>, version: Version) -> Result<Self, Malformed> {
        let flags = Self(reader.byte()?);
        if flags.0 & 1 != 0 {
            return Err(Malformed::Field("the reserved flag of the CONNECT is set"));
        }
        if !flags.has(Self::WILL) && flags.0 & (Self::WILL_QOS | Self::WILL_RETAIN) != 0 {
            return Err(Malformed::Field("the CONNECT has flags of a will, but no will"));
        }
        if flags.has(Self::WILL_QOS) {
            return Err(Malformed::Field("the will has quality of service 3"));
        }
        if version == Version::V311 && flags.has(Self::PASSWORD) && !flags.has(Self::USER) {
            return Err(Malformed::Field("the CONNECT has a password, but no user name"));
        }
        Ok(flags)
    }

    /// True if all of these bits are set.
    fn has(self, bits: u8) -> bool {
        self.0 & bits == bits
    }
}

/// Reads a whole CONNECT of this version.
fn read(version: Version, mut reader: Reader<'_>) -> Result<Connect, Malformed> {
    let name_and_level = if version == Version::V31 { MQISDP.len() + 1 } else { MQTT.len() + 1 };
    reader.take(name_and_level)?;
    let flags = Flags::read(&mut reader, version)?;
    let keep_alive = reader.short()?;
    let asked = match version {
        Version::V31 | Version::V311 => Asked::default(),
        Version::V5 => Asked::read(&mut reader)?,
    };
    let client_id = reader.text()?.to_owned();
    if version == Version::V311 && client_id.is_empty() && !flags.has(Flags::CLEAN) {
        return Err(Malformed::ClientId);
    }
    if flags.has(Flags::WILL) {
        skip_will(&mut reader, version)?;
    }
    // In 3.1, a flag may announce a field that is not there.
    let ends = |reader: &Reader<'_>| version == Version::V31 && reader.is_empty();
    let has_user = flags.has(Flags::USER) && !ends(&reader);
    let user = if has_user { Some(reader.text()?.to_owned()) } else { None };
    let has_password = flags.has(Flags::PASSWORD) && !ends(&reader);
    let password = if has_password { Some(Password(reader.bytes()?.into())) } else { None };
    reader.end()?;
    Ok(Connect {
        version,
        client_id,
        user,
        password,
        keep_alive,
        keeps_session: match version {
            Version::V31 | Version::V311 => !flags.has(Flags::CLEAN),
            Version::V5 => asked.session_expiry > 0,
        },
        has_method: asked.has_method,
        wants_reasons: asked.wants_reasons,
        max_packet: asked.max_packet,
    })
}

/// The properties of a CONNECT, as far as anything depends on them.
struct Asked {
    session_expiry: u32,
    has_method: bool,
    wants_reasons: bool,
    max_packet: u32,
}

impl Default for Asked {
    fn default() -> Self {
        Self { session_expiry: 0, has_method: false, wants_reasons: true, max_packet: u32::MAX }
    }
}

impl Asked {
    const ALLOWED: Allowed = Allowed::of(&[
        properties::SESSION_EXPIRY,
        properties::RECEIVE_MAXIMUM,
        properties::MAXIMUM_PACKET_SIZE,
        properties::TOPIC_ALIAS_MAXIMUM,
        properties::REQUEST_RESPONSE,
        properties::REQUEST_PROBLEMS,
        properties::USER,
        properties::AUTHENTICATION_METHOD,
        properties::AUTHENTICATION_DATA,
    ]);

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut asked = Self::default();
        let mut has_data = false;
        properties::each(reader, Self::ALLOWED, |number, value| {
            match (number, value) {
                (properties::SESSION_EXPIRY, Value::Long(seconds)) => {
                    asked.session_expiry = seconds;
                }
                (properties::MAXIMUM_PACKET_SIZE, Value::Long(0)) => {
                    return Err(Malformed::Forbidden("the maximum packet size is 0"));
                }
                (properties::MAXIMUM_PACKET_SIZE, Value::Long(bytes)) => asked.max_packet = bytes,
                (properties::RECEIVE_MAXIMUM, Value::Short(0)) => {
                    return Err(Malformed::Forbidden("the receive maximum is 0"));
                }
                (properties::REQUEST_PROBLEMS, Value::Flag(wanted)) => {
                    asked.wants_reasons = wanted;
                }
                (properties::AUTHENTICATION_METHOD, _) => asked.has_method = true,
                (properties::AUTHENTICATION_DATA, _) => has_data = true,
                _ => (),
            }
            Ok(())
        })?;
        if has_data && !asked.has_method {
            return Err(Malformed::Forbidden("there is authentication data without a method"));
        }
        Ok(asked)
    }
}

/// Reads a will, which must be one, and which nobody will ever publish.
fn skip_will(reader: &mut Reader<'_>, version: Version) -> Result<(), Malformed> {
    const ALLOWED: Allowed = Allowed::of(&[
        properties::WILL_DELAY,
        properties::PAYLOAD_FORMAT,
        properties::MESSAGE_EXPIRY,
        properties::CONTENT_TYPE,
        properties::RESPONSE_TOPIC,
        properties::CORRELATION_DATA,
        properties::USER,
    ]);
    if version == Version::V5 {
        properties::skip(reader, ALLOWED)?;
    }
    let topic = reader.topic()?;
    if topic.is_empty() {
        return Err(Malformed::Topic);
    }
    reader.bytes()?;
    Ok(())
}
