//! Owns the connection to the broker and forwards heartbeats to the registry.
//!
//! It subscribes on every connect. It hands over what arrives one whole inbox at a time, and
//! waits for the registry before it takes the next. The backlog then grows in the client's
//! inbox, which is bounded.

mod connecting;
mod echoes;
mod entries;
mod joining;
mod lines;
mod sorted;

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use futures::stream;
use log::{error, info, warn};

use self::connecting::{Connecting, DOUBTED_AFTER};
use self::echoes::{Came, Echoes};
use self::joining::Joining;
use self::lines::Lines;
use self::sorted::Sorted;
use super::device_registry::DeviceRegistry;
use crate::board::Board;
use crate::clock::Clock;
use crate::domain::{GapCause, GroupMark, Stop};
use crate::inbox::{Content, Event};
use crate::logging::outage;
use crate::metrics::Metrics;
use crate::mqtt::{self, ClientError, Connection, Granted};

const TARGET: &str = "mqtt_ingest";

/// The pause after a refused subscription. It is long because a person has to grant rights.
const SUBSCRIBE_AGAIN: Duration = Duration::from_secs(5);

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
    /// Subscribed, but no echo comes back through another node at which devices connect.
    LacksEntry,
    /// Subscribed, but messages are thrown away, or devices kept out.
    Incomplete,
    /// The broker is reached, but has not accepted the subscription.
    Connected,
    /// The broker is not reached.
    Disconnected,
}

