//! Offline transitions reach the alert sink in order and at least once, normally exactly
//! once, whatever happens to the sink or the process.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use heartbeatd::actors::alert_sink::{AlertError, DevicesOffline};
use heartbeatd::actors::courier::{AwaitEnd, Courier, Deliver, Stop};
use heartbeatd::actors::ticker::{CheckNow, Ticker};
use heartbeatd::clock::Reading;
use heartbeatd::domain::delivery::{Attempt, Probe, TRIES};
use heartbeatd::domain::{IdempotencyKey, Transition};
use heartbeatd::metrics::Metrics;
use tokio::sync::{Notify, mpsc};

use crate::specification::on_both_databases;
use crate::support::database::TestDatabase;
use crate::support::fleet::{Fleet, at};
use crate::support::service::Place;
use crate::support::waiting::until;
use servers::PATIENCE;
use servers::mosquitto::Mosquitto;

on_both_databases! {
    a_sink_that_fails_gets_fewer_alerts_at_once_until_it_takes_them
    a_slow_sink_gets_nothing_twice_and_fewer_alerts_at_once_afterwards
    a_sink_that_hangs_delays_no_check
    a_ticker_goes_on_checking_while_the_sink_fails_or_hangs
    a_sink_that_stops_ends_the_courier_and_its_successor_gets_everything
    an_alert_that_is_always_refused_is_skipped_kept_and_shown
    an_alert_over_which_the_process_dies_is_skipped
    a_sink_that_is_out_of_order_loses_nothing
    a_courier_that_is_stopped_lets_the_delivery_under_way_finish
    what_was_noted_of_a_lost_alert_is_not_held_against_the_one_with_its_number
    what_a_killed_process_had_marked_is_delivered_once_by_the_next_one
}

/// The reaction of a sink to a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reply {
    Takes,
    Fails,
    /// Takes it when it is allowed to go on.
    Waits,
    Hangs,
    Stops,
}

/// Decides on a reply by the devices of a delivery.
type Rule = Box<dyn FnMut(&[&str]) -> Reply>;

/// A sink that reports each delivery to the test.
struct Sink {
    rule: Rule,
    told: mpsc::UnboundedSender<Vec<Transition>>,
    go_on: Rc<Notify>,
}

impl Actor for Sink {
    type Context = Context<Self>;
}

impl Handler<DevicesOffline> for Sink {
    type Result = ResponseFuture<Result<(), AlertError>>;

    fn handle(&mut self, offline: DevicesOffline, ctx: &mut Context<Self>) -> Self::Result {
        let ids: Vec<_> = offline.transitions.iter().map(|t| t.device_id.as_str()).collect();
        let reply = (self.rule)(&ids);
        self.told.send(offline.transitions).expect("the test listens");
        if reply == Reply::Stops {
            ctx.stop();
        }
        let go_on = Rc::clone(&self.go_on);
        Box::pin(async move {
            match reply {
                Reply::Takes => Ok(()),
                Reply::Fails => Err(AlertError("the pager is out of range".to_owned())),
                Reply::Waits => {
                    go_on.notified().await;
                    Ok(())
                }
                Reply::Hangs | Reply::Stops => std::future::pending().await,
            }
        })
    }
}

fn clock() -> Reading {
    Reading { wall: at(181), monotonic: Instant::now() }
}

/// A fleet with devices that a check at 181 has found silent.
async fn silent_fleet(database: TestDatabase, devices: &[&str]) -> Fleet {
    let fleet = Fleet::on(database).await;
    fleet.heartbeats(devices, "", at(0)).await;
    fleet.listening(at(181)).await;
    fleet.check_only(at(181)).await;
    fleet
}

/// A courier, its sink, and what the sink is told.
struct Delivery {
    courier: Addr<Courier>,
    told: tokio::sync::Mutex<mpsc::UnboundedReceiver<Vec<Transition>>>,
    go_on: Rc<Notify>,
    metrics: Arc<Metrics>,
}

