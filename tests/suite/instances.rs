//! A second service on one database, which is refused while the first one lives and accepted
//! as soon as that is gone.

use crate::support::database::{TestDatabase, lock_sqlite};
use crate::support::service::{Place, Service};
use servers::eventually;
use servers::mosquitto::heartbeat;

const UNAVAILABLE: Option<i32> = Some(69);

fn place_on(database: &TestDatabase) -> Place {
    Place::new().with("DATABASE__URL", &database.url)
}

#[track_caller]
fn assert_second_is_refused(place: &Place, first: &Service) {
    let mut second = place.start();
    let code = second.await_exit();
    // Its last line may not have been read yet.
    second.await_words("ERROR heartbeatd", &["another heartbeatd uses the database"]);
    let errors = second.log().join("\n");
    assert_eq!(code, UNAVAILABLE, "{errors}");
    let holder = format!("process {} on ", first.process.0.id());
    for part in [&holder, "since 20", "mqtt.echo_interval"] {
        assert!(errors.contains(part), "no {part} in {errors}");
    }
    assert!(!errors.contains("mqtt_ingest"), "it has connected: {errors}");
}

fn a_second_is_refused_until_the_first_is_gone(database: &TestDatabase) {
    let place = place_on(database);
    let mut first = place.start_listening();
    assert_second_is_refused(&place, &first);
    assert!(place.run(&["device", "add", "a"]).status.success(), "commands need no lock");
    first.signal("KILL");
    first.await_exit();
    let mut second = place.start_listening();
    assert_second_is_refused(&place, &second);
    second.signal("TERM");
    assert_eq!(second.await_exit(), Some(0), "{}", second.log().join("\n"));
    place.start_listening();
}

#[test]
fn a_second_service_on_a_file_is_refused_until_the_first_is_gone() {
    a_second_is_refused_until_the_first_is_gone(&TestDatabase::sqlite());
}

#[test]
fn a_second_service_on_postgresql_is_refused_until_the_first_is_gone() {
    a_second_is_refused_until_the_first_is_gone(&TestDatabase::postgres());
}

#[test]
fn a_link_to_a_file_does_not_let_a_second_service_in() {
    let place = Place::new();
    let first = place.start_listening();
    let link = place.path().join("link.db");
    std::os::unix::fs::symlink(place.path().join("heartbeatd.db"), &link).expect("a link");
    let url = format!("sqlite://{}?mode=rwc", link.display());
    assert_second_is_refused(&Place::new().with("DATABASE__URL", &url), &first);
}

#[test]
fn another_name_of_a_file_does_not_let_a_second_service_in() {
    let place = Place::new();
    let mut first = place.start_listening();
    let file = place.path().join("heartbeatd.db");
    let second = Place::new();
    let link = second.path().join("elsewhere.db");
    std::fs::hard_link(&file, &link).expect("a link");
    let url = format!("sqlite://{}?mode=rwc", link.display());
    let second = second.with("DATABASE__URL", &url);
    let assert_refused = || {
        let mut second = second.start();
        let code = second.await_exit();
        second.await_words(
            "ERROR heartbeatd",
            &["another heartbeatd uses the database file", "under another name"],
        );
        assert_eq!(code, UNAVAILABLE, "{}", second.log().join("\n"));
    };
    assert_refused();
    // A command that opens and closes the file meanwhile does not unlock it.
    assert!(place.run(&["device", "add", "a"]).status.success());
    assert_refused();
    first.signal("KILL");
    first.await_exit();
    let mut second = second.start_listening();
    second.signal("TERM");
    assert_eq!(second.await_exit(), Some(0), "{}", second.log().join("\n"));
}

#[actix_rt::test]
async fn the_lock_of_a_file_leaves_sqlites_own_locks_alone() {
    let place = Place::new();
    let service = place.start_listening();
    // A command in another process waits for the lock of a command in this process, and
    // the service waits for both.
    let database = TestDatabase::at(&place.path().join("heartbeatd.db"));
    let locked = lock_sqlite(&database.url).await;
    let refused = place.run(&["device", "add", "waits"]);
    assert_eq!(refused.status.code(), UNAVAILABLE, "SQLite's lock holds");
    locked.rollback().await.expect("it ends");
    assert!(place.run(&["device", "add", "waits"]).status.success());
    let shm = place.path().join("heartbeatd.db-shm");
    assert!(shm.exists(), "the command was not the last one to have it open");
    drop(service);
}

/// Does what a starting service does once it has the lock.
async fn take_over(database: &TestDatabase) {
    let sql = "UPDATE instance SET token = 'another', host = 'elsewhere', pid = 4711";
    database.execute(sql).await;
}

