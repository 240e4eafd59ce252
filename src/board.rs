//! The board: what is known of the service and the fleet at this moment, for whoever asks.
//!
//! The registry writes the fleet, the ingest the broker, and the API the devices that it has
//! registered and removed. Who reads waits neither for the
//! database nor for an actor. So an answer exists also while the database is away, and a
//! thousand readers delay nobody.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::domain::{Burst, Coverage, Outages, Reading, ServiceState, Status, together};
use crate::duration::human;

/// The time for which messages that were thrown away are the state of the service.
const SHEDDING: Duration = Duration::from_secs(10);

/// The time for which a step of the clock is told.
const CLOCK_STEP_TOLD: TimeDelta = TimeDelta::minutes(10);

/// The number of echo intervals without a proof after which nothing is proven, and the least
/// time. As `/readyz` and the log have it.
const MISSING: (u32, Duration) = (4, Duration::from_secs(2));

/// The time over which heartbeats per second are an average.
const RATE_OVER: Duration = Duration::from_secs(10);

/// The board. The registry and the ingest share it with whoever reads.
#[derive(Debug)]
pub struct Board {
    facts: Mutex<Facts>,
    state: Mutex<Option<Told>>,
    /// Grows with each change that readers of events may want to know of.
    changed: watch::Sender<u64>,
    /// Holds a permit once there is a recovery that the courier does not know of.
    recovered: Notify,
}

/// The facts, each as it was told last.
#[derive(Clone, Debug)]
struct Facts {
    counts: BTreeMap<Status, u64>,
    late: Option<u64>,
    checked_at: Option<DateTime<Utc>>,
    /// The outages that last.
    outages: Arc<Outages>,
    /// Those of them that began together, newest first.
    bursts: Arc<[Burst]>,
    /// The time within which devices fall silent together.
    window: TimeDelta,
    undelivered: u64,
    undelivered_since: Option<DateTime<Utc>>,
    pending: usize,
    coverage: Arc<Coverage>,
    /// The age of the newest proof from which on nothing is proven.
    missing_after: TimeDelta,
    proven: Option<DateTime<Utc>>,
    ready_in: Option<Duration>,
    database: Result<(), String>,
    needs_restart: bool,
    fleet_silent: Option<FleetSilence>,
    /// The instance that writes while this one stands by.
    stands_by_for: Option<String>,
    /// The reason why this instance does not take part, if so.
    barred: Option<String>,
    broker: Result<(), Option<String>>,
    subscribed: bool,
    shed_at: Option<Instant>,
    clock_step: Option<ClockSet>,
    rate: Rate,
}

/// A state and the time since which it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The state.
    pub state: ServiceState,
    /// The reason, for people.
    pub detail: Option<String>,
    /// The time at which it was first seen.
    pub since: DateTime<Utc>,
}

/// A clock that was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockSet {
    /// The time by the new clock.
    pub at: DateTime<Utc>,
    /// The amount, negative if it was set back.
    pub by: TimeDelta,
}

/// Everything that is known at a moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The state of the service.
    pub told: Told,
    /// The number of devices in each status, as of the last check and what this instance has
    /// changed since. Commands write beside it.
    pub counts: BTreeMap<Status, u64>,
    /// The number of late devices as of the last check; `None` before the first.
    pub late: Option<u64>,
    /// The time of that check.
    pub checked_at: Option<DateTime<Utc>>,
    /// The outages that last and that began together, newest first.
    pub bursts: Arc<[Burst]>,
    /// The alerts in the outbox as of the last check or delivery.
    pub undelivered_alerts: u64,
    /// The time at which the device of the oldest one went offline.
    pub undelivered_since: Option<DateTime<Utc>>,
    /// The heartbeats that are not written yet, one of each device.
    pub pending_heartbeats: usize,
    /// The heartbeats received per second, of late.
    pub heartbeats_per_second: f64,
    /// The newest proof of listening.
    pub as_of: Option<DateTime<Utc>>,
    /// The coverage that vouches for what is in the database.
    pub coverage: Arc<Coverage>,
    /// The time until a silent device can be found, while that is not possible.
    pub ready_in: Option<Duration>,
    /// The reason why the broker is not reached, if so.
    pub broker: Result<(), Option<String>>,
    /// The reason why the database is away, if so.
    pub database: Result<(), String>,
    /// True if the file of the database is gone, so that only a restart helps, and what waits
    /// to be written is lost.
    pub needs_restart: bool,
    /// A step of the clock within the last ten minutes.
    pub clock_step: Option<ClockSet>,
    /// The time for which no device was heard although echoes come back, if that is suspicious.
    pub fleet_silent: Option<FleetSilence>,
}

