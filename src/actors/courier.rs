//! Delivers the outbox: hands offline transitions to the alert sink, and recoveries to the sink
//! for those, page by page and in order, and acknowledges to the registry what was taken.
//!
//! It runs apart from the checks, so a slow, failing or hanging sink never delays a check.
//! There is one delivery at a time, and nothing is delivered again while the sink may still
//! be handling it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use log::{debug, error, info, warn};
use tokio::sync::Notify;

use super::alert_sink::{AlertError, DevicesOffline, DevicesRecovered};
use super::device_registry::{
    Acknowledge, BeginDelivery, DeviceRegistry, GiveUp, Outbox, ReadBesideHead, ReadOutbox,
    ReadRecoveriesPastHead,
};
use crate::actors::bounds::Bounds;
use crate::board::Board;
use crate::clock::Clock;
use crate::domain::delivery::{self, Attempt, Pace, Probe, Step};
use crate::domain::{IdempotencyKey, Transition};
use crate::logging::outage::{Mention, Outage};
use crate::metrics::Metrics;
use crate::store::StoreError;

const TARGET: &str = "courier";

/// The time within which a delivery is noted, unless the process was stopped or the database is
/// slow, and the number of times that it is noted at most.
const NOTED_WITHIN: Duration = Duration::from_secs(1);
const NOTED_AGAIN: usize = 3;

/// Wakes the courier, because a check has succeeded and there may be something to deliver.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Deliver;

/// Ends the deliveries. Replies when the current one has ended and what the sink took
/// is acknowledged.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Stop;

/// Never replies. The sender gets an error when the actor stops.
#[derive(Debug, Message)]
#[rtype(result = "std::convert::Infallible")]
pub struct AwaitEnd;

/// The recipients of what the courier delivers.
#[derive(Clone)]
pub struct Sinks {
    /// Takes the devices that went offline.
    pub alerts: Recipient<DevicesOffline>,
    /// Takes the devices that came back. Without it nobody is told.
    pub recoveries: Option<Recipient<DevicesRecovered>>,
}

impl From<Recipient<DevicesOffline>> for Sinks {
    fn from(alerts: Recipient<DevicesOffline>) -> Self {
        Self { alerts, recoveries: None }
    }
}

/// The actor.
pub struct Courier(Rc<Round>);

/// The kind of what is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Offline,
    Recovered,
}

impl Kind {
    fn of(transition: &Transition) -> Self {
        if transition.ends.is_some() { Self::Recovered } else { Self::Offline }
    }

    /// The recipient, as messages name it.
    fn sink(self) -> &'static str {
        match self {
            Self::Offline => "the alert sink",
            Self::Recovered => "the recovery sink",
        }
    }
}

/// The reply to a delivery, once it comes.
type Reply = LocalBoxFuture<'static, Result<Result<(), AlertError>, MailboxError>>;

impl Sinks {
    /// Sends a page of one kind.
    fn send(&self, kind: Kind, page: Vec<Transition>) -> Reply {
        match (kind, &self.recoveries) {
            (Kind::Offline, _) => {
                self.alerts.send(DevicesOffline { transitions: page }).boxed_local()
            }
            (Kind::Recovered, Some(sink)) => {
                let recoveries = page.iter().filter_map(Transition::recovery).collect();
                sink.send(DevicesRecovered { recoveries }).boxed_local()
            }
            (Kind::Recovered, None) => std::future::ready(Ok(Ok(()))).boxed_local(),
        }
    }

    /// False if the recipient has stopped.
    fn connected(&self, kind: Kind) -> bool {
        match kind {
            Kind::Offline => self.alerts.connected(),
            Kind::Recovered => self.recoveries.as_ref().is_none_or(Recipient::connected),
        }
    }
}

