//! Recoveries reach their sink through the same outbox as alerts, in one order with them, and
//! neither kind keeps the other back for ever.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use heartbeatd::actors::alert_sink::{AlertError, DevicesOffline, DevicesRecovered};
use heartbeatd::actors::courier::{Courier, Deliver, Sinks};
use heartbeatd::clock::Reading;
use heartbeatd::metrics::Metrics;

use crate::specification::on_both_databases;
use crate::support::database::TestDatabase;
use crate::support::fleet::{Fleet, at};
use crate::support::waiting::until;
use servers::PATIENCE;

on_both_databases! {
    a_sink_gets_alerts_and_recoveries_in_the_order_in_which_they_happened
    without_a_recipient_recoveries_leave_the_outbox_and_keep_no_alert_back
    a_recovery_that_is_always_refused_keeps_no_alert_back
    an_alert_sink_that_is_out_of_order_loses_nothing_although_recoveries_are_taken
    an_alert_that_is_refused_while_no_other_comes_keeps_back_only_its_own_recovery
    recoveries_that_are_refused_on_their_way_past_an_alert_do_not_keep_it_back
    no_recovery_goes_past_its_own_alert
    an_alert_that_is_given_up_comes_before_its_recovery_all_the_same
    a_recovery_does_not_wait_for_the_next_check
}

/// The kinds of deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Offline,
    Recovered,
}
use Kind::{Offline, Recovered};

/// One delivery to a sink: its kind, its devices, and the reply.
type Delivery = (Kind, Vec<String>, bool);

/// Decides whether a delivery is taken.
type Rule = Box<dyn FnMut(Kind, &[String]) -> bool>;

/// Takes a delivery if `takes` says so.
struct Sink {
    takes: Rule,
    deliveries: Rc<RefCell<Vec<Delivery>>>,
}

impl Sink {
    fn reply(&mut self, kind: Kind, devices: Vec<String>) -> Result<(), AlertError> {
        let takes = (self.takes)(kind, &devices);
        self.deliveries.borrow_mut().push((kind, devices, takes));
        if takes { Ok(()) } else { Err(AlertError("out of range".to_owned())) }
    }
}

impl Actor for Sink {
    type Context = Context<Self>;
}

impl Handler<DevicesOffline> for Sink {
    type Result = Result<(), AlertError>;

    fn handle(&mut self, offline: DevicesOffline, _: &mut Context<Self>) -> Self::Result {
        let devices = offline.transitions.iter().map(|t| t.device_id.to_string()).collect();
        self.reply(Offline, devices)
    }
}

impl Handler<DevicesRecovered> for Sink {
    type Result = Result<(), AlertError>;

    fn handle(&mut self, recovered: DevicesRecovered, _: &mut Context<Self>) -> Self::Result {
        let devices = recovered.recoveries.iter().map(|r| r.device_id.to_string()).collect();
        self.reply(Recovered, devices)
    }
}

fn clock() -> Reading {
    Reading { wall: at(5000), monotonic: Instant::now() }
}

/// A fleet of three devices. All fall silent, `a` and `b` come back, and `a` falls silent again.
async fn fleet(database: TestDatabase) -> Fleet {
    let fleet = Fleet::on(database).await;
    fleet.heartbeats(&["a", "b", "c"], "", at(0)).await;
    fleet.listening(at(200)).await;
    fleet.check_only(at(200)).await;
    fleet.heartbeats(&["a", "b"], "", at(300)).await;
    fleet.flush().await;
    fleet.heartbeat("b", "", at(500)).await;
    fleet.listening(at(550)).await;
    fleet.check_only(at(550)).await;
    fleet
}

/// Delivers until the outbox is empty or `count` deliveries were tried, and returns them.
async fn deliver(
    fleet: &Fleet,
    takes: impl FnMut(Kind, &[String]) -> bool + 'static,
    recovers: bool,
    count: usize,
) -> (Vec<Delivery>, Arc<Metrics>) {
    let deliveries = Rc::new(RefCell::new(Vec::new()));
    let sink = Sink { takes: Box::new(takes), deliveries: Rc::clone(&deliveries) }.start();
    let recoveries = recovers.then(|| sink.clone().recipient());
    let sinks = Sinks { alerts: sink.recipient(), recoveries };
    let metrics = Arc::new(Metrics::new());
    let patience = Duration::from_secs(50);
    let courier =
        Courier::new(fleet.registry.clone(), sinks, patience, clock, Arc::clone(&metrics)).start();
    let deadline = Instant::now() + PATIENCE;
    while !fleet.outbox().await.is_empty() && deliveries.borrow().len() < count {
        assert!(Instant::now() < deadline, "it goes on: {:?}", deliveries.borrow());
        courier.send(Deliver).await.expect("it lives");
    }
    courier.send(heartbeatd::actors::courier::Stop).await.expect("it lives");
    let delivered = deliveries.borrow().clone();
    (delivered, metrics)
}

