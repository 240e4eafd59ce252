//! Echoes and answers that prove that the service listens, and those that do not: echoes
//! that come twice, late, swapped or from another client, and answers that belong to an
//! earlier connection. The test is the broker. The ingest, its inbox and the registry are
//! real.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use futures::channel::oneshot;
use heartbeatd::actors::mqtt_ingest::{Disconnect, Listening, MqttIngest, ReportListening};
use heartbeatd::clock::system_clock;
use heartbeatd::domain::EchoToken;
use heartbeatd::mqtt::{ClientError, Event, Inbox};

use crate::support::connection::{Answer, Asked, GRANTED, Line, Subscribed, no_answer, refused};
use crate::support::database::TestDatabase;
use crate::support::fleet::Fleet;
use crate::support::waiting::until;
use servers::PATIENCE;

struct Scene {
    fleet: Fleet,
    /// The requests to the broker, which the test answers.
    broker: Rc<Asked>,
    ingest: Addr<MqttIngest>,
}

impl Scene {
    async fn with_echo() -> Self {
        Self::new(Some("heartbeatd/heartbeatd/echo"), Duration::from_millis(20)).await
    }

    /// A scene in which being connected is the evidence.
    async fn without_echo() -> Self {
        Self::new(None, Duration::from_millis(20)).await
    }

    async fn new(echo_topic: Option<&'static str>, interval: Duration) -> Self {
        let fleet = Fleet::on(TestDatabase::sqlite()).await;
        let broker = Rc::new(Asked::nothing(Inbox::new(1000), echo_topic));
        let (line, registry) = (Line(Rc::clone(&broker)), fleet.registry.clone());
        let metrics = Arc::clone(&fleet.metrics);
        let ingest =
            MqttIngest::new(Box::new(line), registry, interval, system_clock, metrics).start();
        let scene = Self { fleet, broker, ingest };
        scene.until("it connects", || scene.broker.connects.borrow().len() == 1).await;
        scene
    }

    async fn until(&self, what: &str, condition: impl Fn() -> bool) {
        until(what, async || condition().then_some(())).await;
    }

    /// Reports a connection.
    fn connected(&self, connection: u64) {
        self.broker.number.set(connection);
        self.broker.inbox.push(Event::Connected { connection });
    }

    /// Makes the attempt to connect fail. The client keeps retrying.
    fn fails(&self, error: ClientError) {
        let attempt = self.broker.connects.borrow_mut().pop().expect("it connects");
        attempt.send(Err(error)).expect("it is awaited");
    }

    fn lost(&self, connection: u64) {
        let why = "the test says so".to_owned();
        self.broker.inbox.push(Event::Disconnected { connection, why });
    }

    /// Waits until the ingest has subscribed `number` times, and returns the last answer.
    async fn subscription(&self, number: usize) -> Answer<Subscribed> {
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
        self.until("the inbox is looked at", || self.broker.inbox.is_empty()).await;
        // The first question makes the actor look at the answers that the test has given.
        self.ingest.send(ReportListening).await.expect("it lives");
        self.ingest.send(ReportListening).await.expect("it lives")
    }

    async fn await_listening(&self, expected: Listening) {
        let is_so = async || {
            (self.ingest.send(ReportListening).await.expect("it lives") == expected).then_some(())
        };
        until(&format!("it is {expected:?}"), is_so).await;
    }

    /// Waits for the next echo on its way to the broker.
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
    scene.until("it disconnects", || scene.broker.goodbyes.borrow().len() == 1).await;
    assert_eq!(scene.listening().await, Listening::Disconnected);
    assert_eq!(scene.broker.connects.borrow().len(), 1, "not before it has disconnected");
    // paho goes on connecting by itself if the connection was lost before it was asked to end it.
    scene.connected(2);
    assert_eq!(scene.listening().await, Listening::Disconnected);
    let goodbye = scene.broker.goodbyes.borrow_mut().pop();
    goodbye.expect("it disconnects").send(()).expect("it is awaited");
    scene.until("it ends that, too", || scene.broker.goodbyes.borrow().len() == 1).await;
    assert_eq!(scene.broker.connects.borrow().len(), 1, "paho would not connect again beside it");
    let goodbye = scene.broker.goodbyes.borrow_mut().pop();
    goodbye.expect("it disconnects").send(()).expect("it is awaited");
    scene.until("it connects again", || scene.broker.connects.borrow().len() == 2).await;
    scene.connected(2);
    assert_eq!(scene.listening().await, Listening::Disconnected, "2 has ended as well");
    scene.subscribed(3, 2).await;
}

#[actix_rt::test]
async fn an_answer_to_a_subscription_of_an_earlier_connection_says_nothing() {
    for answer in [|| Ok(GRANTED), no_answer, refused] {
        let scene = Scene::without_echo().await;
        scene.connected(1);
        let first = scene.subscription(1).await;
        scene.lost(1);
        scene.connected(2);
        let second = scene.subscription(2).await;
        first.send(answer()).expect("it is awaited");
        assert_eq!(scene.listening().await, Listening::Connected);
        assert_eq!((scene.proofs(), scene.broker.sent.get()), (0.0, 0));
        second.send(Ok(GRANTED)).expect("it is awaited");
        scene.await_proofs(1.0).await;
    }
}

