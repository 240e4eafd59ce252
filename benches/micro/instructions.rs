//! Counts the instructions of the pure parts with Callgrind. The count is the same on a
//! busy machine, so that a regression shows in any test run.
//!
//! ```sh
//! cargo install gungraun-runner --version 0.20.0   # and apt-get install valgrind
//! cargo bench --bench instructions
//! ```
//!
//! Each has a limit, set a tenth above the count of the time. Lower it when you make
//! something faster; if you raise it, say why in the commit.

#![expect(clippy::disallowed_methods, reason = "the macro `main` ends the process")]
#![allow(missing_docs, reason = "the macros make modules that have none")]

mod cases;

use std::hint::black_box;

use chrono::{DateTime, TimeDelta, Utc};
use gungraun::prelude::*;
use gungraun::{Callgrind, EventKind};
use heartbeatd::domain::{
    Coverage, Cutoffs, DeviceId, GapCause, Heartbeat, Pending, sort_by_device,
};

fn at_most(instructions: u64) -> LibraryBenchmarkConfig {
    let mut callgrind = Callgrind::default();
    callgrind.hard_limits([(EventKind::Ir, instructions)]);
    LibraryBenchmarkConfig::default().tool(callgrind).clone()
}

#[library_benchmark]
#[bench::of_the_specification(args = (cases::PAYLOAD), config = at_most(3_300))]
#[bench::that_is_empty(args = (b""), config = at_most(470))]
fn parse(payload: &[u8]) -> Heartbeat {
    let device: DeviceId = black_box("device-0012345").parse().expect("an id");
    black_box(cases::parse(device, black_box(payload)))
}

fn full_buffer(devices: u64) -> (Pending, Vec<Heartbeat>) {
    let heartbeats = cases::heartbeats(devices);
    (cases::pending(&heartbeats), heartbeats)
}

#[library_benchmark(config = at_most(2_650_000))]
#[bench::of_10_000_devices(args = (10_000), setup = full_buffer)]
fn coalesce((pending, heartbeats): (Pending, Vec<Heartbeat>)) -> Pending {
    black_box(cases::coalesce(pending, heartbeats))
}

#[library_benchmark(config = at_most(5_700_000))]
#[bench::of_10_000_devices(args = (10_000), setup = cases::heartbeats)]
fn sort(mut heartbeats: Vec<Heartbeat>) -> Vec<Heartbeat> {
    sort_by_device(&mut heartbeats);
    black_box(heartbeats)
}

fn covered(gaps: i64) -> (Coverage, DateTime<Utc>) {
    (cases::coverage(gaps), cases::end(gaps))
}

#[library_benchmark(config = at_most(3_600))]
#[bench::with_1_000_gaps(args = (1_000), setup = covered)]
fn cutoff((coverage, now): (Coverage, DateTime<Utc>)) -> (Coverage, Cutoffs) {
    let cutoffs = black_box(&coverage).cutoffs(now, cases::TIMEOUT, &[]);
    (coverage, black_box(cutoffs))
}

#[library_benchmark(config = at_most(930))]
#[bench::with_1_000_gaps(args = (1_000), setup = covered)]
fn confirm((mut coverage, end): (Coverage, DateTime<Utc>)) -> Coverage {
    let until = end + TimeDelta::seconds(5);
    black_box(coverage.confirm(end, until, GapCause::Disconnected));
    coverage
}

library_benchmark_group!(name = pure, benchmarks = [parse, coalesce, sort, cutoff, confirm]);

main!(library_benchmark_groups = pure);
