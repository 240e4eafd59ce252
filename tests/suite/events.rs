//! Events: status changes and the journal, in one order, each exactly once for a reader who
//! resumes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use heartbeatd::actors::device_registry::{ConfirmListening, Flush};
use heartbeatd::domain::{Event, EventKind, EventPlace, GapCause, Happening};
use heartbeatd::store::{Interference, Interfering, Outcome, Point, Reader, Selection};

use crate::specification::on_both_databases;
use crate::support::database::{TestDatabase, patient_reader};
use crate::support::fleet::{Fleet, at, id, non_zero};
use servers::PATIENCE;
use tokio::sync::Notify;

on_both_databases! {
    events_tell_everything_that_happened_in_order
    a_reader_that_resumes_anywhere_gets_each_event_once
    a_reader_that_was_away_for_too_long_is_told
    a_gap_is_told_once_although_the_answer_to_its_commit_was_lost
    numbers_of_the_journal_are_given_in_the_order_of_the_commits
    a_command_whose_commit_takes_long_is_not_overtaken
}

fn told(event: &Event) -> String {
    match &event.what {
        EventKind::Transition(transition) => {
            let (device, from, to) = (&transition.device_id, transition.from, transition.to);
            format!("{device} {from} -> {to}")
        }
        EventKind::Entry(entry) => match &entry.what {
            Happening::Registered { device } => format!("{device} registered"),
            Happening::Removed { device } => format!("{device} removed"),
            Happening::Gap { from, cause, .. } => {
                format!("gap of {} s: {}", (entry.at - *from).num_seconds(), cause.as_str())
            }
            Happening::Listening => "listening".to_owned(),
            Happening::TookOver { from, by } => format!("{by} took over from {from}"),
            Happening::State { state, .. } => state.clone(),
        },
    }
}

/// All events after a place, read in pages.
async fn after(reader: &Reader, mut place: EventPlace, limit: u64) -> Vec<Event> {
    let mut all = Vec::new();
    loop {
        let page = reader.events(place, limit).await.expect("it reads").expect("all are kept");
        let Some(last) = page.last() else { return all };
        place = last.place;
        all.extend(page);
    }
}

