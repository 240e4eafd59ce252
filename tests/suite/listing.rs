//! Pages of devices: what they have, and that they cost the same for a large fleet.

use std::collections::BTreeSet;
use std::time::Duration;

use heartbeatd::domain::{Coverage, Cutoff, Cutoffs, Status};
use heartbeatd::store::{Budget, DevicePage, DeviceQuery, Ids, Reader};

use crate::specification::on_both_databases;
use crate::support::database::{TestDatabase, patient_reader};
use crate::support::fleet::{at, id};
use crate::support::plans::{Statements, plan, unbounded};

on_both_databases! {
    pages_have_every_device_that_was_asked_for_once_and_in_the_order_of_bytes
    a_search_for_a_pattern_ends_with_its_budget_and_goes_on_with_the_next_page
    silent_devices_are_found_by_their_own_timeouts
    no_list_goes_through_the_table_or_sorts_it
    a_row_that_cannot_be_read_takes_no_place_of_others
    ids_that_are_like_another_are_found_by_the_index
}

/// The order of a database may be that of a language, in which a prefix is no range.
#[actix_rt::test]
async fn a_language_does_not_change_the_pages_of_a_postgresql_database() {
    let language = "TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'";
    let database = TestDatabase::of_language(language);
    pages_have_every_device_that_was_asked_for_once_and_in_the_order_of_bytes(database).await;
}

const ENOUGH: Duration = Duration::from_secs(60);

/// Ids whose order depends on the language, and that are prefixes of one another.
const IDS: [&str; 16] = [
    "B",
    "a",
    "A",
    "ab",
    "a b",
    "a-b",
    "a_b",
    "ä",
    "Ä",
    "z",
    "é",
    "a\u{3fffd}",
    "a\u{fffd}x",
    "pump-1",
    "pump-17",
    "pump-2",
];

async fn insert(database: &TestDatabase, rows: impl Iterator<Item = (String, Status, i64)>) {
    let rows: Vec<_> = rows
        .map(|(id, status, seen)| {
            let seen = at(seen).timestamp_millis();
            format!("('{id}', '{status}', {seen}, {seen})")
        })
        .collect();
    for rows in rows.chunks(500) {
        let columns = "id, status, last_seen_at, registered_at";
        let sql = format!("INSERT INTO device ({columns}) VALUES {}", rows.join(","));
        database.execute(&sql).await;
    }
}

/// Every page of a query, as the ids of each.
async fn pages(reader: &Reader, query: &DeviceQuery, limit: u64) -> Vec<Vec<String>> {
    let (mut pages, mut after) = (Vec::new(), None::<String>);
    loop {
        let budget = Budget::of(ENOUGH);
        let page = reader.devices(query, after.as_deref(), limit, budget).await;
        let DevicePage { devices, next, partial } = page.expect("it reads");
        assert!(!partial, "there was time");
        pages.push(devices.iter().map(|device| device.id.to_string()).collect());
        let Some(next) = next else { return pages };
        assert!(after.as_ref() < Some(&next), "{next:?} after {after:?}");
        after = Some(next);
    }
}

