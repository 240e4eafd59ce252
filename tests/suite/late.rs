//! Late devices, and what the board says of the fleet without asking the database.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use heartbeatd::actors::device_registry::Acknowledge;
use heartbeatd::clock::Reading;
use heartbeatd::domain::{Status, Transition};
use heartbeatd::store::{Budget, DeviceQuery, Interference, Interfering, Outcome, Point};
use sea_orm::ConnectionTrait;

use crate::specification::on_both_databases;
use crate::support::database::{TestDatabase, patient_reader};
use crate::support::fleet::{Fleet, at, id};

on_both_databases! {
    a_device_is_late_after_two_thirds_of_its_timeout_and_until_it_is_offline
    a_silent_device_that_cannot_be_marked_is_late
    a_device_that_is_heard_while_a_check_looks_for_the_silent_ones_is_neither_late_nor_offline
    the_board_follows_flushes_and_checks
}

fn now() -> Reading {
    Reading { wall: at(1000), monotonic: Instant::now() }
}

/// The late devices at a moment, as a list of the API has them.
async fn late(fleet: &Fleet, second: i64) -> Vec<String> {
    let reader = patient_reader(&fleet.store).await;
    let own = reader.reads().own_timeouts().await.expect("it reads");
    let coverage = fleet.board.snapshot(now()).coverage;
    let cutoffs = coverage.late_cutoffs(at(second), Duration::from_secs(180), &own);
    let query = DeviceQuery { silent: Some(cutoffs.clone()), ..Default::default() };
    let others = DeviceQuery { heard: Some(cutoffs.clone()), ..Default::default() };
    let budget = Budget::of(Duration::from_secs(60));
    let page = reader.devices(&query, None, 100, budget).await.expect("it reads");
    let others = reader.devices(&others, None, 100, budget).await.expect("it reads");
    for device in fleet.store.devices(None, None, 100).await.expect("it reads") {
        let is_late = cutoffs.silences(device.status, device.last_seen_at, device.timeout());
        assert_eq!(is_late, page.devices.contains(&device), "{device:?}");
        assert_ne!(is_late, others.devices.contains(&device), "{device:?}");
    }
    page.devices.iter().map(|device| device.id.to_string()).collect()
}

