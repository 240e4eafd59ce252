//! A member of a group: a real registry on the database that all members have, and what its ingest
//! does on a broker with shared subscriptions.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix::prelude::*;
use chrono::{DateTime, Utc};
use fastrand::Rng;
use futures::future::LocalBoxFuture;
use heartbeatd::actors::device_registry::{
    DeviceRegistry, EndStay, Flush, Found, JoinGroup, Leave, Settings, StayEnded,
};
use heartbeatd::domain::{DatabaseTimeline, EchoToken, GapCause};
use heartbeatd::metrics::Metrics;
use heartbeatd::mqtt::EndSession;
use heartbeatd::store::DeviceStore;

use super::clocks_apart::{self, CLOCKS, now};
use super::intake::{Intake, Message};
use super::observer::instance_name;
use super::share_broker::{ConnectionId, ShareBroker, Subscription};
use super::wire::Wire;
use super::work::{Every, Work};

/// All times are in milliseconds.
pub const ECHO: i64 = 500;
const EVERY: Every = Every { flush: 500, look: 500, check: 2_000 };
/// The pause before a lost connection is made anew.
const RECONNECT: i64 = 200;
/// The pause before an instance that could not join tries again.
const JOIN_AGAIN: i64 = 50;
/// The longest time for which a member that leaves waits for its last echo.
const LAST_ECHO: i64 = 2_000;
/// The messages that a slow member reads at once.
const SLOWLY: usize = 4;
pub const GROUP: &str = "halls";

thread_local! {
    static BROKER: RefCell<Option<ShareBroker<Message>>> = const { RefCell::new(None) };
}

/// Gives this thread's members their broker.
pub fn begin_with(broker: ShareBroker<Message>) {
    BROKER.set(Some(broker));
}

/// Does something with the broker.
pub fn at_broker<T>(act: impl FnOnce(&mut ShareBroker<Message>) -> T) -> T {
    BROKER.with_borrow_mut(|broker| act(broker.as_mut().expect("it is there from the beginning")))
}

/// A member, whose process comes and goes.
pub struct Member {
    pub number: usize,
    pub process: Option<Process>,
    pub starts_at: i64,
    pub hangs: bool,
    pub slow: bool,
    net: Arc<AtomicBool>,
}

/// The place of a process among the sessions of the broker.
#[derive(Clone, Copy, Debug)]
enum Link {
    /// It connects at this time.
    Down {
        connects_at: i64,
    },
    /// It is connected, and asks at this time to join.
    Connected {
        on: ConnectionId,
        joins_at: i64,
    },
    /// It has asked to join, or has joined, and is about to subscribe.
    Joining {
        on: ConnectionId,
        joined: Option<DatabaseTimeline>,
    },
    Subscribed {
        on: ConnectionId,
    },
    /// It has unsubscribed, and waits for the proof of this instant.
    Leaving {
        on: ConnectionId,
        last: DateTime<Utc>,
        until: i64,
    },
    /// It has disconnected for good.
    Left,
}

impl Link {
    fn connection(self) -> Option<ConnectionId> {
        match self {
            Self::Connected { on, .. }
            | Self::Joining { on, .. }
            | Self::Subscribed { on }
            | Self::Leaving { on, .. } => Some(on),
            Self::Down { .. } | Self::Left => None,
        }
    }
}

/// One process of a member.
pub struct Process {
    number: usize,
    registry: Addr<DeviceRegistry>,
    pub wire: Arc<Wire>,
    net: Arc<AtomicBool>,
    intake: Intake,
    link: Link,
    /// The number of connections that it has made.
    connections: u64,
    joined_at: DateTime<Utc>,
    letters: Letters,
    clerk: Addr<Clerk>,
    work: Work,
}

type Letters = Rc<RefCell<VecDeque<Letter>>>;

/// A message of the registry to the ingest.
enum Letter {
    Joined { connection: u64, timeline: Option<DatabaseTimeline> },
    StayEnded(StayEnded),
    Left,
}

/// Takes what the registry says when nobody has asked.
struct Clerk(Letters);

impl Actor for Clerk {
    type Context = Context<Self>;
}

impl Handler<StayEnded> for Clerk {
    type Result = ();

    fn handle(&mut self, ended: StayEnded, _: &mut Context<Self>) {
        self.0.borrow_mut().push_back(Letter::StayEnded(ended));
    }
}

/// Ends sessions at the broker, if that is reached.
struct Takeover {
    net: Arc<AtomicBool>,
    wire: Arc<Wire>,
}