async fn a_service_that_was_taken_over_ends(database: TestDatabase) {
    let mut service = place_on(&database).start_listening();
    take_over(&database).await;
    assert_eq!(service.await_exit(), UNAVAILABLE, "{}", service.log().join("\n"));
    service.await_words(
        "ERROR heartbeatd",
        &["taken over the database", "process 4711 on", "elsewhere"],
    );
}

#[actix_rt::test]
async fn a_service_whose_file_was_taken_over_ends() {
    a_service_that_was_taken_over_ends(TestDatabase::sqlite()).await;
}

#[actix_rt::test]
async fn a_service_whose_postgresql_database_was_taken_over_ends() {
    a_service_that_was_taken_over_ends(TestDatabase::postgres()).await;
}

#[actix_rt::test]
async fn a_session_with_the_lock_that_ends_is_replaced() {
    let database = TestDatabase::postgres();
    let place = place_on(&database);
    let mut service = place.start_listening();
    let locked = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                  WHERE application_name = 'heartbeatd lock' AND datname = current_database()";
    database.execute(locked).await;
    service.await_event("WARN heartbeatd database=");
    service.await_event("INFO heartbeatd database= seconds=");
    assert_second_is_refused(&place, &service);
    assert!(eventually("it runs", || Some(service.process.0.try_wait().ok()?.is_none())));
}

/// The task in which a service finds out that its database has lost something.
#[derive(Clone, Copy)]
enum FindsOut {
    Flush,
    Check,
}

/// Plays a failover to a server that has not received the last commits.
async fn a_service_whose_database_has_lost_a_save_begins_anew(
    database: TestDatabase,
    at: FindsOut,
) {
    let place = match at {
        FindsOut::Flush => place_on(&database),
        FindsOut::Check => place_on(&database)
            .with("HEARTBEAT__FLUSH_INTERVAL", "10s")
            .with("HEARTBEAT__CHECK_INTERVAL", "500ms"),
    };
    let service = place.start_listening();
    let port = service.broker_port();
    heartbeat(port, "pump", b"");
    service.await_metric(r#"heartbeatd_devices{status="online"}"#, 1.0);
    database.execute("UPDATE listener SET saves = saves - 1").await;
    let lost = "does not have what this service has written";
    service.await_words("WARN standby", &[lost]);
    service.await_event("INFO standby");
    eventually("its heartbeats count again", || {
        heartbeat(port, "fan", b"");
        (service.metric(r#"heartbeatd_devices{status="online"}"#) >= 2.0).then_some(())
    });
    let listed = place.json(&["group", "list", "--all", "--json"]);
    let states: Vec<_> = listed.as_array().expect("an array").iter().map(|l| &l["state"]).collect();
    assert_eq!(states, ["forgotten", "active"]);
    let said = service.log().into_iter().filter(|line| line.contains(lost)).count();
    assert_eq!(said, 1, "{}", service.log().join("\n"));
}

#[actix_rt::test]
async fn a_service_whose_file_has_lost_a_save_begins_anew() {
    let database = TestDatabase::sqlite();
    a_service_whose_database_has_lost_a_save_begins_anew(database, FindsOut::Flush).await;
}

#[actix_rt::test]
async fn a_service_whose_postgresql_database_has_lost_a_save_begins_anew() {
    let database = TestDatabase::postgres();
    a_service_whose_database_has_lost_a_save_begins_anew(database, FindsOut::Flush).await;
}

#[actix_rt::test]
async fn a_service_whose_check_finds_that_its_file_has_lost_a_save_begins_anew() {
    let database = TestDatabase::sqlite();
    a_service_whose_database_has_lost_a_save_begins_anew(database, FindsOut::Check).await;
}

#[actix_rt::test]
async fn a_service_whose_check_finds_that_its_postgresql_database_has_lost_a_save_begins_anew() {
    let database = TestDatabase::postgres();
    a_service_whose_database_has_lost_a_save_begins_anew(database, FindsOut::Check).await;
}

#[test]
fn a_service_whose_stay_is_ended_by_hand_says_so_and_begins_another() {
    let place = Place::new();
    let service = place.start();
    service.await_listening();
    let listed = place.json(&["group", "list", "--json"]);
    assert!(place.run(&["group", "remove", &listed[0]["id"].to_string()]).status.success());
    service.await_words("WARN standby", &["ended by hand", "heartbeatd group remove"]);
    service.await_event("INFO standby");
    let states = || {
        let listed = place.json(&["group", "list", "--all", "--json"]);
        let listed = listed.as_array().expect("an array");
        listed.iter().map(|listener| listener["state"].to_string()).collect::<Vec<_>>()
    };
    eventually("it has joined again", || {
        (states() == [r#""removed""#, r#""active""#]).then_some(())
    });
    heartbeat(service.broker_port(), "pump", b"");
    service.await_metric(r#"heartbeatd_devices{status="online"}"#, 1.0);
}
