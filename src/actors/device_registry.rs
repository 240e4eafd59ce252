//! Owns every status transition, the write-behind buffer of heartbeats, and the
//! coverage.
//!
//! Recording a heartbeat only merges it into the buffer. A flush writes the buffer every
//! `flush_interval`, and when a burst has ended. A check flushes, then finds and marks the
//! silent devices. Both run beside the mailbox, which never waits for the database, and they
//! take turns with each other.

mod barred;
mod buffer;
mod clock_step;
mod database_watch;
mod fleet_look;
mod fleet_watch;
mod flush;
mod group;
mod journal;
mod lines;
mod looking;
mod outbox;
mod progress;
mod settling;
mod standby;
mod sweep;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::fut::{LocalBoxActorFuture, ready};
use actix::prelude::*;
use chrono::{DateTime, TimeDelta, Utc};
use log::info;
use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;

use self::buffer::Buffer;
use self::clock_step::{ClockSteps, Told};
use self::database_watch::DatabaseWatch;
use self::fleet_look::FleetLook;
use self::fleet_watch::FleetWatch;
use self::flush::Flushed;
use self::group::Group;
pub use self::group::{EndStay, JoinError, JoinGroup, StayEnded};
use self::journal::Journal;
use self::lines::Lines;
pub use self::outbox::{
    Acknowledge, BeginDelivery, GiveUp, Outbox, ReadBesideHead, ReadOutbox, ReadRecoveriesPastHead,
};
use self::progress::Progress;
use self::settling::{Look, Settling};
use self::standby::Part;
pub use self::standby::{Leave, LookAround};
use self::sweep::{Sweep, Swept};
use crate::actors::bounds::Bounds;
use crate::board::{Board, FleetSilence};
use crate::clock::{Clock, system_clock};
use crate::config::DevicesConfig;
use crate::domain::{
    ClockOffset, ClockStep, ClockWatch, Configured, Confirmed, Coverage, GapCause, Happening,
    Heartbeat, Interval, Judge, Outages, Reading, Saved, Status, TopicPattern, Transition,
};
use crate::logging::outage::Outage;
use crate::metrics::Metrics;
use crate::mqtt::EndSession;
use crate::store::{DeviceStore, Member, StoreError};

const TARGET: &str = "device_registry";

/// The time between two looks at the database and the clock.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// The least time between two samples of the fleet.
const SAMPLED_EVERY: TimeDelta = TimeDelta::seconds(10);

/// Records heartbeats. Replies as soon as they are in the buffer, before they are written, with
/// their vector, which is empty then. Those for which there is no room are rejected, counted and
/// logged.
#[derive(Debug, Message)]
#[rtype(result = "Vec<Heartbeat>")]
pub struct RecordHeartbeats {
    /// In the order in which they were received.
    pub heartbeats: Vec<Heartbeat>,
    /// The reading of the clocks after the last of them was received.
    pub now: Reading,
}

/// Confirms that everything published before `until` has been received and is with the
/// registry, and that nothing has interrupted the listening since `since`.
#[derive(Debug, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct ConfirmListening {
    /// The instant at which this uninterrupted listening began.
    pub since: DateTime<Utc>,
    /// The instant up to which it is proven.
    pub until: DateTime<Utc>,
    /// The cause of the interruption before `since`.
    pub after: GapCause,
}

/// Finds the devices that are silent at `now`, marks them offline, and puts their transitions
/// into the outbox. Replies when that is done.
#[derive(Debug, Message)]
#[rtype(result = "Result<CheckedOffline, CheckError>")]
pub struct CheckOffline {
    /// The reading of the clocks at the beginning of the check.
    pub now: Reading,
}

/// The reason why a check ended early. The next one makes up for it.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The database failed.
    #[error(transparent)]
    Store(StoreError),
    /// The clock was set while the check ran, so its cutoffs are worthless.
    #[error("the clock was set while the check ran")]
    ClockSet,
    /// Another instance checks, and this one stands by.
    #[error("another instance checks, and this one stands by")]
    StandingBy,
    /// This instance has joined its group anew while the check ran.
    #[error("this instance has joined its group anew while the check ran")]
    Rejoined,
}

