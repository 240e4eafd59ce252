//! The rules exist twice: as functions, and set-wise in SQL. These tests compare the two.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use heartbeatd::domain::heartbeat::is_overtaken;
use heartbeatd::domain::{
    ClockOffset, Coverage, Cutoff, Cutoffs, DeviceId, Heartbeat, Interval, Judge, Listened,
    OpenOutage, OwnTimeout, Rejection, Status, Stay,
};
use heartbeatd::store::{DeviceStore, Grounds, Overdue, Proven, Recorded, RecordingRules};

use crate::specification::on_both_databases;
use crate::support::database::TestDatabase;
use crate::support::fleet::{Fleet, at, id};

on_both_databases! {
    sql_changes_every_status_as_the_functions_do
    sql_counts_late_and_silent_devices_as_the_function_finds_them
    sql_takes_a_heartbeat_for_overtaken_as_the_function_does
    a_heartbeat_as_old_as_the_silence_ends_no_outage_as_the_function_says
    a_large_flush_writes_what_small_ones_would
    a_new_device_becomes_the_same_row_whether_or_not_there_is_room_for_all_of_a_flush
}

async fn sql_changes_every_status_as_the_functions_do(database: TestDatabase) {
    let insert: Vec<String> = Status::ALL
        .into_iter()
        .flat_map(|from| ["beats", "errs", "falls-silent"].map(|event| (from, event)))
        .map(|(from, event)| {
            format!("('{from}-{event}', '{from}', {}, 0)", at(0).timestamp_millis())
        })
        .collect();
    drop(database.open().await);
    let columns = "id, status, last_seen_at, registered_at";
    database.execute(&format!("INSERT INTO device ({columns}) VALUES {}", insert.join(","))).await;
    let fleet = Fleet::on(database).await;

    for from in Status::ALL {
        fleet.heartbeat(&format!("{from}-beats"), "", at(170)).await;
        fleet.heartbeat(&format!("{from}-errs"), r#"{"error":"hot"}"#, at(170)).await;
    }
    let went_offline = fleet.check(at(200)).await;

    for from in Status::ALL {
        for (event, expected) in [
            ("beats", from.on_heartbeat(false)),
            ("errs", from.on_heartbeat(true)),
            ("falls-silent", from.on_silence()),
        ] {
            let device = format!("{from}-{event}");
            assert_eq!(fleet.status(&device).await, expected, "{device}");
            let change: &[String] =
                if expected == from { &[] } else { &[format!("{from} -> {expected}")] };
            assert_eq!(fleet.changes(&device).await, change, "{device}");
        }
    }
    assert_eq!(went_offline, ["error-falls-silent", "online-falls-silent"]);
}

/// The coverage of two instances, whose clocks may differ by 1.1 s. Nobody has listened from 600
/// to 700.
fn shared_coverage() -> Coverage {
    let stay = |listener, instance: &str, millis, (from, until)| Stay {
        listener,
        instance: instance.to_owned(),
        clock: ClockOffset { offset: TimeDelta::milliseconds(millis), ..Default::default() },
        share_group: None,
        timeline: String::new(),
        subscription: None,
        joined_at: at(from),
        ended_by_itself: false,
        left_at: Some(at(until)),
        listened: vec![Listened {
            interval: Interval { from: at(from), until: at(until) },
            after: None,
        }],
    };
    let stays = [stay(1, "other", 1_000, (0, 600)), stay(2, "own", 0, (700, 1_000))];
    Coverage::of_stays(Duration::from_secs(5), &stays, Judge::named("own", &stays))
}

async fn sql_counts_late_and_silent_devices_as_the_function_finds_them(database: TestDatabase) {
    let store = database.open().await;
    let coverage = shared_coverage();
    assert!(!coverage.width().is_zero());
    let all = [30, 90, 300].map(Duration::from_secs);
    // Without own timeouts nothing is joined, and all that are set were set since.
    for own in [&all[..], &[]] {
        let cutoffs = coverage.both_cutoffs(at(1_000), Duration::from_secs(180), own);
        let both = [cutoffs.silent(), cutoffs.late()];
        let instants = both.iter().flat_map(|c| c.own.iter().chain([&c.default]));
        let instants: Vec<_> = instants.filter_map(|cutoff| cutoff.instant).collect();
        assert_eq!(instants.len(), 2 * (own.len() + 1), "{cutoffs:?}");
        let near = instants.iter().flat_map(|instant| {
            [-1, 0, 1].map(|millis| Some(*instant + TimeDelta::milliseconds(millis)))
        });
        let seen: Vec<_> = near.chain([None, Some(at(0)), Some(at(1_000))]).collect();
        for status in Status::ALL {
            for timeout in [None, Some(30), Some(300), Some(31), Some(0), Some(-5), Some(i64::MAX)]
            {
                replace_fleet(&database, status, timeout, &seen).await;
                let in_effect = timeout.map(OwnTimeout::of).and_then(OwnTimeout::in_effect);
                let count = |cutoffs: &Cutoffs| {
                    let is_before = |seen: &&_| cutoffs.silences(status, **seen, in_effect);
                    seen.iter().filter(is_before).count() as u64
                };
                let (silent, late) = (count(cutoffs.silent()), count(cutoffs.late()));
                let counted = store.count_overdue(&cutoffs).await.expect("it reads");
                let expected = Overdue { late: late - silent, silent };
                assert_eq!(counted, expected, "{status}, timeout {timeout:?}, own {own:?}");
            }
        }
    }
}

/// Makes a fleet of one device for each of these times at which it was last seen.
async fn replace_fleet(
    database: &TestDatabase,
    status: Status,
    timeout: Option<i64>,
    seen: &[Option<DateTime<Utc>>],
) {
    let timeout = timeout.map_or("NULL".to_owned(), |seconds| seconds.to_string());
    let rows = seen.iter().enumerate().map(|(number, seen)| {
        let seen = seen.map_or("NULL".to_owned(), |seen| seen.timestamp_millis().to_string());
        format!("('d-{number}', '{status}', {seen}, 0, {timeout})")
    });
    let rows = rows.collect::<Vec<_>>().join(", ");
    let columns = "id, status, last_seen_at, registered_at, timeout_seconds";
    database
        .execute(&format!("DELETE FROM device; INSERT INTO device ({columns}) VALUES {rows}"))
        .await;
}

/// Writes a heartbeat of each of these devices, which are sorted.
async fn record(
    store: &DeviceStore,
    devices: &[DeviceId],
    received_at: DateTime<Utc>,
    now: DateTime<Utc>,
    room: u64,
) -> Recorded {
    let parse = |id: &DeviceId| Heartbeat::parse(id.clone(), b"", received_at);
    let heartbeats: Vec<_> = devices.iter().map(parse).collect();
    let max_clock_skew = Duration::from_secs(30);
    let rules =
        RecordingRules { auto_register: true, room, registrations: room, max_clock_skew, now };
    let recorded = store.update_last_seen(&heartbeats, rules, &Proven::default()).await;
    recorded.expect("it writes")
}

async fn sql_takes_a_heartbeat_for_overtaken_as_the_function_does(database: TestDatabase) {
    let store = database.open().await;
    let now = at(100);
    let after = |millis: i64| now + TimeDelta::milliseconds(millis);
    let stored =
        [None, Some(-9_000), Some(-5_001), Some(-5_000), Some(-4_999), Some(60_000), Some(60_001)];
    let status = |number: usize| [Status::Online, Status::Error, Status::Offline][number % 3];
    // Without room for new devices, SQLite uses another statement.
    for room in [1, 0] {
        let devices: Vec<_> =
            (0..3 * stored.len()).map(|number| id(&format!("d-{room}-{number:02}"))).collect();
        for (number, device) in devices.iter().enumerate() {
            let (status, seen) = (status(number), stored[number / 3].map(after));
            let seen = seen.map_or("NULL".to_owned(), |seen| seen.timestamp_millis().to_string());
            let columns = "id, status, last_seen_at, registered_at";
            database
                .execute(&format!(
                    "INSERT INTO device ({columns}) VALUES ('{device}', '{status}', {seen}, 0)"
                ))
                .await;
        }
        let received_at = after(-5_000);
        let recorded = record(&store, &devices, received_at, now, room).await;
        assert!(recorded.rejections.is_empty(), "{recorded:?}");
        for (number, device) in devices.iter().enumerate() {
            let seen = stored[number / 3].map(after);
            let overtaken = is_overtaken(received_at, seen, now);
            let row = store.device(device).await.expect("it reads").expect("it is there");
            let expected = if overtaken { seen } else { Some(received_at) };
            assert_eq!(row.last_seen_at, expected, "{device}, seen at {seen:?}");
            let expected = if overtaken { status(number) } else { Status::Online };
            assert_eq!(row.status, expected, "{device}, seen at {seen:?}");
        }
    }
}

async fn a_heartbeat_as_old_as_the_silence_ends_no_outage_as_the_function_says(
    database: TestDatabase,
) {
    let store = database.open().await;
    let (found_at, cutoff) = (at(200), at(20));
    for (number, (received, now)) in [
        (cutoff - TimeDelta::milliseconds(1), at(250)),
        (cutoff, at(250)),
        (at(240), at(250)),
        // The clock was set back.
        (at(10), at(199)),
        (at(3), at(199)),
        (at(19), at(200)),
    ]
    .into_iter()
    .enumerate()
    {
        let device = id(&format!("d-{number}"));
        let devices = std::slice::from_ref(&device);
        record(&store, devices, at(5), at(5), 1).await;
        let timeout = Duration::from_secs(180);
        let cutoffs =
            Cutoffs { default: Cutoff { timeout, instant: Some(cutoff) }, own: Vec::new() };
        let coverage = Coverage::new(timeout);
        let grounds = Grounds { cutoffs: &cutoffs, coverage: &coverage, instance: "test" };
        let marked = store.mark_devices_offline(devices, grounds, found_at).await;
        let [marked] = &marked.expect("it writes")[..] else { panic!("it is silent") };

        let recorded = record(&store, devices, received, now, 1).await;
        let outage = OpenOutage { sequence: marked.sequence, cutoff: Some(cutoff), found_at };
        let row = store.device(&device).await.expect("it reads").expect("it is there");
        if outage.is_ended_by(received, now) {
            assert_eq!((row.status, row.last_seen_at), (Status::Online, Some(received)));
            assert!(recorded.rejections.is_empty(), "{recorded:?}");
            let ends = recorded.transitions[0].ends.map(|ended| ended.key.sequence);
            assert_eq!(ends, Some(marked.sequence));
        } else {
            assert_eq!((row.status, row.last_seen_at), (Status::Offline, Some(at(5))));
            assert_eq!(recorded.rejections, [Rejection::Outdated { device_id: device }]);
            assert!(recorded.transitions.is_empty(), "{recorded:?}");
        }
    }
}

async fn a_large_flush_writes_what_small_ones_would(database: TestDatabase) {
    let fleet = Fleet::on(database).await;
    let ids: Vec<_> = (0..1_234).map(|number| format!("d-{number:04}")).collect();
    let payload = |number: usize| match number % 617 {
        0 => r#"{"error":"hot"}"#.to_owned(),
        1 => r#"{"timestamp":"1970-01-01T00:00:00Z"}"#.to_owned(),
        2 => String::new(),
        rest => format!(r#"{{"uptime_seconds":{number},"free_memory":{rest}}}"#),
    };
    let everybody = ids.iter().map(String::as_str).collect::<Vec<_>>();
    fleet.heartbeats(&everybody, r#"{"uptime_seconds":5}"#, at(0)).await;
    fleet.flush().await;

    for (number, device) in everybody.iter().enumerate() {
        fleet.heartbeat(device, &payload(number), at(60)).await;
    }
    fleet.flush().await;

    for (number, id) in everybody.iter().enumerate() {
        let device = fleet.device(id).await;
        let (uptime, memory) = match number % 617 {
            0..=2 => (5, None),
            rest => (number as i64, Some(rest as i64)),
        };
        assert_eq!(device.last_seen_at, Some(at(60)), "{id}");
        assert_eq!(device.uptime_seconds, Some(uptime), "{id}");
        assert_eq!(device.free_memory, memory, "{id}");
        assert_eq!(device.error.is_some(), number % 617 == 0, "{id}");
        assert_eq!(device.clock_skew_ms.is_some(), number % 617 == 1, "{id}");
        let status = if device.error.is_some() { Status::Error } else { Status::Online };
        assert_eq!(device.status, status, "{id}");
    }
}

async fn a_new_device_becomes_the_same_row_whether_or_not_there_is_room_for_all_of_a_flush(
    database: TestDatabase,
) {
    let fleet = Fleet::configured(database, |config| config.devices.max_devices = 9).await;
    assert!(fleet.store.register(&id("added"), None, at(0)).await.expect("it writes"));
    // A check counts the fleet, including devices added by the command line.
    assert!(fleet.check(at(0)).await.is_empty());
    let everybody_beats = async |group: &str, second| {
        fleet.heartbeat(&format!("{group}-beats"), "", at(second)).await;
        fleet.heartbeat(&format!("{group}-errs"), r#"{"error":"hot"}"#, at(second)).await;
        let long_ago = r#"{"timestamp":"1970-01-01T00:00:00Z"}"#;
        fleet.heartbeat(&format!("{group}-skewed"), long_ago, at(second)).await;
    };

    // Four heartbeats and room for eight.
    everybody_beats("early", 0).await;
    fleet.heartbeat("added", "", at(0)).await;
    fleet.flush().await;
    // Seven heartbeats and room for five.
    everybody_beats("early", 60).await;
    everybody_beats("late", 60).await;
    fleet.heartbeat("added", "", at(60)).await;
    fleet.flush().await;

    for (group, second) in [("early", 0), ("late", 60)] {
        for (event, status, is_skewed) in [
            ("beats", Status::Online, false),
            ("errs", Status::Error, false),
            ("skewed", Status::Online, true),
        ] {
            let name = format!("{group}-{event}");
            let device = fleet.device(&name).await;
            assert_eq!(device.status, status, "{name}");
            assert_eq!(device.last_seen_at, Some(at(60)), "{name}");
            assert_eq!(device.registered_at, at(second), "{name}");
            assert_eq!(device.clock_skew_ms.is_some(), is_skewed, "{name}");
            let changes = [format!("provisioning -> {status}")];
            assert_eq!(fleet.changes(&name).await, changes, "{name}");
        }
    }
    assert_eq!(fleet.changes("added").await, ["provisioning -> online"]);

    // Seven are registered.
    fleet.heartbeats(&["eighth", "ninth"], "", at(70)).await;
    fleet.flush().await;
    fleet.heartbeats(&["tenth"], "", at(80)).await;
    fleet.flush().await;
    let registered = async |name| fleet.store.device(&id(name)).await.expect("it reads").is_some();
    assert_eq!(fleet.status("ninth").await, Status::Online);
    assert!(!registered("tenth").await);
}