/// A fleet of which no device is heard although echoes come back, for a suspiciously long time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetSilence {
    /// The time since a device was last heard.
    pub lasts: Duration,
    /// Advice on finding the cause, beginning in lower case.
    pub advice: String,
}

impl Board {
    /// An empty board, for proofs of listening every `confirm_interval` and devices with
    /// this `timeout`.
    pub fn new(confirm_interval: Duration, timeout: Duration) -> Self {
        Self {
            facts: Mutex::new(Facts::new(confirm_interval, timeout)),
            state: Mutex::new(None),
            changed: watch::Sender::new(0),
            recovered: Notify::new(),
        }
    }

    /// The same board, of a service whose proofs come this much later than its echoes.
    #[must_use]
    pub fn proving_after(self, time: Duration) -> Self {
        let time = TimeDelta::from_std(time).unwrap_or(TimeDelta::MAX);
        {
            let missing_after = &mut self.facts.lock().missing_after;
            *missing_after = missing_after.checked_add(&time).unwrap_or(TimeDelta::MAX);
        }
        self
    }

    /// Everything that is known at `now`.
    pub fn snapshot(&self, now: Reading) -> Snapshot {
        let facts = self.facts.lock().clone();
        let told = self.tell(&facts, now);
        let lately = |step: &ClockSet| (now.wall - step.at).abs() <= CLOCK_STEP_TOLD;
        Snapshot {
            told,
            bursts: facts.bursts,
            late: facts.late,
            checked_at: facts.checked_at,
            undelivered_alerts: facts.undelivered,
            undelivered_since: facts.undelivered_since,
            pending_heartbeats: facts.pending,
            heartbeats_per_second: facts.rate.per_second(now.monotonic),
            as_of: facts.proven,
            coverage: facts.coverage,
            ready_in: facts.ready_in,
            broker: facts.broker,
            database: facts.database,
            needs_restart: facts.needs_restart,
            clock_step: facts.clock_step.filter(lately),
            fleet_silent: facts.fleet_silent,
            counts: facts.counts,
        }
    }

    /// The state at `now`, and since when it holds.
    pub fn state(&self, now: Reading) -> Told {
        let facts = self.facts.lock().clone();
        self.tell(&facts, now)
    }

    /// The time from which on what is not proven at `now` may yet be, by the next echo. `None`
    /// once no echo comes back: then the state is [`Unproven`](ServiceState::Unproven).
    pub fn provable_from(&self, now: Reading) -> Option<DateTime<Utc>> {
        let facts = self.facts.lock();
        let is_proven = facts.proven.is_some_and(|proof| !facts.is_old(proof, now));
        is_proven.then(|| now.wall - facts.missing_after)
    }

    fn tell(&self, facts: &Facts, now: Reading) -> Told {
        let (state, detail) = facts.state(now);
        let mut told = self.state.lock();
        match &mut *told {
            Some(told) if told.state == state => {
                told.detail = detail;
                // A clock that was set back has not been there yet.
                told.since = told.since.min(now.wall);
                told.clone()
            }
            other => other.insert(Told { state, detail, since: now.wall }).clone(),
        }
    }

    /// Resolves with each change of the fleet or of the journal, for whoever reads events.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Wakes whoever reads events.
    pub(crate) fn wake(&self) {
        self.changed.send_modify(|changes| *changes += 1);
    }

    /// Notes that there are recoveries in the outbox.
    pub(crate) fn has_recoveries(&self) {
        self.recovered.notify_one();
    }

