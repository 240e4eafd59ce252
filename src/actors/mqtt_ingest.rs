//! Owns the connection to the broker and forwards heartbeats to the registry.
//!
//! It subscribes on every connect. It hands over what arrives one whole inbox at a time, and
//! waits for the registry before it takes the next. The backlog then grows in the client's
//! inbox, which is bounded.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use futures::stream;
use log::{debug, error, info, warn};

use super::device_registry::{ConfirmListening, DeviceRegistry, RecordHeartbeats};
use super::log_rejection;
use crate::clock::Clock;
use crate::domain::{EchoIgnored, EchoToken, GapCause, Heartbeat, Proof, Reading, Rounds};
use crate::logging::line_budget::LineBudget;
use crate::logging::outage::{self, Outage};
use crate::metrics::Metrics;
use crate::mqtt::{self, ClientError, Connection, Event, Granted};

const TARGET: &str = "mqtt_ingest";

/// The pause after a refused subscription. It is long because people grant the rights.
const SUBSCRIBE_AGAIN: Duration = Duration::from_secs(5);

/// The time that an attempt to connect may take before it is diagnosed. The client itself
/// gives an attempt ten seconds.
const DOUBTED_AFTER: Duration = Duration::from_secs(3);

/// A connection that lasts for less than this was lost right after it was made.
const EARLY: Duration = Duration::from_secs(5);

/// The number of such connections in a row that is not a coincidence.
const LOST_EARLY: u32 = 3;

/// Stops listening. Replies when everything that was received is with the registry.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Disconnect;

/// Sends an echo now, besides the schedule.
#[doc(hidden)]
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct EchoNow;

/// Reports the state for readiness.
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

/// An attempt to connect.
#[derive(Default)]
struct Attempt {
    number: u64,
    /// True if the broker has refused it. A probe does not know better.
    refused: bool,
    /// True once it has succeeded, or once the log says why it does not.
    explained: bool,
}

/// The events since the last time, in order.
struct Events(Vec<Event>);

/// The actor.
pub struct MqttIngest {
    connection: Box<dyn Connection>,
    registry: Addr<DeviceRegistry>,
    clock: Clock,
    metrics: Arc<Metrics>,
    confirm_interval: Duration,
    listening: Listening,
    /// The number of the newest known connection. Events of an earlier one change nothing.
    newest: u64,
    /// True while this side ends the connection. One that is made in the meantime ends, too.
    leaving: bool,
    /// The newest attempt to connect.
    attempt: Attempt,
    rounds: Rounds,
    /// The time in which no echo comes back, once that was said.
    echo_missing: Option<Outage>,
    /// The time without a connection, while there is none.
    down: Option<Outage>,
    /// The time at which the newest connection was made.
    up_since: Instant,
    /// The number of connections in a row that were lost right after they were made.
    lost_early: u32,
    /// True while the missing connection is being diagnosed.
    diagnosing: bool,
    /// The quality of service that the last warning about it named.
    said_granted: Option<u8>,
    rejections: LineBudget,
    foreign_echoes: LineBudget,
    sheds: LineBudget,
}