async fn a_device_is_late_after_two_thirds_of_its_timeout_and_until_it_is_offline(
    database: TestDatabase,
) {
    let fleet = Fleet::on(database).await;
    fleet.heartbeats(&["a", "b", "patient"], "", at(0)).await;
    fleet.flush().await;
    let patient = Some(Duration::from_secs(300));
    assert!(fleet.store.set_timeout(&id("patient"), patient).await.expect("it writes"));
    assert!(fleet.store.register(&id("new"), None, at(0)).await.expect("it writes"));
    fleet.heartbeat("b", r#"{"error":"hot"}"#, at(60)).await;
    for (second, expected, offline) in [
        (120, &[][..], &[][..]),
        (121, &["a"], &[]),
        (180, &["a"], &[]),
        (181, &["b"], &["a"]),
        (201, &["b", "patient"], &[]),
        (301, &[], &["b", "patient"]),
    ] {
        assert_eq!(fleet.check(at(second)).await, offline, "{second}");
        let snapshot = fleet.board.snapshot(now());
        assert_eq!(snapshot.late, Some(expected.len() as u64), "{second}");
        // Only what a flush vouches for counts.
        fleet.flush().await;
        assert_eq!(late(&fleet, second).await, expected, "{second}");
    }
}

async fn a_silent_device_that_cannot_be_marked_is_late(database: TestDatabase) {
    drop(database.open().await);
    let columns = "id, status, last_seen_at, registered_at";
    let heard = at(0).timestamp_millis();
    let insert = format!("INSERT INTO device ({columns}) VALUES ('a/b', 'online', {heard}, 0)");
    database.execute(&insert).await;
    let fleet = Fleet::on(database).await;
    fleet.heartbeat("dead", "", at(0)).await;
    fleet.heartbeat("late", "", at(60)).await;
    for second in [200, 201] {
        let offline: &[&str] = if second == 200 { &["dead"] } else { &[] };
        assert_eq!(fleet.check(at(second)).await, offline, "{second}");
        assert_eq!(fleet.board.snapshot(now()).late, Some(2), "{second}");
    }
}

/// Changes the database whenever the silent devices are looked for.
struct Meanwhile {
    url: String,
    change: String,
    looked: Arc<AtomicU32>,
}

impl Interference for Meanwhile {
    fn at(&self, point: Point) -> Interfering {
        if point != Point::Read("find the silent devices") {
            return Box::pin(std::future::ready(Outcome::GoOn));
        }
        self.looked.fetch_add(1, Ordering::SeqCst);
        let (url, change) = (self.url.clone(), self.change.clone());
        Box::pin(async move {
            let db = sea_orm::Database::connect(url).await.expect("the database opens");
            db.execute_unprepared(&change).await.expect("it writes");
            db.close().await.expect("it closes");
            Outcome::GoOn
        })
    }
}

async fn a_device_that_is_heard_while_a_check_looks_for_the_silent_ones_is_neither_late_nor_offline(
    database: TestDatabase,
) {
    let store = database.open().await;
    let looked = Arc::new(AtomicU32::new(0));
    let heard = at(199).timestamp_millis();
    let change = format!("UPDATE device SET last_seen_at = {heard} WHERE id = 'returns'");
    let meanwhile = Meanwhile { url: database.url.clone(), change, looked: Arc::clone(&looked) };
    let store = store.interfere(Arc::new(meanwhile));
    let fleet = Fleet::with_store(database, store, |_| ()).await;
    fleet.heartbeats(&["returns", "dead"], "", at(0)).await;
    fleet.heartbeat("late", "", at(60)).await;
    assert_eq!(fleet.check(at(150)).await, [""; 0]);
    assert_eq!(fleet.board.snapshot(now()).late, Some(2));
    assert_eq!(looked.load(Ordering::SeqCst), 0, "none was silent, so none is looked for");

    assert_eq!(fleet.check(at(200)).await, ["dead"]);
    assert!(looked.load(Ordering::SeqCst) > 0);
    assert_eq!(fleet.status("returns").await, Status::Online);
    assert_eq!(fleet.board.snapshot(now()).late, Some(1), "only the one that is late");
}

async fn the_board_follows_flushes_and_checks(database: TestDatabase) {
    let fleet = Fleet::on(database).await;
    let counts = || {
        let counts = fleet.board.snapshot(now()).counts;
        Status::ALL.map(|status| counts.get(&status).copied().unwrap_or_default())
    };
    assert_eq!(fleet.board.snapshot(now()).late, None, "before the first check");
    let mut changes = fleet.board.changes();
    fleet.heartbeats(&["a", "b", "c", "d", "e"], "", at(0)).await;
    assert_eq!(fleet.board.snapshot(now()).pending_heartbeats, 0, "as of the last flush");
    fleet.flush().await;
    assert_eq!(counts(), [0, 5, 0, 0], "{:?}", Status::ALL);
    assert!(changes.has_changed().expect("it lives"));
    changes.mark_unchanged();
    fleet.heartbeat("d", r#"{"error":"hot"}"#, at(100)).await;
    fleet.listening(at(200)).await;
    fleet.check_only(at(200)).await;
    assert_eq!(counts(), [0, 0, 4, 1]);
    assert!(changes.has_changed().expect("it lives"));
    let bursts = |fleet: &Fleet| {
        let bursts = fleet.board.snapshot(now()).bursts;
        let all = bursts.iter().map(|one| (one.silent_since, one.found_at, one.devices));
        all.collect::<Vec<_>>()
    };
    assert_eq!(bursts(&fleet), [(at(0), at(200), 4)]);
    let snapshot = fleet.board.snapshot(now());
    assert_eq!(snapshot.undelivered_alerts, 4);
    assert_eq!(snapshot.undelivered_since, Some(at(200)));
    assert_eq!(snapshot.as_of, Some(at(200)));
    let undelivered = || fleet.board.snapshot(now()).undelivered_alerts;
    let found = fleet.undelivered().await;
    let acknowledge = |of: &[Transition]| {
        let keys = of.iter().map(Transition::key).collect();
        fleet.registry.send(Acknowledge { alerts: of.len() as u64, keys, at: at(200) })
    };
    acknowledge(&found[..1]).await.expect("it lives").expect("it writes");
    assert_eq!(undelivered(), 3, "before the next check");
    acknowledge(&found[1..]).await.expect("it lives").expect("it writes");
    assert_eq!(undelivered(), 0);
    assert_eq!(fleet.board.snapshot(now()).undelivered_since, None);

    fleet.heartbeat("a", "", at(210)).await;
    fleet.flush().await;
    assert_eq!(counts(), [0, 1, 3, 1]);
    assert_eq!(bursts(&fleet), [(at(0), at(200), 3)]);
    // A command removes one, which the next check notices.
    assert!(fleet.remove("b", at(220)).await);
    fleet.listening(at(230)).await;
    fleet.check_only(at(230)).await;
    assert_eq!(counts(), [0, 1, 2, 1]);
    assert_eq!(bursts(&fleet), [], "two are no group");

    // The next process knows the same from the database.
    let next = Fleet::with_store(TestDatabase::sqlite(), fleet.store.clone(), |_| ()).await;
    let counts = next.board.snapshot(now()).counts;
    assert_eq!(counts.values().sum::<u64>(), 4);
}
