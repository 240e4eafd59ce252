//! The member of a group that checks and delivers is stopped in the middle of a check, or killed in
//! the middle of a delivery. Another session of the database holds it there until that has happened.

use sea_orm::{
    ConnectionTrait, Database, DatabaseConnection, DatabaseTransaction, TransactionTrait,
};
use servers::eventually;
use servers::log::{Line, is_event};
use servers::postgresql::PostgreSql;
use std::time::Duration;

use crate::group::{HOLE, assert_well, roles, scene};
use crate::pair::Scene;
use crate::support::waiting::let_pass;

/// The time after which the server ends a transaction in which nothing happens.
const ENDED_BY_THE_SERVER: f64 = 15.0;

async fn session(scene: &Scene) -> DatabaseConnection {
    Database::connect(&scene.database.url).await.expect("the database opens")
}

async fn hold(session: &DatabaseConnection, sql: &str) -> DatabaseTransaction {
    let held = session.begin().await.expect("it begins");
    held.execute_unprepared(sql).await.expect(sql);
    held
}

/// The processes of the server that wait for a lock with a statement like this.
fn waiting(scene: &Scene, statement: &str) -> String {
    PostgreSql::shared().query(&format!(
        "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
         AND datname = '{}' AND query LIKE '{statement}'",
        scene.database.name()
    ))
}

fn await_waiting(scene: &Scene, statement: &str) -> String {
    eventually("it waits for a lock", || {
        Some(waiting(scene, statement)).filter(|processes| !processes.is_empty())
    })
}

/// It has locked what it is about to mark. Whether it goes on with that or finds that the server has
/// ended its transaction, each device is found once.
async fn is_stopped_inside_a_check_for(seconds: f64) {
    let mut scene = scene();
    let (active, _) = roles(&scene);
    scene.some_die(4);
    // Their last heartbeats are written by then, so that only a check waits for the row.
    let_pass(Duration::from_secs(1));
    let session = session(&scene).await;
    let row = hold(&session, "SELECT id FROM device WHERE id = 'dead-03' FOR UPDATE").await;
    await_waiting(&scene, "%candidate%");
    scene.instances[active].service.signal("STOP");
    row.rollback().await.expect("it ends");
    scene.endure(seconds);
    scene.instances[active].service.signal("CONT");
    scene.instances[active].await_proving();
    scene.late += HOLE + ENDED_BY_THE_SERVER;
    assert_well(&mut scene).await;
}

#[actix_rt::test]
async fn a_check_that_is_stopped_and_goes_on_finds_each_device_once() {
    is_stopped_inside_a_check_for(6.0).await;
}

#[actix_rt::test]
async fn a_check_that_is_stopped_until_the_server_ends_its_transaction_is_made_up_for() {
    is_stopped_inside_a_check_for(ENDED_BY_THE_SERVER + 3.0).await;
}

/// Makes whoever notes a delivery wait for a lock.
const HOLD_ACKNOWLEDGEMENTS: &str = "
CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS
'BEGIN PERFORM pg_advisory_xact_lock(4711); RETURN new; END';
CREATE TRIGGER hold BEFORE UPDATE OF delivered_at ON status_transition
FOR EACH ROW EXECUTE FUNCTION hold()";

/// The keys with which a device was reported, by whichever process.
fn keys_of(scene: &Scene, device: &str) -> Vec<String> {
    let log = scene.log();
    let reported = format!("INFO alert_sink device={device}");
    let of_it = log.iter().filter(|line| is_event(line, &reported));
    let key = |line: &String| Some(Line::parse(line)?.value("key")?.to_owned());
    of_it.filter_map(key).collect()
}

#[actix_rt::test]
async fn whoever_delivers_next_repeats_with_its_key_what_was_handed_over_and_not_noted() {
    let mut scene = scene();
    let (active, _) = roles(&scene);
    let session = session(&scene).await;
    session.execute_unprepared(HOLD_ACKNOWLEDGEMENTS).await.expect("it is created");
    let held = hold(&session, "SELECT pg_advisory_xact_lock(4711)").await;
    scene.some_die(1);
    let processes = await_waiting(&scene, "%delivered_at%");
    assert_eq!(keys_of(&scene, "dead-00").len(), 1, "it is handed over");
    scene.instances[active].service.signal("KILL");
    // As if its machine was lost, too: nothing of it is committed any more.
    for process in processes.lines() {
        let ended = PostgreSql::shared().query(&format!("SELECT pg_terminate_backend({process})"));
        assert_eq!(ended, "t");
    }
    held.rollback().await.expect("it ends");
    let others: Vec<_> = (0..3).filter(|number| *number != active).collect();
    scene.await_active(&others);
    eventually("it is repeated", || (keys_of(&scene, "dead-00").len() == 2).then_some(()));
    let keys = keys_of(&scene, "dead-00");
    assert_eq!(keys[0], keys[1]);
    scene.some_die(4);
    for device in ["dead-01", "dead-02", "dead-03", "dead-04"] {
        eventually("the next are found", || (!keys_of(&scene, device).is_empty()).then_some(()));
    }
    let_pass(Duration::from_secs(1));
    let times: Vec<_> = (0..5).map(|n| keys_of(&scene, &format!("dead-{n:02}")).len()).collect();
    assert_eq!(times, [2, 1, 1, 1, 1], "{:?}", scene.log());
    assert_eq!(scene.offline_alive(), Vec::<String>::new());
}