impl MqttIngest {
    /// An ingest of what arrives through `connection`, proven every `confirm_interval`.
    pub fn new(
        connection: Box<dyn Connection>,
        registry: Addr<DeviceRegistry>,
        confirm_interval: Duration,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            connection,
            registry,
            clock,
            metrics,
            confirm_interval,
            listening: Listening::Disconnected,
            newest: 0,
            leaving: false,
            attempt: Attempt::default(),
            rounds: Rounds::new(confirm_interval),
            echo_missing: None,
            down: Some(Outage::begin(clock().monotonic)),
            up_since: clock().monotonic,
            lost_early: 0,
            diagnosing: false,
            said_granted: None,
            rejections: LineBudget::new(TARGET, "rejected messages"),
            foreign_echoes: LineBudget::new(TARGET, "echoes that are not ours"),
            sheds: LineBudget::new(TARGET, "messages thrown away"),
        }
    }

    fn is_now(&mut self, listening: Listening) {
        self.listening = listening;
        if listening != Listening::Subscribed {
            self.rounds.interrupt(GapCause::Disconnected);
        }
        self.metrics.set_listening(self.proven() == Listening::Subscribed);
    }

    /// The state with regard to echoes, which may be missing on any connection.
    fn proven(&self) -> Listening {
        match self.listening {
            Listening::Subscribed if self.echo_missing.is_some() => Listening::Unproven,
            listening => listening,
        }
    }

    /// Subscribes on the newest connection. An answer that arrives when there is a newer
    /// connection, or none, is ignored.
    fn subscribe(&self, ctx: &mut Context<Self>) {
        let connection = self.newest;
        let subscribing = self.connection.subscribe().into_actor(self);
        ctx.spawn(subscribing.map(move |subscribed, ingest, ctx| {
            if ingest.newest == connection {
                ingest.subscribed(subscribed, ctx);
            }
        }));
    }

    fn subscribed(&mut self, subscribed: Result<Granted, ClientError>, ctx: &mut Context<Self>) {
        if let Ok(granted) = &subscribed {
            self.note_granted(*granted);
        }
        match (subscribed, self.listening) {
            (_, Listening::Disconnected) => (),
            (Ok(_), Listening::Subscribed | Listening::Unproven) => {
                self.rounds.begin((self.clock)());
            }
            (Ok(_), Listening::Connected) => {
                self.is_now(Listening::Subscribed);
                self.rounds.begin((self.clock)());
                info!(target: TARGET, topic = self.connection.topic(); "listening");
                self.send_echo(ctx);
            }
            (Err(ClientError::NoAnswer { .. }), _) => {
                let broker = self.connection.broker();
                warn!(target: TARGET, broker; "the broker does not answer; connecting again");
                self.reconnect(ctx);
            }
            (Err(error), _) => self.refused(&error, ctx),
        }
    }

    fn note_granted(&mut self, Granted { asked, granted }: Granted) {
        if granted < asked && self.said_granted != Some(granted) {
            self.said_granted = Some(granted);
            warn!(
                target: TARGET, asked, granted;
                "the broker grants only QoS {granted}, and mqtt.qos = {asked} asks for more; \
                 heartbeats and echoes use what it grants"
            );
        }
    }

    fn refused(&mut self, error: &ClientError, ctx: &mut Context<Self>) {
        error!(target: TARGET, "{error}");
        self.is_now(Listening::Connected);
        let connection = self.newest;
        ctx.run_later(SUBSCRIBE_AGAIN, move |ingest, ctx| {
            // A newer connection has subscribed, or will.
            if ingest.newest == connection && ingest.listening == Listening::Connected {
                ingest.subscribe(ctx);
            }
        });
    }

    fn connect(&mut self, ctx: &mut Context<Self>) {
        let number = self.attempt.number + 1;
        self.attempt = Attempt { number, ..Attempt::default() };
        let connecting = self.connection.connect().into_actor(self);
        ctx.spawn(connecting.map(move |connected, ingest, ctx| {
            if ingest.attempt.number != number {
                return;
            }
            match connected {
                Ok(()) => ingest.attempt.explained = true,
                Err(error) => ingest.connect_failed(error, ctx),
            }
        }));
        ctx.run_later(DOUBTED_AFTER, move |ingest, ctx| {
            if ingest.attempt.number == number {
                ingest.explain(ctx);
            }
        });
    }

    fn connect_failed(&mut self, error: ClientError, ctx: &mut Context<Self>) {
        if let Some(down) = &mut self.down {
            self.attempt.refused = matches!(error, ClientError::Refused(_));
            down.because(match error {
                ClientError::Connect(why) | ClientError::Refused(why) => why,
                other => other.to_string(),
            });
        }
        self.explain(ctx);
    }

    /// Says once why the newest attempt to connect does not succeed, if that is known.
    fn explain(&mut self, ctx: &mut Context<Self>) {
        if self.listening != Listening::Disconnected || self.attempt.explained {
            return;
        }
        if self.attempt.refused {
            return self.say_why_not_connected(None);
        }
        self.diagnose(ctx, |reason, ingest| ingest.say_why_not_connected(reason));
    }

    fn say_why_not_connected(&mut self, reason: Option<String>) {
        // Without a reason it is slow, and may succeed yet.
        let Some(why) = why_down(self.down.as_ref(), reason) else { return };
        if !std::mem::replace(&mut self.attempt.explained, true) {
            let broker = self.connection.broker();
            error!(target: TARGET, broker; "cannot connect: {why}; retrying");
        }
    }

    /// Finds out why there is no connection. Calls `say` with the reason unless a connection
    /// was made in the meantime.
    fn diagnose(
        &mut self,
        ctx: &mut Context<Self>,
        say: impl FnOnce(Option<String>, &mut Self) + 'static,
    ) {
        if self.diagnosing {
            return;
        }
        self.diagnosing = true;
        let diagnosing = self.connection.diagnose().into_actor(self);
        ctx.spawn(diagnosing.map(|reason, ingest, _| {
            ingest.diagnosing = false;
            if ingest.listening == Listening::Disconnected && !ingest.leaving {
                say(reason, ingest);
            }
        }));
    }

    fn reconnect(&mut self, ctx: &mut Context<Self>) {
        let leaving = self.leave();
        ctx.spawn(leaving.map(|(), ingest, ctx| {
            ingest.leaving = false;
            ingest.connect(ctx);
        }));
    }

    /// Ends the connection, and any that is made in the meantime.
    fn leave(&mut self) -> impl ActorFuture<Self, Output = ()> + use<> {
        self.is_disconnected((self.clock)().monotonic);
        self.leaving = true;
        self.connection.disconnect().into_actor(self).map(|(), ingest, _| {
            ingest.newest = ingest.newest.max(ingest.connection.number());
        })
    }

    fn is_disconnected(&mut self, now: Instant) {
        self.is_now(Listening::Disconnected);
        self.down = Some(Outage::begin(now));
    }

    /// Sends an echo every interval while subscribed. Each echo schedules the next, so that a
    /// process that was stopped does not send a burst.
    fn schedule_echo(&self, ctx: &mut Context<Self>) {
        ctx.run_later(self.confirm_interval, |ingest, ctx| {
            ingest.echo_if_subscribed(ctx);
            ingest.schedule_echo(ctx);
        });
    }

    fn echo_if_subscribed(&mut self, ctx: &mut Context<Self>) {
        if self.listening == Listening::Subscribed {
            self.send_echo(ctx);
        }
    }

    /// Without echoes nothing is proven and no device goes offline.
    fn send_echo(&mut self, ctx: &mut Context<Self>) {
        let token = match mqtt::random_token() {
            Ok(token) => token,
            Err(error) => return error!(target: TARGET, "no random numbers for an echo: {error}"),
        };
        let now = (self.clock)();
        let missing = self.rounds.send(token, now);
        self.connection.send_echo(token);
        let (Some(missing), Some(topic)) = (missing, self.connection.echo_topic()) else {
            return;
        };
        if self.echo_missing.is_none() {
            self.echo_missing = Some(Outage::begin(now.monotonic));
            self.metrics.set_listening(false);
            error!(
                target: TARGET, topic, seconds = missing.as_secs_f64();
                "no echo comes back, so nothing proves that heartbeats do, and no device goes \
                 offline; the broker must allow this client to write and to read this topic \
                 (or set mqtt.echo_interval = \"0s\")"
            );
        }
        // An echo that comes back before the answer does not tell since when the
        // subscription is there again.
        self.rounds.interrupt(GapCause::NoEcho);
        // A broker that lost the subscription gets it back. For any other this changes
        // nothing. If no answer comes, the connection is dead.
        self.subscribe(ctx);
    }

    fn schedule_reminder(&self, ctx: &mut Context<Self>) {
        ctx.run_later(outage::REMINDER, |ingest, ctx| {
            ingest.remind(ctx);
            ingest.schedule_reminder(ctx);
        });
    }

    fn remind(&mut self, ctx: &mut Context<Self>) {
        let now = (self.clock)().monotonic;
        match self.proven() {
            Listening::Disconnected => self.remind_of_connection(now, ctx),
            Listening::Unproven => self.remind_of_echo(now),
            Listening::Connected | Listening::Subscribed => (),
        }
    }

    fn remind_of_connection(&mut self, now: Instant, ctx: &mut Context<Self>) {
        let lasts = self.down.as_mut().and_then(|down| down.remind(now));
        let Some(seconds) = lasts.map(|lasts| lasts.as_secs()) else { return };
        self.diagnose(ctx, move |reason, ingest| {
            let why = why_down(ingest.down.as_ref(), reason);
            let why = why.map_or(String::new(), |why| format!(": {why}"));
            let broker = ingest.connection.broker();
            error!(target: TARGET, broker, seconds; "still not connected{why}; retrying");
        });
    }

    fn remind_of_echo(&mut self, now: Instant) {
        let lasts = self.echo_missing.as_mut().and_then(|missing| missing.remind(now));
        if let Some(seconds) = lasts.map(|lasts| lasts.as_secs()) {
            let topic = self.connection.echo_topic();
            error!(target: TARGET, topic, seconds; "still no echo comes back, and no device goes offline");
        }
    }

    fn take_echo(&mut self, token: EchoToken) -> Option<ConfirmListening> {
        let Proof { since, until, after, latency } = match self.rounds.take(token, (self.clock)()) {
            Ok(proof) => proof,
            Err(why) => {
                self.ignore_echo(why);
                return None;
            }
        };
        self.metrics.echoed(latency.as_secs_f64());
        debug!(target: TARGET, latency_ms = latency.as_millis(); "echo came back");
        self.metrics.set_proven(until);
        if self.echo_missing.take().is_some() {
            self.is_now(self.listening);
            info!(target: TARGET, "echoes come back again");
        }
        Some(ConfirmListening { since, until, after })
    }

    fn ignore_echo(&self, why: EchoIgnored) {
        self.metrics.echo_ignored(why);
        if let Some(topic) = self.connection.echo_topic()
            && why.is_foreign()
        {
            self.foreign_echoes.spend(|| mqtt::warn_of_foreign_echo(topic, why));
        }
    }

    /// Handles the events of the connection and returns what is for the registry.
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
                Event::Echo(token) => confirmed = self.take_echo(token).or(confirmed),
                Event::Connected { connection } => self.connected(connection, ctx),
                Event::Disconnected { connection, why } => self.lost(connection, &why),
                Event::Shed(count) => {
                    self.metrics.shed(count);
                    // It is not known whose messages were thrown away.
                    self.rounds.restart((self.clock)(), GapCause::Shed);
                    confirmed = None;
                    self.sheds.spend(|| {
                        error!(target: TARGET, count; "threw messages away because more than mqtt.max_backlog were waiting");
                    });
                }
            }
        }
        Sorted { heartbeats, confirmed, now: (self.clock)() }
    }

    fn connected(&mut self, connection: u64, ctx: &mut Context<Self>) {
        if connection <= self.newest || self.leaving {
            return;
        }
        self.newest = connection;
        self.down = None;
        self.up_since = (self.clock)().monotonic;
        self.is_now(Listening::Connected);
        info!(target: TARGET, broker = self.connection.broker(); "connected");
        self.subscribe(ctx);
    }

    fn lost(&mut self, connection: u64, why: &str) {
        if connection != self.newest || self.listening == Listening::Disconnected {
            return;
        }
        let now = (self.clock)().monotonic;
        self.is_disconnected(now);
        warn!(target: TARGET, broker = self.connection.broker(); "disconnected: {why}; reconnecting");
        self.note_early_loss(now);
    }

    /// Warns of connections that do not last. Two clients with the same id, for example, throw
    /// each other off the broker forever.
    fn note_early_loss(&mut self, now: Instant) {
        if now.saturating_duration_since(self.up_since) >= EARLY {
            self.lost_early = 0;
            return;
        }
        self.lost_early = self.lost_early.saturating_add(1);
        if self.lost_early == LOST_EARLY {
            let client_id = self.connection.client_id();
            warn!(
                target: TARGET, client_id, times = LOST_EARLY;
                "the connection is lost again and again right after it was made: does another \
                 client use mqtt.client_id = {client_id:?}? Each client needs its own. Or the broker \
                 closes it because it forbids what this client publishes or subscribes to"
            );
        }
    }
}

