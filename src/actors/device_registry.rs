//! Owns every status transition, the write-behind buffer of heartbeats, and the
//! coverage.
//!
//! Recording a heartbeat only merges it into the buffer. A flush writes the
//! buffer every `flush_interval`; a check flushes, then finds and marks the
//! silent devices. Both run beside the mailbox, which never waits for the
//! database, and take turns with each other.

mod clock_step;
mod flush;
mod progress;
mod sweep;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use actix::prelude::*;
use chrono::{DateTime, Utc};
use log::{Level, debug, error, info, warn};
use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;

use self::clock_step::{ClockSteps, Told};
use self::flush::Flushed;
use self::progress::Progress;
use self::sweep::{Sweep, Swept};
use super::log_rejection;
use crate::actors::bounds::Bounds;
use crate::actors::outage::{Mention, Outage};
use crate::config::{Config, DevicesConfig};
use crate::domain::delivery::Attempt;
use crate::domain::{
    ClockWatch, Confirmed, Coverage, DeviceId, GapCause, Heartbeat, Interval, Pending, Reading,
    RegistrationBudget, Rejection, Saved, Status, Transition,
};
use crate::logging::batch_log::BatchLog;
use crate::logging::line_budget::LineBudget;
use crate::metrics::Metrics;
use crate::store::{DeviceStore, RecordingRules, StoreError};

const TARGET: &str = "device_registry";

/// How often it is looked whether the database answers.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// How long a transaction may take before its silence is a fault. Locks are waited for
/// half as long, see `store`.
const STALLED_AFTER: Duration = Duration::from_secs(10);

/// Devices live. Replies as soon as they are in the buffer.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct RecordHeartbeats {
    /// In the order in which they were received.
    pub heartbeats: Vec<Heartbeat>,
    /// The clocks after the last of them was received.
    pub now: Reading,
}

/// Everything published before `until` has been received, and is with the
/// registry; nothing has interrupted the listening since `since`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ConfirmListening {
    /// When this uninterrupted listening began.
    pub since: DateTime<Utc>,
    /// The instant up to which that is proven.
    pub until: DateTime<Utc>,
    /// What had interrupted it before `since`.
    pub after: GapCause,
}

/// Find the devices that are silent at `now` and mark them offline. Their transitions
/// are in the outbox from then on.
#[derive(Debug, Message)]
#[rtype(result = "Result<CheckedOffline, CheckError>")]
pub struct CheckOffline {
    /// The time of the check.
    pub now: Reading,
}

/// The reason why a check ended early. The next one makes up for it.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The database failed.
    #[error(transparent)]
    Store(StoreError),
    /// The clock was set while the check ran: what it knew of the time is worthless.
    #[error("the clock was set while the check ran")]
    ClockSet,
}

/// What a check found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckedOffline {
    /// How many devices went offline.
    pub newly_offline: u64,
    /// How many alerts the outbox holds: the new ones, and what a crash or a failing
    /// sink left over.
    pub undelivered: u64,
}

/// Reads the head of the outbox.
#[derive(Debug, Message)]
#[rtype(result = "Result<Outbox, StoreError>")]
pub struct ReadOutbox {
    /// The most transitions to read.
    pub limit: u64,
}

/// The head of the outbox.
#[derive(Clone, Debug, Default)]
pub struct Outbox {
    /// The oldest transitions that the alert sink has not taken, in order.
    pub transitions: Vec<Transition>,
    /// The delivery that was begun last, perhaps by an earlier process.
    pub last: Option<Attempt>,
}

/// Note that these are about to be delivered.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), StoreError>")]
pub struct BeginDelivery(pub Attempt);

/// The alert sink has these.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), StoreError>")]
pub struct AcknowledgeOffline {
    /// The sequence numbers of what was delivered.
    pub sequences: Vec<i64>,
    /// When.
    pub at: DateTime<Utc>,
}

/// The alert sink will never take this one.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), StoreError>")]
pub struct GiveUpOffline {
    /// Its sequence number.
    pub sequence: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// The reason that the sink gave last.
    pub why: String,
}

/// Write what is in the buffer, and reply when that is done.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), StoreError>")]
pub struct Flush;

/// How are you?
#[derive(Debug, Message)]
#[rtype(result = "RegistryHealth")]
pub struct ReportHealth;

