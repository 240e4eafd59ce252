//! The work that an instance asks its registry for: a flush, a look at the others and a check when
//! they are due, and whatever else it begins.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use actix_rt::task::JoinHandle;
use fastrand::Rng;
use futures::future::select;
use futures::stream::{FuturesUnordered, StreamExt};
use heartbeatd::actors::device_registry::{CheckOffline, DeviceRegistry, Flush, LookAround};

use super::clocks_apart::{CLOCKS, now};
use super::observer::instance_name;
use super::wire::Wire;

/// The time for which an instance may work without an end, in real time.
const PATIENCE: Duration = Duration::from_secs(60);

/// The times between two of a kind, in milliseconds.
#[derive(Clone, Copy)]
pub struct Every {
    pub flush: i64,
    pub look: i64,
    pub check: i64,
}

pub struct Work {
    number: usize,
    every: Every,
    flush_at: i64,
    look_at: i64,
    check_at: i64,
    begun: FuturesUnordered<JoinHandle<()>>,
}

impl Work {
    /// The work of an instance, which begins at random times within the first interval.
    pub fn new(number: usize, every: Every, rng: &mut Rng) -> Self {
        let mut phase = |every: i64| now() + rng.i64(0..every);
        Self {
            number,
            every,
            flush_at: phase(every.flush),
            look_at: phase(every.look),
            check_at: phase(every.check),
            begun: FuturesUnordered::new(),
        }
    }

    pub fn begin<F: Future + 'static>(&mut self, work: F) {
        self.begun.push(actix_rt::spawn(async { drop(work.await) }));
    }

    /// Begins what is due.
    pub fn begin_what_is_due(&mut self, registry: &Addr<DeviceRegistry>) {
        let reading = CLOCKS[self.number]();
        if now() >= self.look_at {
            self.look_at = now() + self.every.look;
            self.begin(registry.send(LookAround { now: reading }));
        }
        if now() >= self.flush_at {
            self.flush_at = now() + self.every.flush;
            self.begin(registry.send(Flush));
        }
        if now() >= self.check_at {
            self.check_at = now() + self.every.check;
            self.begin(registry.send(CheckOffline { now: reading }));
        }
    }

    /// Waits until everything is done that was begun, or the process is stopped in it.
    pub async fn is_done(&mut self, wire: &Arc<Wire>) {
        let working = std::pin::pin!(async { while self.begun.next().await.is_some() {} });
        let stopping = std::pin::pin!(wire.stops());
        let waited = tokio::time::timeout(PATIENCE, select(working, stopping)).await;
        assert!(waited.is_ok(), "{} is stuck at {}", instance_name(self.number), now());
    }
}
