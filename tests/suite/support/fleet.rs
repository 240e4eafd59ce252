//! A fleet on a database, with a registry but without MQTT and without a clock. The test
//! says what time it is.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use actix::prelude::*;
use chrono::{DateTime, TimeDelta, Utc};
use heartbeatd::Config;
use heartbeatd::actors::device_registry::{
    Acknowledge, CheckOffline, CheckedOffline, ConfirmListening, DeviceRegistry, Flush, Found,
    ReadOutbox, RecordHeartbeats, Settings,
};
use heartbeatd::board::Board;
use heartbeatd::clock::Reading;
use heartbeatd::config::NonZeroDuration;
use heartbeatd::domain::{DeviceId, GapCause, Heartbeat, Recovery, Status, Transition};
use heartbeatd::metrics::Metrics;
use heartbeatd::store::{Device, DeviceStore, Selection};

use super::database::TestDatabase;

/// The instant at which every test begins.
pub fn start() -> DateTime<Utc> {
    "2026-11-23T12:00:00Z".parse().expect("a constant")
}

/// The reading of a machine whose clock shows `wall` and was never set.
pub fn reading(wall: DateTime<Utc>) -> Reading {
    static BEGINNING: OnceLock<Instant> = OnceLock::new();
    let beginning = BEGINNING.get_or_init(Instant::now);
    let passed = (wall - start()).to_std().expect("not before the beginning");
    Reading { wall, monotonic: *beginning + passed }
}

/// The instant `seconds` after the beginning.
pub fn at(seconds: i64) -> DateTime<Utc> {
    start() + TimeDelta::seconds(seconds)
}

pub fn id(text: &str) -> DeviceId {
    text.parse().expect(text)
}

/// The duration in the form that the configuration uses.
pub fn non_zero(duration: Duration) -> NonZeroDuration {
    duration.try_into().expect("not zero")
}

pub struct Fleet {
    pub registry: Addr<DeviceRegistry>,
    pub store: DeviceStore,
    pub metrics: Arc<Metrics>,
    pub board: Arc<Board>,
    pub database: TestDatabase,
}

impl Fleet {
    pub async fn on(database: TestDatabase) -> Self {
        Self::configured(database, |_| ()).await
    }

    pub async fn configured(database: TestDatabase, change: impl FnOnce(&mut Config)) -> Self {
        let store = database.open().await;
        Self::with_store(database, store, change).await
    }

    /// Creates a fleet on a store that the test has opened.
    pub async fn with_store(
        database: TestDatabase,
        store: DeviceStore,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let mut config = Config::default();
        // Flushes happen only when the test says so.
        config.heartbeat.flush_interval = non_zero(Duration::from_secs(24 * 60 * 60));
        // However much time a test skips, the service has been listening.
        config.mqtt.echo_interval = Some(non_zero(Duration::from_secs(365 * 24 * 60 * 60)));
        change(&mut config);
        let settings = Settings::from(&config);
        let found = Found::read(&store, &settings).await.expect("it reads");
        let metrics = Arc::new(Metrics::new());
        let board = Arc::new(Board::new(settings.confirm_interval, settings.timeout));
        let registry = DeviceRegistry::new(settings, store.clone(), found, Arc::clone(&metrics))
            .with_board(Arc::clone(&board))
            .start();
        let fleet = Self { registry, store, metrics, board, database };
        fleet.listening(start()).await;
        fleet
    }

    /// The registry of another process on the same database, which has not listened yet.
    pub async fn next_process(&self) -> Addr<DeviceRegistry> {
        let settings = Settings::from(&Config::default());
        let found = Found::read(&self.store, &settings).await.expect("it reads");
        let metrics = Arc::new(Metrics::new());
        DeviceRegistry::new(settings, self.store.clone(), found, metrics).start()
    }