#[actix_rt::test]
async fn an_answer_to_a_subscription_proves_nothing_after_the_connection_is_lost() {
    for answer in [|| Ok(GRANTED), no_answer, refused] {
        let scene = Scene::without_echo().await;
        scene.connected(1);
        let first = scene.subscription(1).await;
        scene.lost(1);
        assert_eq!(scene.listening().await, Listening::Disconnected);
        first.send(answer()).expect("it is awaited");
        assert_eq!(scene.listening().await, Listening::Disconnected);
        assert_eq!(scene.proofs(), 0.0);
        assert_eq!(scene.broker.goodbyes.borrow().len(), 0, "there is nothing to end");
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
    scene.until("it disconnects", || scene.broker.goodbyes.borrow().len() == 1).await;
    scene.connected(2);
    let goodbye = scene.broker.goodbyes.borrow_mut().pop();
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
    scene.broker.inbox.offer_echo(second, system_clock());
    scene.await_proofs(1.0).await;
    let proven = scene.metric("heartbeatd_proven_timestamp_seconds");
    scene.broker.inbox.offer_echo(first, system_clock());
    scene.await_ignored("late", 1.0).await;
    scene.broker.inbox.offer_echo(second, system_clock());
    scene.await_ignored("used", 1.0).await;
    scene.broker.inbox.offer_echo(EchoToken::new(7), system_clock());
    scene.await_ignored("unknown", 1.0).await;
    assert_eq!(scene.metric("heartbeatd_proven_timestamp_seconds"), proven);
    scene.broker.inbox.offer_echo(third, system_clock());
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
    scene.broker.inbox.offer_echo(echo, system_clock());
    scene.await_ignored("late", 1.0).await;
    assert_eq!(scene.proofs(), 0.0);
    second.send(Ok(GRANTED)).expect("it is awaited");
    let deadline = Instant::now() + PATIENCE;
    while scene.proofs() < 1.0 {
        assert!(Instant::now() < deadline, "no echo after the answer proves anything");
        let echo = scene.echo().await;
        scene.broker.inbox.offer_echo(echo, system_clock());
    }
}

#[actix_rt::test]
async fn a_subscription_is_not_repeated_before_the_broker_has_answered() {
    let scene = Scene::with_echo().await;
    scene.subscribed(1, 1).await;
    // A broker that has stopped: neither echoes nor answers come back.
    let second = scene.subscription(2).await;
    let sent = scene.broker.echoes.borrow().len();
    // Missing echoes are told every two seconds. One is sent every 20 ms at most.
    let more = 3 * 2_000 / 20;
    let are_missing = || scene.broker.echoes.borrow().len() > sent + more;
    scene.until("more echoes are missing", are_missing).await;
    assert_eq!(scene.broker.subscriptions.borrow().len(), 2);
    second.send(Ok(GRANTED)).expect("it is awaited");
    scene.subscription(3).await;
}

#[actix_rt::test]
async fn an_echo_that_was_sent_before_devices_were_shut_out_proves_nothing() {
    let scene = Scene::with_echo().await;
    scene.subscribed(1, 1).await;
    let echo = scene.echo().await;
    scene.broker.inbox.shut_out();
    scene.await_listening(Listening::Incomplete).await;
    scene.broker.inbox.offer_echo(echo, system_clock());
    scene.await_ignored("late", 1.0).await;
    assert_eq!(scene.proofs(), 0.0);
    let echo = scene.echo().await;
    scene.broker.inbox.offer_echo(echo, system_clock());
    scene.await_proofs(1.0).await;
    assert_eq!(scene.listening().await, Listening::Subscribed);
}

#[actix_rt::test]
async fn an_echo_of_an_earlier_connection_proves_nothing_on_a_later_one() {
    let scene = Scene::with_echo().await;
    scene.subscribed(1, 1).await;
    let echo = scene.echo().await;
    scene.subscribed(2, 2).await;
    scene.broker.inbox.offer_echo(echo, system_clock());
    scene.await_ignored("late", 1.0).await;
    assert_eq!(scene.proofs(), 0.0);
}

#[actix_rt::test]
async fn an_attempt_to_connect_that_takes_long_is_explained_once_before_it_fails() {
    let scene = Scene::with_echo().await;
    let diagnosed = |count| scene.broker.diagnoses.borrow().len() == count;
    let explain = |reason: Option<&str>| {
        let answer = scene.broker.diagnoses.borrow_mut().pop().expect("it is asked");
        answer.send(reason.map(str::to_owned)).expect("it is awaited");
    };
    // The attempt goes on, and no fault is found.
    scene.until("it is doubted", || diagnosed(1)).await;
    explain(None);
    assert_eq!(scene.listening().await, Listening::Disconnected);
    scene.fails(ClientError::Connect("in vain".to_owned()));
    scene.until("it is asked again", || diagnosed(1)).await;
    explain(Some("nothing listens there"));
    assert_eq!(scene.listening().await, Listening::Disconnected);
    assert!(diagnosed(0));
}

#[actix_rt::test]
async fn a_broker_that_refuses_the_connection_is_not_probed() {
    let scene = Scene::with_echo().await;
    // This attempt began later and is not answered. Once it is doubted, the other one would
    // have been doubted, too.
    let later = Scene::with_echo().await;
    scene.fails(ClientError::Refused("banned".to_owned()));
    tokio::time::pause();
    let doubted = || later.broker.diagnoses.borrow().len() == 1;
    later.until("the later attempt is doubted", doubted).await;
    assert_eq!(scene.listening().await, Listening::Disconnected);
    assert!(scene.broker.diagnoses.borrow().is_empty());
}