/// The result of a check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckedOffline {
    /// The number of devices that went offline.
    pub newly_offline: u64,
    /// The number of alerts in the outbox: the new ones, and those that a crash or a failing
    /// sink has left.
    pub undelivered: u64,
}

/// Writes the buffer. Replies when that is done. If the database fails, what was not written
/// stays in the buffer.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), StoreError>")]
pub struct Flush;

/// Reports the state for health and readiness.
#[derive(Debug, Message)]
#[rtype(result = "RegistryHealth")]
pub struct ReportHealth;

/// The registry's state, for health and readiness.
#[derive(Clone, Debug, MessageResponse)]
pub struct RegistryHealth {
    /// The number of heartbeats that are not written yet.
    pub pending: usize,
    /// The reason why the last write failed or does not end, if so.
    pub database: Result<(), String>,
    /// The reason why the last check failed, if it did.
    pub checks: Result<(), String>,
    /// The time for which no device was heard although echoes come back, if that is
    /// suspicious.
    pub fleet_silent: Option<FleetSilence>,
}

/// The part of the configuration that the registry needs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The instance whose coverage this is: `mqtt.client_id`.
    pub instance: String,
    /// The number of this process among those of its name.
    pub incarnation: i64,
    /// The time between two looks at the other instances. A look shows what was flushed since
    /// the last one, so it is not shorter than the time between two flushes.
    pub look_interval: Duration,
    /// The topic of heartbeats.
    pub topic: TopicPattern,
    /// The time between two proofs that the service is listening.
    pub confirm_interval: Duration,
    /// The silence after which a device is offline, unless it has its own timeout.
    pub timeout: Duration,
    /// The time between two flushes.
    pub flush_interval: Duration,
    /// The skew of a device's clock above which a warning is logged.
    pub max_clock_skew: Duration,
    /// The time for which status changes are kept, and the coverage.
    pub retention: Duration,
    /// The devices that may register.
    pub devices: DevicesConfig,
    /// True if the embedded broker receives the heartbeats.
    pub embedded: bool,
    /// The group with which this instance shares the heartbeats.
    pub share_group: Option<String>,
    /// True if a member that has stopped is taken out of the group (`mqtt.fence`).
    pub fences: bool,
    /// The longest time by which a heartbeat may come after an echo (`mqtt.settle`).
    pub settle: Duration,
    /// The part of its configuration that other instances have to know.
    pub configured: Configured,
}

impl Settings {
    /// The time between an echo that has come back and its proof in the database.
    pub fn proving_after(&self) -> Duration {
        self.settle + self.flush_interval.min(self.look_interval)
    }

    /// The listener that this process is.
    pub fn member(&self) -> Member {
        Member {
            instance: self.instance.clone(),
            incarnation: self.incarnation,
            interval: self.look_interval,
            share_group: self.share_group.clone(),
            configured: Some(self.configured.clone()),
        }
    }
}

/// The actor.
pub struct DeviceRegistry {
    shared: Shared,
    part: Part,
    buffer: Buffer,
    coverage: Coverage,
    saved: Saved,
    clock_steps: ClockSteps,
    database: DatabaseWatch,
    fleet: FleetWatch,
    failed_checks: Option<Outage>,
    journal: Journal,
    settling: Settling,
    /// The time of the newest sample of the fleet.
    sampled_at: Option<DateTime<Utc>>,
    fleet_look: FleetLook,
}

/// Everything that the mailbox shares with the flushes and checks beside it.
#[derive(Clone)]
struct Shared {
    settings: Arc<Settings>,
    bounds: Bounds,
    store: DeviceStore,
    metrics: Arc<Metrics>,
    lines: Lines,
    board: Arc<Board>,
    progress: Arc<Progress>,
    clock: Arc<Mutex<ClockWatch>>,
    /// Held by the one that writes: a flush and a check take turns, first come, first
    /// served.
    turn: Arc<AsyncMutex<()>>,
}

