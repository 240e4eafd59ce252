//! Packet identifiers that are in use.

use std::num::NonZeroU16;

/// The number of identifiers from which a bit for each takes less room than a list.
const MANY: usize = 1024;

/// A set of packet identifiers: nothing while it is empty, 8 KiB at most.
#[derive(Debug, Default)]
pub(super) enum PacketIds {
    /// None.
    #[default]
    None,
    /// Not many.
    Few(Vec<NonZeroU16>),
    /// One bit for each identifier.
    Many(Box<[u64; 1024]>),
}

impl PacketIds {
    /// True if the identifier is in the set.
    pub(super) fn contains(&self, id: NonZeroU16) -> bool {
        match self {
            Self::None => false,
            Self::Few(ids) => ids.contains(&id),
            Self::Many(bits) => bits[word(id)] & bit(id) != 0,
        }
    }

    /// Adds an identifier that is not in the set.
    pub(super) fn insert(&mut self, id: NonZeroU16) {
        match self {
            Self::None => *self = Self::Few(vec![id]),
            Self::Few(ids) if ids.len() < MANY => ids.push(id),
            Self::Few(ids) => {
                let mut bits = Box::new([0; 1024]);
                for id in ids.drain(..).chain([id]) {
                    bits[word(id)] |= bit(id);
                }
                *self = Self::Many(bits);
            }
            Self::Many(bits) => bits[word(id)] |= bit(id),
        }
    }

    /// Removes an identifier. False if it was not in the set.
    pub(super) fn remove(&mut self, id: NonZeroU16) -> bool {
        match self {
            Self::None => false,
            Self::Few(ids) => {
                // Clients release in the order in which they sent.
                let found = ids.iter().position(|&known| known == id);
                found.map(|index| ids.remove(index)).is_some()
            }
            Self::Many(bits) => {
                let known = bits[word(id)] & bit(id) != 0;
                bits[word(id)] &= !bit(id);
                known
            }
        }
    }
}

fn word(id: NonZeroU16) -> usize {
    usize::from(id.get() / 64)
}

fn bit(id: NonZeroU16) -> u64 {
    1 << (id.get() % 64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_never_takes_more_than_a_bit_for_each_identifier() {
        let mut ids = PacketIds::default();
        let all = || (1..=u16::MAX).filter_map(NonZeroU16::new);
        all().for_each(|id| ids.insert(id));
        assert!(matches!(ids, PacketIds::Many(_)));
        assert!(all().all(|id| ids.contains(id)));
        assert!(all().all(|id| ids.remove(id)));
        assert!(!all().any(|id| ids.contains(id)));
    }

    proptest! {
        #[test]
        fn it_is_a_set(steps in prop::collection::vec((any::<bool>(), 1..2000_u16), 0..5000)) {
            let (mut ids, mut model) = (PacketIds::default(), BTreeSet::new());
            for (insert, id) in steps {
                let id = NonZeroU16::new(id).expect("not zero");
                prop_assert_eq!(ids.contains(id), model.contains(&id));
                if insert && model.insert(id) {
                    ids.insert(id);
                } else if !insert {
                    prop_assert_eq!(ids.remove(id), model.remove(&id));
                }
            }
        }
    }
}
