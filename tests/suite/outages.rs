//! Outages: an offline transition begins one, a heartbeat or the device's removal ends it.

use heartbeatd::domain::{EndedOutage, Outages, Status, Transition};
use heartbeatd::store::{DeviceStore, OpenMode, Position, Reader, TransitionPage, TransitionQuery};

use crate::specification::on_both_databases;
use crate::support::database::{TestDatabase, patient_reader};
use crate::support::fleet::{Fleet, at, id};
use crate::support::plans::{Statements, plan, unbounded};

on_both_databases! {
    a_heartbeat_ends_the_outage_and_its_transition_says_which
    a_removal_ends_the_outage_and_is_no_recovery
    outages_that_last_are_known_by_the_second_in_which_each_silence_began
    lists_have_every_transition_once_newest_first
    no_list_goes_through_all_transitions_or_sorts_them
    outages_of_earlier_versions_get_their_ends_and_are_not_announced
}

async fn offline(fleet: &Fleet, device: &str) -> Vec<Transition> {
    let history = fleet.store.history(Some(&id(device)), None, 100).await.expect("it reads");
    history.into_iter().filter(|transition| transition.to == Status::Offline).collect()
}

async fn a_heartbeat_ends_the_outage_and_its_transition_says_which(database: TestDatabase) {
    let fleet = Fleet::on(database).await;
    fleet.heartbeats(&["a", "b"], "", at(0)).await;
    assert_eq!(fleet.check(at(200)).await, ["a", "b"]);
    assert_eq!(offline(&fleet, "a").await[0].ended_at, None);

    fleet.heartbeat("a", r#"{"error":"hot"}"#, at(300)).await;
    fleet.flush().await;
    let [outage] = &offline(&fleet, "a").await[..] else { panic!("there is one") };
    assert_eq!(outage.ended_at, Some(at(300)));
    assert_eq!(offline(&fleet, "b").await[0].ended_at, None, "it is still offline");
    let back = fleet.store.history(Some(&id("a")), None, 1).await.expect("it reads");
    let ended = EndedOutage { key: outage.key(), silent_since: at(0), found_at: at(200) };
    assert_eq!((back[0].to, back[0].ends), (Status::Error, Some(ended)));
    let recovery = back[0].recovery().expect("it is one");
    assert_eq!((recovery.key, recovery.ended_at), (back[0].key(), at(300)));
    assert_eq!(fleet.recoveries().await, [recovery]);

    // From error to online is no recovery.
    fleet.heartbeat("a", "", at(310)).await;
    fleet.flush().await;
    assert_eq!(fleet.recoveries().await, []);

    // The next outage has an end of its own.
    assert_eq!(fleet.check(at(600)).await, ["a"]);
    fleet.heartbeat("a", "", at(700)).await;
    fleet.flush().await;
    let ends: Vec<_> = offline(&fleet, "a").await.iter().map(|t| t.ended_at).collect();
    assert_eq!(ends, [Some(at(700)), Some(at(300))]);
}

async fn a_removal_ends_the_outage_and_is_no_recovery(database: TestDatabase) {
    let fleet = Fleet::on(database).await;
    fleet.heartbeats(&["a", "b"], "", at(0)).await;
    assert_eq!(fleet.check(at(200)).await, ["a", "b"]);
    assert!(fleet.remove("a", at(250)).await);
    assert_eq!(offline(&fleet, "a").await[0].ended_at, Some(at(250)));
    assert_eq!(offline(&fleet, "b").await[0].ended_at, None);
    fleet.heartbeat("a", "", at(300)).await;
    fleet.flush().await;
    assert_eq!(fleet.recoveries().await, []);
    assert_eq!(offline(&fleet, "a").await[0].ended_at, Some(at(250)), "not moved");
}

async fn outages_that_last_are_known_by_the_second_in_which_each_silence_began(
    database: TestDatabase,
) {
    let fleet = Fleet::on(database).await;
    fleet.heartbeats(&["a", "b", "c"], "", at(0)).await;
    fleet.heartbeat("d", "", at(100)).await;
    fleet.check(at(200)).await;
    fleet.check(at(300)).await;
    fleet.heartbeat("b", "", at(310)).await;
    fleet.flush().await;
    let mut outages = Outages::default();
    for (silent_since, found_at) in [(0, 200), (0, 200), (100, 300)] {
        outages.fell(at(silent_since), at(found_at));
    }
    assert_eq!(fleet.store.open_outages().await.expect("it reads"), outages);
}

/// Transitions of many devices, many of which happen at the same time.
async fn insert(database: &TestDatabase) -> Vec<(Position, String, Status, bool)> {
    let mut random = fastrand::Rng::with_seed(16);
    let (mut rows, mut all) = (Vec::new(), Vec::new());
    for sequence in 1..=300_i64 {
        let device = format!("d-{}", random.u8(0..5));
        let to = [Status::Online, Status::Offline, Status::Error][random.usize(0..3)];
        // As clocks are, they go back at times.
        let time = at(sequence / 40 * 10 + random.i64(-12..1));
        let open = to == Status::Offline && random.bool();
        let ended = if open { "NULL".to_owned() } else { time.timestamp_millis().to_string() };
        let millis = time.timestamp_millis();
        rows.push(format!("({sequence}, '{device}', 'online', '{to}', {millis}, {ended})"));
        all.push((Position { at: time, sequence }, device, to, open));
    }
    let columns = "sequence, device_id, from_status, to_status, at, ended_at";
    let sql = format!("INSERT INTO status_transition ({columns}) VALUES {}", rows.join(","));
    database.execute(&sql).await;
    all
}

/// The sequence numbers of every page of a query.
async fn pages(reader: &Reader, query: &TransitionQuery, limit: u64) -> Vec<i64> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = reader.transitions(query, after, limit).await.expect("it reads");
        let TransitionPage { transitions, next } = page;
        assert!(next.is_none() || transitions.len() as u64 == limit);
        found.extend(transitions.iter().map(|transition| transition.sequence));
        after = next;
        if after.is_none() {
            return found;
        }
    }
}

