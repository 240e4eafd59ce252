//! Simulates a fleet, a broker, a network, a clock, a database and an alert sink to the
//! millisecond, with the real service in the middle: its ingest and inbox, registry,
//! ticker, courier, store and drain.
//!
//! A schedule is a random course of faults, made from a seed that is printed when it
//! fails. The service pauses before each step of the database, each answer of the broker
//! and each reply of the sink. There anything can happen, and time can pass. Its
//! decisions are checked against the *truth*, which it cannot know: when a heartbeat
//! would really have reached it. The truth is not computed from the rules of the service.
//! It travels along: marks that say "listened from here to here" go through the same
//! queue as the heartbeats, and are lost in the same way.
//!
//! ```sh
//! SIMULATION_SCHEDULES=100000 cargo test --release --test suite simulation
//! SIMULATION_SEED=17 SIMULATION_SCHEDULES=1 cargo test --test suite simulation
//! ```

mod claims;
mod clocks;
mod clocks_apart;
mod database;
mod failover;
mod group;
mod instance_faults;
mod intake;
mod member;
mod observer;
mod pair;
mod schedule;
mod share_broker;
mod share_model;
mod sink;
mod truth;
mod wire;
mod work;
mod world;

use std::cell::Cell;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use actix::prelude::*;
use heartbeatd::config::DatabaseConfig;
use heartbeatd::store::{DeviceStore, OpenMode};

use self::observer::Tally;
use self::schedule::Schedule;
use self::share_broker::Routing;
use self::world::World;

/// The number of schedules that `cargo test` runs.
const SCHEDULES: u64 = 300;

/// The first seed of `cargo test`. The schedules are always the same, so that a change is
/// judged only by its effect. Others are run by hand, see above.
const FIRST_SEED: u64 = 3000;

/// The number of failed schedules after which no further one is begun.
const MAX_FAILED: usize = 20;

/// More threads than processors, because each waits for its database most of the time.
const THREADS_PER_PROCESSOR: usize = 2;

/// The server that the devices publish to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    /// A broker, to which the service is connected as well.
    Broker,
    /// The receiver in the service's process, each on a connection of its own.
    Receiver,
}

#[test]
fn random_schedules_of_faults_take_no_live_device_offline_and_hide_no_dead_one() {
    random_schedules(To::Broker);
}

#[test]
fn random_schedules_with_the_receiver_take_no_live_device_offline_and_hide_no_dead_one() {
    random_schedules(To::Receiver);
}

/// The number of schedules of a pair that `cargo test` runs.
const SCHEDULES_OF_A_PAIR: u64 = 60;

#[test]
fn random_schedules_of_a_pair_make_no_mark_that_its_rows_contradict() {
    let template = empty_database();
    let run = |seed| {
        on_a_copy(&template, async |url, folder| {
            pair::World::random(seed, url, folder).await.run().await
        })
    };
    let (tallies, failed) = schedules(SCHEDULES_OF_A_PAIR, "of a pair", run);
    assert_all_sound(&tallies, &failed);
}

/// The number of schedules of a group that `cargo test` runs.
const SCHEDULES_OF_A_GROUP: u64 = 60;

#[test]
fn random_schedules_of_a_group_make_no_mark_that_its_rows_contradict() {
    let template = empty_database();
    let run = |seed| {
        on_a_copy(&template, async |url, folder| {
            group::World::random(seed, url, folder).await.run().await
        })
    };
    let (tallies, failed) = schedules(SCHEDULES_OF_A_GROUP, "of a group", run);
    assert_all_sound(&tallies, &failed);
}

/// Tells what schedules of several instances have shown, and checks it.
fn assert_all_sound(tallies: &[Tally], failed: &[u64]) {
    let sum = |of: fn(&Tally) -> usize| tallies.iter().map(of).sum::<usize>();
    println!(
        "{} marks, {} unsound, in {} schedules, {} live devices once marked, {} dead ones found \
         twice, {} stays ended by others; {} schedules with something else wrong",
        sum(|t| t.marks),
        sum(|t| t.unsound.len()),
        sum(|t| usize::from(!t.unsound.is_empty())),
        sum(|t| t.live_marked),
        sum(|t| t.twice),
        sum(|t| t.fences),
        sum(|t| usize::from(!t.wrong.is_empty())),
    );
    assert!(failed.is_empty(), "SIMULATION_SEED={failed:?} fail, each by itself");
    let wrong: Vec<_> = tallies.iter().flat_map(|t| t.unsound.iter().chain(&t.wrong)).collect();
    assert!(wrong.is_empty(), "{}", wrong.iter().map(|text| text.as_str()).collect::<String>());
    // In a few of them there may be none.
    let is_few = tallies.len() < 20;
    assert!(is_few || sum(|t| t.fences) * 2 > tallies.len(), "stays must be ended by others");
    let is_shown = is_few || sum(|t| t.marks) >= 4 * tallies.len();
    assert!(is_shown, "devices must die for anything to be shown");
}

