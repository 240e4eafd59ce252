//! The five actors. Each file shows its messages first, then its state, then its
//! handlers; none knows SQL or MQTT packets, and each knows the others only by
//! the `Addr` or `Recipient` that it is given.

pub mod alert_sink;
pub mod courier;
pub mod device_registry;
pub mod mqtt_ingest;
pub mod ticker;

use std::time::Duration;

use actix::prelude::*;
use log::Level;

use crate::domain::Rejection;
use crate::line_budget::LineBudget;
use crate::panics;

/// Starts an actor on a thread of its own: none can hold up another, and a panic
/// names the actor whose thread it ends. For an alert sink of one's own as well.
///
/// To be called inside an actix system.
pub fn on_own_thread<A: Actor<Context = Context<A>>>(
    name: &'static str,
    actor: impl FnOnce() -> A + Send + 'static,
) -> Addr<A> {
    let arbiter = Arbiter::new();
    A::start_in_arbiter(&arbiter.handle(), move |_| {
        panics::this_thread_is(name);
        actor()
    })
}

/// How many items of batches are logged one by one, and within which time:
/// a fleet that changes all the time writes five lines a second. The rest go to `debug`.
const LOGGED_PER_BATCH: u32 = 20;
const LOGGED_WITHIN: Duration = Duration::from_secs(4);

/// Logs what comes in batches of any size: a few lines, the rest at `debug`,
/// and then how many there were.
#[derive(Clone, Debug)]
struct BatchLog {
    target: &'static str,
    level: Level,
    what: &'static str,
    items: LineBudget,
    counts: LineBudget,
}

impl BatchLog {
    /// A log of `what`, such as "status changes", at `level`.
    fn new(target: &'static str, level: Level, what: &'static str) -> Self {
        let items = LineBudget::of(target, what, LOGGED_PER_BATCH, LOGGED_WITHIN);
        let counts = LineBudget::new(target, format!("counts of {what}"));
        Self { target, level, what, items, counts }
    }

    fn log<T>(&self, batch: &[T], line: impl Fn(Level, &T)) {
        let mut shown = 0;
        for item in batch {
            let admitted = self.items.admits();
            shown += usize::from(admitted);
            line(if admitted { self.level } else { Level::Debug }, item);
        }
        let (count, &Self { target, level, what, .. }) = (batch.len(), self);
        if shown < count {
            self.counts.spend(|| {
                log::log!(target: target, level, count; "{what}: {shown} are shown, the rest at debug");
            });
        }
    }
}

/// Logs why a message is no evidence of life, and whose it was as far as that is
/// known.
fn log_rejection(target: &str, rejection: &Rejection) {
    let reason = rejection.reason();
    match rejection.device_id() {
        Some(device) => log::warn!(target: target, device, reason; "rejected: {rejection}"),
        None => log::warn!(target: target, reason; "rejected: {rejection}"),
    }
}