impl EndSession for Takeover {
    fn end_session(&self, client: &str) -> LocalBoxFuture<'static, Result<(), String>> {
        let (client, net, wire) =
            (client.to_owned(), Arc::clone(&self.net), Arc::clone(&self.wire));
        Box::pin(async move {
            wire.runs().await;
            let connect = |reaches: bool| at_broker(|b| reaches.then(|| b.connect(&client, now())));
            let session = connect(net.load(Ordering::SeqCst)).flatten();
            let session = session.ok_or("the broker cannot be reached")?;
            at_broker(|broker| broker.close(session));
            // It may be stopped before it ends the stay.
            wire.runs().await;
            Ok(())
        })
    }
}

impl Member {
    pub fn new(number: usize, starts_at: i64) -> Self {
        let net = Arc::new(AtomicBool::new(true));
        Self { number, process: None, starts_at, hangs: false, slow: false, net }
    }

    pub fn set_net(&self, up: bool) {
        self.net.store(up, Ordering::SeqCst);
    }

    /// True if nothing of its process runs, not even the threads of its connection.
    fn is_stopped(&self) -> bool {
        !self.hangs && self.process.as_ref().is_some_and(|process| process.wire.is_stopped())
    }

    /// Begins a process with a store behind a wire.
    pub async fn start(
        &mut self,
        mut settings: Settings,
        store: DeviceStore,
        wire: Arc<Wire>,
        rng: &mut Rng,
    ) {
        settings.instance = instance_name(self.number);
        settings.look_interval = Duration::from_millis(EVERY.look.unsigned_abs());
        let found = Found::read(&store, &settings).await.expect("it reads nothing");
        let takeover = Takeover { net: Arc::clone(&self.net), wire: Arc::clone(&wire) };
        let clock = CLOCKS[self.number];
        let registry = DeviceRegistry::new(settings, store, found, Arc::new(Metrics::new()))
            .in_a_group(Arc::new(takeover))
            .with_clock(clock)
            .with_clock_offset(clocks_apart::offset(self.number))
            .start();
        let letters = Letters::default();
        let echo_at = now() + rng.i64(0..ECHO);
        self.process = Some(Process {
            number: self.number,
            registry,
            wire,
            net: Arc::clone(&self.net),
            intake: Intake::new(clock, Duration::from_millis(ECHO.unsigned_abs()), echo_at),
            link: Link::Down { connects_at: now() + 100 },
            connections: 0,
            joined_at: clock().wall,
            clerk: Clerk(Rc::clone(&letters)).start(),
            letters,
            work: Work::new(self.number, EVERY, rng),
        });
    }

    /// Ends the process at once. The kernel closes its sockets.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.wire.kill();
            process.disconnect(0);
        }
        (self.hangs, self.slow) = (false, false);
    }

    /// Lets the process do what it does in a moment. True if it has left.
    pub async fn run(&mut self, token: EchoToken) -> bool {
        if self.is_stopped() {
            return false;
        }
        let at_once = if self.slow { SLOWLY } else { usize::MAX };
        let hangs = self.hangs;
        let Some(process) = &mut self.process else { return false };
        process.read_socket(at_once);
        if hangs {
            return false;
        }
        process.run(token).await
    }

    /// Begins to leave in good order, if it can.
    pub fn leave(&mut self) -> bool {
        if self.hangs || self.is_stopped() {
            return false;
        }
        self.process.as_mut().is_some_and(Process::unsubscribe)
    }
}

impl Process {
    fn reaches_broker(&self) -> bool {
        self.net.load(Ordering::SeqCst) && at_broker(|broker| broker.is_up())
    }

    async fn run(&mut self, token: EchoToken) -> bool {
        let letters = std::mem::take(&mut *self.letters.borrow_mut());
        for letter in letters {
            match letter {
                Letter::Joined { connection, timeline } => self.joined(connection, timeline),
                Letter::StayEnded(ended) => self.stay_ended(&ended),
                Letter::Left => return true,
            }
        }
        let proven = self.intake.hand_over(&self.registry).await;
        self.go_on_leaving(proven);
        self.go_on_connecting();
        self.echo(token);
        self.work.begin_what_is_due(&self.registry);
        self.work.is_done(&self.wire).await;
        false
    }

    // --- The broker ---

    /// Does the work of the MQTT client's thread.
    fn read_socket(&mut self, at_once: usize) {
        let connection = self.link.connection().filter(|_| self.net.load(Ordering::SeqCst));
        let mut messages = Vec::new();
        if let Some(on) = connection {
            messages = at_broker(|broker| broker.read(on, at_once));
            if messages.is_empty() && !at_broker(|broker| broker.is_open(on)) {
                self.intake.rounds.interrupt(GapCause::Disconnected);
                self.lost();
            }
            at_broker(|broker| broker.ping(on, now()));
        }
        self.intake.take_in(messages);
    }

    fn lost(&mut self) {
        match &mut self.link {
            // There is nothing to wait for any more.
            Link::Leaving { until, .. } => *until = now(),
            _ => self.disconnect(RECONNECT),
        }
    }