fn one(kind: Kind, devices: &[&str], takes: bool) -> Delivery {
    (kind, devices.iter().map(|device| (*device).to_owned()).collect(), takes)
}

async fn a_sink_gets_alerts_and_recoveries_in_the_order_in_which_they_happened(
    database: TestDatabase,
) {
    let fleet = fleet(database).await;
    let (delivered, metrics) = deliver(&fleet, |_, _| true, true, 100).await;
    let expected = [
        one(Offline, &["a", "b", "c"], true),
        one(Recovered, &["a", "b"], true),
        one(Offline, &["a"], true),
    ];
    assert_eq!(delivered, expected);
    let page = metrics.encode().expect("it prints");
    for line in ["heartbeatd_alerts_delivered_total 4", "heartbeatd_recoveries_delivered_total 2"] {
        assert!(page.lines().any(|other| other == line), "{page}");
    }
}

async fn without_a_recipient_recoveries_leave_the_outbox_and_keep_no_alert_back(
    database: TestDatabase,
) {
    let fleet = fleet(database).await;
    let (delivered, _) = deliver(&fleet, |_, _| true, false, 100).await;
    let expected = [one(Offline, &["a", "b", "c"], true), one(Offline, &["a"], true)];
    assert_eq!(delivered, expected);
}

async fn a_recovery_that_is_always_refused_keeps_no_alert_back(database: TestDatabase) {
    let fleet = fleet(database).await;
    let takes = |kind, devices: &[String]| kind == Offline || !devices.contains(&"b".to_owned());
    let (delivered, metrics) = deliver(&fleet, takes, true, 100).await;
    let tried = |delivery: &Delivery| delivered.iter().filter(|other| *other == delivery).count();
    assert_eq!(tried(&one(Recovered, &["a"], true)), 1, "{delivered:?}");
    assert_eq!(tried(&one(Offline, &["a"], true)), 1, "{delivered:?}");
    assert!(tried(&one(Recovered, &["b"], false)) >= 5, "{delivered:?}");
    let page = metrics.encode().expect("it prints");
    assert!(page.contains("heartbeatd_recoveries_given_up_total 1"), "{page}");
    assert!(page.contains("heartbeatd_alerts_given_up_total 0"), "{page}");
}

/// A fleet of three devices that all fell silent and came back. The alert of `c` is the only one
/// in the outbox, and the recoveries of all are behind it.
async fn fleet_with_one_alert(database: TestDatabase) -> Fleet {
    let fleet = Fleet::on(database).await;
    fleet.heartbeats(&["a", "b"], "", at(0)).await;
    fleet.check(at(200)).await;
    fleet.heartbeat("c", "", at(200)).await;
    fleet.listening(at(400)).await;
    fleet.check_only(at(400)).await;
    fleet.heartbeats(&["a", "b", "c"], "", at(500)).await;
    fleet.flush().await;
    fleet
}

/// The devices of the deliveries of one kind that were taken.
fn taken(delivered: &[Delivery], kind: Kind) -> Vec<String> {
    let taken = delivered.iter().filter(|(of, _, takes)| *of == kind && *takes);
    taken.flat_map(|(_, devices, _)| devices.clone()).collect()
}

async fn an_alert_sink_that_is_out_of_order_loses_nothing_although_recoveries_are_taken(
    database: TestDatabase,
) {
    let fleet = fleet_with_one_alert(database).await;
    let mut refusals = 30;
    let takes = move |kind, _: &[String]| {
        refusals -= i32::from(kind == Offline);
        kind == Recovered || refusals < 0
    };
    let (delivered, metrics) = deliver(&fleet, takes, true, 100).await;
    let refused = delivered.iter().filter(|d| **d == one(Offline, &["c"], false)).count();
    assert_eq!(refused, 30, "{delivered:?}");
    assert_eq!(taken(&delivered, Offline), ["c"], "{delivered:?}");
    assert_eq!(taken(&delivered, Recovered), ["a", "b", "c"], "{delivered:?}");
    let last = [one(Offline, &["c"], true), one(Recovered, &["c"], true)];
    assert!(delivered.ends_with(&last), "{delivered:?}");
    let page = metrics.encode().expect("it prints");
    assert!(page.contains("heartbeatd_alerts_given_up_total 0"), "{page}");
}

