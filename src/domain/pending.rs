//! The write-behind buffer: the newest heartbeat of each device, until it is in the
//! database. Its size is bounded by the fleet, not by the length of a database outage.

use std::hash::BuildHasher;

use chrono::{DateTime, Utc};

use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashTable};

use super::{Heartbeat, Rejection};

/// One heartbeat per device in a vector, and an index with four bytes for each.
#[derive(Debug, Default)]
pub struct Pending {
    heartbeats: Vec<Heartbeat>,
    /// The position of each device's heartbeat.
    index: HashTable<u32>,
    /// Seeded at random, because devices choose their ids.
    hasher: DefaultHashBuilder,
    capacity: usize,
    /// Heartbeats that could not be written: older than the others, sorted by device id.
    unwritten: Vec<Heartbeat>,
    /// An empty vector that keeps its capacity. The two swap at each flush: allocating
    /// megabytes every second on short-lived threads would fragment the heap.
    spare: Vec<Heartbeat>,
}

/// The content of the buffer, taken out by [`Pending::take`].
#[derive(Debug, Default)]
pub struct Batch {
    /// Heartbeats that could not be written before, sorted by device id.
    unwritten: Vec<Heartbeat>,
    /// Heartbeats that have arrived since, in no order.
    arrived: Vec<Heartbeat>,
}

impl Pending {
    /// Sets how many devices may have a waiting heartbeat that arrived since the last
    /// [`take`](Self::take): none before it is set, and four billion at most.
    pub fn set_capacity(&mut self, devices: u64) {
        self.capacity = u32::try_from(devices).unwrap_or(u32::MAX) as usize;
    }

    /// The number of waiting heartbeats: one per device, or two if one could not be written.
    pub fn len(&self) -> usize {
        self.unwritten.len() + self.heartbeats.len()
    }

    /// The number of heartbeats, one per device, that could not be written.
    pub fn unwritten(&self) -> usize {
        self.unwritten.len()
    }

    /// The number of heartbeats, one per device, that arrived since the last
    /// [`take`](Self::take).
    pub fn arrived(&self) -> usize {
        self.heartbeats.len()
    }

    /// True if no heartbeat waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a heartbeat that is later than all before it.
    ///
    /// # Errors
    ///
    /// [`Rejection::NoRoom`] if heartbeats of other devices take up the whole capacity.
    #[inline]
    pub fn merge(&mut self, later: Heartbeat) -> Result<(), Rejection> {
        let Self { heartbeats, index, hasher, capacity, .. } = self;
        let id = |at: &u32| &heartbeats[*at as usize].device_id;
        let hash = hasher.hash_one(&later.device_id);
        let entry =
            index.entry(hash, |at| *id(at) == later.device_id, |at| hasher.hash_one(id(at)));
        match entry {
            Entry::Occupied(at) => heartbeats[*at.get() as usize].merge(later),
            Entry::Vacant(_) if heartbeats.len() >= *capacity => {
                return Err(Rejection::NoRoom { device_id: later.device_id });
            }
            Entry::Vacant(vacant) => {
                vacant.insert(heartbeats.len() as u32);
                heartbeats.push(later);
            }
        }
        Ok(())
    }

    /// Throws away the heartbeats that were received before `instant`.
    pub fn forget_before(&mut self, instant: DateTime<Utc>) {
        let is_kept = |heartbeat: &Heartbeat| heartbeat.received_at >= instant;
        self.unwritten.retain(is_kept);
        if self.heartbeats.iter().all(is_kept) {
            return;
        }
        self.heartbeats.retain(is_kept);
        let Self { heartbeats, index, hasher, .. } = self;
        index.clear();
        for (at, heartbeat) in heartbeats.iter().enumerate() {
            let hash = hasher.hash_one(&heartbeat.device_id);
            let id = |at: &u32| hasher.hash_one(&heartbeats[*at as usize].device_id);
            index.insert_unique(hash, at as u32, id);
        }
    }

    /// Takes everything out of the buffer.
    pub fn take(&mut self) -> Batch {
        self.index.clear();
        let mut next = std::mem::take(&mut self.spare);
        // About as many will arrive again. After an outage this releases the surplus.
        next.shrink_to(2 * self.heartbeats.len());
        Batch {
            unwritten: std::mem::take(&mut self.unwritten),
            arrived: std::mem::replace(&mut self.heartbeats, next),
        }
    }

    /// Puts back those heartbeats of a [sorted](Batch::sorted) batch that could not be
    /// written. They are older than those that have arrived since.
    pub fn put_back(&mut self, unwritten: Vec<Heartbeat>) {
        if unwritten.is_empty() {
            self.spare = unwritten;
        } else {
            self.unwritten = unwritten;
        }
    }
}