/// The actor.
pub struct MqttIngest {
    connection: Box<dyn Connection>,
    registry: Addr<DeviceRegistry>,
    clock: Clock,
    metrics: Arc<Metrics>,
    board: Arc<Board>,
    confirm_interval: Duration,
    listening: Listening,
    /// The number of the newest known connection. Events of an earlier one change nothing.
    newest: u64,
    /// The subscription that the broker has not answered yet, by its connection and the mark of the
    /// group.
    asked: Option<(u64, GroupMark)>,
    /// True while this side ends the connection. One that is made in the meantime ends, too.
    leaving: bool,
    /// True once no other connection follows.
    ends: bool,
    /// True while the missing connection is being diagnosed.
    diagnosing: bool,
    connecting: Connecting,
    /// For a member of a group.
    joining: Option<Joining>,
    echoes: Echoes,
    lines: Lines,
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
        let (broker, client_id) = (connection.broker(), connection.client_id());
        let connecting = Connecting::new(broker, client_id, clock().monotonic);
        let echoes = Echoes::new(connection.echo_topic(), confirm_interval, Arc::clone(&metrics));
        Self {
            connection,
            registry,
            clock,
            metrics,
            board: Arc::new(Board::new(confirm_interval, Duration::MAX)),
            confirm_interval,
            listening: Listening::Disconnected,
            newest: 0,
            asked: None,
            leaving: false,
            ends: false,
            diagnosing: false,
            connecting,
            joining: None,
            echoes,
            lines: Lines::new(),
        }
    }

    /// The same ingest, which writes onto `board` whether the broker is reached.
    #[must_use]
    pub fn with_board(mut self, board: Arc<Board>) -> Self {
        self.board = board;
        self
    }

    /// The same ingest, of a member of a group.
    #[must_use]
    pub fn in_a_group(mut self) -> Self {
        self.joining = Some(Joining::default());
        self
    }

    /// The same ingest at a broker by which a heartbeat may come `settle` later than the echo that was
    /// published after it.
    #[must_use]
    pub fn settling(mut self, settle: Duration) -> Self {
        self.echoes.settle_for(settle);
        self
    }

    /// Puts onto the board whether the broker is reached.
    fn show(&self) {
        let broker = match self.listening {
            Listening::Incomplete => Ok(()),
            Listening::Disconnected => Err(self.connecting.reason()),
            _ => Ok(()),
        };
        let subscribed = self.listening == Listening::Subscribed;
        self.board.change(|facts| facts.broker(broker, subscribed));
    }

    fn is_now(&mut self, listening: Listening) {
        self.listening = listening;
        if listening != Listening::Subscribed {
            self.echoes.interrupt(GapCause::Disconnected);
        }
        self.metrics.set_listening(self.proven() == Listening::Subscribed);
        self.show();
    }

    /// The state with regard to echoes, which may be missing on any connection.
    fn proven(&self) -> Listening {
        match self.listening {
            Listening::Subscribed if self.echoes.are_missing() => Listening::Unproven,
            // A member of a group does not even subscribe then.
            Listening::Subscribed | Listening::Connected if self.echoes.lack_an_entry() => {
                Listening::LacksEntry
            }
            Listening::Subscribed if self.echoes.are_incomplete() => Listening::Incomplete,
            listening => listening,
        }
    }

    /// Subscribes on the newest connection, unless the broker has yet to answer that. An answer
    /// that arrives when there is a newer connection, or none, is ignored.
    fn subscribe(&mut self, ctx: &mut Context<Self>) {
        let (connection, mark) = (self.newest, self.group_mark());
        let asked = Some((connection, mark));
        if std::mem::replace(&mut self.asked, asked) == asked {
            return;
        }
        let subscribing = self.connection.subscribe(mark).into_actor(self);
        ctx.spawn(subscribing.map(move |subscribed, ingest, ctx| {
            ingest.asked.take_if(|answered| Some(*answered) == asked);
            if ingest.newest == connection {
                ingest.subscribed(subscribed, ctx);
            }
        }));
    }

    fn subscribed(&mut self, subscribed: Result<Granted, ClientError>, ctx: &mut Context<Self>) {
        if let Ok(granted) = &subscribed {
            self.lines.granted(*granted);
        }
        match (subscribed, self.listening) {
            (_, Listening::Disconnected) => (),
            (Ok(_), Listening::Connected) => {
                self.is_now(Listening::Subscribed);
                self.begin_after_joining();
                info!(target: TARGET, topic = self.connection.topic(); "listening");
                self.send_echo(ctx);
            }
            (Ok(_), _) => self.echoes.begin((self.clock)()),
            (Err(ClientError::NoAnswer { topic } | ClientError::Lost { topic, .. }), _) => {
                let broker = self.connection.broker();
                warn!(target: TARGET, broker, topic; "the broker does not answer; connecting again");
                self.reconnect(ctx);
            }
            (Err(error), listening) => self.refused(&error, listening, ctx),
        }
    }

    fn refused(&mut self, error: &ClientError, before: Listening, ctx: &mut Context<Self>) {
        if self.joining.is_some() {
            return self.leave_refused(error, before == Listening::Connected, ctx);
        }
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
        let number = self.connecting.begin();
        let connecting = self.connection.connect().into_actor(self);
        ctx.spawn(connecting.map(move |connected, ingest, ctx| {
            if !ingest.connecting.is_newest(number) {
                return;
            }
            match connected {
                Ok(()) => ingest.connecting.succeeded(),
                Err(error) => {
                    ingest.connecting.failed(error);
                    ingest.show();
                    ingest.explain(ctx);
                }
            }
        }));
        ctx.run_later(DOUBTED_AFTER, move |ingest, ctx| {
            if ingest.connecting.is_newest(number) {
                ingest.explain(ctx);
            }
        });
    }

    /// Logs once why the newest attempt to connect does not succeed, if that is known.
    fn explain(&mut self, ctx: &mut Context<Self>) {
        if self.connecting.needs_diagnosis() {
            self.diagnose(ctx, Connecting::explain);
        } else {
            self.connecting.explain(None);
        }
    }

    /// Finds out why there is no connection. Calls `say` with the reason, if one is found,
    /// unless a connection was made in the meantime.
    fn diagnose(
        &mut self,
        ctx: &mut Context<Self>,
        say: impl FnOnce(&mut Connecting, Option<String>) + 'static,
    ) {
        if self.diagnosing {
            return;
        }
        self.diagnosing = true;
        let diagnosing = self.connection.diagnose().into_actor(self);
        ctx.spawn(diagnosing.map(|found, ingest, _| {
            ingest.diagnosing = false;
            if ingest.listening == Listening::Disconnected && !ingest.leaving {
                ingest.connecting.found(found.as_deref());
                ingest.show();
                say(&mut ingest.connecting, found);
            }
        }));
    }

    fn reconnect(&mut self, ctx: &mut Context<Self>) {
        let leaving = self.leave();
        ctx.spawn(leaving.map(|(), ingest, ctx| ingest.connect_again(ctx)));
    }

    /// Connects after an earlier connection was ended. The client may have made one by itself in the
    /// meantime, when it was asked to end one that was lost already. That one was not used, and is
    /// ended first.
    fn connect_again(&mut self, ctx: &mut Context<Self>) {
        if self.ends {
            return;
        }
        if self.connection.number() > self.newest {
            return self.reconnect(ctx);
        }
        self.leaving = false;
        self.connect(ctx);
    }

    /// Ends the connection.
    fn leave(&mut self) -> impl ActorFuture<Self, Output = ()> + use<> {
        self.is_now(Listening::Disconnected);
        self.connecting.is_down((self.clock)().monotonic);
        self.leaving = true;
        // One that is made later is not ended by this.
        let ended = self.connection.number();
        self.connection.disconnect().into_actor(self).map(move |(), ingest, _| {
            ingest.newest = ingest.newest.max(ended);
        })
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

    /// Publishes an echo. Without echoes nothing is proven, and no device goes offline.
    fn send_echo(&mut self, ctx: &mut Context<Self>) {
        let token = match mqtt::random_token() {
            Ok(token) => token,
            Err(error) => return error!(target: TARGET, "no random numbers for an echo: {error}"),
        };
        let now = (self.clock)();
        let missing = self.echoes.send(token, now);
        self.connection.send_echo(token);
        self.send_through_entries(now, ctx);
        if missing {
            // A broker that lost the subscription gets it back. For any other this changes
            // nothing. If no answer comes, the connection is dead.
            self.subscribe(ctx);
        }
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
            Listening::Disconnected => {
                if let Some(lasts) = self.connecting.due(now) {
                    self.diagnose(ctx, move |connecting, found| connecting.remind(lasts, found));
                }
            }
            Listening::Unproven | Listening::LacksEntry => self.echoes.remind(now),
            Listening::Incomplete | Listening::Connected | Listening::Subscribed => (),
        }
    }

    /// Handles the events of the connection and returns what is for the registry.
    fn sort(&mut self, content: Content, ctx: &mut Context<Self>) -> Sorted {
        let Content { heartbeats, events } = content;
        let mut confirmed = None;
        for event in events {
            match event {
                Event::Rejected(rejection) => {
                    self.metrics.rejected(&rejection);
                    self.lines.rejected(&rejection);
                }
                Event::Echo(token) => match self.echoes.take(token, (self.clock)()) {
                    Came::Proves(proof) => confirmed = Some(proof),
                    Came::CaughtUp(stop) => self.catch_up(stop),
                    Came::Nothing => (),
                },
                Event::Stopped(stop) => self.was_stopped(stop, ctx),
                Event::Connected { connection } => self.connected(connection, ctx),
                Event::Disconnected { connection, why } => self.lost(connection, &why),
                Event::Shed(count) => {
                    self.metrics.shed(count);
                    let now = (self.clock)().monotonic;
                    self.board.change(|facts| facts.shed(now));
                    // It is not known whose messages were thrown away.
                    self.echoes.missed((self.clock)(), GapCause::Shed);
                    confirmed = None;
                    self.lines.shed(count);
                }
                Event::ShutOut => {
                    // It is not known who is silent only because it was shut out.
                    self.echoes.missed((self.clock)(), GapCause::ShutOut);
                    confirmed = None;
                    self.lines.shut_out();
                }
            }
        }
        if let Some(proof) = &confirmed {
            self.echoes.have_proven(proof);
        }
        Sorted { heartbeats, confirmed, now: (self.clock)() }
    }

    /// Begins a new round after a stop of the process, with an echo that comes back behind
    /// everything that has waited. Where none is published, being connected is the evidence.
    fn was_stopped(&mut self, stop: Stop, ctx: &mut Context<Self>) {
        self.echoes.stopped(stop, (self.clock)());
        if self.connection.echo_topic().is_none() {
            self.catch_up(stop);
        } else {
            self.echo_if_subscribed(ctx);
        }
    }

    /// Lets messages be dated as they come again, and listens from then on: what was dated
    /// otherwise has come before.
    fn catch_up(&mut self, stop: Stop) {
        if self.connection.inbox().all_arrived(stop) {
            self.echoes.caught_up((self.clock)());
        }
    }

    /// Hands the content of the inbox over to the registry. It is done when the registry has it.
    fn hand_over(
        &mut self,
        content: Content,
        ctx: &mut Context<Self>,
    ) -> impl ActorFuture<Self, Output = ()> + use<> {
        let sorted = self.sort(content, ctx);
        let proven = sorted.confirmed.as_ref().map(|confirmed| confirmed.until);
        let handing_over = sorted.hand_over(self.registry.clone()).into_actor(self);
        handing_over.map(move |emptied, ingest, _| {
            ingest.connection.inbox().give_back(emptied);
            ingest.has_proven(proven);
        })
    }

    fn connected(&mut self, connection: u64, ctx: &mut Context<Self>) {
        if connection <= self.newest || self.leaving {
            return;
        }
        self.newest = connection;
        self.is_now(Listening::Connected);
        self.connecting.made((self.clock)().monotonic);
        if self.joining.is_some() {
            self.join(ctx);
        } else {
            self.subscribe(ctx);
        }
    }

    fn lost(&mut self, connection: u64, why: &str) {
        if connection != self.newest || self.listening == Listening::Disconnected {
            return;
        }
        self.is_now(Listening::Disconnected);
        self.connecting.lost(why, (self.clock)().monotonic);
        self.show();
    }
}