/// The registry's state, for health and readiness.
#[derive(Clone, Debug, MessageResponse)]
pub struct RegistryHealth {
    /// How many heartbeats are not written yet.
    pub pending: usize,
    /// Why the last write failed or does not end, if so.
    pub database: Result<(), String>,
    /// Why the last check failed, if it did.
    pub checks: Result<(), String>,
    /// For how long no device has been heard although echoes come back, if that is
    /// suspicious.
    pub fleet_silent: Option<Duration>,
}

/// The actor.
pub struct DeviceRegistry {
    config: Config,
    bounds: Bounds,
    metrics: Arc<Metrics>,
    store: DeviceStore,
    /// Whoever writes holds it: a flush and a check take turns, first come,
    /// first served.
    turn: Arc<AsyncMutex<()>>,
    progress: Arc<Progress>,
    pending: Pending,
    /// The heartbeats that a flush has taken out of the buffer and not written yet.
    in_flight: Arc<AtomicUsize>,
    coverage: Coverage,
    saved: Saved,
    clock: Arc<Mutex<ClockWatch>>,
    clock_steps: ClockSteps,
    registered: u64,
    /// How many devices heartbeats may register now.
    registrations: RegistrationBudget,
    outage: Option<Outage>,
    lines: Lines,
    stalled: Option<Outage>,
    failed_checks: Option<Outage>,
    /// The time since which no device is heard although echoes come back.
    fleet_silent: Option<Duration>,
}

/// What the database holds at the start.
#[derive(Debug)]
pub struct Found {
    counts: BTreeMap<Status, u64>,
    coverage: Coverage,
}

impl Found {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn read(store: &DeviceStore, config: &Config) -> Result<Self, StoreError> {
        let counts = store.count_by_status().await?;
        let (ever, instance) = (DateTime::<Utc>::MIN_UTC, &config.mqtt.client_id);
        let listened = store.listened(instance, ever, DateTime::<Utc>::MAX_UTC).await?;
        let coverage = Coverage::new(config.mqtt.confirm_interval()).with(listened);
        Ok(Self { counts, coverage })
    }
}

impl DeviceRegistry {
    /// A registry of the devices in `store`, as it found them.
    pub fn new(config: Config, store: DeviceStore, found: Found, metrics: Arc<Metrics>) -> Self {
        let Found { counts, coverage } = found;
        let DevicesConfig { registration_rate: rate, registration_burst: burst, .. } =
            config.devices;
        let registrations = RegistrationBudget::new(rate, burst, Instant::now());
        let mut registry = Self {
            pending: Pending::default(),
            in_flight: Arc::default(),
            saved: Saved::new(coverage.clone()),
            coverage,
            config,
            bounds: Bounds::default(),
            metrics,
            store,
            turn: Arc::default(),
            progress: Arc::default(),
            clock: Arc::default(),
            clock_steps: ClockSteps::default(),
            registered: 0,
            registrations,
            outage: None,
            stalled: None,
            failed_checks: None,
            fleet_silent: None,
            lines: Lines::new(),
        };
        registry.counted(&counts);
        registry
    }

    /// The same registry with other bounds.
    #[doc(hidden)]
    #[must_use]
    pub fn with_bounds(self, bounds: Bounds) -> Self {
        Self { bounds, ..self }
    }

    /// Takes in how many devices there are.
    fn counted(&mut self, counts: &BTreeMap<Status, u64>) {
        self.metrics.set_devices(counts);
        self.are_registered(counts.values().sum());
    }

    /// The number of heartbeats that are not written: up to two of a device while the
    /// database is away.
    fn unwritten(&self) -> usize {
        self.pending.len() + self.in_flight.load(Ordering::Relaxed)
    }

    /// Gives each registered device room in the buffer, and as many others as may be
    /// registered at all.
    fn are_registered(&mut self, devices: u64) {
        self.registered = devices;
        self.pending.set_capacity(devices.saturating_add(self.config.devices.max_devices));
    }

    fn schedule_flush(&self, after: Duration, ctx: &mut Context<Self>) {
        ctx.run_later(after, |registry, ctx| {
            let began = Instant::now();
            let flush = registry.flush().map(move |_logged, registry, ctx| {
                let interval = registry.config.heartbeat.flush_interval.get();
                registry.schedule_flush(interval.saturating_sub(began.elapsed()), ctx);
            });
            ctx.spawn(flush);
        });
    }

