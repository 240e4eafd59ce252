//! Owns the connection to the broker and forwards heartbeats to the registry.
//!
//! It subscribes on every connect, hands over what arrives in whole inboxes, and
//! waits for the registry before it takes the next: the backlog then grows in
//! the client's inbox, which is bounded.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use chrono::{DateTime, Utc};
use futures::stream;
use log::{error, info, warn};

use super::device_registry::{ConfirmListening, DeviceRegistry, RecordHeartbeats};
use crate::clock::Clock;
use crate::domain::Heartbeat;
use crate::line_budget::LineBudget;
use crate::metrics::Metrics;
use crate::mqtt::{Client, Event};

const TARGET: &str = "mqtt_ingest";

/// How long after a refused subscription the next one is tried: rights are given
/// by people.
const SUBSCRIBE_AGAIN: Duration = Duration::from_secs(5);

/// How often a missing connection is mentioned again.
const OUTAGE_REMINDER: Duration = Duration::from_secs(30);

/// How many echoes may be on their way before something must be wrong. Counted
/// across reconnects: some brokers close the connection over a forbidden message.
const ECHOES_UNANSWERED: u32 = 4;

/// Stop listening. Replies when everything that was received is with the
/// registry.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Disconnect;

/// Are you listening?
#[derive(Debug, Message)]
#[rtype(result = "Listening")]
pub struct ReportListening;

/// The ingest's state, for readiness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, MessageResponse)]
pub enum Listening {
    /// Heartbeats arrive.
    Subscribed,
    /// The broker is reached, but has not accepted the subscription.
    Connected,
    /// The broker is not reached.
    Disconnected,
}

/// What happened since the last time, in order.
struct Events(Vec<Event>);

/// The actor.
pub struct MqttIngest {
    client: Client,
    /// Where the broker is, for the log.
    broker: String,
    registry: Addr<DeviceRegistry>,
    clock: Clock,
    metrics: Arc<Metrics>,
    confirm_interval: Duration,
    listening: Listening,
    /// Since when nothing has interrupted the listening.
    listening_since: Option<DateTime<Utc>>,
    /// Grows with every interruption: an echo of an earlier round proves nothing.
    round: u64,
    /// How many echoes were sent since one came back.
    unanswered: u32,
    /// Since when there is no connection.
    down_since: Instant,
    rejections: LineBudget,
}

impl MqttIngest {
    /// An ingest of what `client` receives from `broker`.
    pub fn new(
        client: Client,
        broker: String,
        registry: Addr<DeviceRegistry>,
        confirm_interval: Duration,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            client,
            broker,
            registry,
            clock,
            metrics,
            confirm_interval,
            listening: Listening::Disconnected,
            listening_since: None,
            round: 0,
            unanswered: 0,
            down_since: Instant::now(),
            rejections: LineBudget::default(),
        }
    }

    fn is_now(&mut self, listening: Listening) {
        self.listening = listening;
        if listening != Listening::Subscribed {
            self.listening_since = None;
        }
        self.metrics.set_listening(listening == Listening::Subscribed);
    }

    fn subscribe(&self, ctx: &mut Context<Self>) {
        let subscribing = self.client.subscribe().into_actor(self);
        ctx.spawn(subscribing.map(|subscribed, ingest, ctx| match subscribed {
            Ok(()) => {
                ingest.is_now(Listening::Subscribed);
                ingest.begin_round();
                ingest.send_echo();
                info!(target: TARGET, topic = ingest.client.topic(); "listening");
            }
            Err(error) => {
                error!(target: TARGET, "{error}");
                ctx.run_later(SUBSCRIBE_AGAIN, |ingest, ctx| {
                    // A reconnect has subscribed meanwhile, or will.
                    if ingest.listening == Listening::Connected {
                        ingest.subscribe(ctx);
                    }
                });
            }
        }));
    }

    /// From now on nothing has interrupted the listening.
    fn begin_round(&mut self) {
        self.round += 1;
        self.listening_since = Some((self.clock)());
    }

    /// An echo is proof as long as nothing has interrupted the listening since it
    /// was sent.
    fn take_echo(&mut self, round: u64, sent_at: DateTime<Utc>) -> Option<ConfirmListening> {
        if round != self.round {
            return None;
        }
        // By a clock that was turned back it may have been sent before the round
        // began; by that clock the round began no later.
        let since = self.listening_since?.min(sent_at);
        self.listening_since = Some(since);
        self.unanswered = 0;
        let latency = ((self.clock)() - sent_at).num_milliseconds();
        self.metrics.echoed(latency as f64 / 1000.0);
        Some(ConfirmListening { since, until: sent_at })
    }

    /// Without echoes nothing is proven and nobody goes offline: say so, once.
    fn send_echo(&mut self) {
        self.client.send_echo(self.round, (self.clock)());
        self.unanswered = self.unanswered.saturating_add(1);
        if let Some(topic) = self.client.echo_topic()
            && self.unanswered == ECHOES_UNANSWERED
        {
            error!(
                target: TARGET, topic;
                "no echo comes back, so nothing proves that heartbeats do, and no device goes \
                 offline; the broker must allow this client to write and to read this topic \
                 (or set mqtt.echo_interval = \"0s\")"
            );
        }
    }

    /// Handles what concerns the connection and returns what is for the registry.
    fn sort(&mut self, events: Vec<Event>, ctx: &mut Context<Self>) -> Sorted {
        let mut heartbeats = Vec::with_capacity(events.len());
        let mut confirmed = None;
        for event in events {
            match event {
                Event::Heartbeat(heartbeat) => heartbeats.push(heartbeat),
                Event::Rejected(rejection) => {
                    self.metrics.rejected(&rejection);
                    let reason = rejection.reason();
                    self.rejections.spend(|| match rejection.device_id() {
                        Some(device) => {
                            warn!(target: TARGET, device, reason; "rejected: {rejection}");
                        }
                        None => warn!(target: TARGET, reason; "rejected: {rejection}"),
                    });
                }
                Event::Echo { round, sent_at } => {
                    confirmed = self.take_echo(round, sent_at).or(confirmed);
                }
                Event::Connected => {
                    self.is_now(Listening::Connected);
                    info!(target: TARGET, broker = self.broker; "connected");
                    self.subscribe(ctx);
                }
                Event::Disconnected { why } => {
                    if self.listening != Listening::Disconnected {
                        self.is_now(Listening::Disconnected);
                        self.down_since = Instant::now();
                        warn!(target: TARGET, broker = self.broker; "disconnected: {why}; reconnecting");
                    }
                }
                Event::Shed(count) => {
                    self.metrics.shed(count);
                    // Whose heartbeats these were nobody knows.
                    self.begin_round();
                    confirmed = None;
                    error!(target: TARGET, count; "threw messages away: more were waiting than mqtt.max_backlog");
                }
            }
        }
        Sorted { heartbeats, confirmed }
    }
}