impl Shared {
    /// Puts status changes onto the board, before which `registered` devices were registered.
    fn show(&self, transitions: &[Transition], registered: u64) {
        if transitions.is_empty() && registered == 0 {
            return;
        }
        self.board.change(|facts| {
            facts.registered(registered);
            for transition in transitions {
                facts.moved(transition.from, transition.to);
                if transition.to == Status::Offline {
                    let silent_since = transition.last_seen_at.unwrap_or(transition.at);
                    facts.fell(silent_since, transition.at);
                }
                if let Some(outage) = transition.ends {
                    facts.recovered(outage.silent_since);
                }
            }
        });
        self.board.wake();
        if transitions.iter().any(|transition| transition.ends.is_some()) {
            self.board.has_recoveries();
        }
    }
}

/// The content of the database at the start, or when this instance begins to write.
#[derive(Debug)]
pub struct Found {
    /// The listener that this instance is; `None` if it stands by at first.
    listener: Option<i64>,
    counts: BTreeMap<Status, u64>,
    outages: Outages,
    coverage: Coverage,
}

impl Found {
    /// Joins the listeners, and reads the number of devices by status, the outages that last,
    /// and the coverage. If the service stands by at first, it joins and reads later.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn read(store: &DeviceStore, settings: &Settings) -> Result<Self, StoreError> {
        if store.stands_by() {
            let coverage = Coverage::new(settings.confirm_interval);
            return Ok(Self {
                listener: None,
                counts: BTreeMap::new(),
                outages: Outages::default(),
                coverage,
            });
        }
        let listener = store.join(&settings.member()).await?;
        Self::of(store, settings, listener, ClockOffset::default()).await
    }

    async fn of(
        store: &DeviceStore,
        settings: &Settings,
        listener: i64,
        clock: ClockOffset,
    ) -> Result<Self, StoreError> {
        let counts = store.count_by_status().await?;
        let stays = store.stays(DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC).await?;
        let subscription = Some(&settings.configured.subscription);
        let judge = Judge { instance: &settings.instance, clock, subscription };
        let coverage = Coverage::of_stays(settings.confirm_interval, &stays, judge);
        let outages = store.open_outages().await?;
        Ok(Self { listener: Some(listener), counts, outages, coverage })
    }
}

impl DeviceRegistry {
    /// A registry of the devices in `store`, which held `found` at the start.
    pub fn new(
        settings: Settings,
        store: DeviceStore,
        found: Found,
        metrics: Arc<Metrics>,
    ) -> Self {
        let Found { listener, counts, outages, coverage } = found;
        metrics.set_devices(&counts);
        metrics.set_listeners([u64::from(listener.is_some()), 0, 0]);
        metrics.set_active(listener.is_some());
        let registered = counts.values().sum();
        let board = Board::new(settings.confirm_interval, settings.timeout);
        board.change(|facts| {
            facts.counts(counts);
            facts.outages(outages);
        });
        let progress: Arc<Progress> = Arc::default();
        Self {
            part: Part::new(listener, &settings, system_clock),
            buffer: Buffer::new(&settings.devices, registered),
            saved: Saved::new(coverage.clone()),
            coverage,
            clock_steps: ClockSteps::default(),
            database: DatabaseWatch::new(Arc::clone(&progress), Arc::clone(&metrics)),
            fleet: FleetWatch::new(settings.timeout, settings.topic.clone(), settings.embedded),
            failed_checks: None,
            journal: Journal::default(),
            settling: Settling::default(),
            sampled_at: None,
            fleet_look: FleetLook::default(),
            shared: Shared {
                settings: Arc::new(settings),
                bounds: Bounds::default(),
                store,
                metrics,
                lines: Lines::new(),
                board: Arc::new(board),
                progress,
                clock: Arc::default(),
                turn: Arc::default(),
            },
        }
    }

