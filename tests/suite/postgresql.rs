//! PostgreSQL as the service uses it: the connections and the settings of their sessions, and the
//! shape of the tables.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use heartbeatd::config::DatabaseConfig;
use heartbeatd::domain::Heartbeat;
use heartbeatd::store::{
    DeviceStore, Interference, Interfering, OpenMode, Outcome, Point, Proven, RecordingRules,
};
use sea_orm::{ConnectionTrait, Database, DbBackend, Statement};

use crate::support::database::TestDatabase;
use crate::support::fleet::{at, id};
use crate::support::proxy::Proxy;
use crate::support::service::Place;
use crate::support::waiting::until;
use servers::mosquitto::Mosquitto;
use servers::postgresql::{Cluster, PostgreSql};

/// Whoever changes a device notes the settings of its session.
const NOTE: &str = "
CREATE TABLE noted (name text, value text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO noted SELECT name, current_setting(name) FROM unnest(ARRAY[
        'synchronous_commit', 'statement_timeout', 'lock_timeout', 'transaction_isolation',
        'idle_in_transaction_session_timeout', 'tcp_keepalives_idle']) AS name;
    RETURN NULL;
END $$;
CREATE TRIGGER note AFTER INSERT ON device FOR EACH STATEMENT EXECUTE FUNCTION note()";

/// Limits that are not the defaults.
fn limited(url: &str) -> DatabaseConfig {
    let seconds = |n| Duration::from_secs(n).try_into().expect("it is not zero");
    DatabaseConfig {
        statement_timeout: seconds(20),
        lock_timeout: seconds(4),
        idle_in_transaction_session_timeout: seconds(9),
        ..url.into()
    }
}

/// The rows of a query, as texts joined by a blank.
async fn rows(database: &TestDatabase, sql: &str) -> Vec<String> {
    let db = Database::connect(&database.url).await.expect("the database opens");
    let statement = Statement::from_string(DbBackend::Postgres, sql);
    let rows = db.query_all_raw(statement).await.expect(sql);
    db.close().await.expect("it closes");
    rows.iter().map(|row| row.try_get_by_index(0).expect("a text")).collect()
}

#[actix_rt::test]
async fn a_session_has_the_settings_of_the_configuration_whatever_the_defaults_are() {
    let database = TestDatabase::postgres();
    database.open().await.close().await.expect("it closes");
    database.execute(NOTE).await;
    for default in [
        "synchronous_commit = off",
        "statement_timeout = '1s'",
        "lock_timeout = 0",
        "default_transaction_isolation = 'serializable'",
        "idle_in_transaction_session_timeout = 0",
    ] {
        database.execute(&format!("ALTER DATABASE {} SET {default}", database.name())).await;
    }
    let limited = limited(&database.url);
    let store = DeviceStore::open(&limited, OpenMode::Migrate).await.expect("it opens");
    store.register(&id("a"), None, at(0)).await.expect("it registers");
    store.close().await.expect("it closes");
    let noted = rows(&database, "SELECT DISTINCT name || ' ' || value FROM noted ORDER BY 1").await;
    let expected = [
        "idle_in_transaction_session_timeout 9s",
        "lock_timeout 4s",
        "statement_timeout 20s",
        "synchronous_commit on",
        "tcp_keepalives_idle 15",
        "transaction_isolation read committed",
    ];
    assert_eq!(noted, expected);
}

#[test]
fn a_service_opens_as_many_connections_as_are_configured_and_one_for_its_lock() {
    let broker = Mosquitto::start();
    let database = TestDatabase::postgres();
    let place = Place::new()
        .with("MQTT__URL", &broker.url())
        .with("DATABASE__URL", &database.url)
        .with("DATABASE__MAX_CONNECTIONS", "6")
        .with("DATABASE__MAX_READ_CONNECTIONS", "3");
    let service = place.start();
    service.await_listening();
    let sessions = |name: &str| {
        let database = database.name();
        format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' \
             AND application_name = '{name}'"
        )
    };
    PostgreSql::shared().await_query(&sessions("heartbeatd"), "9");
    // The one that takes over pursues the lock.
    PostgreSql::shared().await_query(&sessions("heartbeatd lock"), "1");
}