    /// Resolves when there are recoveries in the outbox. For one waiter, the courier.
    pub(crate) async fn recoveries(&self) {
        self.recovered.notified().await;
    }

    /// Takes over the counts and the outages from the board that was there first.
    pub(crate) fn begin_with(&self, other: &Self) {
        let other = other.facts.lock().clone();
        let mut facts = self.facts.lock();
        (facts.counts, facts.outages) = (other.counts, other.outages);
        facts.group();
    }

    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Changes<'_>) -> T) -> T {
        let mut changes = Changes { facts: &mut self.facts.lock(), has_regrouped: false };
        let done = change(&mut changes);
        if changes.has_regrouped {
            changes.facts.group();
        }
        done
    }
}

/// The facts, to be changed.
pub(crate) struct Changes<'a> {
    facts: &'a mut Facts,
    /// True if outages began or ended.
    has_regrouped: bool,
}

impl Changes<'_> {
    /// Sets the number of devices in each status.
    pub(crate) fn counts(&mut self, counts: BTreeMap<Status, u64>) {
        self.facts.counts = counts;
    }

    /// Moves a device from one status to another.
    pub(crate) fn moved(&mut self, from: Status, to: Status) {
        let left = self.facts.counts.entry(from).or_default();
        *left = left.saturating_sub(1);
        *self.facts.counts.entry(to).or_default() += 1;
    }

    /// Notes newly registered devices; their transitions follow.
    pub(crate) fn registered(&mut self, devices: u64) {
        *self.facts.counts.entry(Status::Provisioning).or_default() += devices;
    }

    /// Notes that a device was removed, which was last heard at `last_seen_at`.
    pub(crate) fn removed(&mut self, status: Status, last_seen_at: Option<DateTime<Utc>>) {
        let left = self.facts.counts.entry(status).or_default();
        *left = left.saturating_sub(1);
        if let (Status::Offline, Some(silent_since)) = (status, last_seen_at) {
            self.recovered(silent_since);
        }
    }

    /// Sets the outages that last.
    pub(crate) fn outages(&mut self, outages: Outages) {
        self.facts.outages = Arc::new(outages);
        self.has_regrouped = true;
    }

    /// Notes that an outage was found, of a device that was last heard at `silent_since`.
    pub(crate) fn fell(&mut self, silent_since: DateTime<Utc>, found_at: DateTime<Utc>) {
        self.outages_mut().fell(silent_since, found_at);
    }

    /// Notes that an outage has ended, of a device that was last heard at `silent_since`.
    pub(crate) fn recovered(&mut self, silent_since: DateTime<Utc>) {
        self.outages_mut().ended(silent_since);
    }

    fn outages_mut(&mut self) -> &mut Outages {
        self.has_regrouped = true;
        Arc::make_mut(&mut self.facts.outages)
    }

    /// The number of outages that last.
    pub(crate) fn outages_known(&self) -> u64 {
        self.facts.outages.count()
    }

    /// Sets what the check of `at` has found out.
    pub(crate) fn checked(&mut self, at: DateTime<Utc>, late: u64) {
        (self.facts.checked_at, self.facts.late) = (Some(at), Some(late));
    }

    /// Sets the alerts in the outbox, and the time of the oldest one.
    pub(crate) fn undelivered(&mut self, alerts: u64, since: Option<DateTime<Utc>>) {
        (self.facts.undelivered, self.facts.undelivered_since) = (alerts, since);
    }

    /// Notes that some of the alerts have left the outbox. Returns the number of the others.
    pub(crate) fn delivered(&mut self, alerts: u64) -> u64 {
        self.facts.undelivered = self.facts.undelivered.saturating_sub(alerts);
        if self.facts.undelivered == 0 {
            self.facts.undelivered_since = None;
        }
        self.facts.undelivered
    }

    /// Sets the instance that writes while this one stands by; `None` if this one does.
    pub(crate) fn stands_by_for(&mut self, active: Option<String>) {
        self.facts.stands_by_for = active;
    }

    /// Sets the reason why this instance does not take part; `None` if it does.
    pub(crate) fn barred(&mut self, why: Option<String>) {
        self.facts.barred = why;
    }

    /// Sets the coverage that vouches for what is in the database.
    pub(crate) fn coverage(&mut self, coverage: Arc<Coverage>) {
        self.facts.coverage = coverage;
    }

    /// Sets the newest proof of listening, and the time that is missing until a silent device
    /// can be found.
    pub(crate) fn proven(&mut self, until: Option<DateTime<Utc>>, ready_in: Option<Duration>) {
        (self.facts.proven, self.facts.ready_in) = (until, ready_in);
    }

    /// Sets the heartbeats that wait, one of each device, and the faults.
    pub(crate) fn health(
        &mut self,
        pending: usize,
        database: Result<(), String>,
        fleet_silent: Option<FleetSilence>,
    ) {
        (self.facts.pending, self.facts.database, self.facts.fleet_silent) =
            (pending, database, fleet_silent);
    }

    /// Notes whether only a restart brings the database back.
    pub(crate) fn needs_restart(&mut self, needs_restart: bool) {
        self.facts.needs_restart = needs_restart;
    }

    /// Counts received heartbeats.
    pub(crate) fn received(&mut self, heartbeats: u64, now: Instant) {
        self.facts.rate.count(heartbeats, now);
    }

    /// Notes that the clock was set.
    pub(crate) fn clock_set(&mut self, step: ClockSet) {
        self.facts.clock_step = Some(step);
    }

    /// Notes that messages were thrown away.
    pub(crate) fn shed(&mut self, now: Instant) {
        self.facts.shed_at = Some(now);
    }

    /// Sets the connection to the broker: an error with its reason if there is none, and whether
    /// heartbeats are subscribed to and echoes come back.
    pub(crate) fn broker(&mut self, broker: Result<(), Option<String>>, subscribed: bool) {
        (self.facts.broker, self.facts.subscribed) = (broker, subscribed);
    }
}

