//! The write-behind buffer with its bounds: the heartbeats that are not written yet, and the
//! devices that they may register.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use chrono::{DateTime, Utc};

use crate::config::DevicesConfig;
use crate::domain::{Batch, Heartbeat, Pending, RegistrationBudget, Rejection};

/// The heartbeats that are not written yet.
pub(super) struct Buffer {
    pending: Pending,
    /// The number of heartbeats that a flush has taken out of the buffer and not written
    /// yet.
    in_flight: Arc<AtomicUsize>,
    max_devices: u64,
    /// The number of devices that are registered.
    registered: u64,
    registrations: RegistrationBudget,
}

impl Buffer {
    /// An empty buffer for a fleet of `registered` devices.
    pub(super) fn new(devices: &DevicesConfig, registered: u64) -> Self {
        let DevicesConfig { registration_rate: rate, registration_burst: burst, .. } = *devices;
        let mut buffer = Self {
            pending: Pending::default(),
            in_flight: Arc::default(),
            max_devices: devices.max_devices,
            registered: 0,
            registrations: RegistrationBudget::new(rate, burst, Instant::now()),
        };
        buffer.are_registered(registered);
        buffer
    }

    /// Notes the number of registered devices. Each of them gets room, and so do
    /// `max_devices` others.
    pub(super) fn are_registered(&mut self, devices: u64) {
        self.registered = devices;
        self.pending.set_capacity(devices.saturating_add(self.max_devices));
    }

    /// The number of heartbeats that are not written: up to two for each device while the
    /// database is away.
    pub(super) fn len(&self) -> usize {
        self.pending.len() + self.in_flight.load(Ordering::Relaxed)
    }

    /// The number of devices of which a heartbeat is not written: never more than there are, and
    /// it does not fall while the database is away. Those that sent for the first time since the
    /// last attempt to write are counted with the next one.
    pub(super) fn devices(&self) -> usize {
        // A batch has each device once, and most of those that have sent since are in it.
        let tried = self.in_flight.load(Ordering::Relaxed).max(self.pending.unwritten());
        tried.max(self.pending.arrived())
    }

    /// The number of heartbeats that arrived since the last flush began.
    pub(super) fn arrived(&self) -> usize {
        self.pending.arrived()
    }

    /// Takes heartbeats out of a vector, which keeps its capacity. Returns those for which there
    /// is no room.
    pub(super) fn merge(&mut self, heartbeats: &mut Vec<Heartbeat>) -> Vec<Rejection> {
        let merged = heartbeats.drain(..).map(|heartbeat| self.pending.merge(heartbeat));
        merged.filter_map(Result::err).collect()
    }

    /// Takes out everything, to be written.
    pub(super) fn take(&mut self) -> Batch {
        let devices = self.devices();
        let batch = self.pending.take();
        // Until it is sorted, when each device is in it once.
        self.in_flight.store(devices, Ordering::Relaxed);
        batch
    }

    /// Puts back the heartbeats that a flush has not written. Those that it has written
    /// registered `registered` devices.
    pub(super) fn put_back(&mut self, rest: Vec<Heartbeat>, registered: u64) {
        self.are_registered(self.registered + registered);
        self.registrations.spend(registered);
        self.pending.put_back(rest);
        self.in_flight.store(0, Ordering::Relaxed);
    }

    /// Throws away what was received before `instant`.
    pub(super) fn forget_before(&mut self, instant: DateTime<Utc>) {
        self.pending.forget_before(instant);
    }

    /// The counter of the heartbeats that a flush has taken and not written yet.
    pub(super) fn in_flight(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.in_flight)
    }

    /// The number of devices that are registered.
    pub(super) fn registered(&self) -> u64 {
        self.registered
    }

    /// The number of devices for which there is room.
    pub(super) fn room(&self) -> u64 {
        self.max_devices.saturating_sub(self.registered)
    }

    /// The number of devices that heartbeats may register now.
    pub(super) fn registrations(&mut self, now: Instant) -> u64 {
        self.registrations.available(now)
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    fn heartbeats(devices: &[&str]) -> Vec<Heartbeat> {
        let parse =
            |id: &&str| Heartbeat::parse(id.parse().expect("an id"), b"", DateTime::UNIX_EPOCH);
        devices.iter().map(parse).collect()
    }

    fn buffer(max_devices: u64, registered: u64) -> Buffer {
        let devices = DevicesConfig { max_devices, ..crate::Config::default().devices };
        Buffer::new(&devices, registered)
    }

    #[test]
    fn heartbeats_count_as_unwritten_until_a_flush_has_written_them() {
        let mut buffer = buffer(10, 0);
        assert_eq!(buffer.merge(&mut heartbeats(&["a", "b"])), []);
        let mut taken = buffer.take().sorted();
        assert_eq!((taken.len(), buffer.len()), (2, 2));
        buffer.in_flight().store(1, Ordering::Relaxed);
        assert_eq!(buffer.len(), 1, "one is written");
        buffer.put_back(taken.split_off(1), 1);
        assert_eq!((buffer.len(), buffer.room()), (1, 9));
    }

    #[test]
    fn a_device_counts_once_however_often_it_waits_and_the_number_does_not_fall() {
        let mut buffer = buffer(10, 0);
        buffer.merge(&mut heartbeats(&["a", "b", "c"]));
        let taken = buffer.take().sorted();
        for again in [&["a"][..], &["b", "c"], &["a", "b", "c"]] {
            buffer.merge(&mut heartbeats(again));
            assert_eq!(buffer.devices(), 3, "while it is being written");
        }
        assert_eq!(buffer.len(), 6, "two of each");
        buffer.put_back(taken, 0);
        assert_eq!(buffer.devices(), 3, "it failed");
        buffer.merge(&mut heartbeats(&["d"]));
        let batch = buffer.take();
        assert_eq!(buffer.devices(), 4, "before it is sorted");
        let taken = batch.sorted();
        buffer.in_flight().store(taken.len(), Ordering::Relaxed);
        assert_eq!((taken.len(), buffer.devices()), (4, 4));
        buffer.put_back(Vec::new(), 0);
        assert_eq!(buffer.devices(), 0);
    }

    #[test]
    fn registered_devices_have_room_beside_those_that_may_register() {
        let mut buffer = buffer(1, 1);
        assert_eq!(buffer.room(), 0);
        assert_eq!(buffer.merge(&mut heartbeats(&["a", "b", "c"])).len(), 1);
        buffer.are_registered(2);
        assert_eq!(buffer.merge(&mut heartbeats(&["c"])), []);
    }
}
