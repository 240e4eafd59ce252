//! Flushes, checks, commands and instances that join, which come between one another's statements
//! on PostgreSQL. There each statement sees what was committed before it began, and locks do the
//! rest: in whichever way two of them interleave, the end must be as if one had come after the other.
//!
//! One of the two stops before each of its statements in turn, and the other runs there, until it
//! is done or waits for a lock of the first. SQLite lets one transaction write at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::TimeDelta;
use futures::channel::oneshot::{self, Receiver, Sender};
use heartbeatd::config::DatabaseConfig;
use heartbeatd::domain::{
    Configured, Coverage, Cutoff, Cutoffs, DeviceId, Heartbeat, Status, Subscription, Transition,
};
use heartbeatd::store::{
    DeviceStore, Grounds, Interference, Interfering, Member, OpenMode, Outcome, Point, Proven,
    Recorded, RecordingRules, Selection, StoreError,
};
use sea_orm::{ConnectionTrait, Database, DatabaseConnection, DbBackend, Statement};

use crate::support::database::{TestDatabase, deadlocks};
use crate::support::fleet::{at, id};

/// A timeout of a device's own.
const OWN: Duration = Duration::from_secs(60);

/// Something that one transaction does.
#[derive(Clone, Copy, Debug)]
enum Task {
    /// A flush of heartbeats: the device, the second and the payload of each, sorted.
    Flush(&'static [(&'static str, i64, &'static str)]),
    /// A check that has found these devices silent.
    Check(&'static [&'static str]),
    Add(&'static str),
    /// Removes the devices that match, in this second.
    Remove(&'static str, i64),
    SetTimeout(&'static str, Option<Duration>),
    /// An instance joins that listens to this topic, as a member of a group if there is one.
    Join(&'static str, &'static str, Option<&'static str>),
}

const SKEWED: &str = r#"{"timestamp":"1970-01-01T00:00:00Z"}"#;
const HOT: &str = r#"{"error":"hot"}"#;

/// A heartbeat of every kind.
const FLUSH: Task = Task::Flush(&[
    ("added", 300, ""),
    ("error", 300, ""),
    ("new-1", 300, ""),
    ("new-2", 300, HOT),
    ("offline", 300, ""),
    ("outdated", 15, ""),
    ("removed", 90, ""),
    ("silent", 300, ""),
    ("skewed", 300, SKEWED),
    ("steady", 300, ""),
]);

/// Those of the same devices that another process has received later, or has earlier.
const NEWER: Task = Task::Flush(&[
    ("added", 305, HOT),
    ("error", 305, HOT),
    ("new-1", 305, HOT),
    ("new-2", 305, ""),
    ("offline", 305, HOT),
    ("outdated", 305, ""),
    ("removed", 305, ""),
    ("silent", 305, HOT),
    ("skewed", 305, ""),
    ("steady", 305, ""),
]);
const OLDER: Task = Task::Flush(&[
    ("added", 295, HOT),
    ("error", 295, HOT),
    ("new-1", 295, HOT),
    ("new-2", 295, ""),
    ("offline", 295, HOT),
    ("outdated", 19, ""),
    ("removed", 295, ""),
    ("silent", 295, HOT),
    ("skewed", 295, ""),
    ("steady", 295, ""),
]);

const CHECK: Task = Task::Check(&["error", "own", "silent", "skewed", "steady"]);

/// The devices before the two begin: steady, silent and in error, offline, added and never heard,
/// removed.
const BEFORE: [Task; 8] = [
    Task::Flush(&[("offline", 5, ""), ("outdated", 5, ""), ("removed", 5, "")]),
    Task::Check(&["offline", "outdated"]),
    Task::Remove("removed", 100),
    Task::Add("added"),
    Task::Add("own"),
    Task::SetTimeout("own", Some(OWN)),
    Task::Flush(&[("own", 390, "")]),
    Task::Flush(&[
        ("error", 240, HOT),
        ("silent", 230, ""),
        ("skewed", 240, SKEWED),
        ("steady", 250, ""),
    ]),
];

impl Task {
    /// Does it, and returns the answer of the store.
    async fn run(self, store: &DeviceStore) -> String {
        match self {
            Self::Flush(heartbeats) => flush(store, heartbeats).await,
            Self::Check(silent) => check(store, silent).await,
            Self::Add(device) => {
                format!(
                    "{:?}",
                    store.register(&id(device), None, at(290)).await.expect("it writes")
                )
            }
            Self::Remove(matching, second) => {
                let matching = Some(matching.to_owned());
                let selection = Selection { matching, ..Selection::default() };
                let removed = store.remove(&selection, None, at(second)).await;
                let removed = removed.expect("it writes");
                removed.iter().map(|device| device.id.to_string()).collect::<Vec<_>>().join(" ")
            }
            Self::SetTimeout(device, timeout) => {
                let set = store.set_timeout(&id(device), timeout).await;
                format!("{:?}", set.expect("it writes"))
            }
            Self::Join(instance, topic, group) => join(store, instance, topic, group).await,
        }
    }
}

/// An instance that listens to this topic, with a timeout of 30 s.
pub fn member(instance: &str, topic: &str, group: Option<&str>) -> Member {
    let subscription =
        Subscription { topic: topic.to_owned(), broker: None, entry_urls: Vec::new() };
    let (timeout, check_interval) = (TimeDelta::seconds(30), TimeDelta::seconds(5));
    Member {
        instance: instance.to_owned(),
        incarnation: Member::new_incarnation(),
        interval: Duration::from_secs(5),
        share_group: group.map(str::to_owned),
        configured: Some(Configured { subscription, timeout, check_interval }),
    }
}

async fn join(store: &DeviceStore, instance: &str, topic: &str, group: Option<&str>) -> String {
    let (member, store) = (member(instance, topic, group), store.clone());
    let joined = match group {
        None => store.standing_by().join(&member).await.map(drop),
        Some(_) => store.in_a_group().join_group(&member, at(290)).await.map(drop),
    };
    match joined {
        Ok(()) => format!("{instance} takes part"),
        Err(StoreError::Clash(clash)) => format!("{instance} not beside {}", clash.instance),
        Err(error) => panic!("{error}"),
    }
}

async fn flush(store: &DeviceStore, heartbeats: &[(&str, i64, &str)]) -> String {
    let parse = |(device, second, payload): &(&str, i64, &str)| {
        Heartbeat::parse(id(device), payload.as_bytes(), at(*second))
    };
    let heartbeats: Vec<_> = heartbeats.iter().map(parse).collect();
    let rules = RecordingRules {
        auto_register: true,
        room: 10,
        registrations: 10,
        max_clock_skew: Duration::from_secs(30),
        now: at(470),
    };
    let recorded = store.update_last_seen(&heartbeats, rules, &Proven::default()).await;
    let Recorded { transitions, registered, rejections, .. } = recorded.expect("it writes");
    let mut rejections: Vec<_> = rejections.iter().map(|r| format!("{r:?}")).collect();
    rejections.sort();
    format!("{} {registered} {rejections:?}", changes(&transitions))
}

async fn check(store: &DeviceStore, silent: &[&str]) -> String {
    let default = Cutoff { timeout: Duration::from_secs(180), instant: Some(at(280)) };
    let own = vec![Cutoff { timeout: OWN, instant: Some(at(400)) }];
    // What is there before the two begin went offline earlier.
    let (default, own, now) = match silent {
        ["offline", ..] => (Cutoff { instant: Some(at(20)), ..default }, vec![], at(200)),
        _ => (default, own, at(460)),
    };
    let cutoffs = Cutoffs { default, own };
    let coverage = Coverage::new(Duration::from_secs(15));
    let grounds = Grounds { cutoffs: &cutoffs, coverage: &coverage, instance: "test" };
    let silent: Vec<DeviceId> = silent.iter().map(|device| id(device)).collect();
    changes(&store.mark_devices_offline(&silent, grounds, now).await.expect("it writes"))
}

fn changes(transitions: &[Transition]) -> String {
    let change = |t: &Transition| format!("{}: {} -> {}", t.device_id, t.from, t.to);
    let mut changes: Vec<_> = transitions.iter().map(change).collect();
    changes.sort();
    changes.join(", ")
}

/// Stops a store before one of its statements, or before a COMMIT.
struct Gate {
    number: usize,
    passed: AtomicUsize,
    ends: Mutex<Option<(Sender<()>, Receiver<()>)>>,
}

impl Gate {
    /// A gate before the statement of this number, one that is told when it is reached, and one
    /// that opens it.
    fn before(number: usize) -> (Arc<Self>, Receiver<()>, Sender<()>) {
        let (reach, reached) = oneshot::channel();
        let (open, opened) = oneshot::channel();
        let ends = Mutex::new(Some((reach, opened)));
        (Arc::new(Self { number, passed: AtomicUsize::new(0), ends }), reached, open)
    }
}

impl Interference for Gate {
    fn at(&self, point: Point) -> Interfering {
        let counts = matches!(point, Point::Statement(_) | Point::Commit(_));
        let is_here = counts && self.passed.fetch_add(1, Ordering::SeqCst) == self.number;
        let ends = if is_here { self.ends.lock().expect("no test panics").take() } else { None };
        Box::pin(async {
            if let Some((reach, opened)) = ends {
                reach.send(()).expect("the test waits");
                opened.await.expect("the test opens it");
            }
            Outcome::GoOn
        })
    }
}

/// A database on which the same beginning is made again and again.
struct Scene {
    store: DeviceStore,
    other: DeviceStore,
    eye: DatabaseConnection,
}

/// The answers to all, and everything in the database.
type End = (Vec<String>, Vec<String>);

impl Scene {
    async fn new(database: &TestDatabase) -> Self {
        let (store, other) = (database.open().await, database.open().await);
        let eye = Database::connect(&database.url).await.expect("the database opens");
        Self { store, other, eye }
    }

    async fn begin(&self) {
        let forget = "TRUNCATE device, status_transition, device_removal, journal, listener \
                      RESTART IDENTITY";
        self.eye.execute_unprepared(forget).await.expect(forget);
        for task in BEFORE {
            task.run(&self.store).await;
        }
    }

    async fn texts(&self, sql: &str) -> Vec<String> {
        let rows = Statement::from_string(DbBackend::Postgres, sql);
        let rows = self.eye.query_all_raw(rows).await.expect(sql);
        rows.iter().map(|row| row.try_get_by_index(0).expect("a text")).collect()
    }

    /// True if a session waits for a lock of another one.
    async fn waits(&self) -> bool {
        let sql = "SELECT pid::text FROM pg_stat_activity \
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
        !self.texts(sql).await.is_empty()
    }

    /// Everything that is stored, without the numbers that a database gives.
    async fn content(&self) -> Vec<String> {
        let sql = "\
            SELECT concat_ws(' ', 'device', id, status, last_seen_at, timeout_seconds, error, \
                             clock_skew_ms IS NOT NULL, registered_at) FROM device \
            UNION ALL SELECT concat_ws(' ', 'change', t.device_id, t.from_status, t.to_status, t.at, \
                             t.last_seen_at, t.cutoff, t.ended_at, t.outage_found_at, o.at) \
                FROM status_transition AS t \
                LEFT JOIN status_transition AS o ON o.sequence = t.outage_sequence \
            UNION ALL SELECT concat_ws(' ', 'removal', device_id, removed_at) FROM device_removal \
            UNION ALL SELECT concat_ws(' ', 'journal', device_id, kind, at) FROM journal \
            UNION ALL SELECT concat_ws(' ', 'listener', instance, topic, left_at) FROM listener \
            ORDER BY 1";
        let mut content = self.texts(sql).await;
        // Of one device the changes follow one another, in the order of their numbers.
        let order = "SELECT concat_ws(' ', 'order', device_id, from_status, to_status) \
                     FROM status_transition ORDER BY device_id COLLATE \"C\", sequence";
        content.extend(self.texts(order).await);
        content
    }

    /// Runs `one` in between the others, after the first `after` of them.
    async fn in_turn(&self, one: Task, others: &[Task], after: usize) -> End {
        self.begin().await;
        let mut answers = Vec::new();
        let mut own = String::new();
        for number in 0..=others.len() {
            if number == after {
                own = one.run(&self.store).await;
            }
            if let Some(other) = others.get(number) {
                answers.push(other.run(&self.other).await);
            }
        }
        answers.push(own);
        (answers, self.content().await)
    }

    /// Stops `one` before the statement of this number and runs the others there. `None` if it
    /// has fewer statements.
    async fn interleaved(&self, one: Task, others: &'static [Task], number: usize) -> Option<End> {
        self.begin().await;
        let (gate, reached, open) = Gate::before(number);
        let store = self.store.clone().interfere(gate);
        let first = actix_rt::spawn(async move { one.run(&store).await });
        // The gate is dropped with the store if it is not reached.
        if reached.await.is_err() {
            first.await.expect("it does not panic");
            return None;
        }
        let store = self.other.clone();
        let second = actix_rt::spawn(async move {
            let mut answers = Vec::new();
            for other in others {
                answers.push(other.run(&store).await);
            }
            answers
        });
        while !second.is_finished() && !self.waits().await {
            actix_rt::task::yield_now().await;
        }
        open.send(()).expect("it waits");
        let own = first.await.expect("it does not panic");
        let mut answers = second.await.expect("it does not panic");
        answers.push(own);
        Some((answers, self.content().await))
    }
}

/// The end that must be as if one had come after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    /// Everything.
    All,
    /// Each device by itself. Whoever removes all devices does not see one that is registered at the
    /// same time, which then comes after the removal, whatever came before it for the others.
    EachDevice,
}

/// The lines of an end, by device.
fn by_device((_, content): &End) -> BTreeMap<&str, Vec<&str>> {
    let mut devices: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in content {
        let device = line.split(' ').nth(1).expect("a device");
        devices.entry(device).or_default().push(line);
    }
    devices
}

/// True if `end` is one of those that are right, or is so for each device.
fn is_right(end: &End, right: &BTreeSet<End>, of: Of) -> bool {
    if of == Of::All {
        return right.contains(end);
    }
    let right: Vec<_> = right.iter().map(by_device).collect();
    let end = by_device(end);
    let devices: BTreeSet<_> = right.iter().chain([&end]).flat_map(BTreeMap::keys).collect();
    devices.iter().all(|device| right.iter().any(|right| right.get(*device) == end.get(*device)))
}

/// Lets `others` come between any two statements of `one`.
async fn check_all(of: Of, one: Task, others: &'static [Task]) {
    let database = TestDatabase::postgres();
    let scene = Scene::new(&database).await;
    let mut right = BTreeSet::new();
    for after in 0..=others.len() {
        right.insert(scene.in_turn(one, others, after).await);
    }
    let mut number = 0;
    while let Some(end) = scene.interleaved(one, others, number).await {
        assert!(
            is_right(&end, &right, of),
            "{others:?} before statement {number} of {one:?}: {end:#?}\nis none of {right:#?}"
        );
        number += 1;
    }
    assert!(number >= 2, "{one:?} has {number} statements");
    // The sessions tell of deadlocks when they end.
    let Scene { store, other, eye } = scene;
    for store in [store, other] {
        store.close().await.expect("it closes");
    }
    let deadlocks = deadlocks(&eye).await;
    assert_eq!(deadlocks, 0, "{others:?} and {one:?} wait for each other");
}

macro_rules! interleave {
    ($($name:ident: $of:ident, $one:expr, $others:expr;)*) => {
        $(#[actix_rt::test] async fn $name() {
            check_all(Of::$of, $one, const { &$others }).await;
        })*
    };
}

interleave! {
    a_device_that_is_added_during_a_flush: All, FLUSH, [Task::Add("new-1")];
    a_device_that_is_added_and_removed_during_a_flush: All,
        FLUSH, [Task::Add("new-1"), Task::Remove("new-1", 310)];
    a_steady_device_that_is_removed_during_a_flush: All, FLUSH, [Task::Remove("steady", 310)];
    a_device_that_is_removed_before_its_heartbeat_and_during_the_flush: All,
        FLUSH, [Task::Remove("steady", 299)];
    an_offline_device_that_is_removed_during_a_flush: All, FLUSH, [Task::Remove("offline", 310)];
    a_device_that_was_never_heard_and_is_removed_during_a_flush: All,
        FLUSH, [Task::Remove("added", 310)];
    a_device_with_a_skewed_clock_that_is_removed_during_a_flush: All,
        FLUSH, [Task::Remove("skewed", 310)];
    all_devices_that_are_removed_during_a_flush: EachDevice, FLUSH, [Task::Remove("*", 310)];
    timeouts_that_are_set_during_a_flush: All, FLUSH, [
        Task::SetTimeout("steady", Some(OWN)),
        Task::SetTimeout("offline", Some(OWN)),
    ];
    a_check_during_a_flush: All, FLUSH, [CHECK];
    a_check_of_devices_that_are_not_steady_during_a_flush: All,
        FLUSH, [Task::Check(&["error", "skewed"])];
    a_flush_of_newer_heartbeats_during_a_flush: All, FLUSH, [NEWER];
    a_flush_of_older_heartbeats_during_a_flush: All, FLUSH, [OLDER];
    a_heartbeat_of_a_removed_device_during_a_flush: All,
        FLUSH, [Task::Flush(&[("removed", 305, "")])];
    a_heartbeat_of_a_steady_device_during_a_flush: All,
        FLUSH, [Task::Flush(&[("steady", 305, "")])];
    a_flush_during_a_check: All, CHECK, [FLUSH];
    a_device_that_is_removed_during_a_check: All, CHECK, [Task::Remove("silent", 461)];
    a_timeout_that_is_set_during_a_check: All, CHECK, [Task::SetTimeout("silent", Some(OWN))];
    a_timeout_that_is_reset_during_a_check: All, CHECK, [Task::SetTimeout("own", None)];
    a_check_during_a_check: All, CHECK, [CHECK];
    a_flush_during_a_removal: EachDevice, Task::Remove("*", 310), [FLUSH];
    a_check_during_a_removal: All, Task::Remove("*", 461), [CHECK];
    a_removal_during_a_removal: All, Task::Remove("s*", 310), [Task::Remove("*", 311)];
    a_flush_while_a_device_is_added: All, Task::Add("new-1"), [FLUSH];
    an_instance_that_joins_while_one_does_that_listens_to_something_else: All,
        Task::Join("hall-a", "devices/+/heartbeat", None),
        [Task::Join("hall-b", "halls/+/heartbeat", None)];
    a_member_that_joins_while_one_does_that_listens_to_something_else: All,
        Task::Join("hall-a", "devices/+/heartbeat", Some("fleet")),
        [Task::Join("hall-b", "halls/+/heartbeat", Some("fleet"))];
}

/// Two processes that each write all of these devices, round after round.
const FLEET: usize = 10_000;
const ROUNDS: i64 = 12;

/// Counts the transactions that a store begins.
#[derive(Default)]
struct Attempts(AtomicUsize);

impl Interference for Attempts {
    fn at(&self, point: Point) -> Interfering {
        if matches!(point, Point::Begin(_)) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        Box::pin(std::future::ready(Outcome::GoOn))
    }
}

/// Writes all devices in every round, in halves that come in this order. In each round another
/// third of the devices reports an error. Returns the numbers of transitions and registrations.
async fn write_rounds(store: &DeviceStore, writer: i64, halves: [usize; 2]) -> (usize, u64) {
    let ids: Vec<DeviceId> = (0..FLEET).map(|number| id(&format!("d-{number:05}"))).collect();
    let (mut transitions, mut registered) = (0, 0);
    for round in 0..ROUNDS {
        let second = 2 * round + writer;
        let payload = |number: usize| match (number as i64 + second) % 3 {
            0 => HOT,
            _ => "",
        };
        let heartbeats = ids.iter().enumerate();
        let heartbeats = heartbeats.map(|(number, id)| {
            Heartbeat::parse(id.clone(), payload(number).as_bytes(), at(second))
        });
        let heartbeats: Vec<_> = heartbeats.collect();
        let whole = [&heartbeats[..]];
        let halves = halves.map(|half| &heartbeats[half * FLEET / 2..(half + 1) * FLEET / 2]);
        let rules = RecordingRules {
            auto_register: true,
            room: 2 * FLEET as u64,
            registrations: 2 * FLEET as u64,
            max_clock_skew: Duration::from_secs(30),
            now: at(2 * ROUNDS),
        };
        for part in if round % 2 == 0 { &halves[..] } else { &whole } {
            let recorded = store.update_last_seen(part, rules, &Proven::default()).await;
            let recorded = recorded.expect("it writes");
            transitions += recorded.transitions.len();
            registered += recorded.registered;
        }
    }
    (transitions, registered)
}

#[actix_rt::test]
async fn two_writers_of_the_same_devices_never_wait_for_each_other_and_lose_nothing() {
    let database = TestDatabase::postgres();
    let attempts: [Arc<Attempts>; 2] = Default::default();
    let [one, other] = attempts.each_ref();
    // On a busy machine one of them may have to wait for a slow transaction of the other. A deadlock
    // would end the test all the same.
    let patient = || DatabaseConfig {
        statement_timeout: Duration::from_secs(60).try_into().expect("a duration"),
        lock_timeout: Duration::from_secs(50).try_into().expect("a duration"),
        ..database.url.as_str().into()
    };
    let open = async || DeviceStore::open(patient(), OpenMode::Create).await.expect("it opens");
    let one = open().await.interfere(one.clone());
    let other = open().await.interfere(other.clone());
    let ((t0, r0), (t1, r1)) =
        futures::join!(write_rounds(&one, 0, [0, 1]), write_rounds(&other, 1, [1, 0]));

    assert_eq!(r0 + r1, FLEET as u64, "each device is registered once");
    let (mut stored, mut last) = (0, Vec::new());
    for number in (0..FLEET).step_by(97) {
        let device = id(&format!("d-{number:05}"));
        let row = one.device(&device).await.expect("it reads").expect("it is registered");
        assert_eq!(row.last_seen_at, Some(at(2 * ROUNDS - 1)), "{device}");
        let history = one.history(Some(&device), None, 1_000).await.expect("it reads");
        let mut status = Status::Provisioning;
        for change in history.iter().rev() {
            assert_eq!(change.from, status, "{device}: {history:?}");
            status = change.to;
        }
        assert_eq!(row.status, status, "{device}");
        last.push(status);
        stored += history.len();
    }
    assert!(last.contains(&Status::Error) && last.contains(&Status::Online) && stored > last.len());
    let (eye, attempts) = (
        Database::connect(&database.url).await.expect("the database opens"),
        attempts.map(|attempts| attempts.0.load(Ordering::Relaxed)),
    );
    println!("attempts: {attempts:?}, transitions: {t0} and {t1}");
    let sql = "SELECT count(*) AS transitions FROM status_transition";
    let row = eye.query_one_raw(Statement::from_string(DbBackend::Postgres, sql)).await;
    let count: i64 = row.expect(sql).expect("a row").try_get("", "transitions").expect("a number");
    assert_eq!(count, (t0 + t1) as i64, "each change is told once");
    for store in [one, other] {
        store.close().await.expect("it closes");
    }
    assert_eq!(deadlocks(&eye).await, 0);
}
