//! Measures the pure rules: parsing, coalescing, coverage.

use std::hint::black_box;

use chrono::TimeDelta;
use criterion::{BatchSize, Criterion, Throughput};
use heartbeatd::domain::GapCause;

use crate::cases;

pub fn parsing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse a heartbeat");
    group.throughput(Throughput::Elements(1));
    for (name, payload) in [("of the specification", cases::PAYLOAD), ("that is empty", b"")] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let id = black_box("device-0012345").parse().expect("an id");
                cases::parse(id, black_box(payload))
            });
        });
    }
}

pub fn coalescing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("coalesce a heartbeat");
    for devices in [10_000, 1_000_000] {
        let heartbeats = cases::heartbeats(devices);
        let pending = cases::pending(&heartbeats);
        group.throughput(Throughput::Elements(devices)).sample_size(10);
        let mut pending = Some(pending);
        group.bench_function(format!("of one of {devices} devices"), |bencher| {
            bencher.iter_batched(
                || heartbeats.clone(),
                |heartbeats| {
                    let full = pending.take().expect("it is put back");
                    pending = Some(cases::coalesce(full, heartbeats));
                },
                BatchSize::PerIteration,
            );
        });
    }
}

pub fn coverage(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("coverage");
    for gaps in [0, 1_000] {
        let coverage = cases::coverage(gaps);
        let now = cases::end(gaps);
        group.bench_function(format!("cutoff with {gaps} gaps"), |bencher| {
            bencher.iter(|| black_box(&coverage).cutoffs(now, cases::TIMEOUT, &[]));
        });
        group.bench_function(format!("confirm with {gaps} gaps"), |bencher| {
            let mut coverage = coverage.clone();
            let mut until = now;
            bencher.iter(|| {
                until += TimeDelta::milliseconds(1);
                coverage.confirm(now, until, GapCause::Disconnected)
            });
        });
    }
}
