//! The rules are written down twice: as functions, and set-wise in SQL. Here the
//! two are held against each other.

use heartbeatd::domain::Status;

use crate::specification::on_both_databases;
use crate::support::database::TestDatabase;
use crate::support::fleet::{Fleet, at};

on_both_databases! {
    sql_changes_every_status_as_the_functions_do
    a_large_flush_writes_what_small_ones_would
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