impl Delivery {
    fn begin(fleet: &Fleet, rule: impl FnMut(&[&str]) -> Reply + 'static) -> Self {
        let (tell, told) = mpsc::unbounded_channel();
        let go_on = Rc::new(Notify::new());
        let sink = Sink { rule: Box::new(rule), told: tell, go_on: Rc::clone(&go_on) }.start();
        let (registry, metrics) = (fleet.registry.clone(), Arc::new(Metrics::new()));
        let patience = Duration::from_millis(50);
        let courier =
            Courier::new(registry, sink.recipient(), patience, clock, Arc::clone(&metrics));
        Self { courier: courier.start(), told: told.into(), go_on, metrics }
    }

    /// Waits for the next delivery to the sink. Pauses are cut short as if by a check.
    async fn next(&self) -> Vec<String> {
        let mut told = self.told.lock().await;
        let waiting = async {
            loop {
                let soon = tokio::time::timeout(Duration::from_millis(10), told.recv());
                match soon.await {
                    Ok(delivery) => break delivery.expect("the sink lives"),
                    Err(_elapsed) => self.courier.send(Deliver).await.expect("it lives"),
                }
            }
        };
        let delivery = tokio::time::timeout(PATIENCE, waiting).await.expect("it is told");
        delivery.iter().map(|transition| transition.device_id.to_string()).collect()
    }

    /// Waits until the outbox is empty, and returns what has been told meanwhile.
    async fn to_the_end(&self, fleet: &Fleet) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        while !fleet.undelivered().await.is_empty() {
            assert!(Instant::now() < deadline, "{:?} is left", fleet.undelivered().await);
            self.courier.send(Deliver).await.expect("it lives");
        }
        let mut told = self.told.lock().await;
        let mut all = Vec::new();
        while let Ok(delivery) = told.try_recv() {
            all.extend(delivery.iter().map(|transition| transition.device_id.to_string()));
        }
        all
    }

    /// Waits until a metric has this value, because it is counted after the outbox is written.
    async fn await_metric(&self, name: &str, value: f64) {
        let is_so = async || (self.metric(name) == value).then_some(());
        until(&format!("{name} is {value}"), is_so).await;
    }

    fn metric(&self, name: &str) -> f64 {
        let page = self.metrics.encode().expect("it prints");
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.parse().ok()).unwrap_or(0.0)
    }
}

