//! The write-behind buffer: the newest heartbeat of each device that is not in
//! the database yet. Its size is bounded by the fleet, not by how long the
//! database is gone.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::domain::{DeviceId, Heartbeat, Rejection};

#[derive(Debug)]
pub(super) struct Pending {
    heartbeats: HashMap<DeviceId, Heartbeat>,
    max_devices: u64,
}

impl Pending {
    pub(super) fn new(max_devices: u64) -> Self {
        Self { heartbeats: HashMap::new(), max_devices }
    }

    pub(super) fn len(&self) -> usize {
        self.heartbeats.len()
    }

    /// Takes in heartbeats, oldest first. Returns those of devices for which
    /// there cannot be room in the fleet.
    pub(super) fn merge(&mut self, heartbeats: Vec<Heartbeat>) -> Vec<Rejection> {
        let mut rejections = Vec::new();
        for heartbeat in heartbeats {
            let full = self.heartbeats.len() as u64 >= self.max_devices;
            match self.heartbeats.entry(heartbeat.device_id.clone()) {
                Entry::Occupied(earlier) => earlier.into_mut().merge(heartbeat),
                Entry::Vacant(_) if full => {
                    rejections.push(Rejection::FleetFull { device_id: heartbeat.device_id });
                }
                Entry::Vacant(vacant) => {
                    vacant.insert(heartbeat);
                }
            }
        }
        rejections
    }

    /// Empties the buffer: one heartbeat per device, sorted by id.
    pub(super) fn take(&mut self) -> Vec<Heartbeat> {
        let taken = std::mem::take(&mut self.heartbeats);
        let mut heartbeats: Vec<_> = taken.into_values().collect();
        heartbeats.sort_unstable_by(|a, b| a.device_id.cmp(&b.device_id));
        heartbeats
    }

    /// Puts back what [`take`](Self::take) gave and could not be written; what
    /// has arrived since is newer.
    pub(super) fn put_back(&mut self, heartbeats: Vec<Heartbeat>) {
        for mut earlier in heartbeats {
            if let Some(later) = self.heartbeats.remove(&earlier.device_id) {
                earlier.merge(later);
            }
            self.heartbeats.insert(earlier.device_id.clone(), earlier);
        }
    }
}