impl Facts {
    fn new(confirm_interval: Duration, timeout: Duration) -> Self {
        let (intervals, least) = MISSING;
        let missing_after = confirm_interval.saturating_mul(intervals).max(least);
        Self {
            missing_after: TimeDelta::from_std(missing_after).unwrap_or(TimeDelta::MAX),
            counts: Status::ALL.into_iter().map(|status| (status, 0)).collect(),
            late: None,
            checked_at: None,
            outages: Arc::default(),
            bursts: Arc::default(),
            window: together::window(timeout),
            undelivered: 0,
            undelivered_since: None,
            pending: 0,
            coverage: Arc::new(Coverage::new(confirm_interval)),
            proven: None,
            ready_in: None,
            database: Ok(()),
            needs_restart: false,
            fleet_silent: None,
            stands_by_for: None,
            barred: None,
            broker: Err(None),
            subscribed: false,
            shed_at: None,
            clock_step: None,
            rate: Rate::default(),
        }
    }

    /// Finds out which outages began together.
    fn group(&mut self) {
        let devices = self.counts.values().sum();
        self.bursts = self.outages.together(self.window, devices).into();
    }

    /// True if a proof is so old that echoes are missing.
    fn is_old(&self, proof: DateTime<Utc>, now: Reading) -> bool {
        now.wall - proof > self.missing_after
    }

    fn state(&self, now: Reading) -> (ServiceState, Option<String>) {
        let is_old = |proof| self.is_old(proof, now);
        if let Err(why) = &self.database {
            return (ServiceState::Database, Some(why.clone()));
        }
        if let Err(why) = &self.broker {
            return (ServiceState::Disconnected, why.clone());
        }
        if let Some(why) = &self.barred {
            return (ServiceState::Barred, Some(why.clone()));
        }
        if !self.subscribed || self.proven.is_none_or(is_old) {
            return (ServiceState::Unproven, None);
        }
        let lasts = |since| now.monotonic.saturating_duration_since(since);
        if self.shed_at.is_some_and(|at| lasts(at) < SHEDDING) {
            return (ServiceState::Shedding, None);
        }
        if let Some(active) = &self.stands_by_for {
            let detail = (!active.is_empty()).then(|| format!("{active} is active."));
            return (ServiceState::Standby, detail);
        }
        if let Some(FleetSilence { lasts, advice }) = &self.fleet_silent {
            let lasts = human(*lasts);
            let detail =
                format!("no device has been heard for {lasts}, yet echoes come back: {advice}");
            return (ServiceState::FleetSilent, Some(detail));
        }
        if self.ready_in.is_some() {
            return (ServiceState::Warming, None);
        }
        (ServiceState::Listening, None)
    }
}

