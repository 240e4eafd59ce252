//! The rows of standbys in the database, and what they write once they take over.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use chrono::TimeDelta;
use heartbeatd::actors::device_registry::{
    ConfirmListening, DeviceRegistry, Flush, Found, Leave, LookAround, RecordHeartbeats, Settings,
};
use heartbeatd::clock::{Reading, system_clock};
use heartbeatd::domain::{GapCause, Heartbeat};
use heartbeatd::metrics::Metrics;
use heartbeatd::store::Listener;

use crate::support::database::TestDatabase;
use crate::support::fleet::id;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A registry that does nothing by itself.
async fn registry(database: &TestDatabase, name: &str) -> Addr<DeviceRegistry> {
    let store = database.open().await.standing_by();
    let settings = Settings {
        instance: name.to_owned(),
        look_interval: DAY,
        flush_interval: DAY,
        ..Settings::from(&heartbeatd::Config::default())
    };
    let found = Found::read(&store, &settings).await.expect("it reads");
    DeviceRegistry::new(settings, store, found, Arc::new(Metrics::new())).start()
}

async fn look(registry: &Addr<DeviceRegistry>) {
    look_after(registry, 0).await;
}

/// Looks as if so many days had passed since the start.
async fn look_after(registry: &Addr<DeviceRegistry>, days: u32) {
    let Reading { wall, monotonic } = system_clock();
    let now = Reading { wall, monotonic: monotonic + DAY * days };
    registry.send(LookAround { now }).await.expect("it lives");
}

async fn prove(registry: &Addr<DeviceRegistry>) {
    let until = system_clock().wall;
    let since = until - TimeDelta::seconds(1);
    let confirm = ConfirmListening { since, until, after: GapCause::NotRunning };
    registry.send(confirm).await.expect("it lives");
}

async fn hear(registry: &Addr<DeviceRegistry>, device: &str) {
    let now = system_clock();
    let heartbeats = vec![Heartbeat::parse(id(device), b"", now.wall)];
    registry.send(RecordHeartbeats { heartbeats, now }).await.expect("it lives");
}

/// A third instance forgets what the active one has proven, so that has to be in the database.
#[actix_rt::test]
async fn what_a_standby_has_proven_counts_for_others_once_it_is_active_and_has_written_it() {
    let database = TestDatabase::postgres();
    let [first, second] =
        [registry(&database, "hall-a").await, registry(&database, "hall-b").await];
    look(&first).await;
    look(&second).await;
    prove(&second).await;
    look(&second).await;

    let store = database.open().await;
    let second_listener = async || -> Listener {
        store.listeners().await.expect("it reads").pop().expect("it has joined")
    };
    let standby = second_listener().await;
    assert!(!standby.is_active && standby.peer.proven_until.is_some(), "{standby:?}");

    first.send(Leave).await.expect("it lives").expect("it leaves");
    look(&second).await;
    let active = second_listener().await;
    assert!(active.is_active && active.peer.proven_until.is_none(), "{active:?}");

    second.send(Flush).await.expect("it lives").expect("it writes");
    let proven = second_listener().await.peer.proven_until;
    assert_eq!(proven, standby.peer.proven_until);
}

/// Another one takes over from an active one, hears nothing, and leaves. Returns what the first one
/// has written of what it has heard since: before a proof, if it comes to one, and after.
async fn written_after_a_take_over(proves: bool) -> Vec<&'static str> {
    let database = TestDatabase::postgres();
    let [first, second] =
        [registry(&database, "hall-a").await, registry(&database, "hall-b").await];
    look(&first).await;
    // Longer than the active one may stand still for one that hears nothing.
    for day in 0..20 {
        look_after(&second, day).await;
    }
    look(&first).await;
    let lost_at = system_clock().wall;
    hear(&first, "pump").await;
    while system_clock().wall <= lost_at {
        actix_rt::task::yield_now().await;
    }
    if proves {
        prove(&first).await;
    }
    hear(&first, "fan").await;

    second.send(Leave).await.expect("it lives").expect("it leaves");
    look(&first).await;
    first.send(Flush).await.expect("it lives").expect("it writes");
    let store = database.open().await;
    let listeners = store.listeners().await.expect("it reads");
    let names: Vec<_> = listeners.iter().map(|l| (l.peer.instance.as_str(), l.is_active)).collect();
    assert_eq!(names, [("hall-a", false), ("hall-b", false), ("hall-a", true)]);
    let mut written = Vec::new();
    for device in ["fan", "pump"] {
        if store.device(&id(device)).await.expect("it reads").is_some() {
            written.push(device);
        }
    }
    written
}

/// It may have been published long before, and be dated too late.
#[actix_rt::test]
async fn what_arrives_after_the_right_was_lost_counts_once_an_echo_tells_that_all_has_arrived() {
    assert_eq!(written_after_a_take_over(true).await, ["fan"]);
    assert_eq!(written_after_a_take_over(false).await, Vec::<&str>::new());
}