    /// Writes the buffer when its turn comes. What could not be written is back
    /// in the buffer before anybody else has a turn; else all heartbeats that the
    /// saved coverage vouches for are in the database.
    fn flush(&self) -> impl ActorFuture<Self, Output = Result<(), StoreError>> + use<> {
        let turn = Arc::clone(&self.turn);
        async move { turn.lock_owned().await }.into_actor(self).then(|turn, registry, _| {
            let began = Instant::now();
            let batch = registry.pending.take();
            registry.in_flight.store(batch.len(), Ordering::Relaxed);
            let coverage = registry.coverage.clone();
            let flush = flush::Flush {
                store: registry.store.clone(),
                metrics: Arc::clone(&registry.metrics),
                lines: registry.lines.clone(),
                in_flight: Arc::clone(&registry.in_flight),
                progress: Arc::clone(&registry.progress),
                rules: RecordingRules {
                    auto_register: registry.config.devices.auto_register,
                    room: registry.config.devices.max_devices.saturating_sub(registry.registered),
                    registrations: registry.registrations.available(began),
                    max_clock_skew: registry.config.heartbeat.max_clock_skew,
                },
                instance: registry.config.mqtt.client_id.clone(),
                written_at_once: registry.bounds.written_at_once,
                saving: registry.saved.plan(&coverage),
            };
            let idle = flush.is_idle(&batch);
            let flushing = flush.write(batch).into_actor(registry);
            flushing.map(move |flushed, registry, _| {
                let flushed = registry.flushed(flushed, idle, began);
                match &flushed {
                    Ok(()) => {
                        registry.coverage.is_saved(&coverage);
                        registry.saved.is_now(coverage);
                    }
                    // It may have been committed and not been answered.
                    Err(_) => registry.saved.may_be(&coverage),
                }
                drop(turn);
                flushed
            })
        })
    }

    fn flushed(
        &mut self,
        Flushed { written, rest, registered, result }: Flushed,
        idle: bool,
        began: Instant,
    ) -> Result<(), StoreError> {
        self.are_registered(self.registered + registered);
        self.registrations.spend(registered);
        match &result {
            Ok(()) if written > 0 => {
                let took = began.elapsed();
                self.metrics.flushed(took.as_secs_f64());
                debug!(target: TARGET, heartbeats = written, duration_ms = took.as_millis(); "flushed");
            }
            Ok(()) => (),
            Err(error) => self.note_outage(error),
        }
        if result.is_ok() && !idle {
            self.note_recovery(written);
        }
        self.pending.put_back(rest);
        self.in_flight.store(0, Ordering::Relaxed);
        self.metrics.set_pending(self.unwritten());
        result
    }

    fn note_outage(&mut self, error: &StoreError) {
        let (now, pending, why) = (Instant::now(), self.unwritten(), error.to_string());
        match (Outage::note(&mut self.outage, now, why), error) {
            (Mention::Begins, StoreError::TakenOver { .. } | StoreError::FileReplaced { .. }) => {
                error!(target: TARGET, "{error}");
            }
            (Mention::Begins, _) => error!(
                target: TARGET,
                "{error}; heartbeats are kept and written when the database is back"
            ),
            (Mention::GoesOn(lasts), _) => {
                error!(target: TARGET, seconds = lasts.as_secs(), pending; "still: {error}");
            }
            (Mention::Nothing, _) => (),
        }
    }

    fn note_recovery(&mut self, heartbeats: usize) {
        if let Some(outage) = self.outage.take() {
            let seconds = outage.lasts(Instant::now()).as_secs();
            info!(target: TARGET, seconds, heartbeats; "the database is back, nothing was lost");
        }
    }

    /// Notices work on the database that does not get any further.
    fn watch_progress(&mut self) {
        let now = Instant::now();
        tell(self.clock_steps.overdue(now));
        let stall = self.progress.longest_wait(now).filter(|stall| stall.lasts >= STALLED_AFTER);
        let failing = self.outage.as_ref().map_or(Duration::ZERO, |outage| outage.lasts(now));
        self.metrics.set_stalled(stall.map_or(failing, |stall| stall.lasts.max(failing)));
        let Some(stall) = stall else {
            if let Some(stalled) = self.stalled.take() {
                let seconds = (STALLED_AFTER + stalled.lasts(now)).as_secs();
                info!(target: TARGET, seconds; "the database has answered");
            }
            return;
        };
        let (seconds, pending) = (stall.lasts.as_secs(), self.unwritten());
        let why = format!("no answer for {seconds} s, asked to {}", stall.what);
        if Outage::note(&mut self.stalled, now, why) != Mention::Nothing {
            error!(
                target: TARGET, seconds, pending;
                "the database does not answer, asked to {}; is a table locked, or the server \
                 gone? Heartbeats are kept",
                stall.what
            );
        }
    }

