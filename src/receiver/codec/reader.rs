//! Reads the fields of a packet.

use std::num::NonZeroU16;

use super::Malformed;

/// The bytes of a packet that have not been read yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads these bytes from their beginning.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// True if everything was read.
    pub(super) fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// All that has not been read.
    pub(super) fn rest(self) -> &'a [u8] {
        self.0
    }

    /// Ends the packet, which must have no more fields.
    pub(super) fn end(self) -> Result<(), Malformed> {
        if self.is_empty() { Ok(()) } else { Err(Malformed::Length) }
    }

    /// Reads a number of bytes.
    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed::Length)?;
        self.0 = rest;
        Ok(taken)
    }

    /// Reads a byte.
    pub(super) fn byte(&mut self) -> Result<u8, Malformed> {
        let (&byte, rest) = self.0.split_first().ok_or(Malformed::Length)?;
        self.0 = rest;
        Ok(byte)
    }

    /// Reads a number of two bytes.
    pub(super) fn short(&mut self) -> Result<u16, Malformed> {
        let (&bytes, rest) = self.0.split_first_chunk().ok_or(Malformed::Length)?;
        self.0 = rest;
        Ok(u16::from_be_bytes(bytes))
    }

    /// Reads a number of four bytes.
    pub(super) fn long(&mut self) -> Result<u32, Malformed> {
        let (&bytes, rest) = self.0.split_first_chunk().ok_or(Malformed::Length)?;
        self.0 = rest;
        Ok(u32::from_be_bytes(bytes))
    }

    /// Reads a number of one to four bytes, each with seven bits of it.
    pub(super) fn variable(&mut self) -> Result<u32, Malformed> {
        match variable(self.0)? {
            Some((number, length)) => {
                self.take(length)?;
                Ok(number)
            }
            None => Err(Malformed::Length),
        }
    }

    /// Reads a packet identifier.
    pub(super) fn packet_id(&mut self) -> Result<NonZeroU16, Malformed> {
        NonZeroU16::new(self.short()?).ok_or(Malformed::Forbidden("a packet identifier is 0"))
    }

    /// Reads bytes with their length before them.
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.short()?;
        self.take(length.into())
    }

    /// Reads a text.
    pub(super) fn text(&mut self) -> Result<&'a str, Malformed> {
        let bytes = self.bytes()?;
        // UTF-8 without surrogates, which the standard forbids, and so does Rust.
        let text = str::from_utf8(bytes).map_err(|_| Malformed::Text)?;
        if bytes.contains(&0) { Err(Malformed::Text) } else { Ok(text) }
    }

    /// Reads a topic to publish to. It may be empty, where an alias stands for it.
    pub(super) fn topic(&mut self) -> Result<&'a str, Malformed> {
        let topic = self.text()?;
        let has_wildcard = topic.bytes().any(|byte| matches!(byte, b'+' | b'#'));
        if has_wildcard { Err(Malformed::Topic) } else { Ok(topic) }
    }

    /// Reads a filter of topics.
    pub(super) fn filter(&mut self) -> Result<&'a str, Malformed> {
        let filter = self.text()?;
        if filter.is_empty() {
            Err(Malformed::Field("a topic filter is empty"))
        } else {
            Ok(filter)
        }
    }
}

/// The number of one to four bytes at the beginning, and how many they are. `None` if more
/// bytes are needed.
pub(super) fn variable(bytes: &[u8]) -> Result<Option<(u32, usize)>, Malformed> {
    const MAX_BYTES: usize = 4;
    let mut number = 0;
    for (index, &byte) in bytes.iter().take(MAX_BYTES).enumerate() {
        number |= u32::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((number, index + 1)));
        }
    }
    if bytes.len() < MAX_BYTES {
        return Ok(None);
    }
    Err(Malformed::Field("a length has more than four bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_has_one_to_four_bytes_of_seven_bits() {
        for (bytes, number) in [
            (&[0][..], 0),
            (&[0x7f], 127),
            (&[0x80, 1], 128),
            (&[0xff, 0x7f], 16_383),
            (&[0x80, 0x80, 1], 16_384),
            (&[0xff, 0xff, 0xff, 0x7f], 268_435_455),
        ] {
            assert_eq!(variable(bytes), Ok(Some((number, bytes.len()))), "{bytes:x?}");
            let incomplete = &bytes[..bytes.len() - 1];
            assert_eq!(variable(incomplete), Ok(None), "{incomplete:x?}");
        }
        assert!(variable(&[0xff, 0xff, 0xff, 0xff, 0x7f]).is_err());
        assert!(variable(&[0x80, 0x80, 0x80, 0x80]).is_err(), "it is decided without a fifth");
    }

    #[test]
    fn a_text_is_utf_8_without_surrogates_and_without_u_0000() {
        let read = |text: &[u8]| {
            let length = u16::try_from(text.len()).expect("short").to_be_bytes();
            let bytes = [&length, text].concat();
            Reader::new(&bytes).text().map(str::to_owned)
        };
        assert_eq!(read("Köln".as_bytes()), Ok("Köln".to_owned()));
        assert_eq!(read("\u{feff}a".as_bytes()), Ok("\u{feff}a".to_owned()), "it is not stripped");
        assert_eq!(read(b""), Ok(String::new()));
        for broken in [&b"a\0b"[..], b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80"] {
            assert_eq!(read(broken), Err(Malformed::Text), "{broken:x?}");
        }
    }

    #[test]
    fn a_field_that_exceeds_the_packet_is_refused() {
        let mut short = Reader::new(&[0, 5, b'a']);
        assert_eq!(short.text(), Err(Malformed::Length));
        assert_eq!(Reader::new(&[]).byte(), Err(Malformed::Length));
        assert_eq!(Reader::new(&[1]).short(), Err(Malformed::Length));
        assert_eq!(Reader::new(&[1, 2, 3]).long(), Err(Malformed::Length));
        assert_eq!(Reader::new(&[0x80]).variable(), Err(Malformed::Length));
        assert_eq!(Reader::new(&[1]).end(), Err(Malformed::Length));
    }
}
