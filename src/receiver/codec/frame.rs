//! Finds the packets in a stream of bytes.

use super::Malformed;
use super::reader::variable;

/// A whole packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    /// The first byte: the type of the packet and its flags.
    pub(super) first: u8,
    /// The bytes after the header.
    pub(super) body: &'a [u8],
    /// The size of the packet with its header, in bytes.
    pub(super) size: usize,
}

/// The beginning of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The first byte: the type of the packet and its flags.
    pub(super) first: u8,
    /// The size of the header, in bytes: two to five.
    pub(super) length: usize,
    /// The size of the packet with its header, in bytes.
    pub(super) size: u32,
}

impl Header {
    /// Reads the header of the next packet. `None` if it is not complete.
    pub(super) fn read(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        let Some((&first, rest)) = bytes.split_first() else { return Ok(None) };
        let Some((body, digits)) = variable(rest)? else { return Ok(None) };
        let length = digits + 1;
        // The largest body is 2^28 - 1 bytes, so the sum fits.
        Ok(Some(Self { first, length, size: body + length as u32 }))
    }

    /// The packet that begins with this header. `None` if it is not complete.
    pub(super) fn frame(self, bytes: &[u8], max: u32) -> Result<Option<Frame<'_>>, Malformed> {
        if self.size > max {
            return Err(Malformed::TooLarge { size: self.size, max });
        }
        let size = self.size as usize;
        let frame = |body| Frame { first: self.first, body, size };
        Ok(bytes.get(self.length..size).map(frame))
    }
}

/// The next packet, of at most `max` bytes. `None` if it is not complete.
pub(super) fn next(bytes: &[u8], max: u32) -> Result<Option<Frame<'_>>, Malformed> {
    match Header::read(bytes)? {
        Some(header) => header.frame(bytes, max),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_complete_with_its_last_byte() {
        let bytes = [0x30, 3, 0, 1, b'a', 0xc0, 0];
        for end in 0..5 {
            assert_eq!(next(&bytes[..end], 100), Ok(None), "{end}");
        }
        let frame = Frame { first: 0x30, body: &[0, 1, b'a'], size: 5 };
        assert_eq!(next(&bytes, 100), Ok(Some(frame)));
        assert_eq!(next(&bytes[5..], 100), Ok(Some(Frame { first: 0xc0, body: &[], size: 2 })));
    }

    #[test]
    fn a_packet_that_is_too_large_is_refused_with_its_header() {
        assert_eq!(next(&[0x30, 98], 100), Ok(None));
        assert_eq!(next(&[0x30, 99], 100), Err(Malformed::TooLarge { size: 101, max: 100 }));
        let size = 268_435_460;
        let whole = next(&[0x30, 0xff, 0xff, 0xff, 0x7f], 16_384);
        assert_eq!(whole, Err(Malformed::TooLarge { size, max: 16_384 }));
    }
}
