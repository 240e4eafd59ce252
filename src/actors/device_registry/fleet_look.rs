//! The fleet on the board of an instance that does not check, as the database has it.
//! It looks for new events every second, and counts only after one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use actix::prelude::*;
use chrono::{DateTime, Utc};

use super::{DeviceRegistry, SAMPLED_EVERY};
use crate::domain::{EventPlace, Outages, Status};
use crate::store::{DeviceStore, OutboxSize, StoreError};

/// The rest after a count, as a multiple of its time, so that a large fleet is not counted all
/// the time.
const REST: u32 = 9;

/// The looks of an instance at the fleet.
#[derive(Debug, Default)]
pub(super) struct FleetLook {
    /// The place after the newest event that is counted in.
    counted: Option<EventPlace>,
    /// The end of the rest after the last count.
    rests_until: Option<Instant>,
    /// True while a look is under way.
    looks: bool,
}

impl FleetLook {
    /// Begins a look, unless another is under way or it is too early.
    fn begin(&mut self, now: Instant) -> bool {
        let begins = !self.looks && self.rests_until.is_none_or(|until| now >= until);
        self.looks |= begins;
        begins
    }

    /// Ends a look that has counted for `took`.
    fn counted(&mut self, newest: EventPlace, took: Duration, now: Instant) {
        self.counted = Some(newest);
        self.rests_until = Some(now + took * REST);
    }
}

/// A count of the fleet.
struct Counted {
    newest: EventPlace,
    counts: BTreeMap<Status, u64>,
    outages: Outages,
    outbox: OutboxSize,
    took: Duration,
}

/// Counts, unless nothing has happened since the place `known`.
async fn count(
    store: &DeviceStore,
    known: Option<EventPlace>,
) -> Result<Option<Counted>, StoreError> {
    // First, so that what happens meanwhile is counted by the next look.
    let newest = store.newest_event().await?;
    if known == Some(newest) {
        return Ok(None);
    }
    let began = Instant::now();
    let counts = store.count_by_status().await?;
    let outages = store.open_outages().await?;
    let outbox = store.outbox_size().await?;
    Ok(Some(Counted { newest, counts, outages, outbox, took: began.elapsed() }))
}

impl DeviceRegistry {
    /// Looks at the fleet if another instance checks it. What has no event, such as a delivery, is
    /// shown as often as samples of the fleet are kept.
    pub(super) fn look_at_the_fleet(
        &mut self,
        now: DateTime<Utc>,
    ) -> impl ActorFuture<Self, Output = ()> + use<> {
        let begins = !self.part.leads && self.fleet_look.begin(Instant::now());
        let is_due = self.sampled_at.is_none_or(|last| (now - last).abs() >= SAMPLED_EVERY);
        if begins && is_due {
            self.sampled_at = Some(now);
        }
        let known = self.fleet_look.counted.filter(|_| !is_due);
        let store = self.shared.store.clone();
        let looking = async move { if begins { Some(count(&store, known).await) } else { None } };
        looking.into_actor(self).map(move |looked, registry, _| {
            let Some(looked) = looked else { return };
            registry.fleet_look.looks = false;
            // A database that fails is told by the looks at the other instances.
            if let Ok(Some(counted)) = looked {
                registry.show_fleet(counted, now);
            }
        })
    }

    fn show_fleet(&mut self, counted: Counted, now: DateTime<Utc>) {
        let Counted { newest, counts, outages, outbox, took } = counted;
        self.fleet_look.counted(newest, took, Instant::now());
        // It checks by now, and knows better.
        if self.part.leads {
            return;
        }
        self.buffer.are_registered(counts.values().sum());
        self.shared.metrics.set_devices(&counts);
        self.shared.metrics.set_outbox(&outbox, now);
        self.shared.board.change(|facts| {
            facts.counts(counts);
            facts.outages(outages);
            facts.undelivered(outbox.alerts, outbox.oldest);
        });
        // The active instance wakes only its own readers of events.
        self.shared.board.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_look_at_a_time_and_a_rest_after_a_count_that_takes_long() {
        let (mut look, began) = (FleetLook::default(), Instant::now());
        assert!(look.begin(began));
        assert!(!look.begin(began), "another is under way");
        look.looks = false;
        look.counted(EventPlace::default(), Duration::from_secs(1), began);
        assert!(!look.begin(began + Duration::from_secs(8)), "it rests");
        assert!(look.begin(began + Duration::from_secs(9)));
    }
}
