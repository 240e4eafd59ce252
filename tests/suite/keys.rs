//! The key of a transition is its own for ever: on another timeline of the database the same
//! number is another key, and whatever was meant for the one does not touch the other.

use heartbeatd::actors::device_registry::Flush;
use heartbeatd::domain::delivery::{Attempt, Probe};
use heartbeatd::domain::{DatabaseTimeline, EventPlace, IdempotencyKey, Transition};
use heartbeatd::store::{DeviceStore, Member, OpenMode};
use sea_orm::{ConnectionTrait, Database, Statement};
use servers::PATIENCE;
use servers::postgresql::PostgreSql;

use crate::specification::on_both_databases;
use crate::support::database::{TestDatabase, patient_reader};
use crate::support::fleet::{Fleet, at, id};

on_both_databases! {
    an_alert_and_its_recovery_have_keys_of_the_timeline_and_their_numbers
    an_acknowledgement_of_a_lost_alert_leaves_the_one_with_its_number_in_the_outbox
    a_delivery_is_noted_with_the_timeline_of_its_alert
    what_an_earlier_version_wrote_has_a_key_for_ever
    a_listener_notes_the_timeline_on_which_it_joins
}

fn timeline(text: &str) -> DatabaseTimeline {
    text.parse().expect(text)
}

/// The key as text.
fn key(transition: &Transition) -> String {
    transition.key().to_string()
}

/// The newest transitions of a device, the newest first.
async fn history(fleet: &Fleet, device: &str) -> Vec<Transition> {
    fleet.store.history(Some(&id(device)), None, 10).await.expect("it reads")
}

/// The timeline of a database that was never promoted, as keys begin with it.
fn first_timeline(database: &TestDatabase) -> &'static str {
    if database.url.starts_with("sqlite") { "0" } else { "00000001" }
}

async fn an_alert_and_its_recovery_have_keys_of_the_timeline_and_their_numbers(
    database: TestDatabase,
) {
    let timeline = first_timeline(&database);
    let fleet = Fleet::on(database).await;
    assert_eq!(fleet.store.timeline().await.expect("it reads").to_string(), timeline);
    fleet.heartbeat("pump", "", at(0)).await;
    fleet.listening(at(200)).await;
    fleet.check_only(at(200)).await;
    let [alert] = &fleet.undelivered().await[..] else { panic!("there is one") };
    assert_eq!(key(alert), format!("{timeline}-{}", alert.sequence));
    fleet.heartbeat("pump", "", at(210)).await;
    fleet.flush().await;
    let [.., back] = &fleet.outbox().await[..] else { panic!("there are two") };
    let recovery = back.recovery().expect("it is one");
    assert_eq!((recovery.key, recovery.offline_key), (back.key(), alert.key()));
    assert_ne!(recovery.key, recovery.offline_key);
    let in_history: Vec<_> = history(&fleet, "pump").await.iter().map(Transition::key).collect();
    assert_eq!(in_history[..2], [back.key(), alert.key()]);
}

