//! The drain: the service finishes what it has begun, within its bound, and reports what
//! it could not do.

use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use actix::prelude::*;
use heartbeatd::actors::alert_sink::{AlertError, DevicesOffline};
use heartbeatd::actors::device_registry::{Leave, LookAround};
use heartbeatd::actors::on_own_thread;
use heartbeatd::config::Listen;
use heartbeatd::store::DeviceStore;
use heartbeatd::{App, Config};
use tokio::sync::Notify;

use crate::support::database::{TestDatabase, lock_sqlite};
use crate::support::events::{DISCONNECTED, DRAINED, NOT_WRITTEN};
use crate::support::fleet::{Fleet, at, id, non_zero, reading};
use crate::support::service::{Place, Service};
use servers::mosquitto::{Mosquitto, heartbeat};
use servers::process::free_port;

/// A sink that reports when it is given something, and accepts it when it may go on.
struct SlowSink {
    begun: Arc<Notify>,
    go_on: Arc<Notify>,
    got: Arc<Mutex<Vec<i64>>>,
}

impl Actor for SlowSink {
    type Context = Context<Self>;
}

impl Handler<DevicesOffline> for SlowSink {
    type Result = ResponseFuture<Result<(), AlertError>>;

    fn handle(&mut self, offline: DevicesOffline, _: &mut Context<Self>) -> Self::Result {
        let sequences = offline.transitions.iter().map(|transition| transition.sequence);
        self.got.lock().expect("no thread panics").extend(sequences);
        self.begun.notify_one();
        let go_on = Arc::clone(&self.go_on);
        Box::pin(async move {
            go_on.notified().await;
            Ok(())
        })
    }
}

#[actix_rt::test]
async fn a_delivery_under_way_is_finished_and_its_alerts_are_delivered_once_over_two_runs() {
    let database = TestDatabase::sqlite();
    let broker = Mosquitto::start();
    let mut config = Config::default();
    config.mqtt.url = Some(broker.url().parse().expect("a URL"));
    config.mqtt.echo_interval = Some(non_zero(Duration::from_millis(100)));
    config.heartbeat.timeout = non_zero(Duration::from_secs(1));
    config.heartbeat.check_interval = non_zero(Duration::from_millis(100));
    config.heartbeat.flush_interval = non_zero(Duration::from_millis(50));
    config.database.url = database.url.clone().into();
    config.http.listen = Listen::Off;

    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let got = Arc::<Mutex<Vec<i64>>>::default();
    let start = async || {
        let sink = on_own_thread("slow_sink", {
            let (begun, go_on, got) = (Arc::clone(&begun), Arc::clone(&go_on), Arc::clone(&got));
            move || SlowSink { begun, go_on, got }
        });
        let app = App::build(config.clone()).alert_sink(sink.recipient());
        app.start().await.expect("it starts")
    };

    let app = start().await;
    let store = database.open().await;
    let pump = id("pump");
    let deadline = Instant::now() + servers::PATIENCE;
    while store.device(&pump).await.expect("it reads").is_none() {
        assert!(Instant::now() < deadline, "it is never heard");
        // Repeated, because the service may not be subscribed yet.
        heartbeat(broker.port, "pump", b"");
    }
    let begins = tokio::time::timeout(servers::PATIENCE, begun.notified());
    begins.await.expect("the device falls silent");
    let letting = async { go_on.notify_one() };
    let (drained, ()) = futures::join!(app.drain(), letting);
    drained.expect("it drains");

    // An alert that was not struck off would be delivered at once.
    start().await.drain().await.expect("it drains");
    let got = got.lock().expect("no thread panics").clone();
    assert_eq!(got.len(), 1, "delivered once: {got:?}");
    assert_eq!(store.undelivered(10).await.expect("it reads"), []);
}

/// Starts a service that has heard and stored a device.
fn online(broker: &Mosquitto) -> (Place, Service) {
    let place = Place::new().with("MQTT__URL", &broker.url()).with("HEARTBEAT__TIMEOUT", "10m");
    let service = place.start();
    service.await_listening();
    heartbeat(broker.port, "pump", b"");
    place.await_statuses(&["pump online"]);
    (place, service)
}