    /// Compares a reading with those before it.
    fn observe(&mut self, now: Reading) {
        let mut clock = self.clock.lock();
        let before = clock.newest();
        let Some(by) = clock.observe(now) else { return };
        drop(clock);
        self.coverage.forget_the_future(now.wall);
        tell(self.clock_steps.note(by, now.wall, before));
    }

    /// Forgets what is proven of the future before devices are clamped into it. They
    /// would seem to have been silent there if the clock is set forward again, which a
    /// process that has crashed meanwhile does not notice.
    fn forget_the_future(&mut self) {
        let clock = self.clock.lock();
        if let (true, Some(now)) = (clock.is_clamp_due(), clock.now()) {
            self.coverage.forget_the_future(now);
        }
    }

    /// Notices that the clock was turned back among the heartbeats, or since the newest
    /// proof. Times that this leaves in the future become those of `now`.
    fn receive(&mut self, heartbeats: &mut [Heartbeat]) {
        let mut clock = self.clock.lock();
        if let Some(now) = clock.now() {
            // Received before that reading, by a clock that was turned back since.
            for heartbeat in heartbeats.iter_mut() {
                heartbeat.received_at = heartbeat.received_at.min(now);
            }
        }
        let times = || heartbeats.iter().map(|heartbeat| heartbeat.received_at);
        let among = clock.received(times());
        let Some(earliest) = times().min() else { return };
        let since_proof = self.coverage.step_back(earliest);
        if let Some(by) = among.max(since_proof) {
            clock.was_set();
            drop(clock);
            // The newest reading may be of this clock already.
            tell(self.clock_steps.note(-by, earliest, None));
        }
    }

    /// Takes in a time that was not listened to.
    fn note_gap(&mut self, gap: Interval, cause: GapCause) {
        let seconds = gap.length().num_milliseconds() as f64 / 1000.0;
        self.metrics.blind(seconds);
        if cause == GapCause::ClockStep {
            return tell(self.clock_steps.note_gap(gap));
        }
        let (from, until) = (gap.from.to_rfc3339(), gap.until.to_rfc3339());
        warn!(
            target: TARGET, seconds, from, until, cause = cause.as_str();
            "{cause}; no device's silence counts in this time"
        );
    }

    /// A device's heartbeat was thrown away for want of room. It may be a registered
    /// one's: silence must not count across it.
    fn lost(&mut self, rejections: &[Rejection], at: DateTime<Utc>) {
        if rejections.is_empty() {
            return;
        }
        self.coverage.interrupt(at, GapCause::Shed);
        self.lines.reject(&self.metrics, rejections);
    }

    /// Says if the whole fleet falls silent while echoes come back: more likely than its
    /// death is that the broker keeps its heartbeats from this client.
    fn watch_fleet(&mut self, proven_until: DateTime<Utc>) {
        let Some(heard) = self.clock.lock().last_received() else { return };
        // A gap is no silence, here as anywhere.
        let silent = self.coverage.intervals().covered(heard, proven_until);
        let silent = silent.to_std().unwrap_or_default();
        if silent < self.config.heartbeat.timeout.get() / 2 {
            return;
        }
        if self.fleet_silent.replace(silent).is_none() {
            let (seconds, topic) = (silent.as_secs(), &self.config.mqtt.topic);
            error!(
                target: TARGET, seconds;
                "no device is heard any more, yet echoes come back: if the devices live, the \
                 broker keeps their heartbeats from this client; look at its rights for \
                 {topic} and at its queue limits"
            );
        }
    }

    fn fleet_is_heard(&mut self) {
        if let Some(silent) = self.fleet_silent.take() {
            info!(target: TARGET, seconds = silent.as_secs(); "devices are heard again");
        }
    }

