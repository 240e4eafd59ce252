//! The process of the service: its start, its timers and its end.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use chrono::{DateTime, Utc};
use fastrand::Rng;
use heartbeatd::Config;
use heartbeatd::Draining;
use heartbeatd::actors::bounds::Bounds;
use heartbeatd::actors::courier::{Courier, Deliver, Sinks};
use heartbeatd::actors::device_registry::{DeviceRegistry, Flush, Found, Settings};
use heartbeatd::actors::mqtt_ingest::{EchoNow, MqttIngest};
use heartbeatd::actors::ticker::{CheckNow, Stop, Ticker};
use heartbeatd::metrics::Metrics;
use heartbeatd::store::Outcome;
use tokio::sync::mpsc;

use super::super::To;
use super::super::database::{Gate, Held};
use super::super::sink::{Deliveries, Sink};
use super::{
    CHECK_INTERVAL, ECHO_INTERVAL, FLUSH_INTERVAL, Kind, Mood, SECOND, TIMEOUT, World, clocks,
};
use crate::support::connection::{Asked, Line};
use crate::support::fleet::non_zero;
use heartbeatd::inbox::Inbox;

/// Longer than any schedule takes in real time.
const NEVER: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) struct Process {
    pub asked: Rc<Asked>,
    pub points: mpsc::UnboundedReceiver<Held>,
    pub registry: Addr<DeviceRegistry>,
    pub ingest: Addr<MqttIngest>,
    pub courier: Addr<Courier>,
    pub ticker: Addr<Ticker>,
    pub metrics: Arc<Metrics>,
    pub deliveries: Deliveries,
}

/// A check that is under way.
pub(super) struct Check {
    pub began: i64,
    /// The latest time that the clock showed since then, until it was last set.
    pub wall: DateTime<Utc>,
    /// True if its flush is done.
    pub sweeping: bool,
    /// True if no step of it failed.
    pub clean: bool,
}

/// The result of something that the process was asked to do.
pub(super) enum Done {
    Flush(Result<(), String>),
    Check,
    Drain(Result<(), String>),
}

impl Kind {
    pub fn random(rng: &mut Rng) -> Self {
        let crowd = rng.u16(0..400) == 0;
        let portion = if crowd { rng.usize(100..400) } else { rng.usize(2..4) };
        let bounds = Bounds {
            written_at_once: portion,
            stale_at_once: portion * rng.usize(1..3),
            marked_at_once: if crowd { portion } else { rng.usize(1..4) },
            pruned_at_once: portion as u64,
            delivered_at_once: portion,
            max_intervals: if rng.bool() { rng.usize(2..6) } else { 10_000 },
            coverage_kept: Duration::from_secs(rng.u64(0..120)),
            steady_before_pruning: Duration::from_secs(rng.u64(10..60)),
        };
        let strangers = if !crowd && rng.u8(0..4) == 0 { 12 } else { 0 };
        Self {
            devices: if crowd { 2_000 } else { rng.usize(5..9) },
            strangers,
            max_devices: if strangers > 0 { rng.u64(2..12) } else { 3_000 },
            max_backlog: if !crowd && rng.bool() { rng.usize(6..20) } else { 100_000 },
            bounds,
            echo: rng.u8(0..10) > 0,
            replays: rng.u8(0..4) == 0,
            impatient: rng.u8(0..8) == 0,
            retention: rng.i64(60 * SECOND..200 * SECOND),
            recovers: rng.u8(0..6) > 0,
            gentle: rng.u8(0..3) == 0,
            bursts: if crowd { 1 } else { rng.u32(1..=2) },
            to: To::Broker,
        }
    }

    /// True if coverage is dropped to bound the number of intervals.
    pub fn forgets_coverage(&self) -> bool {
        self.bounds.max_intervals < 10_000
    }

    /// True if devices publish to the receiver.
    pub fn receives(&self) -> bool {
        self.to == To::Receiver
    }

    pub fn is_crowd(&self) -> bool {
        self.devices > 100
    }