/// What an inbox held for the registry.
struct Sorted {
    heartbeats: Vec<Heartbeat>,
    confirmed: Option<ConfirmListening>,
}

/// The heartbeats first: a confirmation says that they are with the registry.
async fn hand_over(registry: Addr<DeviceRegistry>, sorted: Sorted) {
    let Sorted { heartbeats, confirmed } = sorted;
    let mut handed = Ok(());
    if !heartbeats.is_empty() {
        handed = registry.send(RecordHeartbeats { heartbeats }).await;
    }
    if let (Ok(()), Some(confirmed)) = (&handed, confirmed) {
        handed = registry.send(confirmed).await;
    }
    if let Err(error) = handed {
        error!(target: TARGET, "the registry does not answer: {error}");
    }
}

impl Actor for MqttIngest {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let inbox = self.client.inbox();
        ctx.add_stream(stream::unfold((), move |()| {
            let inbox = Arc::clone(&inbox);
            async move { Some((Events(inbox.take().await), ())) }
        }));
        let connecting = self.client.connect().into_actor(self);
        ctx.spawn(connecting.map(|connected, ingest, _| {
            if let Err(error) = connected {
                error!(target: TARGET, broker = ingest.broker; "{error}; trying on until it succeeds");
            }
        }));
        ctx.run_interval(self.confirm_interval, |ingest, _| {
            if ingest.listening == Listening::Subscribed {
                ingest.send_echo();
            }
        });
        ctx.run_interval(OUTAGE_REMINDER, |ingest, _| {
            let seconds = ingest.down_since.elapsed().as_secs();
            if ingest.listening == Listening::Disconnected && seconds >= OUTAGE_REMINDER.as_secs() {
                error!(target: TARGET, broker = ingest.broker, seconds; "still not connected; trying on");
            }
        });
    }
}

impl StreamHandler<Events> for MqttIngest {
    fn handle(&mut self, Events(events): Events, ctx: &mut Context<Self>) {
        let sorted = self.sort(events, ctx);
        // The reply is the backpressure: nothing else is done until it is there.
        ctx.wait(hand_over(self.registry.clone(), sorted).into_actor(self));
    }

    /// The inbox never ends; stopping with it would be the default.
    fn finished(&mut self, _: &mut Context<Self>) {}
}

impl Handler<Disconnect> for MqttIngest {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, _: Disconnect, _: &mut Context<Self>) -> Self::Result {
        let inbox = self.client.inbox();
        let disconnected = self.client.disconnect().into_actor(self);
        Box::pin(disconnected.then(move |(), ingest, ctx| {
            let rest = ingest.sort(inbox.rest(), ctx);
            info!(target: TARGET, "disconnected");
            ingest.is_now(Listening::Disconnected);
            hand_over(ingest.registry.clone(), rest).into_actor(ingest)
        }))
    }
}

impl Handler<ReportListening> for MqttIngest {
    type Result = Listening;

    fn handle(&mut self, _: ReportListening, _: &mut Context<Self>) -> Listening {
        self.listening
    }
}
