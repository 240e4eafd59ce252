//! What an import has left in the database and heartbeatd would not accept.

use std::time::{Duration, Instant};

use heartbeatd::domain::Status;
use heartbeatd::domain::coverage::{Cutoff, Cutoffs};
use heartbeatd::store::{Stale, StaleFrom};

use crate::specification::on_both_databases;
use crate::support::database::TestDatabase;
use crate::support::fleet::{Fleet, at, id};
use crate::support::service::Place;

on_both_databases! {
    rows_that_cannot_be_read_stop_no_check_no_delivery_and_no_listing
    rows_that_cannot_be_read_do_not_take_the_place_of_others
    every_check_finds_the_devices_whose_status_is_none_and_counts_them_as_nothing
    rows_that_cannot_be_read_are_named_in_turn
    a_device_whose_status_is_none_is_online_once_it_is_heard
    a_check_of_many_timeouts_takes_little_longer_than_one_of_none
}

async fn import(database: &TestDatabase, rows: &[&str]) {
    let columns = "id, status, last_seen_at, registered_at, timeout_seconds";
    database.execute(&format!("INSERT INTO device ({columns}) VALUES {}", rows.join(","))).await;
}

fn row(id: &str, status: &str, timeout: &str) -> String {
    format!("('{id}', '{status}', {}, 0, {timeout})", at(0).timestamp_millis())
}