/// Checks what a schedule has shown that was made for a purpose.
fn assert_sound(tally: Tally) {
    println!("{tally:?}");
    assert_eq!((tally.unsound, tally.wrong, tally.live_marked), (Vec::new(), Vec::new(), 0));
    assert!(tally.marks > 0, "devices must die for anything to be shown");
}

/// Runs a schedule of a group that was made for a purpose.
fn run_group(what: &str, schedule: (Schedule, Routing)) -> Tally {
    on_a_copy(&empty_database(), async |url, folder| {
        let rng = fastrand::Rng::with_seed(FIRST_SEED);
        group::World::new(what, schedule, rng, url, folder).await.run().await
    })
}

#[test]
fn a_member_whose_row_a_failover_has_lost_is_left_alone_in_the_group_of_the_old_timeline() {
    assert_sound(run_group("a lost row", group::a_member_whose_row_is_lost()));
}

#[test]
fn what_a_fast_clock_has_proven_of_the_time_after_its_last_echo_does_not_count() {
    assert_sound(run_group("a fast clock", group::a_fast_clock_that_hangs()));
}

/// The number of runs of a schedule of a pair that was made for a purpose. In each of them flushes,
/// looks and checks come at other times.
const RUNS: u64 = 4;

/// Runs a schedule of a pair that was made for a purpose.
fn run_pair(what: &str, schedule: fn() -> (Schedule, Option<usize>)) -> Vec<Tally> {
    let template = empty_database();
    let run = |seed| {
        on_a_copy(&template, async |url, folder| {
            let rng = fastrand::Rng::with_seed(seed);
            pair::World::new(what, schedule(), rng, url, folder).await.run().await
        })
    };
    (FIRST_SEED..FIRST_SEED + RUNS).map(run).collect()
}

fn assert_pair_sound(what: &str, schedule: fn() -> (Schedule, Option<usize>)) {
    run_pair(what, schedule).into_iter().for_each(assert_sound);
}

#[test]
fn a_standby_keeps_what_a_fast_clock_seems_to_have_proven_and_leaves_no_hole() {
    assert_pair_sound("a fast clock", pair::schedules::a_fast_clock_that_is_killed);
}

#[test]
fn what_the_active_one_has_not_heard_for_a_moment_is_written_by_a_standby_that_has() {
    assert_pair_sound("a deaf one", pair::schedules::an_active_one_that_hears_nothing_for_a_moment);
}

#[test]
fn two_that_miss_a_moment_in_turn_do_not_take_over_in_turn() {
    for tally in run_pair("two in turn", pair::schedules::two_that_hear_nothing_in_turn) {
        assert_eq!(tally.fences, 1, "the first one of them");
        assert_sound(tally);
    }
}

#[test]
fn what_waited_for_a_stopped_standby_is_not_taken_for_new_when_it_takes_over() {
    assert_pair_sound("a stopped standby", pair::schedules::a_stopped_standby_that_takes_over);
}

#[test]
fn after_a_stop_nothing_is_proven_before_everything_has_arrived() {
    assert_pair_sound("a lost echo", pair::schedules::a_stop_after_which_the_first_echo_is_lost);
}

/// The number of schedules of a group's model that `cargo test` runs.
const SCHEDULES_OF_A_MODEL: u64 = 2_000;

#[test]
fn random_schedules_of_a_modelled_group_make_no_mark_that_its_rows_contradict() {
    let run = |seed| share_model::World::new(seed, share_model::Rule::Whole).run();
    let (tallies, failed) = schedules(SCHEDULES_OF_A_MODEL, "of a modelled group", run);
    let sum = |of: fn(&share_model::Tally) -> usize| tallies.iter().map(of).sum::<usize>();
    println!(
        "{} marks, {} live devices once marked, {} fences",
        sum(|t| t.marks),
        sum(|t| t.live_marked),
        sum(|t| t.fences),
    );
    assert!(failed.is_empty(), "SIMULATION_SEED={failed:?} fail, each by itself");
    let wrong = tallies.iter().flat_map(|tally| tally.unsound.iter().chain(&tally.wrong));
    assert_eq!(wrong.collect::<Vec<_>>(), Vec::<&String>::new());
    assert!(sum(|t| t.fences) > tallies.len(), "members must be taken out");
    assert!(sum(|t| t.marks) >= 6 * tallies.len(), "devices must die for anything to be shown");
}

/// The number of schedules of a group's model, each way of breaking the rule, that `cargo test` runs.
const SCHEDULES_OF_A_BREAK: u64 = 60;

#[test]
fn each_part_of_the_rule_of_a_group_is_needed() {
    use share_model::Rule::{
        LateRow, OneClock, Union, WithoutCount, WithoutTakeover, WithoutTimeline,
    };
    for rule in [WithoutCount, LateRow, WithoutTakeover, Union, OneClock, WithoutTimeline] {
        let run = |seed| share_model::World::new(seed, rule).run();
        let (tallies, _) = schedules(SCHEDULES_OF_A_BREAK, &format!("{rule:?}"), run);
        let unsound = || tallies.iter().map(|tally| tally.unsound.len()).filter(|count| *count > 0);
        let (marks, schedules) = (unsound().sum::<usize>(), unsound().count());
        println!("{rule:?}: {marks} unsound marks in {schedules} schedules");
        // These two take thousands of schedules, or one that was made for it.
        let is_rare = matches!(rule, OneClock | WithoutTimeline);
        assert!(schedules > 0 || is_rare, "{rule:?} is as sound as the whole");
    }
}