/// The heartbeats of the last seconds.
#[derive(Clone, Debug, Default)]
struct Rate {
    /// The beginning of the current stretch and of the one before, with their heartbeats.
    current: Option<(Instant, u64)>,
    before: Option<(Instant, u64)>,
}

impl Rate {
    fn count(&mut self, heartbeats: u64, now: Instant) {
        match &mut self.current {
            Some((began, count)) if now.saturating_duration_since(*began) < RATE_OVER => {
                *count += heartbeats;
            }
            _ => {
                self.before = self.current.take();
                self.current = Some((now, heartbeats));
            }
        }
    }

    fn per_second(&self, now: Instant) -> f64 {
        let lately =
            |(began, _): &&(Instant, u64)| now.saturating_duration_since(*began) < RATE_OVER * 2;
        let recent = [&self.before, &self.current].into_iter().flatten().filter(lately);
        let (began, count) =
            recent.fold((now, 0), |(first, sum), (began, count)| (first.min(*began), sum + count));
        let seconds = now.saturating_duration_since(began).as_secs_f64().max(1.0);
        count as f64 / seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Clock {
        began: Instant,
    }

    impl Clock {
        fn at(&self, seconds: u64) -> Reading {
            let wall = DateTime::from_timestamp(1_000 + seconds as i64, 0).expect("small");
            Reading { wall, monotonic: self.began + Duration::from_secs(seconds) }
        }
    }

    fn board() -> (Board, Clock) {
        (
            Board::new(Duration::from_secs(5), Duration::from_secs(180)),
            Clock { began: Instant::now() },
        )
    }

    #[test]
    fn a_proof_that_comes_late_by_design_is_missing_later() {
        let (board, clock) = board();
        let board = board.proving_after(Duration::from_secs(3));
        board.change(|facts| facts.broker(Ok(()), true));
        board.change(|facts| facts.proven(Some(clock.at(4).wall), None));
        assert_eq!(board.state(clock.at(27)).state, ServiceState::Listening);
        assert_eq!(board.provable_from(clock.at(27)), Some(clock.at(4).wall));
        assert_eq!(board.state(clock.at(28)).state, ServiceState::Unproven);
        assert_eq!(board.provable_from(clock.at(28)), None);
    }

    #[test]
    fn of_several_states_the_one_that_matters_most_is_told_and_since_when() {
        let (board, clock) = board();
        let state = |second| board.state(clock.at(second)).state;
        assert_eq!(state(0), ServiceState::Disconnected, "nothing is known yet");
        board.change(|facts| facts.broker(Ok(()), true));
        assert_eq!(state(1), ServiceState::Unproven);
        let proven = |second, ready_in| {
            let until = Some(clock.at(second).wall);
            board.change(|facts| facts.proven(until, ready_in));
        };
        proven(2, Some(Duration::from_secs(180)));
        assert_eq!(state(3), ServiceState::Warming);
        proven(4, None);
        assert_eq!(state(5), ServiceState::Listening);
        assert_eq!(board.state(clock.at(20)).since, clock.at(5).wall);
        assert_eq!(state(25), ServiceState::Unproven, "four intervals without a proof");
        proven(26, None);
        let advice = "look at the network".to_owned();
        let silent = Some(FleetSilence { lasts: Duration::from_secs(90), advice });
        board.change(|facts| facts.health(0, Ok(()), silent.clone()));
        assert_eq!(state(27), ServiceState::FleetSilent);
        proven(27, Some(Duration::from_secs(1)));
        assert_eq!(state(27), ServiceState::FleetSilent, "although it is warming, too");
        board.change(|facts| facts.stands_by_for(Some("hall-b".to_owned())));
        let told = board.state(clock.at(27));
        let standby = (ServiceState::Standby, Some("hall-b is active."));
        assert_eq!((told.state, told.detail.as_deref()), standby);
        board.change(|facts| facts.shed(clock.at(28).monotonic));
        assert_eq!(state(28), ServiceState::Shedding);
        board.change(|facts| facts.broker(Ok(()), false));
        assert_eq!(state(28), ServiceState::Unproven);
        board.change(|facts| facts.broker(Err(Some("refused".to_owned())), false));
        let told = board.state(clock.at(29));
        let refused = (ServiceState::Disconnected, Some("refused"));
        assert_eq!((told.state, told.detail.as_deref()), refused);
        board.change(|facts| facts.health(9, Err("locked".to_owned()), silent));
        let told = board.state(clock.at(30));
        assert_eq!((told.state, told.detail.as_deref()), (ServiceState::Database, Some("locked")));
    }

    #[test]
    fn bursts_and_counts_follow_what_happens() {
        let (board, clock) = board();
        let (found, seen) = (clock.at(300).wall, clock.at(100).wall);
        board.change(|facts| {
            facts.counts([(Status::Online, 5)].into());
            for _device in 0..4 {
                facts.moved(Status::Online, Status::Offline);
                facts.fell(seen, found);
            }
            facts.fell(clock.at(800).wall, clock.at(1_000).wall);
        });
        let bursts = |board: &Board| {
            let bursts = board.snapshot(clock.at(301)).bursts;
            bursts.iter().map(|burst| (burst.found_at, burst.devices)).collect::<Vec<_>>()
        };
        assert_eq!(bursts(&board), [(found, 4)], "not the single one");
        board.change(|facts| {
            facts.recovered(seen);
            facts.moved(Status::Offline, Status::Error);
            assert_eq!(facts.outages_known(), 4);
        });
        assert_eq!(bursts(&board), [(found, 3)]);
        let snapshot = board.snapshot(clock.at(301));
        let counts = [(Status::Online, 1), (Status::Offline, 3), (Status::Error, 1)];
        assert_eq!(snapshot.counts, counts.into());
    }

    #[test]
    fn a_device_that_was_removed_counts_no_more_and_neither_does_its_outage() {
        let (board, clock) = board();
        let seen = clock.at(100).wall;
        board.change(|facts| {
            facts.counts([(Status::Online, 2)].into());
            facts.registered(1);
            facts.moved(Status::Online, Status::Offline);
            facts.fell(seen, clock.at(300).wall);
            facts.removed(Status::Online, Some(clock.at(299).wall));
            assert_eq!(facts.outages_known(), 1);
            facts.removed(Status::Offline, Some(seen));
            assert_eq!(facts.outages_known(), 0);
            facts.removed(Status::Error, None);
        });
        let counts = board.snapshot(clock.at(301)).counts;
        let left: Vec<_> = counts.into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(left, [(Status::Provisioning, 1)]);
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let mut rate = Rate::default();
        let began = Instant::now();
        let after = |seconds| began + Duration::from_secs(seconds);
        assert_eq!(rate.per_second(began), 0.0);
        for second in 0..60 {
            rate.count(100, after(second));
        }
        let per_second = rate.per_second(after(60));
        assert!((95.0..105.0).contains(&per_second), "{per_second}");
        assert_eq!(rate.per_second(after(90)), 0.0);
    }

    #[test]
    fn a_clock_step_is_told_for_ten_minutes() {
        let (board, clock) = board();
        let step = ClockSet { at: clock.at(0).wall, by: TimeDelta::seconds(-3600) };
        board.change(|facts| facts.clock_set(step));
        assert_eq!(board.snapshot(clock.at(600)).clock_step, Some(step));
        assert_eq!(board.snapshot(clock.at(601)).clock_step, None);
    }
}
