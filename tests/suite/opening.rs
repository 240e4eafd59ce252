//! Opening a database: by several processes at once, after a kill, by another version, and
//! if it cannot be used.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use heartbeatd::store::{DeviceStore, Interference, Interfering, OpenMode, Outcome, Point};
use migration::{Migrator, MigratorTrait};
use sea_orm::{ConnectionTrait, Database, Statement};

use crate::support::database::TestDatabase;
use crate::support::events::{CHECK_FAILED, NOT_WRITTEN};
use crate::support::fleet::{at, id};
use crate::support::service::Place;
use servers::eventually;
use servers::mosquitto::{Mosquitto, heartbeat};
use servers::pgbouncer::PgBouncer;
use servers::postgresql::PostgreSql;
use servers::process::{Running, output};

const UNAVAILABLE: Option<i32> = Some(69);

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn place_on(database: &TestDatabase) -> Place {
    Place::new().with("DATABASE__URL", &database.url)
}

fn spawn(place: &Place, arguments: &[&str]) -> Child {
    let mut command = place.command(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().expect("heartbeatd starts")
}

/// A service, commands that write and commands that read, all started at once.
fn all_open(fresh: impl Fn() -> TestDatabase) {
    for turn in 0..8 {
        let database = fresh();
        let place = place_on(&database);
        let service = place.start();
        let adding: Vec<_> =
            ["a", "b"].iter().map(|id| spawn(&place, &["device", "add", id])).collect();
        let reading = [["device", "list"].as_slice(), &["history"]];
        let reading: Vec<_> = reading.iter().map(|command| spawn(&place, command)).collect();
        for command in adding {
            let output = command.wait_with_output().expect("it ends");
            assert!(output.status.success(), "turn {turn}: {}", errors(&output));
        }
        for command in reading {
            let output = command.wait_with_output().expect("it ends");
            let errors = errors(&output);
            // The file or the schema may still be missing, but never a part of the schema.
            let too_early = errors.contains("unable to open database file")
                || errors.contains("has no heartbeatd schema");
            assert!(output.status.success() || too_early, "turn {turn}: {errors}");
        }
        service.await_listening();
        place.await_statuses(&["a provisioning", "b provisioning"]);
    }
}

#[test]
fn five_processes_open_a_fresh_file_at_once() {
    all_open(TestDatabase::sqlite);
}

#[test]
fn five_processes_open_a_fresh_postgresql_database_at_once() {
    all_open(TestDatabase::postgres);
}

/// Three services, which may stand by, are started at once on a schema with the first
/// migrations. All of them listen in the end, and one writes.
async fn three_services_start_at_once(migrations_before: &[u32]) {
    let broker = Mosquitto::start();
    let newest = TestDatabase::postgres();
    newest.open().await.close().await.expect("it closes");
    let all = migrations(&newest).await;
    for before in migrations_before {
        let database = TestDatabase::postgres();
        if *before > 0 {
            let db = Database::connect(&database.url).await.expect("the database opens");
            Migrator::up(&db, Some(*before)).await.expect("it migrates");
            db.close().await.expect("it closes");
        }
        let start = |name: &str| {
            let place = place_on(&database).with("MQTT__URL", &broker.url());
            place.with("MQTT__CLIENT_ID", &format!("{name}-{before}")).start()
        };
        let services = ["a", "b", "c"].map(start);
        for service in &services {
            service.await_listening();
        }
        let active = || services.iter().map(|s| s.metric("heartbeatd_active")).sum::<f64>();
        eventually("one of them writes", || (active() == 1.0).then_some(()));
        for service in &services {
            let log = service.log();
            let errors: Vec<_> = log.iter().filter(|line| line.contains("ERROR")).collect();
            assert!(errors.is_empty(), "from {before} migrations on: {errors:?}");
        }
        assert_eq!(migrations(&database).await, all, "from {before} migrations on");
    }
}

#[actix_rt::test]
async fn three_services_start_at_once_on_an_empty_database() {
    three_services_start_at_once(&[0; 5]).await;
}

#[actix_rt::test]
async fn three_services_start_at_once_on_an_older_schema() {
    three_services_start_at_once(&[1, 5, 9, 13, 15]).await;
}

#[test]
fn a_process_killed_in_its_first_start_leaves_a_database_that_opens() {
    #[expect(clippy::disallowed_methods, reason = "a seed, which is printed")]
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let place = Place::new();
    let began = Instant::now();
    assert!(place.run(&["device", "add", "a"]).status.success());
    let first_start = began.elapsed();
    for _ in 0..40 {
        let place = Place::new();
        let mut killed = Running(spawn(&place, &["run"]));
        // The moment of the kill varies.
        #[expect(clippy::disallowed_methods, reason = "the moment of the kill is random")]
        std::thread::sleep(first_start.mul_f64(random.f64()));
        killed.0.kill().expect("it is ours");
        killed.0.wait().expect("it is ours");
        let added = place.run(&["device", "add", "a"]);
        assert!(added.status.success(), "{}", errors(&added));
        let service = place.start();
        service.await_listening();
        place.await_statuses(&["a provisioning"]);
    }
}

async fn migrations(database: &TestDatabase) -> Vec<String> {
    let db = Database::connect(&database.url).await.expect("the database opens");
    let sql = "SELECT version FROM seaql_migrations ORDER BY version";
    let statement = Statement::from_string(db.get_database_backend(), sql);
    let rows = db.query_all_raw(statement).await.expect(sql);
    db.close().await.expect("it closes");
    rows.iter().map(|row| row.try_get("", "version").expect("text")).collect()
}

/// Forgets that the migrations from this one on were applied, but keeps their changes, as an
/// earlier version leaves them that is killed while it migrates.
async fn forget_from(database: &TestDatabase, migration: &str) {
    let sql = format!("DELETE FROM seaql_migrations WHERE version >= '{migration}'");
    database.execute(&sql).await;
}

async fn half_migrated_opens(fresh: impl Fn() -> TestDatabase) {
    let database = fresh();
    database.open().await.close().await.expect("it closes");
    let all = migrations(&database).await;
    for migration in &all {
        forget_from(&database, migration).await;
        let store = DeviceStore::open(&database.url, OpenMode::Migrate).await;
        store.expect(migration).close().await.expect("it closes");
        assert_eq!(migrations(&database).await, all);
    }
}

#[actix_rt::test]
async fn a_file_that_an_earlier_version_left_half_migrated_opens() {
    half_migrated_opens(TestDatabase::sqlite).await;
}

#[actix_rt::test]
async fn a_postgresql_database_that_is_half_migrated_opens() {
    half_migrated_opens(TestDatabase::postgres).await;
}

/// Every command but `run`.
const COMMANDS: [&[&str]; 6] = [
    &["device", "add", "a"],
    &["device", "list"],
    &["device", "show", "a"],
    &["device", "remove", "a"],
    &["device", "set-timeout", "a", "5m"],
    &["history"],
];

#[track_caller]
fn assert_refused(place: &Place, command: &[&str], parts: &[&str]) {
    let mut process = Running(spawn(place, command));
    // A service that is not refused would run for ever.
    let ended = eventually("it is refused", || process.0.try_wait().expect("it is ours"));
    let mut errors = String::new();
    let stderr = process.0.stderr.as_mut().expect("a pipe");
    stderr.read_to_string(&mut errors).expect("it is text");
    assert_eq!(ended.code(), UNAVAILABLE, "{command:?}: {errors}");
    for part in parts {
        assert!(errors.contains(part), "{command:?} does not say {part}: {errors}");
    }
}

async fn an_older_schema(database: &TestDatabase) {
    database.open().await.close().await.expect("it closes");
    let all = migrations(database).await;
    let [.., before, newest] = all.as_slice() else { panic!("there are several") };
    forget_from(database, newest).await;
    let place = place_on(database);
    for command in COMMANDS {
        let parts = ["made by an older heartbeatd", "heartbeatd run", before, newest];
        assert_refused(&place, command, &parts);
    }
    assert_ne!(migrations(database).await, all);
    let service = place.start();
    service.await_event("INFO heartbeatd newest=");
    service.await_listening();
    assert_eq!(migrations(database).await, all);
}

#[actix_rt::test]
async fn only_the_service_migrates_an_older_file() {
    an_older_schema(&TestDatabase::sqlite()).await;
}

#[actix_rt::test]
async fn only_the_service_migrates_an_older_postgresql_database() {
    an_older_schema(&TestDatabase::postgres()).await;
}

async fn a_newer_schema(database: &TestDatabase) {
    database.open().await.close().await.expect("it closes");
    let all = migrations(database).await;
    let newest = all.last().expect("there are several");
    let sql = "INSERT INTO seaql_migrations (version, applied_at) VALUES ('m2999_future', 0)";
    database.execute(sql).await;
    let place = place_on(database);
    for command in COMMANDS.into_iter().chain([["run"].as_slice()]) {
        let parts = ["made by a newer heartbeatd", "m2999_future", newest];
        assert_refused(&place, command, &parts);
    }
}

#[actix_rt::test]
async fn a_newer_file_is_refused() {
    a_newer_schema(&TestDatabase::sqlite()).await;
}

#[actix_rt::test]
async fn a_newer_postgresql_database_is_refused() {
    a_newer_schema(&TestDatabase::postgres()).await;
}

#[test]
fn commands_that_read_create_nothing() {
    let place = Place::new();
    for command in &COMMANDS[1..] {
        assert_refused(&place, command, &["heartbeatd run"]);
        assert_eq!(fs::read_dir(place.path()).expect("a folder").count(), 0, "{command:?}");
    }
    let file = place.path().join("heartbeatd.db");
    fs::write(&file, b"").expect("a file");
    assert_refused(&place, COMMANDS[1], &["has no heartbeatd schema"]);
    assert_eq!(fs::metadata(&file).expect("it is there").len(), 0);
}

#[actix_rt::test]
async fn another_programs_file_is_left_alone() {
    let database = TestDatabase::sqlite();
    database.execute("CREATE TABLE cake (name TEXT)").await;
    let place = place_on(&database);
    for command in COMMANDS {
        assert_refused(&place, command, &["has no heartbeatd schema", "another program"]);
    }
}

#[test]
fn a_named_pipe_is_refused_without_waiting_for_it() {
    let place = Place::new();
    let made = Command::new("mkfifo").arg(place.path().join("heartbeatd.db")).status();
    assert!(made.expect("mkfifo starts").success());
    for command in ["run", "device list", "device add pump"] {
        let output = place.run(&command.split(' ').collect::<Vec<_>>());
        assert_eq!(output.status.code(), Some(69), "{command}: {}", errors(&output));
        assert!(errors(&output).contains("it is not a file"), "{}", errors(&output));
    }
}

#[test]
fn a_broken_link_is_named_with_its_target() {
    let place = Place::new();
    std::os::unix::fs::symlink("gone/h.db", place.path().join("heartbeatd.db")).expect("a link");
    for command in COMMANDS.into_iter().chain([["run"].as_slice()]) {
        assert_refused(&place, command, &["a link to \"gone/h.db\"", "which does not exist"]);
    }
}

#[test]
fn a_file_that_is_not_a_database_is_named_and_left_alone() {
    let place = Place::new();
    let file = place.path().join("heartbeatd.db");
    let text = "a shopping list\n".repeat(100);
    fs::write(&file, &text).expect("a file");
    for command in COMMANDS.into_iter().chain([["run"].as_slice()]) {
        assert_refused(&place, command, &["file is not a database", "restore it from a backup"]);
    }
    assert_eq!(fs::read_to_string(&file).expect("it is there"), text);
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

/// A SQLite database's files.
fn files(place: &Place) -> [PathBuf; 3] {
    ["heartbeatd.db", "heartbeatd.db-wal", "heartbeatd.db-shm"].map(|name| place.path().join(name))
}

#[test]
fn adding_a_device_says_where_it_creates_a_database() {
    let place = Place::new();
    let said = errors(&place.run(&["device", "add", "a"]));
    let [file, ..] = files(&place);
    let path = file.canonicalize().expect("it is there");
    assert!(said.contains(&format!("created the database {}", path.display())), "{said}");
    assert!(!errors(&place.run(&["device", "add", "b"])).contains("created"));

    let database = TestDatabase::postgres();
    let said = errors(&place_on(&database).run(&["device", "add", "a"]));
    assert!(said.contains(&format!("created the database {}", database.url)), "{said}");
}

#[test]
fn a_new_database_is_for_its_user_only() {
    let place = Place::new();
    let service = place.start();
    service.await_listening();
    for file in files(&place) {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

#[test]
fn a_database_that_exists_keeps_its_mode() {
    let place = Place::new();
    let [file, ..] = files(&place);
    fs::write(&file, b"").expect("a file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("it is ours");
    assert!(place.run(&["device", "add", "a"]).status.success());
    assert_eq!(mode(&file), 0o640);
}

#[test]
fn a_database_of_another_encoding_is_refused() {
    let server = PostgreSql::shared();
    let latin = "ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'";
    let place = Place::new().with("DATABASE__URL", &server.new_database_with(latin));
    for command in [["run"].as_slice(), &["device", "add", "a"], &["device", "list"]] {
        assert_refused(&place, command, &["encoding LATIN1", "UTF8"]);
    }
}

#[test]
fn pgbouncer_in_transaction_mode_is_refused() {
    let said = "behind a pooler in transaction mode";
    for (mode, said) in [("transaction", said), ("statement", "PgBouncer")] {
        let pooler = PgBouncer::start(mode);
        let database = TestDatabase::postgres();
        let place = Place::new().with("DATABASE__URL", &pooler.url(&database.url));
        for command in [["run"].as_slice(), &["device", "add", "a"], &["device", "list"]] {
            assert_refused(&place, command, &[said, "pool_mode = session"]);
        }
    }
}

#[test]
fn pgbouncer_in_session_mode_works() {
    let broker = Mosquitto::start();
    let pooler = PgBouncer::start("session");
    let database = TestDatabase::postgres();
    let place = Place::new().with("MQTT__URL", &broker.url());
    let place = place.with("DATABASE__URL", &pooler.url(&database.url));
    let service = place.start();
    service.await_listening();
    heartbeat(broker.port, "a", b"");
    place.await_statuses(&["a online"]);
    place.await_statuses(&["a offline"]);
    let mut second = place.start();
    second.await_words("ERROR heartbeatd", &["another process uses", "its own mqtt.client_id"]);
    assert_eq!(second.await_exit(), Some(78));
}

#[test]
fn a_pgbouncer_that_is_too_small_for_another_instance_is_named_by_that_one() {
    let broker = Mosquitto::start();
    // An instance takes seven.
    let pooler = PgBouncer::start_with("session", "default_pool_size = 9");
    let database = TestDatabase::postgres();
    let place = |name| {
        let place = Place::new().with("MQTT__URL", &broker.url()).with("MQTT__CLIENT_ID", name);
        place
            .with("DATABASE__URL", &pooler.url(&database.url))
            .with("DATABASE__CONNECT_TIMEOUT", "1s")
    };
    let first = place("hall-a").start();
    first.await_listening();
    let mut second = place("hall-b").start();
    assert_eq!(second.await_exit(), Some(69));
    second.await_words("ERROR heartbeatd", &["pool timed out", "default_pool_size"]);
    let summary = first.metric("heartbeatd_listening");
    assert!((summary - 1.0).abs() < f64::EPSILON, "the first one goes on");
}

/// The open descriptors of a process.
fn descriptors(process: u32) -> Vec<u64> {
    let folder = fs::read_dir(format!("/proc/{process}/fd")).expect("it runs");
    let names = folder.map(|entry| entry.expect("an entry").file_name());
    let mut open: Vec<u64> =
        names.map(|name| name.to_string_lossy().parse().expect("a number")).collect();
    open.sort_unstable();
    open
}

/// Leaves the process no free descriptors. It cannot open a connection or a file any more,
/// not even a temporary one.
fn take_free_descriptors(process: u32) {
    let open = descriptors(process);
    let free = (0..).zip(&open).find_map(|(number, open)| (number != *open).then_some(number));
    let limit = free.unwrap_or(open.len() as u64);
    let (id, limit) = (process.to_string(), format!("--nofile={limit}:"));
    output(Command::new("prlimit").args(["--pid", &id, &limit]));
}

#[test]
fn a_file_takes_heartbeats_and_checks_without_a_free_descriptor_or_a_temporary_folder() {
    let broker = Mosquitto::start();
    let place = Place::new().with("MQTT__URL", &broker.url());
    let service = place.start();
    service.await_listening();
    take_free_descriptors(service.process.0.id());
    for device in ["a", "b", "c"] {
        heartbeat(broker.port, device, br#"{"uptime_seconds": 1, "error": "too hot"}"#);
    }
    place.await_statuses(&["a error", "b error", "c error"]);
    place.await_statuses(&["a offline", "b offline", "c offline"]);
    let not_opened = "ERROR heartbeatd::store::pool";
    for failure in [NOT_WRITTEN, CHECK_FAILED, "ERROR courier", not_opened] {
        let failures = service.events(failure);
        assert!(failures.is_empty(), "{failures:#?}");
    }
}

fn assert_noticed(happens: impl Fn(&Path)) {
    let broker = Mosquitto::start();
    let place = Place::new().with("MQTT__URL", &broker.url());
    let service = place.start();
    service.await_listening();
    heartbeat(broker.port, "a", b"");
    place.await_statuses(&["a online"]);
    let [file, ..] = files(&place);
    happens(&file);
    let path = file.canonicalize().unwrap_or(file);
    let path = path.display().to_string();
    let notice = "was deleted or replaced while the service was running; restart the service";
    eventually("it is noticed", || {
        heartbeat(broker.port, "a", b"");
        service.log().iter().any(|line| line.contains(&path) && line.contains(notice)).then_some(())
    });
    // The courier may have reported it before a flush noticed.
    eventually("it is not ready", || (service.get("/readyz").0 == 503).then_some(()));
}

#[test]
fn a_file_that_is_deleted_under_the_service_is_noticed() {
    assert_noticed(|file| fs::remove_file(file).expect("it is ours"));
}

#[test]
fn a_file_that_is_replaced_under_the_service_is_noticed() {
    assert_noticed(|file| {
        let copy = file.with_extension("copy");
        fs::copy(file, &copy).expect("a copy");
        fs::rename(copy, file).expect("it is ours");
    });
}

/// Deletes the write-ahead log in the first transaction, which fails.
struct LogVanishes(PathBuf);

impl Interference for LogVanishes {
    fn at(&self, point: Point) -> Interfering {
        let meant = matches!(point, Point::Commit(_)) && fs::remove_file(&self.0).is_ok();
        let outcome = if meant { Outcome::Fail } else { Outcome::GoOn };
        Box::pin(std::future::ready(outcome))
    }
}

#[actix_rt::test]
async fn replacing_the_connections_does_not_hide_a_lost_write_ahead_log() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("h.db");
    let url = format!("sqlite://{}?mode=rwc", file.display());
    let log = folder.path().join("h.db-wal");
    let store = DeviceStore::open_exclusive(&url).await.expect("it opens");
    assert!(log.exists(), "there is a log");
    let store = store.interfere(Arc::new(LogVanishes(log)));
    for _ in 0..3 {
        store.register(&id("a"), None, at(0)).await.expect_err("it is not this database");
        let error = store.verify_file().expect_err("the log is missing").to_string();
        assert!(error.contains("was deleted or replaced"), "{error}");
    }
}

#[test]
fn a_write_ahead_log_that_is_deleted_under_the_service_is_noticed() {
    assert_noticed(|file| {
        let mut log = file.as_os_str().to_owned();
        log.push("-wal");
        fs::remove_file(log).expect("it is ours");
    });
}