/// Runs a schedule of the model that was made for a break.
fn assert_breaks(schedule: fn(share_model::Rule) -> share_model::World, rule: share_model::Rule) {
    let [whole, broken] = [share_model::Rule::Whole, rule].map(|rule| schedule(rule).run());
    assert_eq!((whole.unsound, whole.wrong, whole.live_marked), (Vec::new(), Vec::new(), 0));
    assert!(whole.marks > 0 && !broken.unsound.is_empty(), "{broken:?}");
}

#[test]
fn a_member_whose_row_is_lost_makes_marks_unsound_unless_the_name_of_the_group_has_the_timeline() {
    assert_breaks(share_model::World::with_a_lost_row, share_model::Rule::WithoutTimeline);
}

#[test]
fn a_member_whose_clock_is_fast_makes_marks_unsound_unless_the_clocks_are_known_to_differ() {
    assert_breaks(share_model::World::with_a_fast_clock, share_model::Rule::OneClock);
}

fn random_schedules(to: To) {
    let template = empty_database();
    let run = |seed| run(seed, to, &template);
    let (transitions, failed) = schedules(SCHEDULES, &format!("to the {to:?}"), run);
    let (offline, schedules) = (transitions.iter().sum::<u64>(), transitions.len() as u64);
    println!("{offline} offline transitions");
    assert!(failed.is_empty(), "SIMULATION_SEED={failed:?} fail, each by itself");
    assert!(offline > schedules / 4, "devices must die for anything to be shown");
}

thread_local! {
    /// The seed of the schedule that runs on this thread.
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Has the seed of a schedule told as soon as it panics, on the real stderr. What is captured is lost
/// if something that is dropped for the panic panics in turn, which aborts the process.
fn tell_seeds_of_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if let Some(seed) = SEED.get() {
                _ = writeln!(std::io::stderr(), "SIMULATION_SEED={seed} {panic}");
            }
            hook(panic);
        }));
    });
}

/// Runs schedules on all processors. Returns what they return, and the seeds of those that fail.
fn schedules<T: Send>(
    count: u64,
    what: &str,
    run: impl Fn(u64) -> T + Sync + std::panic::RefUnwindSafe,
) -> (Vec<T>, Vec<u64>) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let schedules = number("SIMULATION_SCHEDULES").unwrap_or(count);
    let first = number("SIMULATION_SEED").unwrap_or(FIRST_SEED);
    println!("{schedules} schedules, {what}, the seeds begin with {first}");
    tell_seeds_of_panics();

    let next = AtomicU64::new(0);
    let (done, failed) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let began = Instant::now();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..processors * THREADS_PER_PROCESSOR {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= schedules || lock(&failed).len() >= MAX_FAILED {
                        break;
                    }
                    let seed = first.wrapping_add(number);
                    SEED.set(Some(seed));
                    // The panic was printed with the course of events.
                    match std::panic::catch_unwind(|| run(seed)) {
                        Ok(result) => lock(&done).push(result),
                        Err(_printed) => lock(&failed).push(seed),
                    }
                }
            });
        }
    });
    println!("{schedules} schedules in {:?}", began.elapsed());
    (done.into_inner().unwrap_or_else(PoisonError::into_inner), lock(&failed).clone())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The file of a database with the schema and nothing else.
fn empty_database() -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("template.db");
    System::new().block_on(async {
        let url = format!("sqlite://{}?mode=rwc", path.display());
        // All tests begin at once, and some of them keep the disk and the processors busy.
        let patient = DatabaseConfig {
            connect_timeout: Duration::from_secs(60).try_into().expect("a duration"),
            ..url.as_str().into()
        };
        let store = DeviceStore::open(patient, OpenMode::Create).await.expect("it opens");
        store.close().await.expect("it closes");
    });
    std::fs::read(&path).expect("it is closed")
}

/// Runs one schedule. Returns how many times a device went offline.
fn run(seed: u64, to: To, template: &[u8]) -> u64 {
    on_a_copy(template, async |url, _| World::new(seed, to, url).await.run().await)
}

/// Runs something on a copy of a database, of which it is given the URL and the folder, with a
/// system of actors of its own.
fn on_a_copy<T>(template: &[u8], run: impl AsyncFnOnce(&str, &Path) -> T) -> T {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("simulation.db");
    std::fs::write(&path, template).expect("a file");
    let url = format!("sqlite://{}", path.display());
    let system = System::new();
    let runtime = system.runtime().tokio_runtime().handle().clone();
    // Closes the connections that are still held on the way out, also after a panic. Without it they
    // would panic in turn, which aborts the process.
    let _entered = runtime.enter();
    run_on(system, run(&url, folder.path()))
}

/// Runs something to its end on a system, and ends that.
fn run_on<T>(system: SystemRunner, run: impl Future<Output = T>) -> T {
    system.block_on(run)
}