fn queries() -> Vec<TransitionQuery> {
    let mut queries = Vec::new();
    for device in [None, Some(id("d-3"))] {
        for (to, open) in [
            (None, false),
            (Some(Status::Error), false),
            (Some(Status::Offline), false),
            (Some(Status::Offline), true),
        ] {
            for (exactly, from, until) in [
                (None, None, None),
                (Some(at(20)), None, None),
                (None, Some(at(10)), None),
                (None, Some(at(10)), Some(at(50))),
                (None, None, Some(at(50))),
            ] {
                let device = device.clone();
                queries.push(TransitionQuery { device, to, open, at: exactly, from, until });
            }
        }
    }
    queries
}

async fn lists_have_every_transition_once_newest_first(database: TestDatabase) {
    let reader = patient_reader(&database.open().await).await;
    let all = insert(&database).await;
    for query in queries() {
        let TransitionQuery { device, to, open, at, from, until } = &query;
        let mut expected: Vec<_> = all
            .iter()
            .filter(|(position, name, entered, is_open)| {
                device.as_ref().is_none_or(|device| device.as_str() == name)
                    && to.is_none_or(|to| to == *entered)
                    && (!open || *is_open)
                    && at.is_none_or(|at| position.at == at)
                    && from.is_none_or(|from| position.at >= from)
                    && until.is_none_or(|until| position.at < until)
            })
            .map(|(position, ..)| *position)
            .collect();
        let by_time = device.is_none();
        expected.sort_by_key(|position| (by_time.then_some(position.at), position.sequence));
        let expected: Vec<_> = expected.iter().rev().map(|position| position.sequence).collect();
        for limit in [1, 7, 1000] {
            let found = pages(&reader, &query, limit).await;
            assert_eq!(found, expected, "{query:?} by {limit}");
        }
    }
}