async fn a_sink_that_fails_gets_fewer_alerts_at_once_until_it_takes_them(database: TestDatabase) {
    let fleet = silent_fleet(database, &["a", "b", "c"]).await;
    let mut failures = 2;
    let delivery = Delivery::begin(&fleet, move |_| {
        failures -= 1;
        if failures >= 0 { Reply::Fails } else { Reply::Takes }
    });
    assert_eq!(delivery.next().await, ["a", "b", "c"]);
    assert_eq!(delivery.next().await, ["a"]);
    assert_eq!(delivery.next().await, ["a"]);
    assert_eq!(delivery.next().await, ["b", "c"], "in order, and more at once again");
    assert_eq!(delivery.to_the_end(&fleet).await, [""; 0]);
    delivery.await_metric(r#"heartbeatd_deliveries_failed_total{reason="sink"}"#, 2.0).await;
    delivery.await_metric("heartbeatd_alerts_delivered_total", 3.0).await;
}

async fn a_slow_sink_gets_nothing_twice_and_fewer_alerts_at_once_afterwards(
    database: TestDatabase,
) {
    let fleet = silent_fleet(database, &["a", "b", "c", "d"]).await;
    let mut first = true;
    let delivery = Delivery::begin(&fleet, move |_| {
        if std::mem::take(&mut first) { Reply::Waits } else { Reply::Takes }
    });
    assert_eq!(delivery.next().await, ["a", "b", "c", "d"]);
    let timeouts = r#"heartbeatd_deliveries_failed_total{reason="timeout"}"#;
    let deadline = Instant::now() + PATIENCE;
    while delivery.metric(timeouts) < 3.0 {
        assert!(Instant::now() < deadline, "it never was late three times");
        delivery.courier.send(Deliver).await.expect("it lives");
    }
    assert!(delivery.told.lock().await.try_recv().is_err(), "it may still be handling it");
    delivery.go_on.notify_one();
    assert_eq!(delivery.to_the_end(&fleet).await, [""; 0], "its late reply counts");

    fleet.heartbeats(&["a", "b", "c"], "", at(200)).await;
    fleet.listening(at(400)).await;
    fleet.check_only(at(400)).await;
    assert_eq!(delivery.next().await, ["a", "b"], "half of four");
}

async fn a_sink_that_hangs_delays_no_check(database: TestDatabase) {
    let fleet = silent_fleet(database, &["a"]).await;
    let delivery = Delivery::begin(&fleet, |_| Reply::Hangs);
    assert_eq!(delivery.next().await, ["a"]);
    for round in 1..=3 {
        let device = format!("late-{round}");
        fleet.heartbeat(&device, "", at(200 * round)).await;
        fleet.listening(at(200 * round + 181)).await;
        let checked = fleet.check_only(at(200 * round + 181)).await;
        assert_eq!((checked.newly_offline, checked.undelivered), (1, 1 + round as u64));
        delivery.courier.send(Deliver).await.expect("it lives");
    }
    assert!(delivery.told.lock().await.try_recv().is_err(), "one delivery at a time");
}

async fn a_ticker_goes_on_checking_while_the_sink_fails_or_hangs(database: TestDatabase) {
    let fleet = silent_fleet(database, &["a"]).await;
    let mut alive = Vec::new();
    for reply in [Reply::Fails, Reply::Hangs] {
        let delivery = Delivery::begin(&fleet, move |_| reply);
        let (registry, courier) = (fleet.registry.clone(), delivery.courier.clone().recipient());
        let ticker = Ticker::new(PATIENCE * 100, registry, courier, clock).start();
        assert_eq!(delivery.next().await, ["a"], "{reply:?}");
        for _check in 0..3 {
            let checked = tokio::time::timeout(PATIENCE, ticker.send(CheckNow)).await;
            checked.expect("no check waits for the sink").expect("it lives");
        }
        assert_eq!(fleet.undelivered().await.len(), 1, "{reply:?}");
        alive.push((delivery, ticker));
    }
}

async fn a_sink_that_stops_ends_the_courier_and_its_successor_gets_everything(
    database: TestDatabase,
) {
    let fleet = silent_fleet(database, &["a", "b"]).await;
    let dying = Delivery::begin(&fleet, |_| Reply::Stops);
    let Err(end) = dying.courier.send(AwaitEnd).await;
    assert!(matches!(end, MailboxError::Closed), "{end}");
    let successor = Delivery::begin(&fleet, |_| Reply::Takes);
    assert_eq!(successor.to_the_end(&fleet).await, ["a", "b"]);
}

async fn an_alert_that_is_always_refused_is_skipped_kept_and_shown(database: TestDatabase) {
    let devices = ["a", "bad", "c", "d", "e"];
    let fleet = silent_fleet(database, &devices).await;
    let delivery =
        Delivery::begin(
            &fleet,
            |ids| {
                if ids.contains(&"bad") { Reply::Fails } else { Reply::Takes }
            },
        );
    let told = delivery.to_the_end(&fleet).await;
    assert!(told.iter().filter(|device| *device == "bad").count() >= 5, "{told:?}");
    let history = fleet.store.history(None, None, 100).await.expect("it reads");
    let fate = |transition: &Transition| {
        let why = transition.given_up.as_ref().map(|given_up| given_up.why.clone());
        (transition.delivered_at.is_some(), why)
    };
    let offline = history.iter().filter(|t| t.cutoff.is_some());
    let fates: BTreeMap<_, _> = offline.map(|t| (t.device_id.to_string(), fate(t))).collect();
    for device in devices {
        let refused = (false, Some("the alert sink failed: the pager is out of range".to_owned()));
        let expected = if device == "bad" { refused } else { (true, None) };
        assert_eq!(fates[device], expected, "{device}");
    }
    delivery.await_metric("heartbeatd_alerts_given_up_total", 1.0).await;
}

async fn an_alert_over_which_the_process_dies_is_skipped(database: TestDatabase) {
    let fleet = silent_fleet(database, &["bad", "c"]).await;
    let mut lives = 0;
    while !fleet.undelivered().await.is_empty() {
        lives += 1;
        assert!(lives < 20, "{:?} is left", fleet.undelivered().await);
        // Each courier stands for a process that dies.
        let delivery =
            Delivery::begin(
                &fleet,
                |ids| {
                    if ids.contains(&"bad") { Reply::Stops } else { Reply::Takes }
                },
            );
        let deadline = Instant::now() + PATIENCE;
        while delivery.courier.connected() && !fleet.undelivered().await.is_empty() {
            assert!(Instant::now() < deadline, "the courier neither stops nor goes on");
        }
    }
    let history = fleet.store.history(None, None, 100).await.expect("it reads");
    let given_up: Vec<_> =
        history.iter().filter(|t| t.given_up.is_some()).map(|t| t.device_id.as_str()).collect();
    assert_eq!(given_up, ["bad"]);
}

async fn a_sink_that_is_out_of_order_loses_nothing(database: TestDatabase) {
    let devices = ["a", "b", "c"];
    let fleet = silent_fleet(database, &devices).await;
    let mut failures = 40;
    let delivery = Delivery::begin(&fleet, move |_| {
        failures -= 1;
        if failures >= 0 { Reply::Fails } else { Reply::Takes }
    });
    delivery.to_the_end(&fleet).await;
    let history = fleet.store.history(None, None, 100).await.expect("it reads");
    let delivered = history.iter().filter(|transition| transition.delivered_at.is_some());
    assert_eq!(delivered.count(), devices.len());
}

async fn a_courier_that_is_stopped_lets_the_delivery_under_way_finish(database: TestDatabase) {
    let fleet = silent_fleet(database, &["a", "b"]).await;
    let delivery = Delivery::begin(&fleet, |_| Reply::Waits);
    assert_eq!(delivery.next().await, ["a", "b"]);
    let stopping = delivery.courier.send(Stop);
    delivery.go_on.notify_one();
    stopping.await.expect("it lives");
    assert_eq!(fleet.undelivered().await, [], "what the sink took is acknowledged");
    fleet.heartbeat("a", "", at(200)).await;
    fleet.listening(at(400)).await;
    fleet.check_only(at(400)).await;
    delivery.courier.send(Deliver).await.expect("it lives");
    assert!(delivery.told.lock().await.try_recv().is_err(), "nothing begins any more");
}

async fn what_was_noted_of_a_lost_alert_is_not_held_against_the_one_with_its_number(
    database: TestDatabase,
) {
    let fleet = silent_fleet(database, &["a", "b"]).await;
    let found = fleet.undelivered().await;
    // The database failed over between the reading of the outbox and this note.
    let timeline = "0000000A".parse().expect("a timeline");
    let head = IdempotencyKey { timeline, ..found[0].key() };
    let lost = Attempt { head, size: 1, tries: TRIES, probe: Probe::Retried };
    fleet.store.begin_delivery(&lost).await.expect("it writes");
    let delivery = Delivery::begin(&fleet, |_| Reply::Takes);
    assert_eq!(delivery.to_the_end(&fleet).await, ["a", "b"]);
    let history = fleet.store.history(None, None, 10).await.expect("it reads");
    assert!(history.iter().all(|transition| transition.given_up.is_none()), "{history:?}");
}

async fn what_a_killed_process_had_marked_is_delivered_once_by_the_next_one(
    database: TestDatabase,
) {
    let url = database.url.clone();
    // The devices are marked, and the process is gone before the sink is told.
    let fleet = silent_fleet(database, &["a", "b", "c"]).await;
    let marked = fleet.undelivered().await;
    assert_eq!(marked.len(), 3);

    let broker = Mosquitto::start();
    let place = Place::new().with("MQTT__URL", &broker.url()).with("DATABASE__URL", &url);
    for run in ["the next process", "the one after it"] {
        let mut service = place.start();
        service.await_event("INFO ticker newly_offline=0 undelivered=0");
        service.signal("TERM");
        assert_eq!(service.await_exit(), Some(0));
        for transition in &marked {
            let (device, key) = (&transition.device_id, transition.key());
            let reported = format!("INFO alert_sink device={device} key={key}");
            let (reports, log) = (service.events(&reported).len(), service.log());
            assert_eq!(reports, usize::from(run == "the next process"), "{run}: {log:#?}");
        }
    }
    for transition in place.json(&["history", "--json"]).as_array().expect("an array") {
        assert_eq!(transition["delivered_at"].is_string(), transition["to"] == "offline");
    }
}