impl Actor for MqttIngest {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let inbox = self.connection.inbox();
        ctx.add_stream(stream::unfold((), move |()| {
            let inbox = Arc::clone(&inbox);
            async move { Some((inbox.take().await, ())) }
        }));
        self.connect(ctx);
        self.schedule_echo(ctx);
        self.schedule_reminder(ctx);
    }
}

impl StreamHandler<Content> for MqttIngest {
    fn handle(&mut self, content: Content, ctx: &mut Context<Self>) {
        // The reply is the backpressure: nothing else is done until it arrives.
        let handing_over = self.hand_over(content, ctx);
        ctx.wait(handing_over);
    }

    /// Does nothing, because the inbox never ends. The default would stop the actor.
    fn finished(&mut self, _: &mut Context<Self>) {}
}

impl Handler<Disconnect> for MqttIngest {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, _: Disconnect, _: &mut Context<Self>) -> Self::Result {
        self.ends = true;
        let inbox = self.connection.inbox();
        let leaving = self.leave_the_group().then(|(), ingest, _| ingest.leave());
        Box::pin(leaving.then(move |(), ingest, ctx| {
            // What the receiver takes in from now on would be acknowledged and lost.
            inbox.close();
            let handing_over = ingest.hand_over(inbox.rest(), ctx);
            info!(target: TARGET, "disconnected");
            handing_over
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
