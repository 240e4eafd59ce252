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
use log::{debug, error, info, warn};

use super::device_registry::{ConfirmListening, DeviceRegistry, RecordHeartbeats};
use super::log_rejection;
use crate::clock::Clock;
use crate::domain::{GapCause, Heartbeat, Proof, Rounds};
use crate::line_budget::LineBudget;
use crate::metrics::Metrics;
use crate::mqtt::{Client, ClientError, Event};

const TARGET: &str = "mqtt_ingest";

/// How long after a refused subscription the next one is tried: rights are given
/// by people.
const SUBSCRIBE_AGAIN: Duration = Duration::from_secs(5);

/// How often a missing connection, or missing echoes, are mentioned again.
const OUTAGE_REMINDER: Duration = Duration::from_secs(30);

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
    /// Heartbeats arrive, and echoes prove it.
    Subscribed,
    /// Subscribed, but no echo comes back.
    Unproven,
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
    rounds: Rounds,
    /// Since when no echo comes back, once that was said.
    echo_missing: Option<Instant>,
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
            rounds: Rounds::default(),
            echo_missing: None,
            down_since: Instant::now(),
            rejections: LineBudget::default(),
        }
    }

    fn is_now(&mut self, listening: Listening) {
        self.listening = listening;
        if listening != Listening::Subscribed {
            self.rounds.interrupt(GapCause::Disconnected);
        }
        self.metrics.set_listening(self.proven() == Listening::Subscribed);
    }

    /// Whether echoes come back is a question of its own.
    fn proven(&self) -> Listening {
        match self.listening {
            Listening::Subscribed if self.echo_missing.is_some() => Listening::Unproven,
            listening => listening,
        }
    }

    fn subscribe(&self, ctx: &mut Context<Self>) {
        let subscribing = self.client.subscribe().into_actor(self);
        ctx.spawn(subscribing.map(|subscribed, ingest, ctx| match subscribed {
            Ok(()) => {
                ingest.is_now(Listening::Subscribed);
                ingest.rounds.begin((ingest.clock)());
                ingest.send_echo(ctx);
                info!(target: TARGET, topic = ingest.client.topic(); "listening");
            }
            Err(error) => ingest.refused(&error, ctx),
        }));
    }

    fn refused(&mut self, error: &ClientError, ctx: &mut Context<Self>) {
        error!(target: TARGET, "{error}");
        self.is_now(Listening::Connected);
        ctx.run_later(SUBSCRIBE_AGAIN, |ingest, ctx| {
            // A reconnect has subscribed meanwhile, or will.
            if ingest.listening == Listening::Connected {
                ingest.subscribe(ctx);
            }
        });
    }

    /// Subscribes on a connection that is subscribed already as far as anybody
    /// knows: a broker that has lost the subscription gets it again, for the others
    /// nothing changes. No answer at all means that the connection is dead.
    fn subscribe_anew(&self, ctx: &mut Context<Self>) {
        let subscribing = self.client.subscribe().into_actor(self);
        ctx.spawn(subscribing.map(|subscribed, ingest, ctx| match subscribed {
            // Connected anew meanwhile, or about to be.
            _ if ingest.listening != Listening::Subscribed => (),
            Ok(()) => ingest.rounds.restart((ingest.clock)(), GapCause::NoEcho),
            Err(ClientError::NoAnswer { .. }) => {
                warn!(target: TARGET, broker = ingest.broker; "the broker does not answer; connecting anew");
                ingest.reconnect(ctx);
            }
            Err(error) => ingest.refused(&error, ctx),
        }));
    }

    fn reconnect(&mut self, ctx: &mut Context<Self>) {
        self.is_disconnected();
        let reconnecting = self
            .client
            .disconnect()
            .into_actor(self)
            .then(|(), ingest, _| ingest.client.connect().into_actor(ingest));
        ctx.spawn(reconnecting.map(Self::tried_to_connect));
    }

    fn tried_to_connect(
        connected: Result<(), ClientError>,
        ingest: &mut Self,
        _: &mut Context<Self>,
    ) {
        if let Err(error) = connected {
            error!(target: TARGET, broker = ingest.broker; "{error}; trying on until it succeeds");
        }
    }

    fn is_disconnected(&mut self) {
        self.is_now(Listening::Disconnected);
        self.down_since = Instant::now();
    }

    /// Without echoes nothing is proven and nobody goes offline.
    fn send_echo(&mut self, ctx: &mut Context<Self>) {
        let now = (self.clock)();
        let outgoing = self.rounds.send(now);
        self.client.send_echo(outgoing.round, now.wall);
        let (Some(missing), Some(topic)) = (outgoing.missing, self.client.echo_topic()) else {
            return;
        };
        if self.echo_missing.is_none() {
            self.echo_missing = Some(Instant::now());
            self.metrics.set_listening(false);
            error!(
                target: TARGET, topic, missing;
                "no echo comes back, so nothing proves that heartbeats do, and no device goes \
                 offline; the broker must allow this client to write and to read this topic \
                 (or set mqtt.echo_interval = \"0s\")"
            );
        }
        self.subscribe_anew(ctx);
    }

    fn remind(&self) {
        let topic = self.client.echo_topic();
        let long_ago = |since: Instant| {
            Some(since.elapsed()).filter(|&age| age >= OUTAGE_REMINDER).map(|age| age.as_secs())
        };
        match (self.proven(), self.echo_missing) {
            (Listening::Disconnected, _) => {
                if let Some(seconds) = long_ago(self.down_since) {
                    error!(target: TARGET, broker = self.broker, seconds; "still not connected; trying on");
                }
            }
            (Listening::Unproven, Some(since)) => {
                if let Some(seconds) = long_ago(since) {
                    error!(target: TARGET, topic, seconds; "still no echo comes back, and no device goes offline");
                }
            }
            _ => (),
        }
    }

    fn take_echo(&mut self, round: u64, sent_at: DateTime<Utc>) -> Option<ConfirmListening> {
        let Proof { since, until, after } = self.rounds.take(round, sent_at)?;
        let latency_ms = ((self.clock)().wall - sent_at).num_milliseconds();
        self.metrics.echoed(latency_ms as f64 / 1000.0);
        debug!(target: TARGET, latency_ms; "echo came back");
        self.metrics.set_proven(until);
        if self.echo_missing.take().is_some() {
            self.is_now(self.listening);
            info!(target: TARGET, "echoes come back again");
        }
        Some(ConfirmListening { since, until, after })
    }

    /// Handles what concerns the connection and returns what is for the registry.
    fn sort(&mut self, events: Vec<Event>, ctx: &mut Context<Self>) -> Sorted {
        let mut heartbeats = Vec::new();
        let mut confirmed = None;
        for event in events {
            match event {
                Event::Heartbeats(more) if heartbeats.is_empty() => heartbeats = more,
                Event::Heartbeats(more) => heartbeats.extend(more),
                Event::Rejected(rejection) => {
                    self.metrics.rejected(&rejection);
                    self.rejections.spend(|| log_rejection(TARGET, &rejection));
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
                        self.is_disconnected();
                        warn!(target: TARGET, broker = self.broker; "disconnected: {why}; reconnecting");
                    }
                }
                Event::Shed(count) => {
                    self.metrics.shed(count);
                    // Whose heartbeats these were nobody knows.
                    self.rounds.restart((self.clock)(), GapCause::Shed);
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
async fn hand_over<R>(registry: Addr<R>, sorted: Sorted)
where
    R: Actor<Context = Context<R>> + Handler<RecordHeartbeats> + Handler<ConfirmListening>,
{
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
        ctx.spawn(connecting.map(Self::tried_to_connect));
        ctx.run_interval(self.confirm_interval, |ingest, ctx| {
            if ingest.listening == Listening::Subscribed {
                ingest.send_echo(ctx);
            }
        });
        ctx.run_interval(OUTAGE_REMINDER, |ingest, _| ingest.remind());
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
        self.proven()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Notes what it is sent.
    #[derive(Default)]
    struct Notes(Vec<&'static str>);

    impl Actor for Notes {
        type Context = Context<Self>;
    }

    impl Handler<RecordHeartbeats> for Notes {
        type Result = ();

        fn handle(&mut self, message: RecordHeartbeats, _: &mut Context<Self>) {
            assert_eq!(message.heartbeats.len(), 1);
            self.0.push("heartbeats");
        }
    }

    impl Handler<ConfirmListening> for Notes {
        type Result = ();

        fn handle(&mut self, _: ConfirmListening, _: &mut Context<Self>) {
            self.0.push("confirmation");
        }
    }

    #[derive(Message)]
    #[rtype(result = "Vec<&'static str>")]
    struct Read;

    impl Handler<Read> for Notes {
        type Result = Vec<&'static str>;

        fn handle(&mut self, _: Read, _: &mut Context<Self>) -> Self::Result {
            self.0.clone()
        }
    }

    #[actix_rt::test]
    async fn a_confirmation_comes_after_the_heartbeats_that_it_vouches_for() {
        let now = DateTime::UNIX_EPOCH;
        let device = "pump".parse().expect("an id");
        let heartbeat = Heartbeat::parse(device, b"", now);
        let confirmed =
            Some(ConfirmListening { since: now, until: now, after: GapCause::NotRunning });
        let registry = Notes::default().start();
        hand_over(registry.clone(), Sorted { heartbeats: vec![heartbeat], confirmed }).await;
        assert_eq!(registry.send(Read).await.expect("it lives"), ["heartbeats", "confirmation"]);
    }
}
