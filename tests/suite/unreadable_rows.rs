//! Rows from an import that heartbeatd would not accept.

use std::time::{Duration, Instant};

use heartbeatd::domain::coverage::{Cutoff, Cutoffs};
use heartbeatd::domain::delivery::{Attempt, Probe};
use heartbeatd::domain::{Coverage, DatabaseTimeline, IdempotencyKey, Interval, Listened, Status};
use heartbeatd::store::{Found, OutboxSize, Overdue, Stale, StaleFrom};

use crate::specification::on_both_databases;
use crate::support::database::TestDatabase;
use crate::support::fleet::{Fleet, at, id};
use crate::support::service::Place;

on_both_databases! {
    timeouts_that_cannot_be_used_are_left_out_of_a_check_and_named
    a_device_with_a_reserved_id_is_left_out_of_checks_and_named
    alerts_that_cannot_be_read_are_not_in_the_size_and_the_age_of_the_outbox
    rows_that_cannot_be_read_stop_no_check_no_delivery_and_no_listing
    a_delivery_that_cannot_be_read_does_not_hold_up_the_next
    rows_that_cannot_be_read_do_not_take_the_place_of_others
    every_check_finds_the_devices_of_unknown_status_and_counts_them_nowhere
    rows_that_cannot_be_read_are_named_in_turn
    a_device_of_unknown_status_is_online_once_it_is_heard
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

async fn a_delivery_that_cannot_be_read_does_not_hold_up_the_next(database: TestDatabase) {
    drop(database.open().await);
    import(&database, &[&row("dead", "online", "NULL")]).await;
    let columns = "id, head, size, tries, probe";
    let damaged = format!("INSERT INTO delivery ({columns}) VALUES (1, 1, 0, 99, 'zz')");
    database.execute(&damaged).await;
    let fleet = Fleet::on(database).await;
    assert_eq!(fleet.check(at(200)).await, ["dead"]);
    assert_eq!(fleet.store.last_delivery().await.expect("it reads"), None);
    let named = fleet.store.take_unreadable().examples.join("; ");
    assert!(named.contains("delivery") && named.contains("zz"), "{named}");
    let head = IdempotencyKey { timeline: DatabaseTimeline::NONE, sequence: 1 };
    let next = Attempt { head, size: 1, tries: 1, probe: Probe::Not };
    fleet.store.begin_delivery(&next).await.expect("it writes");
    assert_eq!(fleet.store.last_delivery().await.expect("it reads"), Some(next));
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

fn all_since(seconds: i64) -> Cutoffs {
    let timeout = Duration::from_secs(180);
    Cutoffs { default: Cutoff { timeout, instant: Some(at(seconds)) }, own: Vec::new() }
}

async fn rows_that_cannot_be_read_do_not_take_the_place_of_others(database: TestDatabase) {
    let store = database.open().await;
    let rows: Vec<_> = ["a/1", "a/2", "a/3", "b", "c/4", "d", "e/5", "e/6", "f"]
        .map(|id| row(id, "online", "NULL"))
        .to_vec();
    import(&database, &rows.iter().map(String::as_str).collect::<Vec<_>>()).await;

    let cutoffs = all_since(100);
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

async fn every_check_finds_the_devices_of_unknown_status_and_counts_them_nowhere(
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

async fn a_device_of_unknown_status_is_online_once_it_is_heard(database: TestDatabase) {
    drop(database.open().await);
    import(&database, &[&row("weird", "asleep", "NULL")]).await;
    let fleet = Fleet::on(database).await;
    fleet.heartbeats(&["other", "weird"], "", at(10)).await;
    fleet.flush().await;
    let device = fleet.device("weird").await;
    assert_eq!((device.status, device.last_seen_at), (Status::Online, Some(at(10))));
    assert_eq!(fleet.status("other").await, Status::Online);
}

async fn timeouts_that_cannot_be_used_are_left_out_of_a_check_and_named(database: TestDatabase) {
    let store = database.open().await;
    let rows = [
        row("negative", "online", "-5"),
        row("usual", "online", "300"),
        row("zero", "online", "0"),
    ];
    import(&database, &rows.each_ref().map(String::as_str)).await;
    let own = store.own_timeouts().await.expect("it reads");
    assert_eq!(own, [Duration::from_secs(300)]);
    let unusable = store.take_unreadable();
    assert_eq!(unusable.count, 2, "{unusable:?}");
    for (device, timeout) in [("negative", "-5"), ("zero", "0")] {
        let is_named = |line: &String| line.contains(device) && line.contains(timeout);
        assert!(unusable.examples.iter().any(is_named), "{unusable:?}");
    }
}

async fn a_check_of_many_timeouts_takes_little_longer_than_one_of_none(database: TestDatabase) {
    const DEVICES: usize = 10_000;
    /// Each device with each timeout would be several thousand times as much.
    const FAR_FROM_EACH_WITH_EACH: u32 = 500;
    const TIMEOUTS: usize = 5_000;
    let store = database.open().await;
    let rows: Vec<_> = (0..DEVICES)
        .map(|number| {
            let timeout = 1_000 + number % TIMEOUTS;
            row(&format!("d-{number:05}"), "online", &timeout.to_string())
        })
        .collect();
    import(&database, &rows.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let timeouts = store.own_timeouts().await.expect("it reads");
    assert_eq!(timeouts.len(), TIMEOUTS);
    let own =
        timeouts.iter().copied().map(|timeout| Cutoff { timeout, instant: Some(at(0)) }).collect();
    let many = Cutoffs { own, ..all_since(100) };
    let one = Cutoffs { own: many.own[..1].to_vec(), ..all_since(100) };
    // The quickest of several runs, because other tests run at the same time.
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
    assert!(many < FAR_FROM_EACH_WITH_EACH * one, "{many:?}, with one timeout {one:?}");

    let listened = Interval { from: at(-10_000), until: at(100) };
    let coverage =
        Coverage::new(Duration::from_secs(60)).with([Listened { interval: listened, after: None }]);
    let quickest = async |own: &[Duration]| {
        // The default timeout lets no row be left out by its last heartbeat alone.
        let cutoffs = coverage.both_cutoffs(at(100), Duration::from_secs(60), own);
        let mut quickest = Duration::MAX;
        for _ in 0..5 {
            let began = Instant::now();
            let overdue = store.count_overdue(&cutoffs).await.expect("it reads");
            assert_eq!(overdue, Overdue::default());
            quickest = quickest.min(began.elapsed());
        }
        quickest
    };
    let (one, many) = (quickest(&timeouts[..1]).await, quickest(&timeouts).await);
    println!("counted: {many:?}, with one: {one:?}");
    assert!(many < FAR_FROM_EACH_WITH_EACH * one, "{many:?}, with one timeout {one:?}");
}

/// A row of a SQLite database that another program has damaged.
struct Damaged {
    /// Its id as SQL.
    id: &'static str,
    /// Its id as an argument.
    argument: &'static str,
    /// The damaged column, and its content as SQL.
    column: &'static str,
    value: &'static str,
    /// The output of `device show`.
    said: &'static str,
}

const fn damaged(
    id: &'static str,
    argument: &'static str,
    (column, value): (&'static str, &'static str),
    said: &'static str,
) -> Damaged {
    Damaged { id, argument, column, value, said }
}

const DAMAGED: [Damaged; 13] = [
    damaged("'seen'", "seen", ("last_seen_at", "'soon'"), r#"is the text "soon", not a time"#),
    damaged("'late'", "late", ("last_seen_at", "9e18 + 1"), "is the number 9000000000000000000"),
    damaged("'known'", "known", ("registered_at", "x'00ff'"), "is the bytes x'00ff', not a time"),
    damaged("'out'", "out", ("timeout_seconds", "'ten'"), r#"the text "ten", not a whole number"#),
    damaged("'up'", "up", ("uptime_seconds", "'a' || char(27)"), r#"the text "a\u{1b}", not a"#),
    damaged("'free'", "free", ("free_memory", "1.5"), "the number 1.5, not a whole number"),
    damaged("'skew'", "skew", ("clock_skew_ms", "zeroblob(99)"), "00'…, not a whole number"),
    damaged("'text'", "text", ("error", "x'6869'"), "is the bytes x'6869', not a text"),
    damaged("'state'", "state", ("status", "'asleep'"), r#"is the text "asleep", not one of"#),
    damaged("'long'", "long", ("free_memory", "printf('%.9999c', 'x')"), "xxx\"…, not a whole"),
    damaged("'a/b'", "a/b", ("id", ""), r#"is the text "a/b", not an id that is accepted: "#),
    damaged("x'61ff'", "x'61ff'", ("id", ""), "is the bytes x'61ff', not a text"),
    damaged(
        "CAST(x'62ff' AS TEXT)",
        "x'62ff'",
        ("id", ""),
        "is the text \"b\u{fffd}\", not a text",
    ),
];

/// A database with the damaged rows and a good one.
async fn damaged_place() -> Place {
    let place = Place::new();
    assert!(place.run(&["device", "add", "good"]).status.success());
    let database = TestDatabase::at(&place.path().join("heartbeatd.db"));
    for Damaged { id, column, value, .. } in DAMAGED {
        let columns = "id, status, last_seen_at, registered_at";
        let values = format!("({id}, 'online', 0, 0)");
        database.execute(&format!("INSERT INTO device ({columns}) VALUES {values}")).await;
        if column != "id" {
            let damage = format!("UPDATE device SET {column} = {value} WHERE id = {id}");
            database.execute(&damage).await;
        }
    }
    place
}

fn output(place: &Place, arguments: &[&str]) -> (Option<i32>, String, String) {
    let out = place.run(arguments);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (out.status.code(), text(&out.stdout), text(&out.stderr))
}

#[actix_rt::test]
async fn a_damaged_row_is_shown_by_its_column_and_removed_by_its_id() {
    let place = damaged_place().await;
    for Damaged { argument, column, said, .. } in DAMAGED {
        for json in [&["--json"][..], &[]] {
            let arguments = [&["device", "show", argument][..], json].concat();
            let (code, out, err) = output(&place, &arguments);
            assert_eq!((code, &*out), (Some(1), ""), "{argument}: {err}");
            assert!(err.contains(&format!(": {column} is ")), "no {column:?} in {err}");
            assert!(err.contains(said), "no {said:?} in {err}");
            assert!(err.lines().count() == 1 && err.len() < 600, "{err}");
            assert!(!err.contains("Rust type") && !err.contains('\u{1b}'), "{err}");
        }
    }
    let (_, _, listed) = output(&place, &["device", "list"]);
    assert!(listed.contains("rows cannot be read"), "{listed}");
    assert!(!listed.contains("Rust type"), "{listed}");
    for Damaged { argument, .. } in DAMAGED {
        let (code, out, err) = output(&place, &["device", "remove", argument]);
        assert_eq!(code, Some(0), "{argument}: {err}");
        assert!(out.starts_with("removed "), "{out}");
        assert_eq!(output(&place, &["device", "remove", argument]).0, Some(1), "it is gone");
        assert_eq!(output(&place, &["device", "show", argument]).0, Some(1), "it is gone");
    }
    assert_eq!(output(&place, &["device", "show", "good"]).0, Some(0));
}

#[actix_rt::test]
async fn damaged_rows_are_removed_by_pattern_and_by_age() {
    let place = damaged_place().await;
    let (code, out, err) = output(&place, &["device", "remove", "--matching", "*", "--dry-run"]);
    assert_eq!(code, Some(0), "{err}");
    for id in ["\"a/b\"", "x'61ff'", "x'62ff'", "seen", "14 devices would be removed"] {
        assert!(out.lines().any(|line| line == id), "no {id:?} in {out}");
    }
    // A device heard in the far future is not old. A value that is not a time counts as
    // absent.
    let old = ["device", "remove", "--silent-for", "30d", "--dry-run"];
    let (code, out, err) = output(&place, &old);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.ends_with("12 devices would be removed\n"), "{out}");
    let young = ["device", "remove", "--registered-since", "1h", "--dry-run"];
    let (code, out, err) = output(&place, &young);
    assert_eq!((code, &*out), (Some(0), "good\n1 device would be removed\n"), "{err}");
    let (code, out, err) = output(&place, &["device", "remove", "--silent-for", "30d"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.starts_with("removed 12 devices"), "{out}");
    assert_eq!(place.json(&["device", "list", "--json"]).as_array().map(Vec::len), Some(1));
}

#[actix_rt::test]
async fn a_timeout_that_cannot_be_used_is_shown_with_the_one_in_effect() {
    let place = Place::new();
    assert!(place.run(&["device", "add", "good", "--timeout", "90s"]).status.success());
    let database = TestDatabase::at(&place.path().join("heartbeatd.db"));
    let endless = i64::MAX.to_string();
    let rows = [("less", "-7"), ("zero", "0"), ("endless", &*endless), ("long", "3153600001")];
    let rows = rows.map(|(id, timeout)| row(id, "online", timeout));
    import(&database, &rows.each_ref().map(String::as_str)).await;
    let listed = output(&place, &["device", "list"]).1;
    for (device, cell, shown) in [
        ("good", "1 min 30 s", "1 min 30 s\n"),
        (
            "less",
            "default (-7 s is unusable)",
            "3 s (default): a timeout_seconds of -7 is unusable",
        ),
        ("zero", "default (0 s is unusable)", "3 s (default): a timeout_seconds of 0 is unusable"),
        (
            "endless",
            "none (9223372036854775807 s",
            "none: a timeout_seconds of 9223372036854775807",
        ),
        ("long", "none (3153600001 s is unusable)", "none: a timeout_seconds of 3153600001 is"),
    ] {
        let line = listed.lines().find(|line| line.starts_with(device)).expect(device);
        assert!(line.contains(cell), "no {cell:?} in {listed}");
        let (code, out, err) = output(&place, &["device", "show", device]);
        assert_eq!(code, Some(0), "{err}");
        let expected = format!("timeout      {shown}");
        assert!(out.contains(&expected), "no {expected:?} in {out}");
    }
    let shown = place.json(&["device", "show", "less", "--json"]);
    assert_eq!(shown["timeout_seconds"], -7);
    let why = shown["timeout_error"].as_str().expect("a text");
    assert!(why.ends_with("the default is in effect"), "{why}");
    assert_eq!(shown["evidence"]["timeout_seconds"], 3.0, "{shown}");
    assert!(place.json(&["device", "show", "good", "--json"])["timeout_error"].is_null());
}

async fn alerts_that_cannot_be_read_are_not_in_the_size_and_the_age_of_the_outbox(
    database: TestDatabase,
) {
    let store = database.open().await;
    let insert = async |device: &str, from: &str, seconds: i64| {
        let at = at(seconds).timestamp_millis();
        let columns = "device_id, from_status, to_status, at";
        let values = format!("('{device}', '{from}', 'offline', {at})");
        let insert = format!("INSERT INTO status_transition ({columns}) VALUES {values}");
        database.execute(&insert).await;
    };
    let size = async || store.outbox_size().await.expect("it reads");
    for (device, from) in [("a/b", "online"), ("", "online"), ("weird", "asleep")] {
        insert(device, from, 0).await;
    }
    assert_eq!(size().await, OutboxSize::default(), "none can be delivered");
    assert_eq!(store.undelivered(10).await.expect("it reads"), []);
    assert_eq!(store.take_unreadable().count, 3, "each is named");
    insert("dead", "online", 100).await;
    insert("c/d", "online", 150).await;
    insert("late", "error", 200).await;
    assert_eq!(size().await, OutboxSize { alerts: 2, oldest: Some(at(100)) });
}

async fn a_device_with_a_reserved_id_is_left_out_of_checks_and_named(database: TestDatabase) {
    drop(database.open().await);
    let echo = "heartbeatd-echo-17";
    let rows = [row(echo, "online", "NULL"), row("heartbeatd-ech", "online", "NULL")];
    import(&database, &rows.each_ref().map(String::as_str)).await;
    let fleet = Fleet::on(database).await;
    for (checks, found) in [(1, &["heartbeatd-ech"][..]), (2, &[])] {
        assert_eq!(fleet.check(at(200)).await, found);
        let page = fleet.metrics.encode().expect("a page");
        let counted = format!("heartbeatd_unreadable_rows_total {checks}\n");
        assert!(page.contains(&counted), "{page}");
    }
    assert_eq!(fleet.store.devices(None, None, 9).await.expect("it lists").len(), 1);
    let unreadable = fleet.store.take_unreadable();
    assert!(unreadable.examples[0].contains("are reserved for echoes"), "{unreadable:?}");
    let Some(Found::Damaged(columns)) = fleet.store.look_up(echo).await.expect("it reads") else {
        panic!("it is shown");
    };
    assert!(columns[0].to_string().contains("are reserved for echoes"), "{columns:?}");
    assert!(fleet.remove(echo, at(200)).await);
}

#[actix_rt::test]
async fn a_device_that_was_imported_offline_is_not_said_to_have_lost_its_gaps() {
    let place = Place::new();
    assert!(place.run(&["device", "add", "good"]).status.success());
    let database = TestDatabase::at(&place.path().join("heartbeatd.db"));
    import(&database, &[&row("imported", "offline", "NULL")]).await;
    let (code, out, err) = output(&place, &["device", "show", "imported"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("the evidence for it was not kept"), "{out}");
    assert!(!out.contains("any more"), "there never were any: {out}");
}
