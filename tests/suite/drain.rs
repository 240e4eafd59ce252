//! The service is told to end: it finishes what it has begun, within its bound, and
//! says what it could not do.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::database::{TestDatabase, lock_sqlite};
use crate::support::service::Place;
use actix::prelude::*;
use heartbeatd::actors::alert_sink::{AlertError, DevicesOffline};
use heartbeatd::actors::on_own_thread;
use heartbeatd::config::HttpListen;
use heartbeatd::{App, Config};
use servers::mosquitto::{Mosquitto, heartbeat};
use servers::{eventually, process::free_port};

/// Takes a second for each delivery, and tells what it got.
struct SlowSink {
    began: Arc<AtomicUsize>,
    got: Arc<Mutex<Vec<i64>>>,
}

impl Actor for SlowSink {
    type Context = Context<Self>;
}

impl Handler<DevicesOffline> for SlowSink {
    type Result = ResponseFuture<Result<(), AlertError>>;

    fn handle(&mut self, offline: DevicesOffline, _: &mut Context<Self>) -> Self::Result {
        self.began.fetch_add(1, Ordering::SeqCst);
        let got = Arc::clone(&self.got);
        Box::pin(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let sequences = offline.transitions.iter().map(|transition| transition.sequence);
            got.lock().expect("nobody panics").extend(sequences);
            Ok(())
        })
    }
}

#[actix_rt::test]
async fn a_delivery_under_way_is_finished_and_its_alerts_are_told_once_over_two_runs() {
    let database = TestDatabase::sqlite();
    let broker = Mosquitto::start();
    let mut config = Config::default();
    config.mqtt.url = Some(broker.url().parse().expect("a URL"));
    config.mqtt.echo_interval = Duration::from_millis(100);
    config.heartbeat.timeout = Duration::from_secs(1);
    config.heartbeat.check_interval = Duration::from_millis(100);
    config.heartbeat.flush_interval = Duration::from_millis(50);
    config.database.url = database.url.clone().into();
    config.http.listen = HttpListen::Off;

    let (began, got) = (Arc::<AtomicUsize>::default(), Arc::<Mutex<Vec<i64>>>::default());
    for run in 0..2 {
        let sink = on_own_thread("slow_sink", {
            let (began, got) = (Arc::clone(&began), Arc::clone(&got));
            move || SlowSink { began, got }
        });
        let app = App::build(config.clone()).alert_sink(sink.recipient());
        let app = app.start().await.expect("it starts");
        if run == 0 {
            let port = broker.port;
            let (sent, until) = (Arc::clone(&began), servers::PATIENCE);
            let sending = actix_rt::task::spawn_blocking(move || {
                heartbeat(port, "pump", b"");
                eventually("a delivery begins", || (sent.load(Ordering::SeqCst) > 0).then_some(()));
            });
            // The service may not be subscribed yet when the first one is published.
            let sending = tokio::time::timeout(until, sending);
            let publishing = async {
                while began.load(Ordering::SeqCst) == 0 {
                    tokio::time::sleep(Duration::from_secs(3)).await;
                    if began.load(Ordering::SeqCst) == 0 {
                        actix_rt::task::spawn_blocking(move || heartbeat(port, "pump", b""))
                            .await
                            .expect("it publishes");
                    }
                }
            };
            let (sent, ()) = futures::join!(sending, publishing);
            sent.expect("in time").expect("it does not panic");
        }
        app.drain().await.expect("it drains");
    }
    let got = got.lock().expect("nobody panics").clone();
    assert_eq!(got.len(), 1, "told once: {got:?}");
    let store = database.open().await;
    assert_eq!(store.undelivered_offline(10).await.expect("it reads"), []);
}

#[actix_rt::test]
async fn a_database_that_stays_locked_ends_the_drain_in_time_and_the_loss_is_said() {
    let broker = Mosquitto::start();
    let place = Place::new().with("MQTT__URL", &broker.url()).with("HEARTBEAT__TIMEOUT", "10m");
    let mut service = place.start();
    service.await_listening();
    heartbeat(broker.port, "pump", b"");
    place.await_statuses(&["pump online"]);
    let lock = lock_sqlite(&place.database_url()).await;
    let heartbeats = "heartbeatd_heartbeats_total";
    heartbeat(broker.port, "pump", b"");
    service.await_metric(heartbeats, 2.0);
    let told = std::time::Instant::now();
    service.signal("TERM");
    assert_eq!(service.await_exit(), Some(69), "{:?}", service.log());
    assert!(told.elapsed() < Duration::from_secs(14), "{:?}", told.elapsed());
    service.await_log(&["1 heartbeats are lost", "locked"]);
    assert!(!service.log().join("\n").contains("everything is written"));
    lock.rollback().await.expect("it is released");
}

#[actix_rt::test]
async fn a_database_that_is_free_again_in_time_gets_everything() {
    let broker = Mosquitto::start();
    let place = Place::new().with("MQTT__URL", &broker.url()).with("HEARTBEAT__TIMEOUT", "10m");
    let mut service = place.start();
    service.await_listening();
    heartbeat(broker.port, "pump", b"");
    place.await_statuses(&["pump online"]);
    let lock = lock_sqlite(&place.database_url()).await;
    heartbeat(broker.port, "fan", b"");
    service.await_metric("heartbeatd_heartbeats_total", 2.0);
    service.signal("TERM");
    // The flush of the drain fails once.
    service.await_log(&["device_registry", "locked"]);
    lock.rollback().await.expect("it is released");
    assert_eq!(service.await_exit(), Some(0), "{:?}", service.log());
    service.await_log(&["everything is written"]);
    place.await_statuses(&["fan online", "pump online"]);
}

#[test]
fn a_second_service_started_by_mistake_leaves_the_first_on_its_broker() {
    let broker = Mosquitto::start();
    let http = format!("127.0.0.1:{}", free_port());
    let place = Place::new().with("MQTT__URL", &broker.url()).with("HTTP__LISTEN", &http);
    let service = place.start();
    service.await_listening();
    // The same client id and the same port, on a database of its own.
    let second = Place::new().with("MQTT__URL", &broker.url()).with("HTTP__LISTEN", &http);
    let out = second.run(&["run"]);
    let errors = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(69), "{errors}");
    assert!(errors.contains(&format!("http.listen = {http}")), "{errors}");
    assert!(!errors.contains("connected"), "{errors}");
    let echoes = "heartbeatd_echo_latency_seconds_count";
    service.await_metric(echoes, service.metric(echoes) + 2.0);
    let log = service.log().join("\n");
    assert!(!log.contains("disconnected"), "{log}");
}
