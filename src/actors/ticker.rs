//! Owns the schedule: has the registry check for silent devices every
//! `check_interval`, hands what went offline to the alert sink, and acknowledges
//! what the sink took.
//!
//! The next check is scheduled when the last one is through, so a slow one
//! delays only itself and nothing is made up for in bursts.

use std::rc::Rc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use log::{error, info};
use tokio::sync::Mutex;

use super::alert_sink::DevicesOffline;
use super::device_registry::{AcknowledgeOffline, CheckOffline, CheckedOffline, DeviceRegistry};
use crate::clock::Clock;
use crate::domain::Transition;
use crate::store::StoreError;

const TARGET: &str = "ticker";

/// What a ticker is told once.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// How often to check.
    pub check_interval: Duration,
    /// How long the alert sink may take for one delivery.
    pub delivery_timeout: Duration,
}

/// The actor.
pub struct Ticker(Rc<Round>);

/// One check and the deliveries that follow from it.
struct Round {
    /// Two at once would deliver everything twice.
    turn: Mutex<()>,
    schedule: Schedule,
    registry: Addr<DeviceRegistry>,
    sink: Recipient<DevicesOffline>,
    clock: Clock,
}

/// Why a round ended early; the next one makes up for it.
#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error("the check did not get through, the next one makes up for it: {0}")]
    Check(StoreError),
    #[error("the alert sink failed, what is left is delivered with the next check: {0}")]
    Sink(String),
    #[error("the alert sink took longer than {}, what is left is delivered again with the next check", crate::duration::format(*.0))]
    SinkTimeout(Duration),
    #[error("a delivery cannot be acknowledged, the alert sink will get it again: {0}")]
    Acknowledge(StoreError),
    #[error("{0} is gone ({1}), without it nobody hears of offline devices")]
    Gone(&'static str, MailboxError),
}

impl Ticker {
    /// A ticker that goes by `schedule`.
    pub fn new(
        schedule: Schedule,
        registry: Addr<DeviceRegistry>,
        sink: Recipient<DevicesOffline>,
        clock: Clock,
    ) -> Self {
        Self(Rc::new(Round { turn: Mutex::default(), schedule, registry, sink, clock }))
    }

    fn check(&self) -> impl ActorFuture<Self, Output = ()> + use<> {
        let began = Instant::now();
        let round = Rc::clone(&self.0);
        async move { round.run().await }.into_actor(self).map(move |done, _, ctx| {
            let duration_ms = began.elapsed().as_millis();
            match done {
                Ok(Done { newly_offline, delivered, check }) => {
                    let check_ms = check.as_millis();
                    info!(target: TARGET, newly_offline, delivered, check_ms, duration_ms; "checked");
                }
                Err(error) => {
                    error!(target: TARGET, duration_ms; "{error}");
                    if matches!(error, RoundError::Gone(..)) {
                        ctx.stop();
                    }
                }
            }
        })
    }

    /// Checks now and from now on.
    fn check_on_schedule(&self, ctx: &mut Context<Self>) {
        let began = Instant::now();
        ctx.spawn(self.check().map(move |(), ticker, ctx| {
            let rest = ticker.0.schedule.check_interval.saturating_sub(began.elapsed());
            ctx.run_later(rest, |ticker, ctx| ticker.check_on_schedule(ctx));
        }));
    }
}

struct Done {
    newly_offline: u64,
    delivered: usize,
    /// How long it took without the deliveries.
    check: Duration,
}

impl Round {
    async fn run(&self) -> Result<Done, RoundError> {
        let _turn = self.turn.lock().await;
        let began = Instant::now();
        let check = CheckOffline { now: (self.clock)().wall };
        let checked = self.registry.send(check).await.map_err(registry_gone)?;
        let CheckedOffline { newly_offline, mut undelivered } =
            checked.map_err(RoundError::Check)?;
        let check = began.elapsed();
        let mut delivered = 0;
        while !undelivered.is_empty() {
            delivered += undelivered.len();
            undelivered = self.deliver(undelivered).await?;
        }
        Ok(Done { newly_offline, delivered, check })
    }

    /// Hands transitions to the sink and strikes them off. Returns the next.
    async fn deliver(&self, transitions: Vec<Transition>) -> Result<Vec<Transition>, RoundError> {
        let sequences = transitions.iter().map(|transition| transition.sequence).collect();
        let patience = self.schedule.delivery_timeout;
        let delivery = self.sink.send(DevicesOffline { transitions });
        tokio::time::timeout(patience, delivery)
            .await
            .map_err(|_elapsed| RoundError::SinkTimeout(patience))?
            .map_err(|gone| RoundError::Gone("the alert sink", gone))?
            .map_err(|failed| RoundError::Sink(failed.to_string()))?;
        let acknowledge = AcknowledgeOffline { sequences, at: (self.clock)().wall };
        let next = self.registry.send(acknowledge).await.map_err(registry_gone)?;
        next.map_err(RoundError::Acknowledge)
    }
}

fn registry_gone(error: MailboxError) -> RoundError {
    RoundError::Gone("the device registry", error)
}

impl Actor for Ticker {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // At once: a crash may have left something to be delivered. Nobody is missed
        // too early by it, for what was not listened to does not count.
        self.check_on_schedule(ctx);
    }
}

/// Check now, beside the schedule; replies when what was found is delivered.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct CheckNow;

impl Handler<CheckNow> for Ticker {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, _: CheckNow, _: &mut Context<Self>) -> Self::Result {
        Box::pin(self.check())
    }
}

/// Replies never: whoever sends it learns that the ticker is gone.
#[derive(Debug, Message)]
#[rtype(result = "std::convert::Infallible")]
pub struct AwaitEnd;

impl Handler<AwaitEnd> for Ticker {
    // Of the actor, so that it ends with it; a `ResponseFuture` would not.
    type Result = ResponseActFuture<Self, std::convert::Infallible>;

    fn handle(&mut self, _: AwaitEnd, _: &mut Context<Self>) -> Self::Result {
        Box::pin(std::future::pending().into_actor(self))
    }
}

/// Check no more.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Stop;

impl Handler<Stop> for Ticker {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Context<Self>) {
        ctx.stop();
    }
}