async fn an_alert_that_is_refused_while_no_other_comes_keeps_back_only_its_own_recovery(
    database: TestDatabase,
) {
    let fleet = fleet_with_one_alert(database).await;
    let (delivered, metrics) = deliver(&fleet, |kind, _| kind == Recovered, true, 30).await;
    let refused = one(Offline, &["c"], false);
    let first = delivered.iter().take_while(|delivery| **delivery == refused).count();
    assert_eq!(first, 5, "they wait for it at first: {delivered:?}");
    assert_eq!(taken(&delivered, Recovered), ["a", "b"], "{delivered:?}");
    assert_eq!(delivered.last(), Some(&refused), "it is not forgotten");
    let left: Vec<_> = fleet.outbox().await.iter().map(|t| t.device_id.to_string()).collect();
    assert_eq!(left, ["c", "c"], "the alert, and its recovery");
    let page = metrics.encode().expect("it prints");
    for line in ["heartbeatd_alerts_given_up_total 0", "heartbeatd_recoveries_delivered_total 2"] {
        assert!(page.lines().any(|other| other == line), "{page}");
    }
}

async fn recoveries_that_are_refused_on_their_way_past_an_alert_do_not_keep_it_back(
    database: TestDatabase,
) {
    let fleet = fleet_with_one_alert(database).await;
    let mut refusals = 9;
    let takes = move |kind, _: &[String]| {
        refusals -= i32::from(kind == Offline);
        kind == Offline && refusals < 0
    };
    let (delivered, _) = deliver(&fleet, takes, true, 20).await;
    assert_eq!(taken(&delivered, Offline), ["c"], "{delivered:?}");
    let (refused, passing) = (one(Offline, &["c"], false), one(Recovered, &["a"], false));
    let expected = [&refused, &passing, &refused, &passing, &refused];
    assert_eq!(delivered[4..9].iter().collect::<Vec<_>>(), expected, "{delivered:?}");
}

async fn no_recovery_goes_past_its_own_alert(database: TestDatabase) {
    let fleet = fleet_with_one_alert(database).await;
    fleet.listening(at(800)).await;
    fleet.check_only(at(800)).await;
    fleet.heartbeats(&["a", "c"], "", at(900)).await;
    fleet.flush().await;
    // The outbox has an alert of `c`, the recoveries of `a`, `b` and `c`, their alerts and two
    // recoveries again.
    let (delivered, _) = deliver(&fleet, |kind, _| kind == Recovered, true, 30).await;
    assert_eq!(taken(&delivered, Recovered), ["a", "b"], "{delivered:?}");
    let left: Vec<_> = fleet.outbox().await.iter().map(|t| t.device_id.to_string()).collect();
    assert_eq!(left, ["c", "c", "a", "b", "c", "a", "c"]);
}

async fn an_alert_that_is_given_up_comes_before_its_recovery_all_the_same(database: TestDatabase) {
    let fleet = fleet(database).await;
    let takes = |kind, devices: &[String]| kind == Recovered || !devices.contains(&"b".to_owned());
    let (delivered, metrics) = deliver(&fleet, takes, true, 100).await;
    let last = |kind, device: &str| {
        let has = |(of, devices, _): &Delivery| *of == kind && devices.contains(&device.to_owned());
        delivered.iter().rposition(has).expect("it was delivered")
    };
    let first_recovery = delivered.iter().position(|(kind, ..)| *kind == Recovered);
    assert!(Some(last(Offline, "b")) < first_recovery, "{delivered:?}");
    assert!(last(Recovered, "b") > last(Offline, "b"), "{delivered:?}");
    let page = metrics.encode().expect("it prints");
    assert!(page.contains("heartbeatd_alerts_given_up_total 1"), "{page}");
}

async fn a_recovery_does_not_wait_for_the_next_check(database: TestDatabase) {
    let fleet = Fleet::on(database).await;
    fleet.heartbeat("a", "", at(0)).await;
    fleet.check(at(200)).await;
    let deliveries = Rc::new(RefCell::new(Vec::new()));
    let sink = Sink { takes: Box::new(|_, _| true), deliveries: Rc::clone(&deliveries) }.start();
    let sinks = Sinks { alerts: sink.clone().recipient(), recoveries: Some(sink.recipient()) };
    let (registry, metrics) = (fleet.registry.clone(), Arc::new(Metrics::new()));
    let courier = Courier::new(registry, sinks, PATIENCE, clock, metrics);
    let _courier = courier.with_board(Arc::clone(&fleet.board)).start();
    fleet.heartbeat("a", "", at(300)).await;
    fleet.flush().await;
    until("the courier is woken", async || (!deliveries.borrow().is_empty()).then_some(())).await;
    assert_eq!(*deliveries.borrow(), [one(Recovered, &["a"], true)]);
}