#[actix_rt::test]
async fn a_database_that_stays_locked_ends_the_drain_in_time_and_the_loss_is_logged() {
    let broker = Mosquitto::start();
    let (place, mut service) = online(&broker);
    let lock = lock_sqlite(&place.database_url()).await;
    let heartbeats = "heartbeatd_heartbeats_total";
    heartbeat(broker.port, "pump", b"");
    service.await_metric(heartbeats, 2.0);
    let told = std::time::Instant::now();
    service.signal("TERM");
    assert_eq!(service.await_exit(), Some(69), "{:?}", service.log());
    assert!(told.elapsed() < Duration::from_secs(14), "{:?}", told.elapsed());
    service.await_words("ERROR heartbeatd", &["1 heartbeat is lost", "locked"]);
    assert_eq!(service.events(DRAINED).len(), 0);
    lock.rollback().await.expect("it is released");
}

#[actix_rt::test]
async fn a_database_that_is_free_again_in_time_gets_everything() {
    let broker = Mosquitto::start();
    let (place, mut service) = online(&broker);
    let lock = lock_sqlite(&place.database_url()).await;
    heartbeat(broker.port, "fan", b"");
    service.await_metric("heartbeatd_heartbeats_total", 2.0);
    service.signal("TERM");
    // The flush of the drain fails once.
    service.await_words(NOT_WRITTEN, &["locked"]);
    lock.rollback().await.expect("it is released");
    assert_eq!(service.await_exit(), Some(0), "{:?}", service.log());
    service.await_event(DRAINED);
    place.await_statuses(&["fan online", "pump online"]);
}

#[test]
fn a_second_service_started_by_mistake_leaves_the_first_on_its_broker() {
    let broker = Mosquitto::start();
    let http = format!("127.0.0.1:{}", free_port());
    let place = Place::new().with("MQTT__URL", &broker.url()).with("HTTP__LISTEN", &http);
    let service = place.start();
    service.await_listening();
    // The same client id and the same port, but another database.
    let second = Place::new().with("MQTT__URL", &broker.url()).with("HTTP__LISTEN", &http);
    let out = second.run(&["run"]);
    let errors = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(69), "{errors}");
    assert!(errors.contains(&format!("http.listen = {http}")), "{errors}");
    assert!(errors.contains("another process listens there"), "{errors}");
    assert!(!errors.contains("mqtt_ingest"), "it has connected: {errors}");
    let echoes = "heartbeatd_echo_latency_seconds_count";
    service.await_metric(echoes, service.metric(echoes) + 2.0);
    let lost = service.events(DISCONNECTED);
    assert!(lost.is_empty(), "{lost:?}");
}

#[test]
fn a_service_that_is_told_to_end_while_it_waits_for_its_database_ends_at_once() {
    let silent = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let port = silent.local_addr().expect("it is bound").port();
    let url = format!("postgres://heartbeatd@127.0.0.1:{port}/heartbeatd");
    let mut service = Place::new().with("DATABASE__URL", &url).start();
    let (_open, _) = silent.accept().expect("it connects");
    let told = Instant::now();
    service.signal("TERM");
    assert_eq!(service.await_exit(), Some(0), "{:?}", service.log());
    assert!(told.elapsed() < Duration::from_secs(2), "{:?}", told.elapsed());
    service.await_words("INFO heartbeatd", &["SIGTERM during the start"]);
}

#[actix_rt::test]
async fn what_is_still_due_after_an_instance_has_left_neither_writes_nor_joins_again() {
    let database = TestDatabase::sqlite();
    let store = DeviceStore::open_exclusive(&*database.url).await.expect("it opens");
    let fleet = Fleet::with_store(database, store, |_| ()).await;
    fleet.heartbeat("pump", "", at(1)).await;
    fleet.flush().await;
    fleet.registry.send(Leave).await.expect("it lives").expect("it leaves");
    fleet.heartbeat("pump", "", at(2)).await;
    fleet.listening(at(3)).await;
    fleet.flush().await;
    fleet.registry.send(LookAround { now: reading(at(4)) }).await.expect("it lives");
    let listeners = fleet.store.listeners().await.expect("it reads");
    let open = listeners.iter().filter(|listener| !listener.peer.has_left).count();
    assert_eq!((listeners.len(), open), (1, 0), "{listeners:?}");
}