/// The loop of deliveries, one after the other.
struct Round {
    registry: Addr<DeviceRegistry>,
    sinks: Sinks,
    /// The time that a sink may take for a page.
    patience: Duration,
    clock: Clock,
    metrics: Arc<Metrics>,
    /// Says when there are recoveries. Without it they wait for the next check.
    board: RefCell<Option<Arc<Board>>>,
    pace: RefCell<Pace>,
    failing: RefCell<Option<Outage>>,
    woken: Notify,
    /// True once this process has dealt with the head of the outbox.
    has_begun: Cell<bool>,
    stopping: Cell<bool>,
    stopped: Notify,
}

/// The transitions that may be delivered before a head that is refused.
#[derive(Default)]
struct Beside {
    /// A probe: if the sink takes it, the head is to blame.
    another: Option<Transition>,
    /// The recoveries that may go past the head.
    recoveries: Vec<Transition>,
}

impl Beside {
    fn exists(&self) -> delivery::Beside {
        let Self { another, recoveries } = self;
        delivery::Beside { another: another.is_some(), recoveries: !recoveries.is_empty() }
    }
}

/// A delivery that was taken and acknowledged.
struct Delivered {
    kind: Kind,
    /// The number of transitions.
    size: usize,
    /// True if the sink took longer than it may.
    is_late: bool,
}

/// The result of one turn of the loop.
enum Turn {
    /// Something was done; there may be more.
    Done,
    /// The outbox is empty.
    Idle,
    /// It failed and is tried again after this pause.
    Pause(Duration),
}

/// The reason why a delivery failed.
#[derive(Debug, thiserror::Error)]
enum CourierError {
    #[error("{0} failed: {1}")]
    Sink(&'static str, String),
    #[error("the outbox could not be read or written: {0}")]
    Outbox(#[from] StoreError),
    #[error("{0} is gone ({1}); without it no offline device would be reported")]
    Gone(&'static str, MailboxError),
}

impl CourierError {
    /// The value of the `reason` label in the metrics.
    fn reason(&self) -> &'static str {
        match self {
            Self::Sink(..) => "sink",
            Self::Outbox(_) => "outbox",
            Self::Gone(..) => "gone",
        }
    }
}

impl Courier {
    /// A courier from the registry's outbox to `sinks`, each of which is expected to take a page
    /// within `patience`.
    pub fn new(
        registry: Addr<DeviceRegistry>,
        sinks: impl Into<Sinks>,
        patience: Duration,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self(Rc::new(Round {
            registry,
            sinks: sinks.into(),
            patience,
            clock,
            metrics,
            board: RefCell::default(),
            pace: RefCell::default(),
            failing: RefCell::default(),
            woken: Notify::new(),
            has_begun: Cell::new(false),
            stopping: Cell::new(false),
            stopped: Notify::new(),
        }))
    }

    /// The same courier, which delivers recoveries as soon as `board` knows of them.
    #[must_use]
    pub fn with_board(self, board: Arc<Board>) -> Self {
        self.0.board.replace(Some(board));
        self
    }

    /// The same courier with another bound on what it delivers at once.
    #[doc(hidden)]
    #[must_use]
    pub fn with_bounds(self, bounds: Bounds) -> Self {
        self.0.pace.replace(Pace::of_at_most(bounds.delivered_at_once));
        self
    }
}

impl Actor for Courier {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let round = Rc::clone(&self.0);
        let delivering = async move { round.run().await }.into_actor(self);
        ctx.spawn(delivering.map(|ended, courier, ctx| match ended {
            Ok(()) => courier.0.stopped.notify_one(),
            Err(gone) => {
                error!(target: TARGET, "{gone}");
                ctx.stop();
            }
        }));
    }
}

impl Handler<Deliver> for Courier {
    type Result = ();

    fn handle(&mut self, _: Deliver, _: &mut Context<Self>) {
        self.0.woken.notify_one();
    }
}

impl Handler<Stop> for Courier {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, _: Stop, _: &mut Context<Self>) -> Self::Result {
        self.0.stopping.set(true);
        self.0.woken.notify_one();
        let round = Rc::clone(&self.0);
        Box::pin(async move { round.stopped.notified().await }.into_actor(self))
    }
}