    /// Ends the connection, and makes another one after a pause. Without a network the broker is
    /// not told.
    fn disconnect(&mut self, pause: i64) {
        if let Some(on) = self.link.connection()
            && self.net.load(Ordering::SeqCst)
        {
            at_broker(|broker| broker.close(on));
        }
        self.link = Link::Down { connects_at: now() + pause };
    }

    fn go_on_connecting(&mut self) {
        match self.link {
            Link::Down { connects_at } if now() >= connects_at && self.reaches_broker() => {
                let connected =
                    at_broker(|broker| broker.connect(&instance_name(self.number), now()));
                if let Some(on) = connected {
                    self.connections += 1;
                    self.join(on);
                }
            }
            Link::Connected { on, joins_at } if now() >= joins_at => self.join(on),
            Link::Joining { on, joined: Some(timeline) } if self.reaches_broker() => {
                let name = Subscription::Shared(format!("{GROUP}.{timeline}"));
                if at_broker(|broker| broker.subscribe(on, name, now())) {
                    self.link = Link::Subscribed { on };
                    self.intake.rounds.begin_since(self.joined_at, CLOCKS[self.number]());
                    self.intake.echo_at = now();
                }
            }
            _ => (),
        }
    }

    /// Publishes an echo if one is due.
    fn echo(&mut self, token: EchoToken) {
        let (Link::Subscribed { on } | Link::Leaving { on, .. }) = self.link else { return };
        if now() < self.intake.echo_at {
            return;
        }
        self.intake.echo_at = now() + ECHO;
        let missing = self.intake.rounds.send(token, CLOCKS[self.number]());
        if self.reaches_broker() {
            at_broker(|broker| broker.echo(on, Message::Echo(token), now()));
        }
        if missing.is_some() && matches!(self.link, Link::Subscribed { .. }) {
            // The connection is dead.
            self.intake.rounds.interrupt(GapCause::NoEcho);
            self.disconnect(RECONNECT);
        }
    }

    // --- The group ---

    fn join(&mut self, on: ConnectionId) {
        self.link = Link::Joining { on, joined: None };
        self.joined_at = CLOCKS[self.number]().wall;
        let (connection, connected_at) = (self.connections, self.joined_at);
        let ended = self.clerk.clone().recipient();
        let joining = self.registry.send(JoinGroup { connection, connected_at, ended });
        let letters = Rc::clone(&self.letters);
        self.work.begin(async move {
            let timeline = joining.await.expect("it lives").ok().map(|mark| mark.timeline);
            letters.borrow_mut().push_back(Letter::Joined { connection, timeline });
        });
    }

    fn joined(&mut self, connection: u64, timeline: Option<DatabaseTimeline>) {
        let Link::Joining { on, joined: None } = self.link else { return };
        if connection != self.connections {
            return;
        }
        self.link = match timeline {
            Some(_) => Link::Joining { on, joined: timeline },
            None => Link::Connected { on, joins_at: now() + JOIN_AGAIN },
        };
    }

    fn stay_ended(&mut self, StayEnded { connection, pause }: &StayEnded) {
        let is_leaving = matches!(self.link, Link::Leaving { .. } | Link::Left);
        if *connection != self.connections || is_leaving || self.link.connection().is_none() {
            return;
        }
        self.intake.rounds.interrupt(GapCause::Disconnected);
        self.disconnect(i64::try_from(pause.as_millis()).unwrap_or(i64::MAX));
    }

    /// Ends the subscription. What came by it is still to be read.
    fn unsubscribe(&mut self) -> bool {
        let Link::Subscribed { on } = self.link else { return false };
        if !self.reaches_broker() || !at_broker(|broker| broker.is_open(on)) {
            return false;
        }
        at_broker(|broker| broker.unsubscribe(on, now()));
        let last = CLOCKS[self.number]().wall;
        self.registry.do_send(EndStay { at: last, refused: false });
        self.link = Link::Leaving { on, last, until: now() + LAST_ECHO };
        // The end of the stay is rounded up to a millisecond.
        self.intake.echo_at = now() + 5;
        true
    }

    /// Writes everything and ends the stay, once all of it has arrived.
    fn go_on_leaving(&mut self, proven: Option<DateTime<Utc>>) {
        let Link::Leaving { last, until, .. } = self.link else { return };
        if proven.is_none_or(|proven| proven < last) && now() < until {
            return;
        }
        self.disconnect(0);
        self.link = Link::Left;
        let (registry, letters) = (self.registry.clone(), Rc::clone(&self.letters));
        self.work.begin(async move {
            if let Ok(Ok(())) = registry.send(Flush).await {
                // What it has not written is lost, as when it is killed.
                let _left = registry.send(Leave).await;
            }
            letters.borrow_mut().push_back(Letter::Left);
        });
    }
}