impl Batch {
    /// The number of heartbeats.
    pub fn len(&self) -> usize {
        self.unwritten.len() + self.arrived.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns one heartbeat per device, sorted by device id. Do not call this on an actor's
    /// thread, because it takes a while.
    pub fn sorted(self) -> Vec<Heartbeat> {
        let Self { unwritten: mut all, mut arrived } = self;
        sort_by_device(&mut arrived);
        if all.is_empty() {
            return arrived;
        }
        merge_into(&mut all, &mut arrived);
        if !arrived.is_empty() {
            all.reserve_exact(arrived.len());
            all.append(&mut arrived);
            // Merges two sorted runs.
            all.sort_by(|a, b| a.device_id.cmp(&b.device_id));
        }
        all
    }
}

/// Merges later heartbeats into the earlier ones of their devices, and leaves those of other
/// devices. Both are sorted by device id. In an outage most devices are in both, and nothing
/// grows.
fn merge_into(earlier: &mut [Heartbeat], later: &mut Vec<Heartbeat>) {
    let mut earlier = earlier.iter_mut().peekable();
    later.retain(|heartbeat| {
        while earlier.next_if(|before| before.device_id < heartbeat.device_id).is_some() {}
        let same = earlier.next_if(|before| before.device_id == heartbeat.device_id);
        same.map(|before| before.merge(heartbeat.clone())).is_none()
    });
}

/// Sorts by device id.
///
/// The ids of a fleet usually begin alike, and comparing them is most of the work. So the
/// common prefix is skipped, and the next eight bytes are compared as a number.
pub fn sort_by_device(heartbeats: &mut [Heartbeat]) {
    let Some(first) = heartbeats.first() else { return };
    let first = first.device_id.as_str().as_bytes();
    let alike = |other: &Heartbeat| {
        let other = other.device_id.as_str().as_bytes();
        first.iter().zip(other).take_while(|(a, b)| a == b).count()
    };
    let common = heartbeats.iter().map(alike).min().unwrap_or_default();
    let number = |heartbeat: &Heartbeat| {
        let rest = &heartbeat.device_id.as_str().as_bytes()[common..];
        let mut bytes = [0; 8];
        let length = rest.len().min(8);
        bytes[..length].copy_from_slice(&rest[..length]);
        u64::from_be_bytes(bytes)
    };
    heartbeats.sort_by_cached_key(number);
    // No byte of an id is zero, so a shorter id already had the smaller number.
    for same in heartbeats.chunk_by_mut(|a, b| number(a) == number(b)) {
        same.sort_unstable_by(|a, b| a.device_id.cmp(&b.device_id));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn heartbeat(device: &str, second: i64) -> Heartbeat {
        let at = chrono::DateTime::from_timestamp(second, 0).expect("small");
        Heartbeat::parse(device.parse().expect(device), b"", at)
    }

    fn buffer(heartbeats: &[(&str, i64)]) -> Pending {
        let mut pending = Pending::default();
        pending.set_capacity(3);
        for (device, second) in heartbeats {
            pending.merge(heartbeat(device, *second)).expect("there is room");
        }
        pending
    }

    fn content(pending: &mut Pending) -> Vec<(String, i64)> {
        let taken = pending.take().sorted();
        taken.iter().map(|h| (h.device_id.to_string(), h.received_at.timestamp())).collect()
    }

    #[test]
    fn it_holds_the_newest_of_each_device() {
        let mut pending = buffer(&[("b", 1), ("a", 2), ("b", 3)]);
        assert_eq!(pending.len(), 2);
        assert_eq!(content(&mut pending), [("a".to_owned(), 2), ("b".to_owned(), 3)]);
        assert!(pending.is_empty());
    }

    #[test]
    fn one_device_too_many_is_rejected_and_the_others_go_on() {
        let mut pending = buffer(&[("a", 1), ("b", 1), ("c", 1)]);
        let device_id = "d".parse().expect("an id");
        assert_eq!(pending.merge(heartbeat("d", 2)), Err(Rejection::NoRoom { device_id }));
        assert_eq!(pending.merge(heartbeat("c", 2)), Ok(()));
    }

    #[test]
    fn heartbeats_that_are_put_back_are_older_than_those_that_arrived_since() {
        let mut pending = buffer(&[("a", 1), ("b", 1)]);
        let taken = pending.take().sorted();
        for device in ["b", "c", "d"] {
            pending.merge(heartbeat(device, 5)).expect("there is room");
        }
        pending.put_back(taken);
        let expected = [("a", 1), ("b", 5), ("c", 5), ("d", 5)];
        assert_eq!(content(&mut pending), expected.map(|(id, at)| (id.to_owned(), at)));
        assert_eq!(pending.merge(heartbeat("a", 6)), Ok(()), "it has room again");
    }

    proptest! {
        #[test]
        fn heartbeats_are_sorted_as_their_ids_are(
            prefix in "[a-c]{0,3}",
            ids in prop::collection::vec("[a-cü]{1,12}", 0..50),
        ) {
            let ids: Vec<_> = ids.iter().map(|id| format!("{prefix}{id}")).collect();
            let mut heartbeats: Vec<_> = ids.iter().map(|id| heartbeat(id, 0)).collect();
            sort_by_device(&mut heartbeats);
            let sorted: Vec<_> = heartbeats.iter().map(|h| h.device_id.to_string()).collect();
            let mut expected = ids;
            expected.sort_unstable();
            prop_assert_eq!(sorted, expected);
        }
    }
}