impl Handler<AwaitEnd> for Courier {
    // This future belongs to the actor and ends with it; a `ResponseFuture` would not.
    type Result = ResponseActFuture<Self, std::convert::Infallible>;

    fn handle(&mut self, _: AwaitEnd, _: &mut Context<Self>) -> Self::Result {
        Box::pin(std::future::pending().into_actor(self))
    }
}

impl Round {
    /// Delivers until it is told to stop, or returns an error if an actor is gone.
    async fn run(&self) -> Result<(), CourierError> {
        while !self.stopping.get() {
            match self.turn().await? {
                Turn::Done => (),
                Turn::Idle => self.idle().await,
                // The next check that succeeds cuts the pause short.
                Turn::Pause(pause) => {
                    let _elapsed = tokio::time::timeout(pause, self.woken.notified()).await;
                }
            }
        }
        Ok(())
    }

    /// Waits until there may be something to deliver.
    async fn idle(&self) {
        let board = self.board.borrow().clone();
        let recoveries = async {
            match board {
                Some(board) => board.recoveries().await,
                None => std::future::pending().await,
            }
        };
        let woken = std::pin::pin!(self.woken.notified());
        let _whichever = futures::future::select(woken, std::pin::pin!(recoveries)).await;
    }

    async fn turn(&self) -> Result<Turn, CourierError> {
        let limit = self.pace.borrow().limit();
        let size = Cell::new(1);
        match self.deliver_next(limit, &size).await {
            Ok(turn) => Ok(turn),
            Err(gone @ CourierError::Gone(..)) => Err(gone),
            Err(error) => Ok(Turn::Pause(self.failed(&error, size.get()))),
        }
    }

    async fn deliver_next(&self, limit: usize, size: &Cell<usize>) -> Result<Turn, CourierError> {
        let Outbox { transitions, last } = self.ask(ReadOutbox { limit: limit as u64 }).await??;
        let Some(head) = transitions.first() else { return Ok(Turn::Idle) };
        let kind = Kind::of(head);
        let run = transitions.iter().take_while(|other| Kind::of(other) == kind).count();
        if kind == Kind::Recovered && self.sinks.recoveries.is_none() {
            let keys = transitions[..run].iter().map(Transition::key).collect();
            self.acknowledge(kind, keys).await?;
            return Ok(Turn::Done);
        }
        let key = head.key();
        let is_stuck = delivery::asks_for_another(last, key);
        let beside = if is_stuck { self.beside(head, limit).await? } else { Beside::default() };
        let step = delivery::next(last, key, run, beside.exists(), limit);
        let is_first = !matches!(step, Step::Pass(_)) && !self.has_begun.replace(true);
        if is_first && is_stuck && matches!(step, Step::Page(_)) {
            let device = &head.device_id;
            warn!(
                target: TARGET, device, key;
                "the service ended each time that {} got this; it is delivered again in a \
                 minute, or when there is something else to deliver", kind.sink()
            );
            return Ok(Turn::Pause(delivery::MAX_PAUSE));
        }
        self.carry_out(step, transitions, beside, size).await?;
        Ok(Turn::Done)
    }