    /// The same registry, which writes what it knows onto `board`.
    #[must_use]
    pub fn with_board(mut self, board: Arc<Board>) -> Self {
        board.begin_with(&self.shared.board);
        self.shared.board = board;
        self
    }

    /// The same registry, as a member of a group, which ends the sessions of members that have
    /// stopped.
    #[must_use]
    pub fn in_a_group(mut self, sessions: Arc<dyn EndSession>) -> Self {
        self.part.group = Some(Group::new(sessions));
        self.part.vigil = self.part.vigil.in_a_group();
        self
    }

    /// The same registry, which reads the time from `clock` when it looks at other instances.
    #[must_use]
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.part.set_clock(clock);
        self
    }

    /// The same registry, whose clock differs from the database's by that much. For a database
    /// that does not tell.
    #[doc(hidden)]
    #[must_use]
    pub fn with_clock_offset(mut self, offset: chrono::TimeDelta) -> Self {
        let now = DateTime::UNIX_EPOCH;
        self.part.meter.note(now + offset, now, now + offset);
        self
    }

    /// The same registry, which writes changes of the service's state into the journal, by
    /// `clock`.
    #[must_use]
    pub fn watching_the_state(mut self, clock: Clock) -> Self {
        self.journal.clock = Some(clock);
        self.with_clock(clock)
    }

    /// The same registry with other bounds.
    #[doc(hidden)]
    #[must_use]
    pub fn with_bounds(mut self, bounds: Bounds) -> Self {
        self.shared.bounds = bounds;
        self
    }

    fn schedule_flush(&self, after: Duration, ctx: &mut Context<Self>) {
        ctx.run_later(after, |registry, ctx| {
            let began = Instant::now();
            let flush = registry.flush().map(move |_logged, registry, ctx| {
                let interval = registry.shared.settings.flush_interval;
                registry.schedule_flush(interval.saturating_sub(began.elapsed()), ctx);
            });
            ctx.spawn(flush);
        });
    }

    /// Looks after a pause whether a burst of heartbeats has ended, and then writes it.
    fn await_pause(ctx: &mut Context<Self>) {
        ctx.run_later(settling::PAUSE, |registry, ctx| {
            match registry.settling.look(Instant::now(), registry.buffer.arrived()) {
                Look::Again => Self::await_pause(ctx),
                Look::Settled => {
                    ctx.spawn(registry.flush().map(|_logged, _, _| ()));
                }
                Look::Over => (),
            }
        });
    }

    /// Writes the buffer when its turn comes. A heartbeat that could not be written is back in the
    /// buffer before the next turn begins. If it succeeds, all heartbeats that the saved
    /// coverage vouches for are in the database. A standby writes nothing.
    fn flush(&self) -> impl ActorFuture<Self, Output = Result<(), StoreError>> + use<> {
        let turn = Arc::clone(&self.shared.turn);
        async move { turn.lock_owned().await }.into_actor(self).then(|turn, registry, _| {
            registry.flush_in_turn().map(|flushed, _, _| {
                drop(turn);
                flushed
            })
        })
    }

    fn flush_in_turn(&mut self) -> LocalBoxActorFuture<Self, Result<(), StoreError>> {
        if !self.part.writes {
            return Box::pin(ready(Ok(())));
        }
        let batch = self.buffer.take();
        let coverage = self.coverage.clone();
        let listener = self.part.listener.unwrap_or_default();
        let saving = self.saved.plan(&coverage);
        let proof = flush::Proof { listener, saving, others_cut: coverage.others_cut() };
        let journal = self.journal.take();
        let flush = flush::Flush::new(self.shared.clone(), &mut self.buffer, proof, journal);
        let flushing = flush.write(batch).into_actor(self);
        Box::pin(flushing.map(move |flushed, registry, ctx| {
            let flushed = registry.flushed(flushed, ctx);
            if registry.part.writes {
                registry.note_saved(coverage, flushed.is_ok());
            }
            flushed
        }))
    }

    fn flushed(&mut self, flushed: Flushed, ctx: &mut Context<Self>) -> Result<(), StoreError> {
        let Flushed { asked, written, rest, registered, journal, result } = flushed;
        self.buffer.put_back(rest, registered);
        self.journal.put_back(journal);
        let pending = self.buffer.len();
        self.shared.metrics.set_pending(pending);
        match &result {
            Ok(()) if asked => self.database.wrote(written),
            Ok(()) => (),
            Err(error) if self.lost_right(error, ctx) => (),
            Err(error) => self.database.failed(error, pending),
        }
        self.show_health();
        result
    }

    /// Puts onto the board what is known of the service itself.
    fn show_health(&self) {
        let (pending, silent) = (self.buffer.devices(), self.fleet.silent());
        self.shared.board.change(|facts| {
            facts.health(pending, self.database.fault(), silent);
            facts.needs_restart(self.database.needs_restart());
        });
    }

    /// Notes that a flush has saved `coverage`. If that is not `certain`, it may have been
    /// committed although the database reported a failure.
    fn note_saved(&mut self, coverage: Coverage, certain: bool) {
        if certain {
            self.coverage.is_saved(&coverage);
            if !self.is_in_a_group() {
                let vouching = Arc::new(coverage.clone());
                self.shared.board.change(|facts| facts.coverage(vouching));
            }
            self.saved.is_now(coverage);
        } else {
            self.saved.may_be(&coverage);
        }
    }

    /// Compares a reading with earlier ones.
    fn observe(&mut self, now: Reading) {
        let step = self.shared.clock.lock().observe(now, &mut self.coverage);
        step.into_iter().for_each(|step| self.note_step(step));
    }

    fn note_step(&mut self, step: ClockStep) {
        self.part.meter.was_set(step.by);
        self.tell_step(|steps| steps.note(step));
    }

    /// Logs a step of the clock, if one is to be logged now, and shows the newest.
    fn tell_step(&mut self, take: impl FnOnce(&mut ClockSteps) -> Option<Told>) {
        let told = take(&mut self.clock_steps);
        if let Some(step) = told {
            step.tell();
        }
        if let Some(known) = self.clock_steps.known().or(told.and_then(Told::known)) {
            self.shared.board.change(|facts| facts.clock_set(known));
        }
    }

    /// Takes in the times of heartbeats, and corrects those that lie in the future.
    fn receive(&mut self, heartbeats: &mut [Heartbeat]) {
        let step = self.shared.clock.lock().receive(heartbeats, &mut self.coverage);
        step.into_iter().for_each(|step| self.note_step(step));
    }

    /// Notes a gap.
    fn note_gap(&mut self, gap: Interval, cause: GapCause) {
        let seconds = gap.length().num_milliseconds() as f64 / 1000.0;
        self.shared.metrics.blind(seconds);
        if self.is_in_a_group() {
            return lines::gap(gap, cause, &[], seconds);
        }
        self.journal
            .note(gap.until, Happening::Gap { from: gap.from, cause, instances: Vec::new() });
        match cause {
            GapCause::ClockStep => self.tell_step(|steps| steps.note_gap(gap)),
            cause => lines::gap(gap, cause, &[], seconds),
        }
    }

    /// Notes for how long no device was heard, up to `until`.
    fn watch_fleet(&mut self, until: DateTime<Utc>) {
        let Some(heard) = self.shared.clock.lock().last_received() else { return };
        // Time in a gap is not silence, here as everywhere.
        let silent = self.coverage.intervals().covered(heard, until);
        let silent = silent.to_std().unwrap_or_default();
        self.fleet.listened(silent, self.buffer.registered(), self.shared.metrics.refused());
    }

    /// Looks for a step of the clock that has waited to be logged for too long, and for work
    /// on the database that gets no further.
    fn watch(&mut self, ctx: &mut Context<Self>) {
        let now = Instant::now();
        self.tell_step(|steps| steps.overdue(now));
        self.database.look(now, self.buffer.len());
        self.show_health();
        if self.part.leads {
            self.journal.watch(&self.shared.board);
        } else {
            ctx.spawn(self.look_at_the_fleet((self.part.clock)().wall));
        }
    }

    /// Gathers what a check needs, so that it can run without the actor.
    fn sweep(&mut self, now: DateTime<Utc>, base: u64) -> Sweep {
        // Also if the clock was set back, for then it is another history.
        let is_due = |last: DateTime<Utc>| (now - last).abs() >= SAMPLED_EVERY;
        let keeps_sample = self.sampled_at.is_none_or(is_due);
        if keeps_sample {
            self.sampled_at = Some(now);
        }
        let mut coverage = self.saved.coverage().clone();
        coverage.set_beside_width(self.coverage.beside_width());
        Sweep {
            keeps_sample,
            judging: self.judging(),
            listener: self.part.listener,
            shared: self.shared.clone(),
            clamped: self.clock_steps.clamped(),
            base,
            coverage,
            now,
        }
    }

    fn swept(&mut self, swept: Swept, began: Instant, at: DateTime<Utc>) -> CheckedOffline {
        let Swept { newly_offline, outbox, counts, late, outages, longest } = swept;
        let Shared { bounds: Bounds { coverage_kept, max_intervals, .. }, metrics, .. } =
            &self.shared;
        self.coverage.prune(longest.max(*coverage_kept), *max_intervals);
        self.buffer.are_registered(counts.values().sum());
        metrics.set_devices(&counts);
        self.shared.board.change(|facts| {
            facts.counts(counts);
            facts.checked(at, late);
            facts.undelivered(outbox.alerts, outbox.oldest);
            if let Some(outages) = outages {
                facts.outages(outages);
            }
        });
        metrics.set_outbox(&outbox, at);
        metrics.checked(began.elapsed().as_secs_f64(), at);
        if let Some(failed) = self.failed_checks.take() {
            let seconds = failed.lasts(Instant::now()).as_secs();
            info!(target: TARGET, seconds; "checks get through again");
        }
        CheckedOffline { newly_offline, undelivered: outbox.alerts }
    }

    fn check_failed(&mut self, error: &CheckError) {
        self.shared.metrics.check_failed();
        // The ticker logs it.
        Outage::note(&mut self.failed_checks, Instant::now(), error.to_string());
    }

    /// Logs a step of the clock if everything is known about it, now that a check has ended.
    fn tell_of_the_clock(&mut self, now: Reading) {
        self.tell_step(|steps| steps.checked(now));
        self.clock_steps.tell_of_others();
    }
}