async fn events_tell_everything_that_happened_in_order(database: TestDatabase) {
    let fleet = Fleet::configured(database, |config| {
        config.mqtt.echo_interval = Some(non_zero(Duration::from_secs(5)));
    })
    .await;
    let reader = patient_reader(&fleet.store).await;
    assert!(reader.newest_event().await.expect("it reads").is_beginning());
    let confirm = async |since, until| {
        let confirm =
            ConfirmListening { since: at(since), until: at(until), after: GapCause::Disconnected };
        fleet.registry.send(confirm).await.expect("it lives");
    };
    fleet.heartbeat("a", "", at(1)).await;
    fleet.flush().await;
    assert!(fleet.store.register(&id("b"), None, at(2)).await.expect("it writes"));
    confirm(40, 50).await;
    fleet.heartbeat("a", r#"{"error":"hot"}"#, at(51)).await;
    fleet.flush().await;
    assert!(fleet.remove("b", at(60)).await);

    let events = after(&reader, EventPlace::default(), 100).await;
    assert_eq!(
        events.iter().map(told).collect::<Vec<_>>(),
        [
            "a registered",
            "listening",
            "a provisioning -> online",
            "b registered",
            "gap of 40 s: disconnected",
            "a online -> error",
            "b removed",
        ]
    );
    let newest = reader.newest_event().await.expect("it reads");
    assert_eq!(events.last().map(|event| event.place), Some(newest));
}

async fn a_reader_that_resumes_anywhere_gets_each_event_once(database: TestDatabase) {
    let fleet = Fleet::on(database).await;
    let reader = patient_reader(&fleet.store).await;
    let mut random = fastrand::Rng::with_seed(16);
    let (mut read, mut place) = (Vec::new(), EventPlace::default());
    for round in 0..40 {
        let devices: Vec<_> =
            (0..random.u8(1..6)).map(|_| format!("d-{}", random.u8(0..9))).collect();
        let devices: Vec<_> = devices.iter().map(String::as_str).collect();
        fleet.heartbeats(&devices, "", at(round * 100)).await;
        fleet.flush().await;
        if random.bool() {
            fleet.remove(devices[0], at(round * 100 + 1)).await;
        }
        fleet.listening(at(round * 100 + 90)).await;
        fleet.check_only(at(round * 100 + 90)).await;
        // A reader that is cut off takes only a part of a page.
        let page = reader.events(place, random.u64(1..7)).await.expect("it reads");
        let page = page.expect("all are kept");
        let taken = random.usize(0..=page.len());
        read.extend_from_slice(&page[..taken]);
        place = read.last().map_or(place, |event: &Event| event.place);
    }
    read.extend(after(&reader, place, 3).await);

    let history = fleet.store.history(None, None, 10_000).await.expect("it reads");
    let transitions: Vec<_> = read
        .iter()
        .filter_map(|event| match &event.what {
            EventKind::Transition(transition) => Some(transition.sequence),
            EventKind::Entry(_) => None,
        })
        .collect();
    assert_eq!(transitions, history.iter().rev().map(|t| t.sequence).collect::<Vec<_>>());
    // Registered and removed in turns, as often as that happened.
    let mut there: BTreeMap<String, bool> = BTreeMap::new();
    for event in &read {
        if let EventKind::Entry(entry) = &event.what {
            let (device, comes) = match &entry.what {
                Happening::Registered { device } => (device.clone(), true),
                Happening::Removed { device } => (device.clone(), false),
                _ => continue,
            };
            assert_ne!(there.insert(device.clone(), comes).unwrap_or(false), comes, "{device}");
        }
    }
    let listed = fleet.store.devices(None, None, 100).await.expect("it reads");
    assert_eq!(there.values().filter(|there| **there).count(), listed.len());
}

async fn a_reader_that_was_away_for_too_long_is_told(database: TestDatabase) {
    let fleet = Fleet::on(database).await;
    let reader = patient_reader(&fleet.store).await;
    fleet.heartbeats(&["a", "b"], "", at(0)).await;
    fleet.flush().await;
    fleet.heartbeat("a", r#"{"error":"hot"}"#, at(500)).await;
    fleet.flush().await;
    assert!(fleet.remove("b", at(600)).await);
    let start = EventPlace::default();
    let events = after(&reader, start, 100).await;
    assert_eq!(fleet.store.prune_history(at(100), 100).await.expect("it prunes"), 2);
    assert_eq!(reader.events(start, 100).await.expect("it reads"), None);
    assert_eq!(fleet.store.prune_journal(at(100), 100).await.expect("it prunes"), 3);
    let newest = events.last().expect("there are some").place;
    assert_eq!(reader.events(newest, 100).await.expect("it reads"), Some(Vec::new()));
    let pruned = events.iter().position(|event| told(event) == "a online -> error");
    let before = events[pruned.expect("it happened") - 1].place;
    let kept = reader.events(before, 100).await.expect("it reads").expect("nothing is missing");
    assert_eq!(kept.iter().map(told).collect::<Vec<_>>(), ["a online -> error", "b removed"]);
    assert_eq!(reader.newest_event().await.expect("it reads"), newest);
}

/// Commits the next flush, and says that it failed.
struct Untold(AtomicBool);

impl Interference for Untold {
    fn at(&self, point: Point) -> Interfering {
        let is_commit = point == Point::Commit("record heartbeats");
        let untold = is_commit && self.0.swap(false, Ordering::SeqCst);
        let outcome = if untold { Outcome::CommitThenFail } else { Outcome::GoOn };
        Box::pin(std::future::ready(outcome))
    }
}

async fn a_gap_is_told_once_although_the_answer_to_its_commit_was_lost(database: TestDatabase) {
    let untold = Arc::new(Untold(true.into()));
    let store = database.open().await.interfere(untold);
    let fleet = Fleet::with_store(database, store, |_| ()).await;
    fleet.heartbeat("a", "", at(1)).await;
    let flushed = fleet.registry.send(Flush).await.expect("it lives");
    flushed.expect_err("the answer is lost");
    fleet.flush().await;
    let reader = patient_reader(&fleet.store).await;
    let events: Vec<_> =
        after(&reader, EventPlace::default(), 100).await.iter().map(told).collect();
    assert_eq!(events, ["a registered", "listening", "a provisioning -> online"]);
}

async fn numbers_of_the_journal_are_given_in_the_order_of_the_commits(database: TestDatabase) {
    let store = database.open().await;
    let reader = patient_reader(&store).await;
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let store = store.clone();
            actix_rt::spawn(async move {
                for number in 0..20 {
                    let device = format!("d-{writer}-{number}");
                    let added = store.register(&id(&device), None, at(number)).await;
                    assert!(added.expect("it writes"));
                    let ids = Some(vec![device]);
                    let selection = Selection { ids, ..Default::default() };
                    store.remove(&selection, None, at(number)).await.expect("it writes");
                }
            })
        })
        .collect();
    // Reads all the time, as far as there is something, and never goes back.
    let (mut seen, mut place) = (0, EventPlace::default());
    let deadline = Instant::now() + PATIENCE;
    while seen < 8 * 20 * 2 {
        assert!(Instant::now() < deadline, "only {seen} are ever read");
        let page = reader.events(place, 1000).await.expect("it reads").expect("all are kept");
        seen += page.len();
        place = page.last().map_or(place, |event| event.place);
        actix_rt::task::yield_now().await;
    }
    for writer in writers {
        writer.await.expect("it ends");
    }
    assert_eq!(seen, 8 * 20 * 2, "each once");
}

/// Keeps the first commit of a registration waiting, until it may go on or half a second has
/// passed.
struct Slow {
    held: Arc<Notify>,
    go_on: Arc<Notify>,
    is_first: AtomicBool,
}

impl Interference for Slow {
    fn at(&self, point: Point) -> Interfering {
        let is_commit = point == Point::Commit("register the device");
        let waits = is_commit && self.is_first.swap(false, Ordering::SeqCst);
        let (held, go_on) = (Arc::clone(&self.held), Arc::clone(&self.go_on));
        Box::pin(async move {
            if waits {
                held.notify_one();
                let patience = Duration::from_millis(500);
                let _elapsed = tokio::time::timeout(patience, go_on.notified()).await;
            }
            Outcome::GoOn
        })
    }
}

async fn a_command_whose_commit_takes_long_is_not_overtaken(database: TestDatabase) {
    let (held, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let slow = Slow {
        held: Arc::clone(&held),
        go_on: Arc::clone(&go_on),
        is_first: AtomicBool::new(true),
    };
    let first = database.open().await.interfere(Arc::new(slow));
    let second = database.open().await;
    let reader = patient_reader(&second).await;
    let registering = actix_rt::spawn(async move { first.register(&id("a"), None, at(1)).await });
    held.notified().await;
    // Waits for the other one, whose number is smaller.
    assert!(second.register(&id("b"), None, at(2)).await.expect("it writes"));
    let mut read = after(&reader, EventPlace::default(), 10).await;
    go_on.notify_one();
    assert!(registering.await.expect("it ends").expect("it writes"));
    let place = read.last().map_or(EventPlace::default(), |event| event.place);
    read.extend(after(&reader, place, 10).await);
    assert_eq!(read.iter().map(told).collect::<Vec<_>>(), ["a registered", "b registered"]);
}