    pub fn config(&self) -> Config {
        let mut config = Config::default();
        let millis = |millis: i64| non_zero(Duration::from_millis(millis as u64));
        config.heartbeat.timeout = millis(TIMEOUT);
        config.heartbeat.flush_interval = non_zero(NEVER);
        config.mqtt.echo_interval = self.echo.then(|| millis(ECHO_INTERVAL));
        config.history.retention = millis(self.retention);
        config.devices.max_devices = self.max_devices;
        if self.strangers > 0 {
            config.devices.registration_rate = 1;
            config.devices.registration_burst = 6;
        }
        config
    }

    pub fn describe(&self) -> impl std::fmt::Debug + use<> {
        let Self { devices, strangers, max_devices, max_backlog, echo, retention, to, .. } = *self;
        (
            ("devices", devices, strangers, max_devices),
            (max_backlog, to),
            echo,
            retention,
            self.bounds,
        )
    }
}

impl World {
    pub(super) async fn start(&mut self) {
        self.note(format_args!("start"));
        let settings = Settings::from(&self.config);
        let found = Found::read(&self.store, &settings).await.expect("the database is there");
        let (gate, points) = Gate::new();
        let store = self.store.clone().interfere(Arc::new(gate));
        let metrics = Arc::new(Metrics::new());
        let registry = DeviceRegistry::new(settings, store, found, Arc::clone(&metrics))
            .with_bounds(self.kind.bounds)
            .start();
        let echo_topic = self.kind.echo.then_some("heartbeatd/heartbeatd/echo");
        // All of its room is one turn, so that whoever has it keeps the others waiting.
        let inbox = Inbox::new(self.kind.max_backlog).at_once().with_turns(1, 1);
        let asked = Rc::new(Asked::nothing(inbox, echo_topic));
        asked.number.set(self.links);
        let ingest = MqttIngest::new(
            Box::new(Line(Rc::clone(&asked))),
            registry.clone(),
            self.config.mqtt.confirm_interval(),
            clocks::read,
            Arc::clone(&metrics),
        );
        let deliveries = Deliveries::default();
        let sink = Sink(Rc::clone(&deliveries)).start();
        let recoveries = self.kind.recovers.then(|| sink.clone().recipient());
        let sinks = Sinks { alerts: sink.recipient(), recoveries };
        let patience = if self.kind.impatient { Duration::from_millis(1) } else { NEVER };
        let courier =
            Courier::new(registry.clone(), sinks, patience, clocks::read, Arc::clone(&metrics));
        let courier = courier.with_bounds(self.kind.bounds).start();
        let recipient = courier.clone().recipient();
        let ticker = Ticker::new(NEVER, registry.clone(), recipient, clocks::read).start();
        let ingest = ingest.start();
        self.process =
            Some(Process { asked, points, registry, ingest, courier, ticker, metrics, deliveries });
        self.started_at = self.now;
        self.shed = 0.0;
        self.echo_at = self.now + ECHO_INTERVAL;
        self.flush_at = self.now + FLUSH_INTERVAL;
        self.check_at = self.now + CHECK_INTERVAL;
        // The ticker checks at once, and this check follows that one.
        self.begin_check();
    }

    /// Lets the process do what is due.
    pub(super) async fn timers(&mut self) {
        if self.draining {
            return;
        }
        if self.kind.replays && self.rng.u8(0..8) == 0 {
            self.replay_an_echo();
        }
        if self.now >= self.echo_at {
            self.echo_at = self.now + self.config.mqtt.confirm_interval().as_millis() as i64;
            if let Some(process) = &self.process {
                process.ingest.do_send(EchoNow);
            }
            self.settle().await;
        }
        if self.now >= self.flush_at && self.may_flush() {
            self.flush_at = self.now + FLUSH_INTERVAL;
            self.begin_flush();
        }
        if self.now >= self.check_at && self.check.is_none() && !self.flushing {
            self.begin_check();
        }
        if self.now >= self.deliver_at && self.rng.u8(0..3) == 0 {
            self.deliver_at = self.now + 8 * SECOND;
            if let Some(process) = &self.process {
                process.courier.do_send(Deliver);
            }
        }
    }

    fn may_flush(&self) -> bool {
        let check_flushes = self.check.as_ref().is_some_and(|check| !check.sweeping);
        !self.flushing && !check_flushes
    }

    fn begin_flush(&mut self) {
        let Some(process) = &self.process else { return };
        let flush = process.registry.send(Flush);
        self.flushing = true;
        self.asked.push(Box::pin(async {
            let flushed = flush.await.map_err(|error| error.to_string());
            Done::Flush(flushed.and_then(|flushed| flushed.map_err(|error| error.to_string())))
        }));
    }

