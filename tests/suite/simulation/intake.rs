//! The part of an instance's ingest that handles what its connection brings.

use std::collections::VecDeque;
use std::time::Duration;

use actix::prelude::*;
use chrono::{DateTime, Utc};
use heartbeatd::actors::device_registry::{ConfirmListening, DeviceRegistry, RecordHeartbeats};
use heartbeatd::clock::Clock;
use heartbeatd::domain::{Dated, EchoToken, Echoed, Heartbeat, Proof, Rounds, Stop, Stops};

use super::clocks_apart;
use crate::support::fleet::id;

#[derive(Clone, Copy, Debug)]
pub enum Message {
    Heartbeat(usize),
    Echo(EchoToken),
    /// The process was stopped.
    Stopped(Stop),
}

pub struct Intake {
    clock: Clock,
    pub rounds: Rounds,
    /// The time at which the next echo is due.
    pub echo_at: i64,
    stops: Stops,
    /// The messages that have reached the process and that no actor has taken.
    inbox: VecDeque<(Message, Dated)>,
}

impl Intake {
    pub fn new(clock: Clock, echo_interval: Duration, echo_at: i64) -> Self {
        let rounds = Rounds::new(echo_interval);
        Self { clock, rounds, echo_at, stops: Stops::default(), inbox: VecDeque::new() }
    }

    /// Does the work of the threads of the connection and of the ticks, also while the actors hang.
    pub fn take_in(&mut self, messages: impl IntoIterator<Item = Message>) {
        let now = (self.clock)();
        let stop = self.stops.tick(now).map(Message::Stopped);
        let date = self.stops.date(now);
        self.inbox.extend(stop.into_iter().chain(messages).map(|message| (message, date)));
    }

    /// Hands everything over to the registry. Returns the instant up to which it is proven now.
    pub async fn hand_over(&mut self, registry: &Addr<DeviceRegistry>) -> Option<DateTime<Utc>> {
        let (mut heartbeats, mut proof) = (Vec::new(), None);
        for (message, date) in std::mem::take(&mut self.inbox) {
            match message {
                Message::Heartbeat(device) => heartbeats.push(self.heartbeat(device, date)),
                Message::Echo(token) => proof = self.echoed(token).or(proof),
                Message::Stopped(stop) => {
                    self.rounds.stopped(stop, (self.clock)());
                    self.echo_at = clocks_apart::now();
                }
            }
        }
        if !heartbeats.is_empty() {
            let record = RecordHeartbeats { heartbeats, now: (self.clock)() };
            registry.send(record).await.expect("it lives");
        }
        let Proof { since, until, after, .. } = proof?;
        registry.send(ConfirmListening { since, until, after }).await.expect("it lives");
        Some(until)
    }

    fn heartbeat(&self, device: usize, date: Dated) -> Heartbeat {
        let mut heartbeat = Heartbeat::parse(id(&name(device)), b"", (self.clock)().wall);
        heartbeat.date(date);
        heartbeat
    }

    fn echoed(&mut self, token: EchoToken) -> Option<Proof> {
        let now = (self.clock)();
        match self.rounds.take(token, now) {
            Ok(Echoed::Proves(proof)) => Some(proof),
            Ok(Echoed::CaughtUp { stop, .. }) => {
                if self.stops.all_arrived(stop) {
                    self.rounds.caught_up(now);
                }
                None
            }
            Err(_) => None,
        }
    }
}

/// The name of a device.
pub fn name(device: usize) -> String {
    format!("device-{device:02}")
}

/// The number of a device.
pub fn number_of(device: &str) -> usize {
    device.strip_prefix("device-").and_then(|number| number.parse().ok()).expect(device)
}
