//! The rules exist twice: as functions, and set-wise in SQL. These tests compare the two.

use heartbeatd::domain::Status;

use crate::specification::on_both_databases;
use crate::support::database::TestDatabase;
use crate::support::fleet::{Fleet, at, id};

on_both_databases! {
    sql_changes_every_status_as_the_functions_do
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