    /// Does the next thing with an outbox that begins with `transitions`, and sets `size` to the
    /// size of the delivery.
    async fn carry_out(
        &self,
        step: Step,
        mut transitions: Vec<Transition>,
        beside: Beside,
        size: &Cell<usize>,
    ) -> Result<(), CourierError> {
        match step {
            Step::Page(attempt) => {
                size.set(attempt.size);
                transitions.truncate(attempt.size);
                let delivered = self.deliver(attempt, transitions).await?;
                self.works(delivered);
            }
            Step::Pass(attempt) => {
                size.set(beside.recoveries.len());
                let delivered = self.deliver(attempt, beside.recoveries).await?;
                let Delivered { size, is_late, .. } = delivered;
                self.pace.borrow_mut().passed(size, is_late);
                self.ask(BeginDelivery(Attempt { probe: Probe::Not, ..attempt })).await??;
            }
            Step::Probe(attempt) => {
                let delivered = self.deliver(attempt, Vec::from_iter(beside.another)).await?;
                self.works(delivered);
                self.ask(BeginDelivery(Attempt { probe: Probe::Delivered, ..attempt })).await??;
            }
            Step::GiveUp => {
                if let Some(head) = transitions.first() {
                    self.give_up(head).await?;
                }
            }
        }
        Ok(())
    }

    /// Reads what may be delivered before `head`, which is refused.
    async fn beside(&self, head: &Transition, limit: usize) -> Result<Beside, CourierError> {
        let another = self.ask(ReadBesideHead(head.clone())).await??;
        let may_pass = Kind::of(head) == Kind::Offline && self.sinks.recoveries.is_some();
        let recoveries = if may_pass {
            let read = ReadRecoveriesPastHead { head: head.clone(), limit: limit as u64 };
            self.ask(read).await??
        } else {
            Vec::new()
        };
        Ok(Beside { another, recoveries })
    }

    /// Notes that the sink that had failed takes deliveries.
    fn works(&self, Delivered { kind, size, is_late }: Delivered) {
        self.pace.borrow_mut().took(size, is_late);
        if let Some(failing) = self.failing.take() {
            let seconds = failing.lasts(Instant::now()).as_secs();
            info!(target: TARGET, seconds; "{} takes deliveries again", kind.sink());
        }
    }

    /// Notes what is about to be delivered, hands it to the sink and acknowledges it. All of it
    /// is of one kind.
    async fn deliver(
        &self,
        attempt: Attempt,
        page: Vec<Transition>,
    ) -> Result<Delivered, CourierError> {
        self.note(attempt).await?;
        let kind = page.first().map_or(Kind::Offline, Kind::of);
        let keys: Vec<_> = page.iter().map(Transition::key).collect();
        let (began, size) = (Instant::now(), keys.len());
        let delivered = self.hand_over(kind, page).await?;
        delivered.map_err(|why| CourierError::Sink(kind.sink(), why))?;
        let took = began.elapsed();
        self.acknowledge(kind, keys).await?;
        let duration_ms = took.as_millis();
        match kind {
            Kind::Offline => {
                self.metrics.delivered(size as u64);
                debug!(target: TARGET, alerts = size, duration_ms; "delivered");
            }
            Kind::Recovered => {
                self.metrics.recoveries_delivered(size as u64);
                debug!(target: TARGET, recoveries = size, duration_ms; "delivered");
            }
        }
        Ok(Delivered { kind, size, is_late: took > self.patience })
    }

    /// Notes what is about to be delivered. A process that was stopped meanwhile notes it again:
    /// another instance may have taken over and be delivering it.
    async fn note(&self, attempt: Attempt) -> Result<(), CourierError> {
        for _ in 0..NOTED_AGAIN {
            let asked = Instant::now();
            self.ask(BeginDelivery(attempt)).await??;
            if asked.elapsed() < NOTED_WITHIN {
                break;
            }
        }
        Ok(())
    }

