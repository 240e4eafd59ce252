//! What proves that the service listens, and what does not: echoes that come twice,
//! late, swapped or from somebody else, and answers that belong to an earlier
//! connection. The test is the broker; the ingest, its inbox and the registry are
//! the real ones.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use futures::channel::oneshot;
use futures::future::LocalBoxFuture;
use heartbeatd::actors::mqtt_ingest::{Disconnect, Listening, MqttIngest, ReportListening};
use heartbeatd::clock::system_clock;
use heartbeatd::domain::EchoToken;
use heartbeatd::mqtt::{ClientError, Connection, Event, Granted, Inbox};

use crate::support::database::TestDatabase;
use crate::support::fleet::Fleet;
use servers::PATIENCE;

type Answer<T> = oneshot::Sender<T>;

/// A broker whose answers come when the test says so.
struct Broker {
    inbox: Arc<Inbox>,
    echo_topic: Option<&'static str>,
    number: Cell<u64>,
    connects: RefCell<Vec<Answer<Result<(), ClientError>>>>,
    disconnects: RefCell<Vec<Answer<()>>>,
    subscriptions: RefCell<Vec<Answer<Result<Granted, ClientError>>>>,
    echoes: RefCell<Vec<EchoToken>>,
}

struct Line(Rc<Broker>);

fn ask<T: 'static>(asked: &RefCell<Vec<Answer<T>>>) -> LocalBoxFuture<'static, T> {
    let (answer, answered) = oneshot::channel();
    asked.borrow_mut().push(answer);
    Box::pin(async { answered.await.expect("the test answers or ends") })
}

impl Connection for Line {
    fn inbox(&self) -> Arc<Inbox> {
        Arc::clone(&self.0.inbox)
    }

    fn broker(&self) -> &str {
        "mqtt://test"
    }

    fn client_id(&self) -> &str {
        "heartbeatd"
    }

    fn topic(&self) -> &str {
        "devices/+/heartbeat"
    }

    fn echo_topic(&self) -> Option<&str> {
        self.0.echo_topic
    }

    fn number(&self) -> u64 {
        self.0.number.get()
    }

    fn connect(&self) -> LocalBoxFuture<'static, Result<(), ClientError>> {
        ask(&self.0.connects)
    }

    fn subscribe(&self) -> LocalBoxFuture<'static, Result<Granted, ClientError>> {
        ask(&self.0.subscriptions)
    }

    fn send_echo(&self, token: EchoToken) {
        self.0.echoes.borrow_mut().push(token);
        if self.0.echo_topic.is_none() {
            self.0.inbox.offer_echo(token);
        }
    }

    fn disconnect(&self) -> LocalBoxFuture<'static, ()> {
        ask(&self.0.disconnects)
    }
}

const GRANTED: Granted = Granted { asked: 1, granted: 1 };

fn no_answer() -> Result<Granted, ClientError> {
    Err(ClientError::NoAnswer { topic: "devices/+/heartbeat".to_owned() })
}

fn forbidden() -> Result<Granted, ClientError> {
    Err(ClientError::Subscribe {
        topic: "devices/+/heartbeat".to_owned(),
        client_id: "heartbeatd".to_owned(),
        why: "not authorized".to_owned(),
    })
}

struct Scene {
    fleet: Fleet,
    broker: Rc<Broker>,
    ingest: Addr<MqttIngest>,
}

impl Scene {
    async fn with_echo() -> Self {
        Self::new(Some("heartbeatd/heartbeatd/echo"), Duration::from_millis(20)).await
    }

    /// Being connected is the evidence.
    async fn without_echo() -> Self {
        Self::new(None, Duration::from_millis(20)).await
    }

    async fn new(echo_topic: Option<&'static str>, interval: Duration) -> Self {
        let fleet = Fleet::on(TestDatabase::sqlite()).await;
        let broker = Rc::new(Broker {
            inbox: Arc::new(Inbox::new(1000)),
            echo_topic,
            number: Cell::new(0),
            connects: RefCell::default(),
            disconnects: RefCell::default(),
            subscriptions: RefCell::default(),
            echoes: RefCell::default(),
        });
        let (line, registry) = (Line(Rc::clone(&broker)), fleet.registry.clone());
        let metrics = Arc::clone(&fleet.metrics);
        let ingest =
            MqttIngest::new(Box::new(line), registry, interval, system_clock, metrics).start();
        let scene = Self { fleet, broker, ingest };
        scene.until("it connects", || scene.broker.connects.borrow().len() == 1).await;
        scene
    }