/// So many outages at one instant that PostgreSQL is tempted to look for them by their numbers.
async fn insert_bursts(database: &TestDatabase) {
    let rows = |from: i64, time: i64| {
        let row = |sequence: i64| {
            let millis = at(time).timestamp_millis();
            format!("({sequence}, 'd-{sequence}', 'online', 'offline', {millis}, {millis})")
        };
        (from..from + 5_000).map(row).collect::<Vec<_>>().join(",")
    };
    for (from, time) in [(1, 20), (5_001, 20), (10_001, 30), (15_001, 30)] {
        let columns = "sequence, device_id, from_status, to_status, at, ended_at";
        let values = rows(from, time);
        let sql = format!("INSERT INTO status_transition ({columns}) VALUES {values}");
        database.execute(&sql).await;
    }
    database.execute("ANALYZE status_transition").await;
}

async fn no_list_goes_through_all_transitions_or_sorts_them(database: TestDatabase) {
    assert_plans(&database, true).await;
    // With statistics PostgreSQL may prefer another index that is as good.
    if database.url.starts_with("postgres") {
        insert_bursts(&database).await;
        assert_plans(&database, false).await;
    }
}

async fn assert_plans(database: &TestDatabase, each_has_its_index: bool) {
    let (store, statements) = Statements::of(database.open().await);
    let reader = patient_reader(&store).await;
    let some = Position { at: at(30), sequence: 12_000 };
    for query in queries() {
        for after in [None, Some(some)] {
            reader.transitions(&query, after, 100).await.expect("it reads");
            for sql in statements.take() {
                let plan = plan(database, &sql).await;
                let bad = unbounded(&plan);
                assert!(bad.is_empty(), "{sql}\n{plan:#?}");
                // By an index that has nothing else than what is asked for.
                let is_by_sequence = plan.iter().any(|line| line.contains("_pkey"));
                assert!(!is_by_sequence, "{sql}\n{plan:#?}");
                let indexes: &[&str] = match (&query.device, query.open, query.to) {
                    (Some(_), false, _) => &["device"],
                    (Some(_), true, _) => &["open_device", "open ", "device"],
                    (None, true, _) => &["open "],
                    (None, false, Some(_)) => &["to "],
                    (None, false, None) => &["at ", "time "],
                };
                let uses = |name: &&str| {
                    let index = format!("status_transition_{name}");
                    plan.iter().any(|line| format!("{line} ").contains(&index))
                };
                let has_its_index = !each_has_its_index || indexes.iter().any(uses);
                assert!(has_its_index, "{sql}\n{plan:#?}");
            }
        }
    }
}

async fn outages_of_earlier_versions_get_their_ends_and_are_not_announced(database: TestDatabase) {
    database.open().await.close().await.expect("it closes");
    let (found, back) = (at(200).timestamp_millis(), at(300).timestamp_millis());
    let offline =
        |device: &str, at: i64| format!("('{device}', 'online', 'offline', {at}, {at}, {at})");
    let rows = [
        offline("back", found),
        format!("('back', 'offline', 'online', {back}, {back}, NULL)"),
        offline("back", back + 1),
        offline("removed", found),
        offline("long-removed", found),
    ];
    let columns = "device_id, from_status, to_status, at, last_seen_at, delivered_at";
    for sql in [
        format!("INSERT INTO status_transition ({columns}) VALUES {}", rows.join(",")),
        "INSERT INTO device (id, status, last_seen_at, registered_at) \
         VALUES ('back', 'offline', 0, 0)"
            .to_owned(),
        format!("INSERT INTO device_removal (device_id, removed_at) VALUES ('removed', {back})"),
        // The migrations run again, as on a database that never had them.
        "DELETE FROM seaql_migrations WHERE version > 'm20261126_000011'".to_owned(),
    ] {
        database.execute(&sql).await;
    }
    let store = DeviceStore::open(&database.url, OpenMode::Migrate).await.expect("it migrates");
    let ends = async |device: &str| {
        let history = store.history(Some(&id(device)), None, 10).await.expect("it reads");
        let offline = history.into_iter().filter(|t| t.to == Status::Offline);
        offline.map(|transition| transition.ended_at).collect::<Vec<_>>()
    };
    assert_eq!(ends("back").await, [None, Some(at(300))]);
    assert_eq!(ends("removed").await, [Some(at(300))]);
    assert_eq!(ends("long-removed").await, [Some(at(200))], "nobody knows");
    assert_eq!(store.undelivered(10).await.expect("it reads"), []);
}
