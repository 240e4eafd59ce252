//! Owns every status transition, the write-behind buffer of heartbeats, and the
//! coverage.
//!
//! Recording a heartbeat only merges it into the buffer. A flush writes the
//! buffer every `flush_interval`; a check flushes, then finds and marks the
//! silent devices. Both run beside the mailbox, which never waits for the
//! database, and take turns with each other.

mod flush;
mod sweep;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use chrono::{DateTime, TimeDelta, Utc};
use log::{Level, debug, error, info, warn};
use tokio::sync::Mutex;

use self::flush::Flushed;
use self::sweep::Sweep;
use super::{BatchLog, log_rejection};
use crate::config::{Config, DevicesConfig};
use crate::domain::{
    Confirmed, Coverage, DeviceId, GapCause, Heartbeat, Pending, RegistrationBudget, Rejection,
    Status, Transition,
};
use crate::line_budget::LineBudget;
use crate::metrics::Metrics;
use crate::store::{DeviceStore, Proven, RecordingRules, StoreError};

const TARGET: &str = "device_registry";

/// How many undelivered transitions are handed out at once.
const DELIVERED_AT_ONCE: u64 = 10_000;

/// How much coverage is kept even if no timeout needs it now: a longer one may be
/// set later.
const COVERAGE_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// How far in the future a heartbeat may be without the clock having been turned
/// back: it may be received between a check's reading of the clock and the check.
const TOLERATED_FUTURE: TimeDelta = TimeDelta::seconds(1);

/// While the database is gone every flush fails; this is how often that is said.
const OUTAGE_REMINDER: Duration = Duration::from_secs(30);

/// Devices live. Replies as soon as they are in the buffer.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct RecordHeartbeats {
    /// In the order in which they were received.
    pub heartbeats: Vec<Heartbeat>,
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

/// Find the devices that are silent at `now` and mark them offline. Replies with
/// the oldest offline transitions that the alert sink has not acknowledged: the
/// new ones, and what a crash or a failing sink left over.
#[derive(Debug, Message)]
#[rtype(result = "Result<CheckedOffline, StoreError>")]
pub struct CheckOffline {
    /// The time of the check.
    pub now: DateTime<Utc>,
}

/// What a check found.
#[derive(Debug, Default)]
pub struct CheckedOffline {
    /// How many devices went offline.
    pub newly_offline: u64,
    /// What is to be delivered, in the order of its sequence numbers; there may
    /// be more, which the acknowledgement replies with.
    pub undelivered: Vec<Transition>,
}

/// The alert sink has these. Replies with the next ones to be delivered.
#[derive(Debug, Message)]
#[rtype(result = "Result<Vec<Transition>, StoreError>")]
pub struct AcknowledgeOffline {
    /// The sequence numbers of what was delivered.
    pub sequences: Vec<i64>,
    /// When.
    pub at: DateTime<Utc>,
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
    /// Why the last write failed, if it did.
    pub database: Result<(), String>,
}

/// The actor.
pub struct DeviceRegistry {
    config: Config,
    metrics: Arc<Metrics>,
    store: DeviceStore,
    /// Whoever writes holds it: a flush and a check take turns, first come,
    /// first served.
    turn: Arc<Mutex<()>>,
    pending: Pending,
    coverage: Coverage,
    /// The coverage as it is in the database.
    saved: Coverage,
    /// Whether there may be heartbeats from a future that is not one any more:
    /// also at the start, for nobody knows what the clock did before.
    clamp_due: bool,
    /// The latest that the clock has shown, to a heartbeat or to a check.
    latest_reading: DateTime<Utc>,
    registered: u64,
    /// How many devices heartbeats may register now.
    registrations: RegistrationBudget,
    outage: Option<Outage>,
    lines: Lines,
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

/// The database does not take what it is given.
struct Outage {
    since: Instant,
    reminded: Instant,
    why: String,
}

impl DeviceRegistry {
    /// A registry of the devices in `store`, as it found them.
    pub fn new(config: Config, store: DeviceStore, found: Found, metrics: Arc<Metrics>) -> Self {
        let Found { counts, coverage } = found;
        metrics.set_devices(&counts);
        let DevicesConfig { registration_rate: rate, registration_burst: burst, .. } =
            config.devices;
        let registrations = RegistrationBudget::new(rate, burst, Instant::now());
        Self {
            pending: Pending::new(config.devices.max_devices),
            saved: coverage.clone(),
            coverage,
            config,
            metrics,
            store,
            turn: Arc::default(),
            clamp_due: true,
            latest_reading: DateTime::<Utc>::MIN_UTC,
            registered: counts.values().sum(),
            registrations,
            outage: None,
            lines: Lines::new(),
        }
    }