    pub(super) fn begin_check(&mut self) {
        let Some(process) = &self.process else { return };
        let check = process.ticker.send(CheckNow);
        self.check_at = self.now + CHECK_INTERVAL;
        self.check =
            Some(Check { began: self.now, wall: clocks::wall(), sweeping: false, clean: true });
        self.asked.push(Box::pin(async {
            // It may have been stopped meanwhile.
            let _stopped = check.await;
            Done::Check
        }));
    }

    pub(super) async fn done(&mut self, done: Done) {
        match done {
            Done::Flush(flushed) => {
                self.flushing = false;
                if flushed.is_ok() {
                    self.truth.is_flushed();
                }
                self.weigh_evidence().await;
            }
            Done::Check if self.draining => (),
            Done::Check => {
                let check = self.check.take().expect("it was begun");
                if check.sweeping && check.clean {
                    self.assert_dead_are_found(check.began).await;
                } else if !check.sweeping {
                    self.truth.flush_failed();
                }
                self.weigh_evidence().await;
            }
            Done::Drain(drained) => self.is_drained(drained).await,
        }
    }

    pub(super) fn drain(&mut self) {
        let Some(Process { ticker, courier, ingest, registry, .. }) = &self.process else { return };
        self.draining = true;
        let draining = Draining {
            ticker: ticker.clone(),
            courier: courier.clone(),
            ingest: ingest.clone(),
            registry: registry.clone(),
        };
        let deadline = tokio::time::Instant::now() + NEVER;
        self.asked.push(Box::pin(async move {
            let drained = draining.run(deadline, Duration::from_millis(1)).await;
            Done::Drain(drained.map_err(|error| error.to_string()))
        }));
    }

    async fn is_drained(&mut self, drained: Result<(), String>) {
        self.note(format_args!("drained: {drained:?}"));
        self.assert(drained.is_ok(), format_args!("the drain fails: {drained:?}"));
        self.assert(
            self.delivery.is_none(),
            format_args!("the drain has not waited for the delivery"),
        );
        self.truth.is_flushed();
        let until = self.now + self.rng.i64(0..40 * SECOND);
        self.crash(until).await;
    }

    /// Kills the process.
    pub(super) async fn crash(&mut self, until: i64) {
        self.down_until = until;
        self.paused_until = self.now;
        self.held.append(&mut self.frozen);
        self.is_disturbed();
        self.lose_link(false);
        self.wanted = false;
        self.queue.clear();
        self.taking.clear();
        // Its inbox is gone, and with it their turns.
        self.waiting = Rc::default();
        self.jam = None;
        self.subscriptions.clear();
        // Without what a transaction with an unknown outcome may have written.
        let written = self.truth.listened_until();
        self.truth.crash();
        self.proven.iter_mut().for_each(|proven| proven.until = proven.until.min(written));
        (self.flushing, self.draining, self.check) = (false, false, None);
        self.asked.clear();
        if let Some((_, delivery)) = self.delivery.take() {
            self.excuse(&delivery.sequences, true);
        }
        self.excuse_unacknowledged();
        let Some(mut process) = self.process.take() else { return };
        process.ticker.do_send(Stop);
        self.bury(&mut process).await;
        self.working = 0;
        self.writing = None;
    }

    /// Drops everything that the process was about to do, and rolls back what was open.
    async fn bury(&mut self, process: &mut Process) {
        for held in self.held.drain(..) {
            self.working += u32::from(!held.is_end());
            held.let_through(Outcome::Fail);
        }
        let mut quiet = 0;
        while quiet < super::TURNS {
            let held = if self.working > 0 {
                process.points.recv().await
            } else {
                process.points.try_recv().ok()
            };
            let Some(held) = held else {
                quiet += 1;
                actix_rt::task::yield_now().await;
                continue;
            };
            quiet = 0;
            if !held.is_beginning() {
                self.working = self.working.saturating_sub(1);
            }
            self.working += u32::from(!held.is_end());
            held.let_through(Outcome::Fail);
        }
    }

    pub(super) fn mood(&self) -> Mood {
        if self.now < self.mood_until { self.mood } else { Mood::Well }
    }
}