async fn pages_have_every_device_that_was_asked_for_once_and_in_the_order_of_bytes(
    database: TestDatabase,
) {
    let reader = patient_reader(&database.open().await).await;
    let mut random = fastrand::Rng::with_seed(16);
    let mut devices: Vec<(String, Status, i64)> = Vec::new();
    for name in IDS.iter().map(|name| (*name).to_owned()).chain((0..60).map(|n| format!("d-{n}"))) {
        devices.push((name, Status::ALL[random.usize(0..4)], 0));
    }
    insert(&database, devices.iter().cloned()).await;
    devices.sort();

    let subsets = (0..16_u8).map(|bits| {
        let has = |(index, _): &(usize, Status)| bits & (1 << index) != 0;
        Status::ALL.into_iter().enumerate().filter(has).map(|(_, s)| s).collect::<BTreeSet<_>>()
    });
    for statuses in subsets {
        for search in [
            "",
            "a",
            "d-1",
            "pump-1",
            "ä",
            "nothing",
            "a\u{3fffd}",
            "*1",
            "*-1*",
            "*?",
            "p*-1",
            "pump*1*",
            "d-?*5",
        ] {
            let query = DeviceQuery {
                statuses: statuses.clone(),
                ids: Ids::searched(search),
                ..Default::default()
            };
            let is_meant = |id: &str| match search {
                "*1" => id.ends_with('1'),
                "*-1*" => id.contains("-1"),
                "*?" => true,
                "p*-1" => id.starts_with('p') && id.ends_with("-1"),
                "pump*1*" => id.starts_with("pump") && id.contains('1'),
                "d-?*5" => id.starts_with("d-") && id.len() > 3 && id.ends_with('5'),
                prefix => id.starts_with(prefix),
            };
            let expected: Vec<_> = devices
                .iter()
                .filter(|(id, status, _)| {
                    is_meant(id) && (statuses.is_empty() || statuses.contains(status))
                })
                .map(|(id, ..)| id.clone())
                .collect();
            for limit in [1, 7, 100] {
                let found = pages(&reader, &query, limit).await;
                assert_eq!(found.concat(), expected, "{search} {statuses:?} by {limit}");
                let full = found.iter().rev().skip(1).all(|page| page.len() as u64 == limit);
                assert!(full, "{search} {statuses:?}: {found:?}");
            }
        }
    }
}

async fn a_search_for_a_pattern_ends_with_its_budget_and_goes_on_with_the_next_page(
    database: TestDatabase,
) {
    let reader = patient_reader(&database.open().await).await;
    let device = |number| (format!("d-{number:05}"), Status::Online, 0);
    insert(&database, (0..45_000).map(device)).await;
    let query = DeviceQuery { ids: Ids::Matching("*44444".to_owned()), ..Default::default() };
    let nothing = || Budget::of(Duration::ZERO);
    let first = reader.devices(&query, None, 10, nothing()).await.expect("it reads");
    let expected =
        DevicePage { devices: Vec::new(), next: Some("d-19999".to_owned()), partial: true };
    assert_eq!(first, expected, "a window of 20,000");
    let second = reader.devices(&query, Some("d-19999"), 10, nothing()).await.expect("it reads");
    assert_eq!((second.next.as_deref(), second.partial), (Some("d-39999"), true));
    let third = reader.devices(&query, Some("d-39999"), 10, nothing()).await.expect("it reads");
    assert_eq!(third.devices.len(), 1);
    assert_eq!((third.next, third.partial), (None, false));
    let found = pages(&reader, &query, 10).await;
    assert_eq!(found, [["d-44444"]], "with enough time at once");
}

async fn silent_devices_are_found_by_their_own_timeouts(database: TestDatabase) {
    let store = database.open().await;
    let reader = patient_reader(&store).await;
    let seen = [("a", 0), ("b", 100), ("slow", 50), ("slower", 0)];
    insert(&database, seen.iter().map(|(id, at)| ((*id).to_owned(), Status::Online, *at))).await;
    insert(&database, [("gone".to_owned(), Status::Offline, 0)].into_iter()).await;
    for slow in ["slow", "slower"] {
        let timeout = Some(Duration::from_secs(900));
        assert!(store.set_timeout(&id(slow), timeout).await.expect("it writes"));
    }
    let cutoff = |timeout, instant| Cutoff { timeout: Duration::from_secs(timeout), instant };
    let cutoffs =
        Cutoffs { default: cutoff(180, Some(at(60))), own: vec![cutoff(900, Some(at(10)))] };
    let query = DeviceQuery { silent: Some(cutoffs), ..Default::default() };
    for limit in [1, 2, 10] {
        assert_eq!(pages(&reader, &query, limit).await.concat(), ["a", "slower"]);
    }
    let statuses = [Status::Offline].into();
    assert_eq!(pages(&reader, &DeviceQuery { statuses, ..query }, 10).await.concat(), [""; 0]);
    let nothing_proven = Coverage::new(Duration::from_secs(5));
    let cutoffs = nothing_proven.cutoffs(at(1000), Duration::from_secs(180), &[]);
    let query = DeviceQuery { silent: Some(cutoffs), ..Default::default() };
    assert_eq!(pages(&reader, &query, 10).await.concat(), [""; 0]);
}