    fn schedule_flush(&self, after: Duration, ctx: &mut Context<Self>) {
        ctx.run_later(after, |registry, ctx| {
            let began = Instant::now();
            let flush = registry.flush().map(move |_logged, registry, ctx| {
                let interval = registry.config.heartbeat.flush_interval;
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
            let coverage = registry.coverage.clone();
            let flush = flush::Flush {
                store: registry.store.clone(),
                metrics: Arc::clone(&registry.metrics),
                lines: registry.lines.clone(),
                rules: RecordingRules {
                    auto_register: registry.config.devices.auto_register,
                    room: registry.config.devices.max_devices.saturating_sub(registry.registered),
                    registrations: registry.registrations.available(began),
                    max_clock_skew: registry.config.heartbeat.max_clock_skew,
                },
                proven: Proven {
                    instance: registry.config.mqtt.client_id.clone(),
                    changed: coverage.since(&registry.saved),
                },
            };
            let idle = flush.is_idle(&batch);
            let flushing = flush.write(batch).into_actor(registry);
            flushing.map(move |flushed, registry, _| {
                let flushed = registry.flushed(flushed, idle, began);
                if flushed.is_ok() {
                    registry.saved = coverage;
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
        self.registered += registered;
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
        self.metrics.set_pending(self.pending.len());
        result
    }

    fn note_outage(&mut self, error: &StoreError) {
        let now = Instant::now();
        let pending = self.pending.len();
        let why = error.to_string();
        match &mut self.outage {
            None => {
                error!(target: TARGET, "{error}; heartbeats are kept and written when the database is back");
                self.outage = Some(Outage { since: now, reminded: now, why });
            }
            Some(outage) => {
                outage.why = why;
                if now.duration_since(outage.reminded) >= OUTAGE_REMINDER {
                    outage.reminded = now;
                    let seconds = outage.since.elapsed().as_secs();
                    error!(target: TARGET, seconds, pending; "still: {error}");
                }
            }
        }
    }

    fn note_recovery(&mut self, heartbeats: usize) {
        if let Some(outage) = self.outage.take() {
            let seconds = outage.since.elapsed().as_secs();
            info!(target: TARGET, seconds, heartbeats; "the database is back, nothing was lost");
        }
    }

    /// Whether that means that the clock was turned back.
    fn clock_shows(&mut self, now: DateTime<Utc>) -> bool {
        let stepped_back = self.coverage.step_back(now);
        stepped_back.inspect(|&by| self.clock_was_turned_back(by)).is_some()
    }

    fn clock_was_turned_back(&mut self, by: TimeDelta) {
        self.clamp_due = true;
        // What it showed before says nothing any more.
        self.latest_reading = DateTime::<Utc>::MIN_UTC;
        let seconds = by.num_milliseconds() as f64 / 1000.0;
        warn!(
            target: TARGET, seconds;
            "the clock was turned back; devices last seen in its future count as seen at the \
             next check"
        );
    }

    /// What a check needs once it has its turn, apart from the actor itself.
    fn sweep(&self, now: DateTime<Utc>) -> Sweep {
        Sweep {
            store: self.store.clone(),
            turn: Arc::clone(&self.turn),
            metrics: Arc::clone(&self.metrics),
            lines: self.lines.clone(),
            coverage: self.saved.clone(),
            timeout: self.config.heartbeat.timeout,
            instance: self.config.mqtt.client_id.clone(),
            retention: self.config.history.retention,
            now,
        }
    }
}

impl Actor for DeviceRegistry {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.schedule_flush(self.config.heartbeat.flush_interval, ctx);
    }
}

impl Handler<RecordHeartbeats> for DeviceRegistry {
    type Result = ();

    fn handle(&mut self, RecordHeartbeats { heartbeats }: RecordHeartbeats, _: &mut Context<Self>) {
        self.metrics.heartbeats_accepted(heartbeats.len() as u64);
        // Received after what is proven, and by the clock before it.
        let received = || heartbeats.iter().map(|heartbeat| heartbeat.received_at);
        if let Some(earliest) = received().min()
            && self.clock_shows(earliest)
        {
            // The later readings may be those from before it was turned back.
            self.latest_reading = earliest;
        } else if let Some(latest) = received().max() {
            self.latest_reading = self.latest_reading.max(latest);
        }
        let merged = heartbeats.into_iter().map(|heartbeat| self.pending.merge(heartbeat));
        let full: Vec<_> = merged.filter_map(Result::err).collect();
        self.lines.reject(&self.metrics, &full);
        self.metrics.set_pending(self.pending.len());
    }
}

impl Handler<ConfirmListening> for DeviceRegistry {
    type Result = ();

    fn handle(&mut self, message: ConfirmListening, _: &mut Context<Self>) {
        let ConfirmListening { since, until, after } = message;
        match self.coverage.confirm(since, until, after) {
            Confirmed::Extended | Confirmed::Began { gap: None } => (),
            Confirmed::Began { gap: Some((gap, cause)) } => {
                let seconds = gap.length().num_milliseconds() as f64 / 1000.0;
                self.metrics.blind(seconds);
                let (from, until) = (gap.from.to_rfc3339(), gap.until.to_rfc3339());
                warn!(
                    target: TARGET, seconds, from, until, cause = cause.as_str();
                    "{cause}; no device's silence counts in this time"
                );
            }
            Confirmed::SteppedBack { by } => self.clock_was_turned_back(by),
        }
    }
}

impl Handler<CheckOffline> for DeviceRegistry {
    type Result = ResponseActFuture<Self, Result<CheckedOffline, StoreError>>;

    fn handle(
        &mut self,
        CheckOffline { now }: CheckOffline,
        _: &mut Context<Self>,
    ) -> Self::Result {
        let began = Instant::now();
        let stepped_back =
            self.coverage.proven_until() > Some(now + TOLERATED_FUTURE) && self.clock_shows(now);
        // Nothing may have been proven yet that would show it.
        let ahead = self.latest_reading - now;
        if ahead > TOLERATED_FUTURE {
            self.clock_was_turned_back(ahead);
        }
        self.latest_reading = self.latest_reading.max(now);
        // Without the flush a device could be marked while its heartbeat waits.
        let check = self.flush().then(move |flushed, registry, _| {
            let clamp_due = std::mem::take(&mut registry.clamp_due);
            let sweep = flushed.map(|()| registry.sweep(now));
            async move {
                let sweep = sweep?;
                if clamp_due {
                    sweep.clamp_future().await?;
                }
                let own = sweep.store.own_timeouts().await?;
                let longest = own.iter().copied().fold(sweep.timeout, Duration::max);
                let newly_offline = sweep.check_offline_devices(&own).await?;
                let counts = sweep.tidy().await?;
                let undelivered = sweep.store.undelivered_offline(DELIVERED_AT_ONCE).await?;
                Ok((CheckedOffline { newly_offline, undelivered }, counts, longest))
            }
            .into_actor(registry)
        });
        Box::pin(check.map(move |checked, registry, _| {
            // Found out by this check and not by an echo: heartbeats of the old clock
            // may still be on their way here.
            registry.clamp_due |= stepped_back || checked.is_err();
            let (checked, counts, longest) = checked?;
            registry.coverage.prune(longest.max(COVERAGE_KEPT));
            registry.registered = counts.values().sum();
            registry.metrics.set_devices(&counts);
            registry.metrics.checked(began.elapsed().as_secs_f64());
            Ok(checked)
        }))
    }
}

impl Handler<AcknowledgeOffline> for DeviceRegistry {
    type Result = ResponseFuture<Result<Vec<Transition>, StoreError>>;

    fn handle(&mut self, message: AcknowledgeOffline, _: &mut Context<Self>) -> Self::Result {
        let store = self.store.clone();
        let turn = Arc::clone(&self.turn);
        Box::pin(async move {
            let turn = turn.lock().await;
            store.acknowledge_offline(&message.sequences, message.at).await?;
            drop(turn);
            store.undelivered_offline(DELIVERED_AT_ONCE).await
        })
    }
}

impl Handler<Flush> for DeviceRegistry {
    type Result = ResponseActFuture<Self, Result<(), StoreError>>;

    fn handle(&mut self, _: Flush, _: &mut Context<Self>) -> Self::Result {
        Box::pin(self.flush())
    }
}

impl Handler<ReportHealth> for DeviceRegistry {
    type Result = RegistryHealth;

    fn handle(&mut self, _: ReportHealth, _: &mut Context<Self>) -> RegistryHealth {
        RegistryHealth {
            pending: self.pending.len(),
            database: self.outage.as_ref().map_or(Ok(()), |outage| Err(outage.why.clone())),
        }
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