impl Actor for DeviceRegistry {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.schedule_flush(self.shared.settings.flush_interval, ctx);
        if self.shared.store.stands_by() {
            self.schedule_look(Duration::ZERO, ctx);
        }
        ctx.run_interval(WATCH_INTERVAL, Self::watch);
    }
}

impl Handler<RecordHeartbeats> for DeviceRegistry {
    type Result = MessageResult<RecordHeartbeats>;

    fn handle(&mut self, message: RecordHeartbeats, ctx: &mut Context<Self>) -> Self::Result {
        let RecordHeartbeats { mut heartbeats, now } = message;
        let received = heartbeats.len() as u64;
        self.shared.metrics.heartbeats_accepted(received);
        self.shared.board.change(|facts| facts.received(received, now.monotonic));
        self.observe(now);
        if !self.may_prove() {
            // The rest of a stay in the group that is over is lost with what it had not written.
            heartbeats.clear();
            return MessageResult(heartbeats);
        }
        self.receive(&mut heartbeats);
        self.fleet.heard();
        let full = self.buffer.merge(&mut heartbeats);
        if !full.is_empty() {
            // It may be from a registered device, so silence must not count across it.
            self.coverage.interrupt(now.wall, GapCause::Shed);
            self.shared.board.change(|facts| facts.shed(now.monotonic));
            self.shared.lines.reject(&self.shared.metrics, &full);
        }
        self.shared.metrics.set_pending(self.buffer.len());
        if self.settling.heard(Instant::now(), self.buffer.arrived()) {
            Self::await_pause(ctx);
        }
        MessageResult(heartbeats)
    }
}

