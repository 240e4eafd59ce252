//! Offline transitions reach the alert sink at least once, in the normal case
//! exactly once, in order, whatever becomes of the sink or the process.

use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use actix::prelude::*;
use heartbeatd::actors::alert_sink::{AlertError, DevicesOffline};
use heartbeatd::actors::device_registry::CheckOffline;
use heartbeatd::actors::ticker::{AwaitEnd, CheckNow, Schedule, Ticker};
use heartbeatd::clock::Reading;

use crate::specification::on_both_databases;
use crate::support::database::TestDatabase;
use crate::support::fleet::{Fleet, at};
use crate::support::service::Place;
use servers::mosquitto::Mosquitto;

on_both_databases! {
    a_sink_that_fails_gets_the_same_again_with_the_next_check
    a_sink_that_is_too_slow_gets_the_same_again_with_the_next_check
    a_sink_that_stops_ends_the_ticker_and_its_successor_gets_everything
    what_a_killed_process_had_marked_is_delivered_once_by_the_next_one
}

/// What a sink does with its deliveries, one after the other, and then with the
/// rest.
#[derive(Clone, Copy)]
enum Reply {
    Takes,
    Fails,
    Hangs,
    Stops,
}

/// Tells what it gets: sequence numbers and devices.
struct Sink {
    replies: Vec<Reply>,
    told: Sender<Vec<(i64, String)>>,
}

impl Actor for Sink {
    type Context = Context<Self>;
}

impl Handler<DevicesOffline> for Sink {
    type Result = ResponseFuture<Result<(), AlertError>>;

    fn handle(&mut self, offline: DevicesOffline, ctx: &mut Context<Self>) -> Self::Result {
        let got = offline.transitions.iter().map(|t| (t.sequence, t.device_id.to_string()));
        self.told.send(got.collect()).expect("the test listens");
        let reply = if self.replies.len() > 1 { self.replies.remove(0) } else { self.replies[0] };
        if let Reply::Stops = reply {
            ctx.stop();
        }
        Box::pin(async move {
            match reply {
                Reply::Takes => Ok(()),
                Reply::Fails => Err(AlertError("the pager is out of range".to_owned())),
                Reply::Hangs | Reply::Stops => std::future::pending().await,
            }
        })
    }
}

fn clock() -> Reading {
    Reading { wall: at(181), monotonic: Instant::now() }
}

/// Three devices that a check at 181 finds silent.
async fn silent_fleet(database: TestDatabase) -> Fleet {
    let fleet = Fleet::on(database).await;
    fleet.heartbeats(&["a", "b", "c"], "", at(0)).await;
    fleet.listening(at(181)).await;
    fleet
}

/// A ticker whose checks come when the test says so, but for the first.
fn ticker(fleet: &Fleet, replies: &[Reply]) -> (Addr<Ticker>, Receiver<Vec<(i64, String)>>) {
    let (told, deliveries) = mpsc::channel();
    let sink = Sink { replies: replies.to_vec(), told }.start();
    let schedule = Schedule {
        check_interval: Duration::from_secs(24 * 60 * 60),
        delivery_timeout: Duration::from_millis(200),
    };
    let ticker = Ticker::new(schedule, fleet.registry.clone(), sink.recipient(), clock);
    (ticker.start(), deliveries)
}

async fn check(ticker: &Addr<Ticker>) {
    ticker.send(CheckNow).await.expect("it lives");
}

fn devices(delivery: &[(i64, String)]) -> Vec<&str> {
    delivery.iter().map(|(_, device)| device.as_str()).collect()
}

async fn a_sink_that_fails_gets_the_same_again_with_the_next_check(database: TestDatabase) {
    let fleet = silent_fleet(database).await;
    let (ticker, deliveries) = ticker(&fleet, &[Reply::Fails, Reply::Fails, Reply::Takes]);
    check(&ticker).await;
    check(&ticker).await;
    check(&ticker).await;
    let got: Vec<_> = deliveries.try_iter().collect();
    assert_eq!(got.len(), 3, "twice in vain, once with success: {got:?}");
    assert_eq!(devices(&got[0]), ["a", "b", "c"]);
    assert!(got[0].is_sorted(), "{got:?}");
    assert!(got.iter().all(|delivery| *delivery == got[0]), "{got:?}");
}

async fn a_sink_that_is_too_slow_gets_the_same_again_with_the_next_check(database: TestDatabase) {
    let fleet = silent_fleet(database).await;
    let (ticker, deliveries) = ticker(&fleet, &[Reply::Hangs, Reply::Takes]);
    check(&ticker).await;
    check(&ticker).await;
    let got: Vec<_> = deliveries.try_iter().collect();
    assert_eq!(got.len(), 2, "{got:?}");
    assert_eq!(got[0], got[1]);
    let left = fleet.store.undelivered_offline(10).await.expect("it reads");
    assert_eq!(left, []);
}

async fn a_sink_that_stops_ends_the_ticker_and_its_successor_gets_everything(
    database: TestDatabase,
) {
    let fleet = silent_fleet(database).await;
    let (dying, deliveries) = ticker(&fleet, &[Reply::Stops]);
    // The first check has its delivery time out, the next one finds nobody there.
    dying.do_send(CheckNow);
    let Err(end) = dying.send(AwaitEnd).await;
    assert!(matches!(end, MailboxError::Closed), "{end}");
    let lost = deliveries.recv().expect("it was told before it stopped");
    let (successor, deliveries) = ticker(&fleet, &[Reply::Takes]);
    check(&successor).await;
    assert_eq!(deliveries.try_iter().collect::<Vec<_>>(), [lost]);
}

async fn what_a_killed_process_had_marked_is_delivered_once_by_the_next_one(
    database: TestDatabase,
) {
    let url = database.url.clone();
    let fleet = silent_fleet(database).await;
    // Marked, and the process is gone before anybody is told.
    let marked = fleet.registry.send(CheckOffline { now: at(181) }).await.expect("it lives");
    let marked = marked.expect("it checks").undelivered;
    assert_eq!(marked.len(), 3);

    let broker = Mosquitto::start();
    let place = Place::new().with("MQTT__URL", &broker.url()).with("DATABASE__URL", &url);
    for run in ["the next process", "the one after it"] {
        let service = place.start();
        service.await_log(&["ticker", "checked newly_offline=0"]);
        let log = service.log();
        for transition in &marked {
            let (device, sequence) = (&transition.device_id, transition.sequence);
            let reported = format!("device offline device={device} sequence={sequence} ");
            let reports = log.iter().filter(|line| line.contains(&reported)).count();
            assert_eq!(reports, usize::from(run == "the next process"), "{run}: {log:#?}");
        }
    }
    for transition in place.json(&["history", "--json"]).as_array().expect("an array") {
        assert_eq!(transition["delivered_at"].is_string(), transition["to"] == "offline");
    }
}