/// Makes the server vanish in the middle of the first transaction.
struct Vanishes(Proxy, AtomicBool);

impl Interference for Vanishes {
    fn at(&self, point: Point) -> Interfering {
        if matches!(point, Point::Commit(_)) && !self.1.swap(true, Ordering::SeqCst) {
            self.0.swallow();
        }
        Box::pin(std::future::ready(Outcome::GoOn))
    }
}

#[actix_rt::test]
async fn a_server_that_does_not_answer_is_given_up_after_both_timeouts() {
    let database = TestDatabase::postgres();
    database.open().await.close().await.expect("it closes");
    let (proxy, through) = Proxy::to_database(&database);
    let second = || Duration::from_secs(1).try_into().expect("it is not zero");
    let timeouts = DatabaseConfig {
        statement_timeout: Duration::from_secs(2).try_into().expect("it is not zero"),
        lock_timeout: second(),
        connect_timeout: second(),
        // By the time of the next attempt the server has ended the transaction and its locks.
        idle_in_transaction_session_timeout: second(),
        ..DatabaseConfig::from(&through)
    };
    let store = DeviceStore::open(&timeouts, OpenMode::Migrate).await.expect("it opens");
    let vanishes = Vanishes(proxy, AtomicBool::new(false));
    let vanishes = Arc::new(vanishes);
    let store = store.interfere(vanishes.clone());
    let error = store.register(&id("a"), None, at(0)).await.expect_err("there is no answer");
    assert!(error.to_string().contains("no answer within 3s"), "{error}");
    // A connection is tried before it is used.
    let error = store.count_by_status().await.expect_err("there is no answer");
    assert!(error.to_string().contains("no connection to the database within 1s"), "{error}");
    vanishes.0.heal();
    store.register(&id("a"), None, at(0)).await.expect("the connections are new");
}

/// Half of each page is free at first, so the next versions of its rows are on the same page and
/// no index is touched.
#[actix_rt::test]
async fn steady_heartbeats_touch_no_index() {
    const DEVICES: usize = 2_000;
    // A snapshot of somebody else keeps pages from being cleaned.
    let server = Cluster::create().set("autovacuum", "off").start();
    let database = TestDatabase::on(&server);
    let store = database.open().await;
    let rules = RecordingRules {
        auto_register: true,
        room: 10_000,
        registrations: 10_000,
        max_clock_skew: Duration::from_secs(30),
        now: at(0),
    };
    for round in 0..20 {
        let heartbeats: Vec<_> = (0..DEVICES)
            .map(|n| Heartbeat::parse(id(&format!("d-{n:04}")), b"", at(round)))
            .collect();
        let rules = RecordingRules { now: at(round), ..rules };
        store.update_last_seen(&heartbeats, rules, &Proven::default()).await.expect("it writes");
    }
    store.close().await.expect("it closes");
    let factor = "SELECT array_to_string(reloptions, ' ') FROM pg_class WHERE relname = 'device'";
    assert_eq!(rows(&database, factor).await, ["fillfactor=50"]);
    let updates = "SELECT n_tup_upd || ' ' || n_tup_hot_upd FROM pg_stat_user_tables \
                   WHERE relname = 'device'";
    // A session counts what it has done when it ends, and that takes a moment.
    let counted = until("all updates are counted", async || {
        let counted = rows(&database, updates).await.remove(0);
        let all = counted.split(' ').next().and_then(|n| n.parse().ok()) >= Some(19 * DEVICES);
        all.then_some(counted)
    })
    .await;
    let numbers: Vec<f64> = counted.split(' ').map(|n| n.parse().expect("a number")).collect();
    let [updates, hot] = numbers[..] else { panic!("{counted:?}") };
    assert!(hot > 0.97 * updates, "{counted:?}");
}