impl Handler<ConfirmListening> for DeviceRegistry {
    type Result = ();

    fn handle(&mut self, message: ConfirmListening, _: &mut Context<Self>) {
        let ConfirmListening { since, until, after } = message;
        if !self.may_prove() {
            return;
        }
        self.all_arrived(until);
        match self.coverage.confirm(since, until, after) {
            Confirmed::Extended | Confirmed::Began { gap: None } => {
                self.tell_step(ClockSteps::proven);
            }
            Confirmed::Began { gap: Some((gap, cause)) } => {
                if self.part.writes {
                    self.note_gap(gap, cause);
                }
                self.tell_step(ClockSteps::proven);
            }
            Confirmed::SteppedBack { by } => {
                let step = self.shared.clock.lock().set_back(by, until);
                self.note_step(step);
            }
        }
        if self.part.leads {
            self.journal.proven(until);
        }
        // What a group has listened to is read from the database, and a member may hear nothing.
        if self.is_in_a_group() {
            return;
        }
        let (proven, missing) =
            (self.coverage.proven_until(), self.coverage.missing_for(self.shared.settings.timeout));
        self.shared.board.change(|facts| facts.proven(proven, missing));
        self.watch_fleet(until);
    }
}

impl Handler<CheckOffline> for DeviceRegistry {
    type Result = ResponseActFuture<Self, Result<CheckedOffline, CheckError>>;