    /// Writes something to the database when nothing else does.
    fn in_turn<T: 'static>(
        &self,
        write: impl AsyncFnOnce(DeviceStore) -> Result<T, StoreError> + 'static,
    ) -> ResponseFuture<Result<T, StoreError>> {
        let (store, turn) = (self.store.clone(), Arc::clone(&self.turn));
        Box::pin(async move {
            let _turn = turn.lock_owned().await;
            write(store).await
        })
    }

    /// Gathers what a check needs once it has its turn, apart from the actor itself.
    fn sweep(&self, now: DateTime<Utc>, base: u64) -> Sweep {
        Sweep {
            store: self.store.clone(),
            turn: Arc::clone(&self.turn),
            bounds: self.bounds,
            metrics: Arc::clone(&self.metrics),
            lines: self.lines.clone(),
            progress: Arc::clone(&self.progress),
            clock: Arc::clone(&self.clock),
            clamped: self.clock_steps.clamped(),
            base,
            coverage: self.saved.coverage().clone(),
            timeout: self.config.heartbeat.timeout.get(),
            instance: self.config.mqtt.client_id.clone(),
            retention: self.config.history.retention.get(),
            now,
        }
    }

    fn swept(&mut self, swept: Swept, began: Instant, at: DateTime<Utc>) -> CheckedOffline {
        let Swept { newly_offline, outbox, counts, longest } = swept;
        let Bounds { coverage_kept, max_intervals, .. } = self.bounds;
        self.coverage.prune(longest.max(coverage_kept), max_intervals);
        self.counted(&counts);
        self.metrics.set_outbox(&outbox, at);
        self.metrics.checked(began.elapsed().as_secs_f64(), at);
        if let Some(failed) = self.failed_checks.take() {
            let seconds = failed.lasts(Instant::now()).as_secs();
            info!(target: TARGET, seconds; "checks get through again");
        }
        CheckedOffline { newly_offline, undelivered: outbox.alerts }
    }

    fn check_failed(&mut self, error: &CheckError) {
        self.metrics.check_failed();
        // The ticker says it.
        Outage::note(&mut self.failed_checks, Instant::now(), error.to_string());
    }
}

impl Actor for DeviceRegistry {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.schedule_flush(self.config.heartbeat.flush_interval.get(), ctx);
        ctx.run_interval(WATCH_INTERVAL, |registry, _| registry.watch_progress());
    }
}

impl Handler<RecordHeartbeats> for DeviceRegistry {
    type Result = ();

    fn handle(&mut self, message: RecordHeartbeats, _: &mut Context<Self>) {
        let RecordHeartbeats { mut heartbeats, now } = message;
        self.metrics.heartbeats_accepted(heartbeats.len() as u64);
        self.observe(now);
        self.receive(&mut heartbeats);
        self.fleet_is_heard();
        let merged = heartbeats.into_iter().map(|heartbeat| self.pending.merge(heartbeat));
        let full: Vec<_> = merged.filter_map(Result::err).collect();
        self.lost(&full, now.wall);
        self.metrics.set_pending(self.unwritten());
    }
}

impl Handler<ConfirmListening> for DeviceRegistry {
    type Result = ();

    fn handle(&mut self, message: ConfirmListening, _: &mut Context<Self>) {
        let ConfirmListening { since, until, after } = message;
        match self.coverage.confirm(since, until, after) {
            Confirmed::Extended | Confirmed::Began { gap: None } => {
                tell(self.clock_steps.proven());
            }
            Confirmed::Began { gap: Some((gap, cause)) } => {
                self.note_gap(gap, cause);
                tell(self.clock_steps.proven());
            }
            Confirmed::SteppedBack { by } => {
                let mut clock = self.clock.lock();
                let before = clock.newest();
                clock.was_set();
                drop(clock);
                tell(self.clock_steps.note(-by, until, before));
            }
        }
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
        self.forget_the_future();
        let (at, base) = (now.wall, self.clock.lock().base());
        // Without the flush a device could be marked while its heartbeat waits.
        let check = self.flush().then(move |flushed, registry, _| {
            let sweep = flushed.map(|()| registry.sweep(at, base));
            let clamp = sweep.is_ok() && registry.clock.lock().take_clamp_due();
            async move {
                let swept = async { sweep?.run(clamp).await }.await;
                (swept, clamp)
            }
            .into_actor(registry)
        });
        Box::pin(check.map(move |(swept, clamp), registry, _| {
            // Another check follows at once on one that the clock has made worthless.
            if !matches!(swept, Err(CheckError::ClockSet)) {
                tell(registry.clock_steps.checked(now));
                registry.clock_steps.tell_of_others();
            }
            match swept {
                Ok(swept) => Ok(registry.swept(swept, began, at)),
                Err(error) => {
                    if clamp {
                        registry.clock.lock().clamp_again();
                    }
                    registry.check_failed(&error);
                    Err(error)
                }
            }
        }))
    }
}

