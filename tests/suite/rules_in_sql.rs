//! The rules are written down twice: as functions, and set-wise in SQL. Here the
//! two are held against each other.

use heartbeatd::domain::Status;

use crate::specification::on_both_databases;
use crate::support::database::TestDatabase;
use crate::support::fleet::{Fleet, at};

on_both_databases! {
    sql_changes_every_status_as_the_functions_do
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