/// The reason why there is no connection: the one that was just found, or else what the
/// client said last.
fn why_down(down: Option<&Outage>, found: Option<String>) -> Option<String> {
    found.or_else(|| down?.why().map(str::to_owned))
}

/// The content of an inbox that is for the registry.
struct Sorted {
    heartbeats: Vec<Heartbeat>,
    confirmed: Option<ConfirmListening>,
    /// The reading of the clocks after all of it was received.
    now: Reading,
}

/// Hands over the heartbeats first, because a confirmation says that they are with the
/// registry.
async fn hand_over<R>(registry: Addr<R>, sorted: Sorted)
where
    R: Actor<Context = Context<R>> + Handler<RecordHeartbeats> + Handler<ConfirmListening>,
{
    let Sorted { heartbeats, confirmed, now } = sorted;
    let mut handed = Ok(());
    if !heartbeats.is_empty() {
        handed = registry.send(RecordHeartbeats { heartbeats, now }).await;
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
        let inbox = self.connection.inbox();
        ctx.add_stream(stream::unfold((), move |()| {
            let inbox = Arc::clone(&inbox);
            async move { Some((Events(inbox.take().await), ())) }
        }));
        self.connect(ctx);
        self.schedule_echo(ctx);
        self.schedule_reminder(ctx);
    }
}