impl Handler<ReadOutbox> for DeviceRegistry {
    type Result = ResponseFuture<Result<Outbox, StoreError>>;

    fn handle(&mut self, ReadOutbox { limit }: ReadOutbox, _: &mut Context<Self>) -> Self::Result {
        let store = self.store.clone();
        Box::pin(async move {
            let transitions = store.undelivered_offline(limit).await?;
            let last = if transitions.is_empty() { None } else { store.last_delivery().await? };
            Ok(Outbox { transitions, last })
        })
    }
}

impl Handler<BeginDelivery> for DeviceRegistry {
    type Result = ResponseFuture<Result<(), StoreError>>;

    fn handle(
        &mut self,
        BeginDelivery(attempt): BeginDelivery,
        _: &mut Context<Self>,
    ) -> Self::Result {
        self.in_turn(async move |store| store.begin_delivery(&attempt).await)
    }
}

impl Handler<AcknowledgeOffline> for DeviceRegistry {
    type Result = ResponseFuture<Result<(), StoreError>>;

    fn handle(&mut self, message: AcknowledgeOffline, _: &mut Context<Self>) -> Self::Result {
        let AcknowledgeOffline { sequences, at } = message;
        self.in_turn(async move |store| store.acknowledge_offline(&sequences, at).await)
    }
}

impl Handler<GiveUpOffline> for DeviceRegistry {
    type Result = ResponseFuture<Result<(), StoreError>>;

    fn handle(&mut self, message: GiveUpOffline, _: &mut Context<Self>) -> Self::Result {
        let GiveUpOffline { sequence, at, why } = message;
        self.in_turn(async move |store| store.give_up_offline(sequence, at, &why).await)
    }
}

impl Handler<Flush> for DeviceRegistry {
    type Result = ResponseActFuture<Self, Result<(), StoreError>>;

    fn handle(&mut self, _: Flush, _: &mut Context<Self>) -> Self::Result {
        // It comes when the service ends.
        tell(self.clock_steps.take());
        Box::pin(self.flush())
    }
}

impl Handler<ReportHealth> for DeviceRegistry {
    type Result = RegistryHealth;

    fn handle(&mut self, _: ReportHealth, _: &mut Context<Self>) -> RegistryHealth {
        let fault = |outage: Option<&Outage>| outage.map_or(Ok(()), |o| Err(o.why().to_owned()));
        RegistryHealth {
            pending: self.unwritten(),
            database: fault(self.outage.as_ref().or(self.stalled.as_ref())),
            checks: fault(self.failed_checks.as_ref()),
            fleet_silent: self.fleet_silent,
        }
    }
}

fn tell(step: Option<Told>) {
    if let Some(step) = step {
        step.tell();
    }
}

/// The log of a flush and a check, bounded however often they run.
#[derive(Clone)]
struct Lines {
    changes: BatchLog,
    skews: BatchLog,
    payloads: BatchLog,
    rejections: LineBudget,
}

impl Lines {
    fn new() -> Self {
        Self {
            changes: BatchLog::new(TARGET, Level::Info, "status changes"),
            skews: BatchLog::new(TARGET, Level::Warn, "devices with a skewed clock"),
            payloads: BatchLog::new(TARGET, Level::Warn, "devices with an unreadable payload"),
            rejections: LineBudget::new(TARGET, "rejected heartbeats"),
        }
    }

    fn reject(&self, metrics: &Metrics, rejections: &[Rejection]) {
        for rejection in rejections {
            metrics.rejected(rejection);
            self.rejections.spend(|| log_rejection(TARGET, rejection));
        }
    }

    fn transitions(&self, transitions: &[Transition]) {
        self.changes.log(transitions, |level, transition| {
            let Transition { device_id: device, from, to, .. } = transition;
            log::log!(target: TARGET, level, device, from, to; "status changed");
        });
    }

    fn skews(&self, skewed: &[(DeviceId, i64)], bound: Duration) {
        self.skews.log(skewed, |level, (device, skew_ms)| {
            log::log!(
                target: TARGET, level, device, skew_ms;
                "the device's clock is off by more than {}; it decides nothing",
                crate::duration::format(bound)
            );
        });
    }

    fn payloads(&self, unreadable: &[(DeviceId, String)]) {
        self.payloads.log(unreadable, |level, (device, why)| {
            log::log!(
                target: TARGET, level, device;
                "the device lives, but its payload cannot be read: {why}"
            );
        });
    }
}
