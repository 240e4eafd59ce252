//! What standbys say of themselves in the database.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use chrono::TimeDelta;
use heartbeatd::actors::device_registry::{
    ConfirmListening, DeviceRegistry, Flush, Found, Leave, LookAround, Settings,
};
use heartbeatd::clock::system_clock;
use heartbeatd::domain::GapCause;
use heartbeatd::metrics::Metrics;
use heartbeatd::store::Listener;

use crate::support::database::TestDatabase;

/// A registry that does nothing by itself.
async fn registry(database: &TestDatabase, name: &str) -> Addr<DeviceRegistry> {
    let store = database.open().await.standing_by();
    let day = Duration::from_secs(24 * 60 * 60);
    let settings = Settings {
        instance: name.to_owned(),
        look_interval: day,
        flush_interval: day,
        ..Settings::from(&heartbeatd::Config::default())
    };
    let found = Found::read(&store, &settings).await.expect("it reads");
    DeviceRegistry::new(settings, store, found, Arc::new(Metrics::new())).start()
}

async fn look(registry: &Addr<DeviceRegistry>) {
    registry.send(LookAround { now: system_clock() }).await.expect("it lives");
}

/// A third instance forgets what the active one has proven, so that has to be in the database.
#[actix_rt::test]
async fn what_a_standby_has_proven_counts_for_others_once_it_is_active_and_has_written_it() {
    let database = TestDatabase::postgres();
    let [first, second] =
        [registry(&database, "hall-a").await, registry(&database, "hall-b").await];
    look(&first).await;
    look(&second).await;
    let until = system_clock().wall;
    let since = until - TimeDelta::seconds(1);
    let confirm = ConfirmListening { since, until, after: GapCause::NotRunning };
    second.send(confirm).await.expect("it lives");
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