    /// Confirms that the service has been listening until then.
    pub async fn listening(&self, until: DateTime<Utc>) {
        let confirm = ConfirmListening { since: start(), until, after: GapCause::NotRunning };
        self.registry.send(confirm).await.expect("it lives");
    }

    /// Records heartbeats with `payload` that were received at `received_at`.
    pub async fn heartbeats(&self, devices: &[&str], payload: &str, received_at: DateTime<Utc>) {
        let heartbeats = devices
            .iter()
            .map(|device| Heartbeat::parse(id(device), payload.as_bytes(), received_at))
            .collect();
        let now = reading(received_at);
        self.registry.send(RecordHeartbeats { heartbeats, now }).await.expect("it lives");
    }

    pub async fn heartbeat(&self, device: &str, payload: &str, received_at: DateTime<Utc>) {
        self.heartbeats(&[device], payload, received_at).await;
    }

    /// Removes a device at that instant. `false` if it does not exist.
    pub async fn remove(&self, device: &str, at: DateTime<Utc>) -> bool {
        let selection = Selection { ids: Some(vec![device.to_owned()]), ..Default::default() };
        let removed = self.store.remove(&selection, None, at).await.expect("it writes");
        !removed.is_empty()
    }

    pub async fn flush(&self) {
        self.registry.send(Flush).await.expect("it lives").expect("it writes");
    }

    /// Checks, acknowledges, and returns the ids that went offline, sorted.
    pub async fn check(&self, now: DateTime<Utc>) -> Vec<String> {
        self.listening(now).await;
        self.check_only(now).await;
        let mut ids = Vec::new();
        loop {
            let page = self.undelivered().await;
            if page.is_empty() {
                break;
            }
            ids.extend(page.iter().map(|transition| transition.device_id.to_string()));
            let keys = page.iter().map(Transition::key).collect();
            let alerts = page.len() as u64;
            let acknowledge = Acknowledge { keys, alerts, at: now };
            self.registry.send(acknowledge).await.expect("it lives").expect("it acknowledges");
        }
        ids.sort();
        ids
    }

    /// Checks, and leaves what went offline in the outbox.
    pub async fn check_only(&self, now: DateTime<Utc>) -> CheckedOffline {
        let check = CheckOffline { now: reading(now) };
        self.registry.send(check).await.expect("it lives").expect("it checks")
    }

    /// The alerts at the head of the outbox.
    pub async fn undelivered(&self) -> Vec<Transition> {
        let outbox = self.outbox().await;
        outbox.into_iter().filter(|transition| transition.ends.is_none()).collect()
    }

    /// The head of the outbox: alerts and recoveries.
    pub async fn outbox(&self) -> Vec<Transition> {
        let outbox = self.registry.send(ReadOutbox { limit: 10_000 }).await;
        outbox.expect("it lives").expect("it reads").transitions
    }

    /// Acknowledges the recoveries in the outbox and returns them.
    pub async fn recoveries(&self) -> Vec<Recovery> {
        let outbox = self.outbox().await;
        let recoveries: Vec<_> = outbox.iter().filter_map(Transition::recovery).collect();
        let keys = recoveries.iter().map(|recovery| recovery.key).collect();
        let acknowledge = Acknowledge { keys, alerts: 0, at: start() };
        self.registry.send(acknowledge).await.expect("it lives").expect("it acknowledges");
        recoveries
    }

    pub async fn device(&self, device: &str) -> Device {
        let found = self.store.device(&id(device)).await.expect("it reads");
        found.unwrap_or_else(|| panic!("{device} is registered"))
    }

    pub async fn status(&self, device: &str) -> Status {
        self.device(device).await.status
    }

    /// A device's changes as `from -> to`, oldest first.
    pub async fn changes(&self, device: &str) -> Vec<String> {
        let history: Vec<Transition> =
            self.store.history(Some(&id(device)), None, 1000).await.expect("it reads");
        history.iter().rev().map(|t| format!("{} -> {}", t.from, t.to)).collect()
    }
}
