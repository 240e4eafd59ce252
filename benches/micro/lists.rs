//! Measures what people and programs ask for, with a million devices on SQLite and on
//! PostgreSQL, and what the indexes for it cost a flush:
//!
//! ```sh
//! cargo bench --bench lists
//! DEVICES=100000 cargo bench --bench lists
//! ```

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use heartbeatd::domain::{
    BothCutoffs, Coverage, DeviceId, EventPlace, GapCause, Heartbeat, Status,
};
use heartbeatd::store::{
    Budget, DeviceQuery, DeviceStore, Grounds, Ids, OpenMode, Position, Proven, Reader,
    RecordingRules, TransitionQuery,
};
use sea_orm::ConnectionTrait;
use servers::postgresql::PostgreSql;

const RULES: RecordingRules = RecordingRules {
    auto_register: true,
    room: u64::MAX,
    registrations: u64::MAX,
    max_clock_skew: Duration::from_secs(30),
    now: DateTime::<Utc>::MAX_UTC,
};

/// The number of devices that a transaction writes.
const PORTION: usize = 10_000;

/// The number of runs, of which the median is shown.
const RUNS: usize = 101;

const TIMEOUT: Duration = Duration::from_secs(180);

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(1_795_000_000 + seconds)
}

fn heartbeat(number: usize, second: i64) -> Heartbeat {
    let id = format!("device-{number:07}").parse().expect("an id");
    Heartbeat::parse(id, br#"{"uptime_seconds":86400,"free_memory":123456}"#, at(second))
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let devices = std::env::var("DEVICES").ok().and_then(|number| number.parse().ok());
    let devices: usize = devices.unwrap_or(1_000_000);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let sqlite = format!("sqlite://{}?mode=rwc", folder.path().join("lists.db").display());
    for (name, url) in [("SQLite", sqlite), ("PostgreSQL", PostgreSql::shared().new_database())] {
        println!(
            "{name}, {devices} devices: median of {RUNS} runs, the slowest, and the processor's share, in ms"
        );
        measure(&url, devices).await;
    }
}

async fn measure(url: &str, devices: usize) {
    let store = DeviceStore::open(url, OpenMode::Create).await.expect("it opens");
    for begin in (0..devices).step_by(PORTION) {
        write(&store, begin, 1, devices, 0).await;
    }
    let cutoffs = make_history(&store, devices).await;
    execute(url, "ANALYZE").await;
    let reader = store.reader().await.expect("it opens");
    lists(&reader, &cutoffs, devices).await;
    flushes(url, &store, devices).await;
    reader.close().await;
    store.close().await.expect("it closes");
}

/// Writes the heartbeats of a portion of the devices, each `step` apart.
async fn write(store: &DeviceStore, begin: usize, step: usize, devices: usize, second: i64) {
    let numbers = (begin..devices).step_by(step).take(PORTION);
    let portion: Vec<_> = numbers.map(|number| heartbeat(number, second)).collect();
    store.update_last_seen(&portion, RULES, &Proven::default()).await.expect("it writes");
}

/// Every device is lost once and returns; then a tenth is lost in one burst. Returns the
/// cutoffs by which a hundredth is late.
async fn make_history(store: &DeviceStore, devices: usize) -> BothCutoffs {
    let mut coverage = Coverage::new(Duration::from_secs(1_000_000));
    coverage.confirm(at(-1000), at(1000), GapCause::NotRunning);
    coverage.confirm(at(-1000), at(10_000), GapCause::NotRunning);
    let mark = async |numbers: Vec<usize>, second| {
        let ids: Vec<DeviceId> = numbers.iter().map(|n| heartbeat(*n, 0).device_id).collect();
        let cutoffs = coverage.cutoffs(at(second), TIMEOUT, &[]);
        let grounds = Grounds { cutoffs: &cutoffs, coverage: &coverage, instance: "bench" };
        let marked = store.mark_devices_offline(&ids, grounds, at(second)).await;
        assert_eq!(marked.expect("it writes").len(), ids.len());
    };
    for begin in (0..devices).step_by(PORTION) {
        mark((begin..devices).take(PORTION).collect(), 200).await;
    }
    for begin in (0..devices).step_by(PORTION) {
        write(store, begin, 1, devices, 300).await;
    }
    for begin in (0..devices / 10).step_by(PORTION) {
        mark((begin..devices / 10).take(PORTION).map(|n| n * 10).collect(), 500).await;
    }
    for begin in (0..devices).step_by(PORTION) {
        let numbers = (begin..devices).take(PORTION).filter(|n| n % 10 > 0 && n % 100 != 1);
        let portion: Vec<_> = numbers.map(|number| heartbeat(number, 600)).collect();
        store.update_last_seen(&portion, RULES, &Proven::default()).await.expect("it writes");
    }
    coverage.both_cutoffs(at(700), TIMEOUT, &[])
}

async fn lists(reader: &Reader, cutoffs: &BothCutoffs, devices: usize) {
    let middle = format!("device-{:07}", devices / 2);
    let some = |statuses: &[Status], search: &str, late: Option<&BothCutoffs>| DeviceQuery {
        statuses: statuses.iter().copied().collect(),
        ids: Ids::searched(search),
        silent: late.map(|cutoffs| cutoffs.late().clone()),
        heard: None,
    };
    for (name, query, after) in [
        ("devices, first page", some(&[], "", None), None),
        ("devices, a page in the middle", some(&[], "", None), Some(&middle)),
        ("online ones in the middle", some(&[Status::Online], "", None), Some(&middle)),
        ("offline ones", some(&[Status::Offline], "", None), None),
        ("errors, of which there are none", some(&[Status::Error], "", None), None),
        (
            "offline or error, of a prefix",
            some(&[Status::Offline, Status::Error], "device-05", None),
            None,
        ),
        ("a prefix", some(&[], "device-0512", None), None),
        ("a pattern, 100 ms at most", some(&[], "*99999*", None), None),
        ("late ones, first page", some(&[], "", Some(cutoffs)), None),
    ] {
        time(name, async || {
            let budget = Budget::of(Duration::from_millis(100));
            let page = reader.devices(&query, after.map(String::as_str), 100, budget).await;
            page.expect("it reads").devices.len()
        })
        .await;
    }
    let all = TransitionQuery::default();
    let offline = TransitionQuery { to: Some(Status::Offline), ..all.clone() };
    let open = TransitionQuery { open: true, ..offline.clone() };
    let tied = Some(Position { at: at(200), sequence: devices as i64 * 3 / 2 });
    let device = Some(heartbeat(devices / 2, 0).device_id);
    for (name, query, after) in [
        ("transitions", all.clone(), None),
        ("transitions to error", TransitionQuery { to: Some(Status::Error), ..all.clone() }, None),
        ("transitions of one device", TransitionQuery { device, ..all }, None),
        ("outages", offline.clone(), None),
        ("outages amid a burst", offline, tied),
        ("outages that last", open.clone(), None),
        ("outages of one check", TransitionQuery { at: Some(at(500)), ..open }, None),
    ] {
        time(name, async || {
            let page = reader.transitions(&query, after, 100).await;
            page.expect("it reads").transitions.len()
        })
        .await;
    }
    let half = devices as i64 / 2;
    let timeline = reader.reads().timeline().await.expect("it reads");
    let place = EventPlace { transition: half, journal: half, timeline };
    time("1,000 events", async || {
        reader.events(place, 1_000).await.expect("it reads").expect("they are kept").len()
    })
    .await;
    time("a chart of 96 stretches", async || {
        let bounds: Vec<_> = (0..=96).map(|n| at(n * 900)).collect();
        reader.fleet(&bounds).await.expect("it reads").len()
    })
    .await;
    time("count of late ones (each check)", async || {
        reader.reads().count_overdue(cutoffs).await.expect("it reads").late as usize
    })
    .await;
    time("count of outages by second (start)", async || {
        reader.reads().open_outages().await.expect("it reads").count() as usize
    })
    .await;
}

/// A flush with the indexes and without them, in turns.
async fn flushes(url: &str, store: &DeviceStore, devices: usize) {
    let online: Vec<_> = (0..devices).filter(|n| n % 10 > 0).collect();
    let mut second = 1_000;
    for (name, change) in [
        ("a flush of 10,000, with the index", None),
        ("the same without it", Some("DROP INDEX device_status")),
        ("and with it again", Some(INDEX)),
    ] {
        if let Some(change) = change {
            execute(url, change).await;
        }
        time(name, async || {
            second += 1;
            let step = online.len() / PORTION;
            let numbers = online.iter().skip(second as usize % step).step_by(step).take(PORTION);
            let portion: Vec<_> = numbers.map(|number| heartbeat(*number, second)).collect();
            store.update_last_seen(&portion, RULES, &Proven::default()).await.expect("it writes");
            portion.len()
        })
        .await;
    }
}

/// The index as its migration makes it, but for the order on PostgreSQL.
const INDEX: &str = "CREATE INDEX device_status ON device ((status || ''), id)";

/// The processor time of all threads of this process.
fn processor() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux");
    let nanos = tasks.flatten().filter_map(|task| {
        let stat = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        stat.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

async fn time(name: &str, mut run: impl AsyncFnMut() -> usize) {
    let mut times = Vec::new();
    let mut count = 0;
    let used = processor();
    for _run in 0..RUNS {
        let began = Instant::now();
        count = run().await;
        times.push(began.elapsed());
    }
    times.sort();
    let millis = |time: Duration| time.as_secs_f64() * 1_000.0;
    let (median, slowest) = (millis(times[RUNS / 2]), millis(times[RUNS - 1]));
    let used = millis(processor().saturating_sub(used)) / RUNS as f64;
    println!("  {name:40} {median:9.2} {slowest:9.2} {used:9.2}   {count}");
}

async fn execute(url: &str, sql: &str) {
    let db = sea_orm::Database::connect(url).await.expect("the database opens");
    db.execute_unprepared(sql).await.expect(sql);
    db.close().await.expect("it closes");
}