    fn handle(
        &mut self,
        CheckOffline { now }: CheckOffline,
        _: &mut Context<Self>,
    ) -> Self::Result {
        let began = Instant::now();
        self.observe(now);
        if !self.part.leads {
            // Whatever has failed is for the active one to make up for.
            self.failed_checks = None;
            return Box::pin(ready(Err(CheckError::StandingBy)));
        }
        let clock = self.shared.clock.lock();
        clock.before_clamping(&mut self.coverage);
        let (at, base) = (now.wall, clock.base());
        drop(clock);
        // Without the flush a device could be marked while its heartbeat waits.
        let check = self.flush().then(move |flushed, registry, _| {
            let sweep = match flushed {
                Ok(()) if registry.part.leads => Ok(registry.sweep(at, base)),
                Ok(()) => Err(CheckError::StandingBy),
                Err(error) => Err(error.into()),
            };
            async { sweep?.of_the_group().await?.run().await }.into_actor(registry)
        });
        Box::pin(check.map(move |swept, registry, ctx| {
            // A check that the clock has made worthless is repeated at once.
            if !matches!(swept, Err(CheckError::ClockSet)) {
                registry.tell_of_the_clock(now);
            }
            match swept {
                Ok(swept) => Ok(registry.swept(swept, began, at)),
                Err(CheckError::StandingBy) => Err(CheckError::StandingBy),
                Err(CheckError::Store(error)) if registry.lost_right(&error, ctx) => {
                    Err(CheckError::StandingBy)
                }
                // It has lost the right meanwhile, and another one checks.
                Err(_) if !registry.part.leads => Err(CheckError::StandingBy),
                Err(error) => {
                    registry.check_failed(&error);
                    Err(error)
                }
            }
        }))
    }
}

impl Handler<Flush> for DeviceRegistry {
    type Result = ResponseActFuture<Self, Result<(), StoreError>>;

    fn handle(&mut self, _: Flush, _: &mut Context<Self>) -> Self::Result {
        // This message comes when the service ends, so nothing more becomes known.
        self.tell_step(ClockSteps::take);
        Box::pin(self.flush())
    }
}

impl Handler<ReportHealth> for DeviceRegistry {
    type Result = RegistryHealth;

    fn handle(&mut self, _: ReportHealth, _: &mut Context<Self>) -> RegistryHealth {
        RegistryHealth {
            pending: self.buffer.len(),
            database: self.database.fault(),
            checks: Outage::fault(self.part.barred.as_ref().or(self.failed_checks.as_ref())),
            fleet_silent: self.fleet.silent(),
        }
    }
}
