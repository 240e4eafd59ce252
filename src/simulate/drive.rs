//! Publishes what the virtual devices say, when they say it.

use std::time::{Duration, Instant};

use tokio::time::sleep_until;

use super::fleet::{Fleet, Step, What};
use crate::clock::Clock;
use crate::domain::TopicPattern;
use crate::mqtt::Publisher;

/// The time between two looks at the connection and calls of the observer.
const LOOK: Duration = Duration::from_millis(250);

/// The number of heartbeats after which others get a turn, and the end is noticed.
const AT_ONCE: u32 = 500;

/// The numbers of a simulation so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// The heartbeats that were published.
    pub(crate) sent: u64,
    /// Those of them that the broker has refused.
    pub(crate) refused: u64,
    /// The heartbeats that could not be published.
    pub(crate) lost: u64,
}

/// A simulation that runs.
pub(crate) struct Drive {
    pub(crate) fleet: Fleet,
    pub(crate) publisher: Publisher,
    pub(crate) topic: TopicPattern,
    pub(crate) clock: Clock,
    pub(crate) totals: Totals,
}

/// Something to be told about a simulation.
pub(crate) enum Told {
    /// A device did something.
    Step(Step),
    /// Nothing; it is time to look at the numbers.
    Look,
}

impl Drive {
    /// Lets the devices live until `lasts` is over, or for ever, and tells `observe` what they
    /// do.
    pub(crate) async fn run(
        &mut self,
        lasts: Option<Duration>,
        mut observe: impl FnMut(&Self, Told),
    ) {
        let began = Instant::now();
        let mut payload = Vec::new();
        let mut look = Duration::ZERO;
        loop {
            let now = began.elapsed();
            if lasts.is_some_and(|lasts| now >= lasts) {
                return;
            }
            for _ in 0..AT_ONCE {
                let Some(step) = self.fleet.step(now) else { break };
                if step.what != What::Falls {
                    self.publish(step.device, now, &mut payload).await;
                }
                observe(self, Told::Step(step));
            }
            if now >= look {
                self.totals.refused = self.publisher.refused();
                observe(self, Told::Look);
                look = now + LOOK;
            }
            let next = self.fleet.next_due().map_or(look, |due| due.min(look));
            let next = lasts.map_or(next, |lasts| next.min(lasts));
            // Returns at once if that is over, after others had a turn.
            sleep_until((began + next).into()).await;
            tokio::task::yield_now().await;
        }
    }

    /// Waits a moment for what the broker says to the last heartbeats.
    pub(crate) async fn settle(&mut self) {
        self.publisher.settle().await;
        self.totals.refused = self.publisher.refused();
    }

    async fn publish(&mut self, device: u32, now: Duration, payload: &mut Vec<u8>) {
        let wall = (self.clock)().wall;
        self.fleet.say(device, now, wall, payload);
        let topic = self.topic.topic_of(&self.fleet.id(device));
        match self.publisher.publish(&topic, payload).await {
            Ok(()) => self.totals.sent += 1,
            Err(_) => self.totals.lost += 1,
        }
    }
}