#[actix_rt::test]
async fn after_a_failover_that_lost_commits_the_same_number_is_another_key() {
    let mut server = PostgreSql::start();
    let database = TestDatabase::on(&server);
    let url = database.url.clone();
    let before = Fleet::on(database).await;
    before.heartbeats(&["lost", "other"], "", at(0)).await;
    before.flush().await;
    server.keep_standby();

    let before = Fleet::on(TestDatabase::with_url(url.clone())).await;
    before.listening(at(190)).await;
    before.check_only(at(190)).await;
    let given_out = before.undelivered().await;
    let seen = patient_reader(&before.store).await.newest_event().await.expect("it reads");
    assert_eq!(given_out.len(), 2);
    server.fail_over();

    // The database knows nothing of these alerts, and one of the devices is heard.
    let after = Fleet::on(TestDatabase::with_url(url)).await;
    assert_eq!(after.undelivered().await, []);
    after.heartbeat(given_out[0].device_id.as_str(), "", at(195)).await;
    after.listening(at(200)).await;
    after.check_only(at(200)).await;
    let [alert] = &after.undelivered().await[..] else { panic!("there is one") };
    assert_eq!(alert.sequence, given_out[0].sequence, "the number is given again");
    assert_ne!(alert.device_id, given_out[0].device_id);
    assert_eq!(key(&given_out[0]), format!("00000001-{}", alert.sequence));
    assert_eq!(key(alert), format!("00000002-{}", alert.sequence));

    // An acknowledgement that comes late is for what is lost.
    after.store.acknowledge(&[given_out[0].key()], at(201)).await.expect("it writes");
    assert_eq!(after.undelivered().await.len(), 1);
    // So is a place in the events, although the events have gone on beyond it.
    for second in 201..220 {
        let payload = if second % 2 == 0 { r#"{"error":"hot"}"# } else { "" };
        after.heartbeat("lost", payload, at(second)).await;
        after.flush().await;
    }
    let reader = patient_reader(&after.store).await;
    let newest = reader.newest_event().await.expect("it reads");
    assert!(newest.transition > seen.transition, "{newest:?}");
    assert_eq!(newest.timeline, timeline("00000002"));
    assert_eq!(reader.events(seen, 100).await.expect("it reads"), None);
    let all = reader.events(EventPlace::default(), 1000).await.expect("it reads");
    let last = all.expect("they are kept").pop().expect("there are some");
    assert_eq!(last.place, newest, "the beginning is the same on every timeline");
    assert_eq!(reader.events(newest, 100).await.expect("it reads"), Some(Vec::new()));
}

#[actix_rt::test]
async fn a_transition_keeps_its_key_when_the_database_goes_on_with_another_timeline() {
    let mut server = PostgreSql::start();
    let database = TestDatabase::on(&server);
    let url = database.url.clone();
    let before = Fleet::on(database).await;
    before.heartbeat("pump", "", at(0)).await;
    assert_eq!(before.check(at(200)).await, ["pump"]);
    let [alert, ..] = &history(&before, "pump").await[..] else { panic!("it is offline") };
    server.switch_over();

    let after = Fleet::on(TestDatabase::with_url(url)).await;
    after.heartbeat("pump", "", at(210)).await;
    after.flush().await;
    let [recovery] = &after.recoveries().await[..] else { panic!("there is one") };
    assert_eq!(recovery.offline_key, alert.key());
    assert_eq!(recovery.offline_key.timeline, timeline("00000001"));
    assert_eq!(recovery.key.timeline, timeline("00000002"));
    assert_eq!(history(&after, "pump").await[1].key(), alert.key());
}

async fn an_acknowledgement_of_a_lost_alert_leaves_the_one_with_its_number_in_the_outbox(
    database: TestDatabase,
) {
    let fleet = Fleet::on(database).await;
    fleet.heartbeat("pump", "", at(0)).await;
    fleet.listening(at(200)).await;
    fleet.check_only(at(200)).await;
    let found = fleet.undelivered().await;
    let lost = IdempotencyKey { timeline: timeline("0000000A"), ..found[0].key() };
    fleet.store.acknowledge(&[lost], at(201)).await.expect("it writes");
    fleet.store.give_up(lost, at(201), "refused").await.expect("it writes");
    assert_eq!(fleet.undelivered().await, found);
    fleet.store.acknowledge(&[lost, found[0].key()], at(202)).await.expect("it writes");
    assert_eq!(fleet.undelivered().await, []);
    assert_eq!(history(&fleet, "pump").await[0].delivered_at, Some(at(202)));
}

async fn a_delivery_is_noted_with_the_timeline_of_its_alert(database: TestDatabase) {
    let store = database.open().await;
    for timeline in [timeline("00000002"), DatabaseTimeline::NONE] {
        let head = IdempotencyKey { timeline, sequence: 7 };
        let noted = Attempt { head, size: 1, tries: 5, probe: Probe::Retried };
        store.begin_delivery(&noted).await.expect("it writes");
        assert_eq!(store.last_delivery().await.expect("it reads"), Some(noted));
    }
}

/// Makes the schema that of the version before keys had timelines.
async fn without_timelines(database: &TestDatabase) {
    for sql in [
        "ALTER TABLE status_transition DROP COLUMN timeline",
        "ALTER TABLE status_transition DROP COLUMN outage_timeline",
        "ALTER TABLE delivery DROP COLUMN head_timeline",
        "DELETE FROM seaql_migrations WHERE version = 'm20261126_000017_add_timeline'",
    ] {
        database.execute(sql).await;
    }
}

async fn what_an_earlier_version_wrote_has_a_key_for_ever(database: TestDatabase) {
    drop(database.open().await);
    without_timelines(&database).await;
    let alert = "INSERT INTO status_transition (device_id, from_status, to_status, at, \
                 last_seen_at) VALUES ('old', 'online', 'offline', 200000, 0)";
    let back = "INSERT INTO status_transition (device_id, from_status, to_status, at, \
                outage_sequence, outage_silent_since, outage_found_at) \
                VALUES ('old', 'offline', 'online', 210000, 1, 0, 200000)";
    let note = "INSERT INTO delivery (id, head, size, tries, probe) VALUES (1, 1, 1, 3, 'not')";
    for sql in [alert, back, note] {
        database.execute(sql).await;
    }
    let store = DeviceStore::open(&database.url, OpenMode::Migrate).await.expect("it migrates");
    // One that writes beside this version, as long as it runs.
    database.execute(alert).await;
    let timeline = first_timeline(&database);
    let fleet = Fleet::with_store(database, store, |_| ()).await;
    fleet.heartbeat("new", "", at(0)).await;
    fleet.flush().await;

    let old = history(&fleet, "old").await;
    assert_eq!(old.iter().map(key).collect::<Vec<_>>(), ["0-3", "0-2", "0-1"]);
    let recovery = old[1].recovery().expect("it is one");
    assert_eq!(recovery.offline_key, old[2].key());
    let last = fleet.store.last_delivery().await.expect("it reads").expect("it is noted");
    assert_eq!((last.head, last.tries), (old[2].key(), 3));
    assert_eq!(key(&history(&fleet, "new").await[0]), format!("{timeline}-4"));
    // What is delivered of it is acknowledged.
    let keys: Vec<_> = fleet.outbox().await.iter().map(Transition::key).collect();
    assert_eq!(keys.len(), 3);
    fleet.store.acknowledge(&keys, at(220)).await.expect("it writes");
    assert_eq!(fleet.outbox().await, []);
}

async fn a_listener_notes_the_timeline_on_which_it_joins(database: TestDatabase) {
    let store = database.open().await;
    let interval = std::time::Duration::from_secs(5);
    let member = Member {
        instance: "hall-a".to_owned(),
        incarnation: 1,
        interval,
        share_group: None,
        configured: None,
    };
    let joined = store.join(&member).await.expect("it joins");
    let db = Database::connect(&database.url).await.expect("the database opens");
    let sql = format!("SELECT timeline FROM listener WHERE id = {joined}");
    let row = db.query_one_raw(Statement::from_string(db.get_database_backend(), sql)).await;
    let noted: String =
        row.expect("it reads").expect("it is there").try_get("", "timeline").expect("text");
    let expected = if database.url.starts_with("sqlite") { "" } else { "00000001" };
    assert_eq!(noted, expected);
    db.close().await.expect("it closes");
}

const REVOKE: &str = "REVOKE EXECUTE ON FUNCTION pg_walfile_name(pg_lsn) FROM PUBLIC";
const GRANT: &str = "GRANT EXECUTE ON FUNCTION pg_walfile_name(pg_lsn) TO PUBLIC";

/// A database of a role that is no superuser, and the URL with that role.
async fn of_ordinary_role(role: &str) -> (TestDatabase, TestDatabase) {
    TestDatabase::postgres().execute(&format!("CREATE ROLE {role} LOGIN")).await;
    let database = TestDatabase::of_language(&format!("OWNER {role}"));
    let url = database.url.replace("postgres@", &format!("{role}@"));
    (database, TestDatabase::with_url(url))
}

#[actix_rt::test]
async fn a_role_that_may_not_ask_for_the_timeline_has_keys_without_one() {
    let (database, of_role) = of_ordinary_role("may_not_ask").await;
    let url = of_role.url.clone();
    database.execute(REVOKE).await;
    let fleet = Fleet::on(of_role).await;
    fleet.heartbeat("pump", "", at(0)).await;
    assert_eq!(fleet.check(at(200)).await, ["pump"]);
    let [alert, ..] = &history(&fleet, "pump").await[..] else { panic!("it is offline") };
    assert_eq!(key(alert), format!("0-{}", alert.sequence));
    let newest = patient_reader(&fleet.store).await.newest_event().await.expect("it reads");
    assert_ne!(newest.timeline, timeline("00000001"), "a place has another mark then");

    database.execute(GRANT).await;
    let store = DeviceStore::open(&url, OpenMode::Existing).await.expect("it opens");
    assert_eq!(store.timeline().await.expect("it reads"), timeline("00000001"));
}

#[actix_rt::test]
async fn a_right_to_ask_that_is_revoked_meanwhile_costs_one_attempt() {
    let (database, of_role) = of_ordinary_role("may_ask_for_a_while").await;
    let fleet = Fleet::on(of_role).await;
    fleet.heartbeat("pump", "", at(0)).await;
    fleet.flush().await;
    assert_eq!(history(&fleet, "pump").await[0].timeline, timeline("00000001"));
    database.execute(REVOKE).await;
    fleet.heartbeat("valve", "", at(1)).await;
    let refused = fleet.registry.send(Flush).await.expect("it lives");
    refused.expect_err("the function is refused");
    let flushed = async {
        while fleet.registry.send(Flush).await.expect("it lives").is_err() {
            actix_rt::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, flushed).await.expect("it is written");
    assert_eq!(history(&fleet, "valve").await[0].timeline, DatabaseTimeline::NONE);
}