impl StreamHandler<Events> for MqttIngest {
    fn handle(&mut self, Events(events): Events, ctx: &mut Context<Self>) {
        let sorted = self.sort(events, ctx);
        // The reply is the backpressure: nothing else is done until it arrives.
        ctx.wait(hand_over(self.registry.clone(), sorted).into_actor(self));
    }

    /// Does nothing, because the inbox never ends. The default would stop the actor.
    fn finished(&mut self, _: &mut Context<Self>) {}
}

impl Handler<Disconnect> for MqttIngest {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, _: Disconnect, _: &mut Context<Self>) -> Self::Result {
        let inbox = self.connection.inbox();
        Box::pin(self.leave().then(move |(), ingest, ctx| {
            let rest = ingest.sort(inbox.rest(), ctx);
            info!(target: TARGET, "disconnected");
            hand_over(ingest.registry.clone(), rest).into_actor(ingest)
        }))
    }
}

impl Handler<EchoNow> for MqttIngest {
    type Result = ();

    fn handle(&mut self, _: EchoNow, ctx: &mut Context<Self>) {
        self.echo_if_subscribed(ctx);
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
    use chrono::DateTime;

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

    #[test]
    fn a_reminder_says_what_was_just_found_or_else_what_the_client_said() {
        let mut down = Outage::begin(Instant::now());
        assert_eq!(why_down(Some(&down), None), None);
        let (found, said) = ("nobody listens".to_owned(), "it is banned".to_owned());
        down.because(said.clone());
        assert_eq!(why_down(Some(&down), None), Some(said));
        assert_eq!(why_down(Some(&down), Some(found.clone())), Some(found));
    }

    #[actix_rt::test]
    async fn a_confirmation_comes_after_the_heartbeats_that_it_vouches_for() {
        let now = DateTime::UNIX_EPOCH;
        let device = "pump".parse().expect("an id");
        let heartbeat = Heartbeat::parse(device, b"", now);
        let confirmed =
            Some(ConfirmListening { since: now, until: now, after: GapCause::NotRunning });
        let registry = Notes::default().start();
        let now = Reading { wall: now, monotonic: Instant::now() };
        let sorted = Sorted { heartbeats: vec![heartbeat], confirmed, now };
        hand_over(registry.clone(), sorted).await;
        assert_eq!(registry.send(Read).await.expect("it lives"), ["heartbeats", "confirmation"]);
    }
}
