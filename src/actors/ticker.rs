//! Owns the schedule: has the registry check for silent devices every `check_interval`, and
//! wakes the courier after each check.
//!
//! The next check is scheduled when the last one has ended. A slow check therefore delays
//! only itself, and missed checks are not made up for in a burst.

use std::rc::Rc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use log::{error, info};
use tokio::sync::Mutex;

use super::courier::Deliver;
use super::device_registry::{CheckError, CheckOffline, CheckedOffline, DeviceRegistry};
use crate::clock::Clock;

const TARGET: &str = "ticker";

/// The time after which a standby asks again if it has to check.
const STANDBY: Duration = Duration::from_secs(1);

/// Checks now, besides the schedule. Replies when the check has ended.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct CheckNow;

/// Never replies. The sender gets an error when the actor stops.
#[derive(Debug, Message)]
#[rtype(result = "std::convert::Infallible")]
pub struct AwaitEnd;

/// Ends the schedule and stops the actor.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Stop;

/// The actor.
pub struct Ticker {
    check_interval: Duration,
    round: Rc<Round>,
}

/// Everything that a check needs.
struct Round {
    /// Held by the check that runs, because two at once would only slow each other down.
    turn: Mutex<()>,
    registry: Addr<DeviceRegistry>,
    courier: Recipient<Deliver>,
    clock: Clock,
}

/// The reason why a check ended early. The next one makes up for it.
#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error("the check failed, and the next one makes up for it: {0}")]
    Check(CheckError),
    #[error("another instance checks, and this one stands by")]
    StandingBy,
    #[error("{0} is gone ({1}); without it no offline device would be found")]
    Gone(&'static str, MailboxError),
}

impl Ticker {
    /// A ticker that has `registry` check every `check_interval`.
    pub fn new(
        check_interval: Duration,
        registry: Addr<DeviceRegistry>,
        courier: Recipient<Deliver>,
        clock: Clock,
    ) -> Self {
        let round = Rc::new(Round { turn: Mutex::default(), registry, courier, clock });
        Self { check_interval, round }
    }

    /// Checks. Returns true if another instance does that.
    fn check(&self) -> impl ActorFuture<Self, Output = bool> + use<> {
        let began = Instant::now();
        let round = Rc::clone(&self.round);
        async move { round.run().await }.into_actor(self).map(move |done, _, ctx| {
            let duration_ms = began.elapsed().as_millis();
            let stands_by = matches!(done, Err(RoundError::StandingBy));
            match done {
                Ok(CheckedOffline { newly_offline, undelivered }) => {
                    info!(target: TARGET, newly_offline, undelivered, duration_ms; "checked");
                }
                Err(RoundError::StandingBy) => (),
                Err(error) => {
                    error!(target: TARGET, duration_ms; "{error}");
                    if matches!(error, RoundError::Gone(..)) {
                        ctx.stop();
                    }
                }
            }
            stands_by
        })
    }

    /// Checks now, and then on schedule.
    fn check_on_schedule(&self, ctx: &mut Context<Self>) {
        let began = Instant::now();
        ctx.spawn(self.check().map(move |stands_by, ticker, ctx| {
            let after =
                if stands_by { STANDBY.min(ticker.check_interval) } else { ticker.check_interval };
            let rest = after.saturating_sub(began.elapsed());
            ctx.run_later(rest, |ticker, ctx| ticker.check_on_schedule(ctx));
        }));
    }
}

impl Round {
    async fn run(&self) -> Result<CheckedOffline, RoundError> {
        let _turn = self.turn.lock().await;
        let checked = match self.check().await? {
            // A check by the new clock is due now, not in a minute.
            Err(CheckError::ClockSet) => self.check().await?,
            checked => checked,
        };
        let checked = checked.map_err(|error| match error {
            CheckError::StandingBy => RoundError::StandingBy,
            error => RoundError::Check(error),
        })?;
        let passed_on = self.courier.send(Deliver).await;
        passed_on.map_err(|gone| RoundError::Gone("the courier", gone))?;
        Ok(checked)
    }

    async fn check(&self) -> Result<Result<CheckedOffline, CheckError>, RoundError> {
        let checked = self.registry.send(CheckOffline { now: (self.clock)() }).await;
        checked.map_err(|gone| RoundError::Gone("the device registry", gone))
    }
}

impl Actor for Ticker {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // The first check comes at once. It takes no device offline too early, because time
        // that was not listened to does not count.
        self.check_on_schedule(ctx);
    }
}

impl Handler<CheckNow> for Ticker {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, _: CheckNow, _: &mut Context<Self>) -> Self::Result {
        Box::pin(self.check().map(|_stands_by, _, _| ()))
    }
}

impl Handler<AwaitEnd> for Ticker {
    // This future belongs to the actor and ends with it; a `ResponseFuture` would not.
    type Result = ResponseActFuture<Self, std::convert::Infallible>;

    fn handle(&mut self, _: AwaitEnd, _: &mut Context<Self>) -> Self::Result {
        Box::pin(std::future::pending().into_actor(self))
    }
}

impl Handler<Stop> for Ticker {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Context<Self>) {
        ctx.stop();
    }
}
