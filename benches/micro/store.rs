//! Measures the database on SQLite: one transaction of a flush, and the search of a
//! check.

use std::time::Duration;

use chrono::{DateTime, Utc};
use criterion::{BatchSize, Criterion, Throughput};
use heartbeatd::domain::{Coverage, Heartbeat, Interval, Listened};
use heartbeatd::store::{DeviceStore, OpenMode, Overdue, Proven, RecordingRules, StaleFrom};

use crate::cases;

const RULES: RecordingRules = RecordingRules {
    auto_register: true,
    room: u64::MAX,
    registrations: u64::MAX,
    max_clock_skew: Duration::from_secs(30),
    now: DateTime::<Utc>::MAX_UTC,
};

/// The number of heartbeats that a flush writes in one transaction.
const PORTION: usize = 10_000;

pub fn store(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let folder = tempfile::tempdir().expect("a temporary folder");
    for devices in [10_000, 100_000, 1_000_000_u64] {
        let url =
            format!("sqlite://{}?mode=rwc", folder.path().join(devices.to_string()).display());
        let store = runtime.block_on(DeviceStore::open(&url, OpenMode::Create)).expect("it opens");
        let mut fleet = cases::heartbeats(devices);
        fleet.sort_unstable_by(|a, b| a.device_id.cmp(&b.device_id));
        let write = async |portion: &[Heartbeat]| {
            store.update_last_seen(portion, RULES, &Proven::default()).await.expect("it writes")
        };
        for portion in fleet.chunks(PORTION) {
            runtime.block_on(write(portion));
        }

        let mut group = criterion.benchmark_group(format!("store with {devices} devices"));
        group.sample_size(10);
        group.throughput(Throughput::Elements(PORTION as u64));
        // Neighbouring rows, as when the whole fleet is written, and scattered ones, as
        // when a part of it was heard.
        let parts = [("neighbours", 1), ("scattered", devices as usize / PORTION)];
        for (name, step) in parts {
            group.bench_function(format!("write {PORTION} heartbeats of {name}"), |bencher| {
                let mut offset = 0;
                bencher.to_async(&runtime).iter_batched(
                    || {
                        offset = (offset + if step == 1 { PORTION } else { 1 }) % fleet.len();
                        let all = fleet.iter().cycle().skip(offset).step_by(step).take(PORTION);
                        let mut portion: Vec<_> = all.cloned().collect();
                        portion.sort_unstable_by(|a, b| a.device_id.cmp(&b.device_id));
                        portion
                    },
                    async |portion| write(&portion).await,
                    BatchSize::PerIteration,
                );
            });
        }
        group.throughput(Throughput::Elements(devices));
        // They were all seen at the earliest cutoff or later.
        let listened = Interval {
            from: cases::start() - 2 * cases::TIMEOUT,
            until: cases::start() + cases::TIMEOUT / 2,
        };
        let coverage =
            Coverage::new(cases::TIMEOUT).with([Listened { interval: listened, after: None }]);
        let cutoffs = coverage.both_cutoffs(listened.until, cases::TIMEOUT, &[]);
        group.bench_function("count none of them late or silent", |bencher| {
            let store = &store;
            bencher.to_async(&runtime).iter(async || {
                let overdue = store.count_overdue(&cutoffs).await.expect("it reads");
                assert_eq!(overdue, Overdue::default(), "none is");
            });
        });
        group.bench_function("find none of them silent", |bencher| {
            let store = &store;
            bencher.to_async(&runtime).iter(async || {
                let from = StaleFrom::default();
                let stale = store.get_stale_devices(cutoffs.silent(), &from, 1_000).await;
                assert!(stale.expect("it reads").devices.is_empty(), "none is");
            });
        });
        group.finish();
        runtime.block_on(store.close()).expect("it closes");
    }
}