    /// Waits for the sink, however long it takes, because a page that is delivered again while
    /// the sink is still handling it would be handled twice.
    async fn hand_over(
        &self,
        kind: Kind,
        page: Vec<Transition>,
    ) -> Result<Result<(), String>, CourierError> {
        let (size, sink) = (page.len(), kind.sink());
        let began = Instant::now();
        let mut delivery = self.sinks.send(kind, page);
        loop {
            match tokio::time::timeout(self.patience, &mut delivery).await {
                Ok(Ok(answer)) => return Ok(answer.map_err(|error| error.to_string())),
                Ok(Err(gone)) => return Err(CourierError::Gone(sink, gone)),
                // A sink that has stopped may leave a reply pending that never comes.
                Err(_elapsed) if !self.sinks.connected(kind) => {
                    return Err(CourierError::Gone(sink, MailboxError::Closed));
                }
                Err(_elapsed) => {
                    self.metrics.delivery_failed("timeout");
                    let seconds = began.elapsed().as_secs();
                    warn!(
                        target: TARGET, size, seconds;
                        "{sink} takes longer than alerts.timeout = {}; the courier keeps \
                         waiting, and delivers less at once after this",
                        crate::duration::format(self.patience)
                    );
                }
            }
        }
    }

    /// Acknowledges what the sink took, however long the database is away. Otherwise the sink
    /// would get it again.
    async fn acknowledge(&self, kind: Kind, keys: Vec<IdempotencyKey>) -> Result<(), CourierError> {
        let mut pace = Pace::default();
        let alerts = if kind == Kind::Offline { keys.len() as u64 } else { 0 };
        loop {
            let at = (self.clock)().wall;
            let acknowledge = Acknowledge { keys: keys.clone(), alerts, at };
            let Err(error) = self.ask(acknowledge).await? else { return Ok(()) };
            // Then another instance delivers, also this.
            let is_lost = matches!(error, StoreError::TakenOver { .. } | StoreError::StandingBy);
            let error = CourierError::Outbox(error);
            if is_lost || self.stopping.get() {
                return Err(error);
            }
            let pause = pace.failed(1);
            self.say_failed(&error);
            // A check that succeeds shows that the database is back.
            let _elapsed = tokio::time::timeout(pause, self.woken.notified()).await;
        }
    }

    async fn give_up(&self, head: &Transition) -> Result<(), CourierError> {
        let why = self.failing.borrow().as_ref().and_then(|failing| failing.why()).map_or_else(
            || format!("the service ended each time that {} got it", Kind::of(head).sink()),
            str::to_owned,
        );
        let (device, key) = (&head.device_id, head.key());
        let give_up = GiveUp { key, at: (self.clock)().wall, why: why.clone() };
        self.ask(give_up).await??;
        match Kind::of(head) {
            Kind::Offline => {
                self.metrics.gave_up();
                error!(
                    target: TARGET, device, key, why;
                    "gave up an alert: the alert sink takes others but never this one; \
                     `heartbeatd history` shows it"
                );
            }
            Kind::Recovered => {
                self.metrics.gave_up_recovery();
                error!(
                    target: TARGET, device, key, why;
                    "gave up a recovery: the sinks take others but never this one"
                );
            }
        }
        Ok(())
    }

    fn failed(&self, error: &CourierError, size: usize) -> Duration {
        self.say_failed(error);
        match error {
            // The database is away, which says nothing about the sink.
            CourierError::Outbox(_) => Duration::from_secs(1),
            _ => self.pace.borrow_mut().failed(size),
        }
    }

    fn say_failed(&self, error: &CourierError) {
        self.metrics.delivery_failed(error.reason());
        let (now, why) = (Instant::now(), error.to_string());
        match Outage::note(&mut self.failing.borrow_mut(), now, why) {
            Mention::Begins => {
                error!(target: TARGET, "{error}; the rest is delivered later");
            }
            Mention::GoesOn(lasts) => {
                error!(target: TARGET, seconds = lasts.as_secs(); "still: {error}");
            }
            Mention::Nothing => (),
        }
    }

    async fn ask<M>(&self, message: M) -> Result<M::Result, CourierError>
    where
        M: Message<Result: Send> + Send + 'static,
        DeviceRegistry: Handler<M>,
    {
        let asked = self.registry.send(message).await;
        asked.map_err(|gone| CourierError::Gone("the device registry", gone))
    }
}