async fn no_list_goes_through_the_table_or_sorts_it(database: TestDatabase) {
    let (store, statements) = Statements::of(database.open().await);
    let reader = patient_reader(&store).await;
    // More than one window.
    let device = |number| (format!("e-{number:05}"), Status::Online, 0);
    insert(&database, (0..20_002).map(device)).await;
    let cutoff = Cutoff { timeout: Duration::from_secs(180), instant: Some(at(0)) };
    let silent = Cutoffs { default: cutoff, own: vec![cutoff] };
    let every_kind = [
        (vec![], "", None),
        (vec![Status::Online], "", None),
        (vec![Status::Offline, Status::Error], "pump", None),
        (vec![], "pump", None),
        (vec![], "*17*", None),
        (vec![Status::Offline], "*17*", None),
        (vec![], "", Some(silent.clone())),
        (vec![Status::Error], "pump", Some(silent)),
    ];
    for (statuses, search, silent) in every_kind {
        let ids = Ids::searched(search);
        let silent =
            DeviceQuery { statuses: statuses.into_iter().collect(), ids, silent, heard: None };
        let heard = DeviceQuery { silent: None, heard: silent.silent.clone(), ..silent.clone() };
        for (query, after) in [(&silent, None), (&silent, Some("d")), (&heard, Some("d"))] {
            let budget = Budget::of(Duration::ZERO);
            reader.devices(query, after, 100, budget).await.expect("it reads");
            let executed = statements.take();
            assert!(!executed.is_empty());
            for sql in executed {
                let plan = plan(&database, &sql).await;
                // In the order of the primary key, up to a limit, it skips no row.
                let skips_none = sql.contains(" true AND true ORDER") || sql.contains("OFFSET");
                let bad = unbounded(&plan).into_iter();
                let bad: Vec<_> =
                    bad.filter(|line| !(skips_none && line.as_str() == "SCAN device")).collect();
                assert!(bad.is_empty(), "{sql}\n{plan:#?}");
            }
        }
    }
}

async fn ids_that_are_like_another_are_found_by_the_index(database: TestDatabase) {
    let (store, statements) = Statements::of(database.open().await);
    let reader = patient_reader(&store).await;
    let device = |number| (format!("pump-{number:05}"), Status::Online, 0);
    insert(&database, (0..2_000).map(device)).await;
    insert(&database, [("Köln 1".to_owned(), Status::Offline, 0)].into_iter()).await;
    statements.take();
    for (id, expected) in [
        ("pump-10023", &["pump-01023"][..]),
        ("pump_00017", &["pump-00017"]),
        ("pump-0001", &["pump-00001", "pump-00010", "pump-00011"]),
        ("PUMP-01999", &["pump-01999"]),
        ("köln 1", &["Köln 1"]),
        ("nothing", &[]),
        ("", &[]),
        ("pump\0", &[]),
    ] {
        let similar = reader.similar(id, 3).await.expect("it reads");
        assert_eq!(similar[..expected.len()], *expected, "{id:?}: {similar:?}");
        assert!(!expected.is_empty() || similar.is_empty(), "{id:?}: {similar:?}");
        for sql in statements.take() {
            let plan = plan(&database, &sql).await;
            assert!(unbounded(&plan).is_empty(), "{sql}\n{plan:#?}");
        }
    }
}

async fn a_row_that_cannot_be_read_takes_no_place_of_others(database: TestDatabase) {
    let reader = patient_reader(&database.open().await).await;
    let device = |number| (format!("d-{number}"), Status::Online, 0);
    insert(&database, (0..6).map(device)).await;
    database.execute("UPDATE device SET status = 'broken' WHERE id IN ('d-1', 'd-2')").await;
    for limit in [1, 2, 3] {
        let found = pages(&reader, &DeviceQuery::default(), limit).await.concat();
        assert_eq!(found, ["d-0", "d-3", "d-4", "d-5"]);
    }
}