async fn rows_that_cannot_be_read_stop_no_check_no_delivery_and_no_listing(database: TestDatabase) {
    drop(database.open().await);
    let rows = [
        row("a/b", "online", "NULL"),
        row("", "error", "NULL"),
        row("dead", "online", "NULL"),
        row("negative", "online", "-5"),
        row("endless", "online", "9223372036854775807"),
        row("weird", "asleep", "NULL"),
        row("zebra", "online", "NULL"),
    ];
    import(&database, &rows.each_ref().map(String::as_str)).await;
    let insert = |device: &str, to: &str| {
        format!(
            "INSERT INTO status_transition (device_id, from_status, to_status, at) \
             VALUES ('{device}', 'online', '{to}', 0)"
        )
    };
    for (device, to) in [("c/d", "offline"), ("dead", "asleep"), ("zebra", "online")] {
        database.execute(&insert(device, to)).await;
    }
    let fleet = Fleet::on(database).await;

    assert_eq!(fleet.check(at(200)).await, ["dead", "negative", "zebra"]);
    let page = fleet.metrics.encode().expect("a page");
    assert!(!page.contains("heartbeatd_unreadable_rows_total 0"), "{page}");
    assert_eq!(fleet.device("dead").await.status, Status::Offline);

    let listed = fleet.store.devices(None, None, 3).await.expect("it lists");
    let listed: Vec<_> = listed.iter().map(|device| device.id.to_string()).collect();
    assert_eq!(listed, ["dead", "endless", "negative"], "three, and what lies between is left out");
    let history = fleet.store.history(None, None, 4).await.expect("it lists");
    let history: Vec<_> = history.iter().map(|t| t.device_id.to_string()).collect();
    assert_eq!(history.len(), 4, "{history:?}");
    assert_eq!(history[3], "zebra");
    let unreadable = fleet.store.take_unreadable();
    let named = unreadable.examples.join("; ");
    assert!(named.contains(r#""a/b""#), "{named}");
    assert!(unreadable.count >= 3, "{unreadable:?}");
}

#[actix_rt::test]
async fn a_list_says_what_it_leaves_out_and_how_to_remove_it() {
    let place = Place::new();
    for device in ["good", "zebra"] {
        assert!(place.run(&["device", "add", device]).status.success());
    }
    let database = TestDatabase::at(&place.path().join("heartbeatd.db"));
    let rows = [row("a/b", "online", "NULL"), row("weird", "asleep", "NULL")];
    let rows = rows.each_ref().map(String::as_str);
    import(&database, &rows).await;
    database
        .execute(
            "INSERT INTO status_transition (device_id, from_status, to_status, at) \
             VALUES ('c/d', 'online', 'offline', 0)",
        )
        .await;
    let said = |arguments: &[&str]| {
        let out = place.run(arguments);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(0), "{said}");
        assert!(said.lines().count() <= 1, "{said}");
        said
    };
    for arguments in [&["device", "list"][..], &["device", "list", "--json"]] {
        let said = said(arguments);
        for part in ["2 rows cannot be read", r#""a/b""#, r#""weird""#, "device remove ID"] {
            assert!(said.contains(part), "no {part:?} in {said}");
        }
    }
    assert_eq!(place.json(&["device", "list", "--json"]).as_array().map(Vec::len), Some(2));
    assert!(said(&["history"]).contains("1 row cannot be read"));
    assert!(place.run(&["device", "remove", "a/b", "weird"]).status.success());
    assert_eq!(said(&["device", "list"]), "");
}

fn everybody_since(seconds: i64) -> Cutoffs {
    let timeout = Duration::from_secs(180);
    Cutoffs { default: Cutoff { timeout, instant: Some(at(seconds)) }, own: Vec::new() }
}

async fn rows_that_cannot_be_read_do_not_take_the_place_of_others(database: TestDatabase) {
    let store = database.open().await;
    let rows: Vec<_> = ["a/1", "a/2", "a/3", "b", "c/4", "d", "e/5", "e/6", "f"]
        .map(|id| row(id, "online", "NULL"))
        .to_vec();
    import(&database, &rows.iter().map(String::as_str).collect::<Vec<_>>()).await;

    let cutoffs = everybody_since(100);
    let (mut found, mut from) = (Vec::new(), Some(StaleFrom::default()));
    while let Some(page) = from {
        let stale = store.get_stale_devices(&cutoffs, &page, 2).await.expect("it reads");
        let Stale { devices, next } = stale;
        found.extend(devices);
        from = next;
    }
    found.sort();
    found.dedup();
    assert_eq!(found, ["b", "d", "f"].map(id));
}

async fn every_check_finds_the_devices_whose_status_is_none_and_counts_them_as_nothing(
    database: TestDatabase,
) {
    drop(database.open().await);
    let rows =
        ["bogus", "ONLINE", "", "online"].map(|status| row(&format!("d-{status}"), status, "NULL"));
    import(&database, &rows.each_ref().map(String::as_str)).await;
    let fleet = Fleet::on(database).await;
    for checks in 1..=2 {
        fleet.check(at(10)).await;
        let page = fleet.metrics.encode().expect("a page");
        let counted = format!("heartbeatd_unreadable_rows_total {}", 3 * checks);
        assert!(page.contains(&counted), "{page}");
        assert!(page.contains("heartbeatd_devices{status=\"online\"} 1\n"), "{page}");
    }
    fleet.store.find_unknown_statuses().await.expect("it reads");
    let unreadable = fleet.store.take_unreadable();
    assert_eq!(unreadable.count, 3);
    for (id, status) in [("d-", ""), ("d-ONLINE", "ONLINE"), ("d-bogus", "bogus")] {
        let told = format!("device {id:?}: Type Error: a status of {status:?}");
        assert!(unreadable.examples.contains(&told), "{told}: {unreadable:?}");
    }
}

async fn rows_that_cannot_be_read_are_named_in_turn(database: TestDatabase) {
    const ROWS: usize = 1_003;
    let store = database.open().await;
    let rows: Vec<_> = (0..ROWS).map(|n| row(&format!("d-{n:04}"), "bogus", "NULL")).collect();
    import(&database, &rows.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut named = std::collections::BTreeSet::new();
    for _ in 0..3 {
        store.find_unknown_statuses().await.expect("it reads");
        let unreadable = store.take_unreadable();
        assert_eq!((unreadable.count, unreadable.examples.len()), (ROWS as u64, 5));
        named.extend(unreadable.examples);
    }
    assert_eq!(named.len(), 15, "{named:?}");
}

async fn a_device_whose_status_is_none_is_online_once_it_is_heard(database: TestDatabase) {
    drop(database.open().await);
    import(&database, &[&row("weird", "asleep", "NULL")]).await;
    let fleet = Fleet::on(database).await;
    fleet.heartbeats(&["other", "weird"], "", at(10)).await;
    fleet.flush().await;
    let device = fleet.device("weird").await;
    assert_eq!((device.status, device.last_seen_at), (Status::Online, Some(at(10))));
    assert_eq!(fleet.status("other").await, Status::Online);
}

async fn a_check_of_many_timeouts_takes_little_longer_than_one_of_none(database: TestDatabase) {
    const DEVICES: usize = 10_000;
    const TIMEOUTS: usize = 5_000;
    let store = database.open().await;
    let rows: Vec<_> = (0..DEVICES)
        .map(|number| {
            let timeout = 1_000 + number % TIMEOUTS;
            row(&format!("d-{number:05}"), "online", &timeout.to_string())
        })
        .collect();
    import(&database, &rows.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let own = store.own_timeouts().await.expect("it reads");
    assert_eq!(own.len(), TIMEOUTS);
    let own = own.into_iter().map(|timeout| Cutoff { timeout, instant: Some(at(0)) }).collect();
    let many = Cutoffs { own, ..everybody_since(100) };
    let one = Cutoffs { own: many.own[..1].to_vec(), ..everybody_since(100) };
    // The quickest of several: other tests run beside this one.
    let quickest = async |cutoffs: &Cutoffs| {
        let mut quickest = Duration::MAX;
        for _ in 0..5 {
            let began = Instant::now();
            let stale = store.get_stale_devices(cutoffs, &StaleFrom::default(), 100_000).await;
            assert_eq!(stale.expect("it reads").devices, [], "all were seen at their cutoff");
            quickest = quickest.min(began.elapsed());
        }
        quickest
    };
    let (one, many) = (quickest(&one).await, quickest(&many).await);
    println!("{DEVICES} devices with {TIMEOUTS} timeouts: {many:?}, with one: {one:?}");
    assert!(many < 100 * one, "{many:?}, with one timeout {one:?}");
}
