//! Cursors: where a list goes on. Opaque to clients, and valid for ever.
//!
//! A cursor is base64url of a version, the order of the list, a hash of the filters, a checksum,
//! and the key of the last item. It holds nothing that the list did not show, and one that was
//! shortened is not taken for another place.

use super::problem::{Kind, Problem};
use crate::base64url;

const VERSION: u8 = 1;

/// The length of everything before the checksum, and before the key.
const HEAD: usize = 10;
const BEFORE_KEY: usize = HEAD + 4;

/// The order of a list. Its number never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Devices by their ids.
    DeviceId = 1,
    /// Transitions and outages by their sequence, the newest first.
    Newest = 2,
}

/// A list, of which a cursor is a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct List {
    order: Order,
    filters: u64,
}

impl List {
    /// A list with these filters, each with its name; their order does not matter.
    pub(super) fn new<'a>(
        path: &str,
        order: Order,
        filters: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        let mut filters: Vec<_> = filters.into_iter().collect();
        filters.sort_unstable();
        filters.dedup();
        let parts = filters.iter().flat_map(|(name, value)| [*name, *value]);
        Self { order, filters: fnv([path].into_iter().chain(parts)) }
    }

    /// The cursor after the item with this key.
    pub(super) fn after(&self, key: &[u8]) -> String {
        let mut bytes = vec![VERSION, self.order as u8];
        bytes.extend_from_slice(&self.filters.to_be_bytes());
        bytes.extend_from_slice(&checksum(&bytes, key));
        bytes.extend_from_slice(key);
        base64url::encode(&bytes)
    }

    /// The key in a cursor of this list.
    pub(super) fn key(&self, cursor: &str) -> Result<Vec<u8>, Problem> {
        let bytes = base64url::decode(cursor);
        let bytes = bytes.as_deref().and_then(|bytes| bytes.split_at_checked(BEFORE_KEY));
        let Some((before, key)) = bytes else { return Err(malformed()) };
        let (head, sum) = before.split_at(HEAD);
        if head[0] != VERSION || *sum != checksum(head, key) {
            return Err(malformed());
        }
        if head[1] != self.order as u8 || head[2..] != self.filters.to_be_bytes() {
            let detail = "the cursor belongs to a list with other filters: repeat the parameters \
                          of the first request, or leave the cursor out";
            return Err(Problem::new(Kind::CursorMismatch, detail).flaw("/query/cursor", detail));
        }
        Ok(key.to_owned())
    }
}

/// The problem with a cursor that was not made here.
pub(super) fn malformed() -> Problem {
    Problem::parameter("cursor", "a cursor is the `next` of an earlier answer, as it is")
}

/// A checksum against accidents, not against anybody.
fn checksum(head: &[u8], key: &[u8]) -> [u8; 4] {
    let hash = hash(head.iter().chain(key).copied());
    ((hash >> 32) as u32 ^ hash as u32).to_be_bytes()
}

fn fnv<'a>(parts: impl Iterator<Item = &'a str>) -> u64 {
    hash(parts.flat_map(|part| part.bytes().chain([0xff])))
}

/// A hash that is the same in every version and on every machine (FNV-1a, 64 bits).
fn hash(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(filters: &[(&str, &str)]) -> List {
        List::new("/devices", Order::DeviceId, filters.iter().copied())
    }

    #[test]
    fn a_cursor_fits_only_the_list_with_the_same_filters() {
        let online = list(&[("status", "online"), ("q", "pump")]);
        let cursor = online.after(b"pump-17");
        assert_eq!(online.key(&cursor).expect("its own"), b"pump-17");
        let same = list(&[("q", "pump"), ("status", "online"), ("q", "pump")]);
        assert_eq!(same.key(&cursor).expect("the order does not matter"), b"pump-17");
        for filters in [
            &[][..],
            &[("status", "online")],
            &[("status", "offline"), ("q", "pump")],
            &[("status", "onlineq"), ("", "pump")],
        ] {
            let problem = list(filters).key(&cursor).expect_err("other filters");
            assert_eq!(problem.kind, Kind::CursorMismatch);
        }
        let other = List::new("/devices", Order::Newest, []);
        assert_eq!(other.key(&list(&[]).after(b"")).expect_err("x").kind, Kind::CursorMismatch);
    }

    #[test]
    fn a_cursor_that_was_shortened_or_changed_is_none() {
        let list = list(&[]);
        let cursor = list.after("pump-17 in hall 3".as_bytes());
        for length in 0..cursor.len() {
            list.key(&cursor[..length]).expect_err("it is shortened");
            let other = if cursor.as_bytes()[length] == b'A' { "B" } else { "A" };
            let mut changed = cursor.clone();
            changed.replace_range(length..=length, other);
            assert!(list.key(&changed).is_err() || length + 1 == cursor.len(), "{changed}");
        }
    }

    #[test]
    fn a_cursor_is_the_same_in_every_version() {
        let cursor = list(&[("status", "online")]).after(b"pump-17");
        assert_eq!(cursor, "AQFEwC4CTrDP-7ZYgahwdW1wLTE3");
    }

    proptest! {
        #[test]
        fn any_key_comes_back(key: Vec<u8>) {
            let list = list(&[]);
            prop_assert_eq!(list.key(&list.after(&key)).expect("its own"), key);
        }

        #[test]
        fn no_text_panics(text: String) {
            let _ = list(&[]).key(&text);
        }
    }
}