    async fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition() {
            assert!(Instant::now() < deadline, "waited in vain: {what}");
            actix_rt::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// A connection stands.
    fn connected(&self, connection: u64) {
        self.broker.number.set(connection);
        self.broker.inbox.push(Event::Connected { connection });
    }

    fn lost(&self, connection: u64) {
        let why = "the test says so".to_owned();
        self.broker.inbox.push(Event::Disconnected { connection, why });
    }

    /// Waits until the ingest has subscribed so many times, and keeps the last answer.
    async fn subscription(&self, number: usize) -> Answer<Result<Granted, ClientError>> {
        let asked = &self.broker.subscriptions;
        self.until("it subscribes", || asked.borrow().len() == number).await;
        // A closed channel takes its place.
        std::mem::replace(&mut asked.borrow_mut()[number - 1], oneshot::channel().0)
    }

    async fn subscribed(&self, connection: u64, number: usize) {
        self.connected(connection);
        self.subscription(number).await.send(Ok(GRANTED)).expect("it is awaited");
        self.await_listening(Listening::Subscribed).await;
    }

    async fn listening(&self) -> Listening {
        // What is in the inbox is looked at within milliseconds.
        actix_rt::time::sleep(Duration::from_millis(50)).await;
        self.ingest.send(ReportListening).await.expect("it lives")
    }

    async fn await_listening(&self, expected: Listening) {
        let deadline = Instant::now() + PATIENCE;
        while self.ingest.send(ReportListening).await.expect("it lives") != expected {
            assert!(Instant::now() < deadline, "it never was {expected:?}");
            actix_rt::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Sees an echo on its way to the broker, after those seen before.
    async fn echo(&self) -> EchoToken {
        let seen = self.broker.echoes.borrow().len();
        self.until("an echo is sent", || self.broker.echoes.borrow().len() > seen).await;
        self.broker.echoes.borrow()[seen]
    }

    fn metric(&self, name: &str) -> f64 {
        let page = self.fleet.metrics.encode().expect("it is a string");
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.parse().ok()).unwrap_or(0.0)
    }

    fn proofs(&self) -> f64 {
        self.metric("heartbeatd_echo_latency_seconds_count")
    }

    async fn await_proofs(&self, count: f64) {
        self.until("echoes prove something", || self.proofs() >= count).await;
    }

    async fn await_ignored(&self, reason: &str, count: f64) {
        let name = format!("heartbeatd_echoes_ignored_total{{reason=\"{reason}\"}}");
        self.until(&name, || self.metric(&name) == count).await;
    }
}

#[actix_rt::test]
async fn a_first_subscription_without_an_answer_leads_to_a_new_connection() {
    let scene = Scene::with_echo().await;
    scene.connected(1);
    scene.subscription(1).await.send(no_answer()).expect("it is awaited");
    scene.until("it disconnects", || scene.broker.disconnects.borrow().len() == 1).await;
    assert_eq!(scene.listening().await, Listening::Disconnected);
    assert_eq!(scene.broker.connects.borrow().len(), 1, "not before it has disconnected");
    // One that paho makes by itself in this moment ends with the first.
    scene.connected(2);
    assert_eq!(scene.listening().await, Listening::Disconnected);
    let goodbye = scene.broker.disconnects.borrow_mut().pop();
    goodbye.expect("it disconnects").send(()).expect("it is awaited");
    scene.until("it connects again", || scene.broker.connects.borrow().len() == 2).await;
    scene.connected(2);
    assert_eq!(scene.listening().await, Listening::Disconnected, "2 has ended as well");
    scene.subscribed(3, 2).await;
}

#[actix_rt::test]
async fn an_answer_to_a_subscription_of_an_earlier_connection_says_nothing() {
    for answer in [|| Ok(GRANTED), no_answer, forbidden] {
        let scene = Scene::without_echo().await;
        scene.connected(1);
        let first = scene.subscription(1).await;
        scene.lost(1);
        scene.connected(2);
        let second = scene.subscription(2).await;
        first.send(answer()).expect("it is awaited");
        assert_eq!(scene.listening().await, Listening::Connected);
        assert_eq!((scene.proofs(), scene.broker.echoes.borrow().len()), (0.0, 0));
        second.send(Ok(GRANTED)).expect("it is awaited");
        scene.await_proofs(1.0).await;
    }
}

#[actix_rt::test]
async fn an_answer_to_a_subscription_proves_nothing_after_the_connection_is_lost() {
    for answer in [|| Ok(GRANTED), no_answer, forbidden] {
        let scene = Scene::without_echo().await;
        scene.connected(1);
        let first = scene.subscription(1).await;
        scene.lost(1);
        assert_eq!(scene.listening().await, Listening::Disconnected);
        first.send(answer()).expect("it is awaited");
        assert_eq!(scene.listening().await, Listening::Disconnected);
        assert_eq!(scene.proofs(), 0.0);
        assert_eq!(scene.broker.disconnects.borrow().len(), 0, "there is nothing to end");
        scene.subscribed(2, 2).await;
    }
}

#[actix_rt::test]
async fn a_later_subscription_that_succeeds_is_not_undone_by_a_loss_of_an_earlier_connection() {
    let scene = Scene::without_echo().await;
    scene.connected(1);
    let _unanswered = scene.subscription(1).await;
    scene.subscribed(2, 2).await;
    scene.lost(1);
    scene.connected(1);
    assert_eq!(scene.listening().await, Listening::Subscribed);
    assert_eq!(scene.broker.subscriptions.borrow().len(), 2);
    scene.lost(2);
    assert_eq!(scene.listening().await, Listening::Disconnected);
}

#[actix_rt::test]
async fn a_connection_made_while_the_service_drains_is_not_listened_to() {
    let scene = Scene::without_echo().await;
    scene.subscribed(1, 1).await;
    let draining = scene.ingest.send(Disconnect);
    scene.until("it disconnects", || scene.broker.disconnects.borrow().len() == 1).await;
    scene.connected(2);
    let goodbye = scene.broker.disconnects.borrow_mut().pop();
    goodbye.expect("it disconnects").send(()).expect("it is awaited");
    draining.await.expect("it lives");
    assert_eq!(scene.listening().await, Listening::Disconnected);
    assert_eq!(scene.broker.subscriptions.borrow().len(), 1);
}

#[actix_rt::test]
async fn an_echo_proves_something_once_and_only_in_its_order() {
    let scene = Scene::with_echo().await;
    scene.subscribed(1, 1).await;
    let (first, second, third) = (scene.echo().await, scene.echo().await, scene.echo().await);
    scene.broker.inbox.offer_echo(second);
    scene.await_proofs(1.0).await;
    let proven = scene.metric("heartbeatd_proven_timestamp_seconds");
    scene.broker.inbox.offer_echo(first);
    scene.await_ignored("late", 1.0).await;
    scene.broker.inbox.offer_echo(second);
    scene.await_ignored("used", 1.0).await;
    scene.broker.inbox.offer_echo(EchoToken::new(7));
    scene.await_ignored("unknown", 1.0).await;
    assert_eq!(scene.metric("heartbeatd_proven_timestamp_seconds"), proven);
    scene.broker.inbox.offer_echo(third);
    scene.await_proofs(2.0).await;
    assert!(scene.metric("heartbeatd_proven_timestamp_seconds") > proven);
}

#[actix_rt::test]
async fn an_echo_before_the_answer_to_a_repeated_subscription_proves_nothing() {
    let scene = Scene::with_echo().await;
    scene.subscribed(1, 1).await;
    // The broker has lost the subscription: none of the echoes comes back.
    let second = scene.subscription(2).await;
    let echo = scene.echo().await;
    scene.broker.inbox.offer_echo(echo);
    scene.await_ignored("late", 1.0).await;
    assert_eq!(scene.proofs(), 0.0);
    second.send(Ok(GRANTED)).expect("it is awaited");
    let deadline = Instant::now() + PATIENCE;
    while scene.proofs() < 1.0 {
        assert!(Instant::now() < deadline, "the ones after the answer do");
        let echo = scene.echo().await;
        scene.broker.inbox.offer_echo(echo);
    }
}

#[actix_rt::test]
async fn an_echo_of_an_earlier_connection_proves_nothing_on_a_later_one() {
    let scene = Scene::with_echo().await;
    scene.subscribed(1, 1).await;
    let echo = scene.echo().await;
    scene.subscribed(2, 2).await;
    scene.broker.inbox.offer_echo(echo);
    scene.await_ignored("late", 1.0).await;
    assert_eq!(scene.proofs(), 0.0);
}
