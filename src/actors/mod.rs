//! The four actors. Each file shows its messages first, then its state, then its
//! handlers; none knows SQL or MQTT packets, and each knows the others only by
//! the `Addr` or `Recipient` that it is given.

pub mod alert_sink;
pub mod device_registry;
pub mod mqtt_ingest;
pub mod ticker;

use actix::prelude::*;

use crate::domain::Rejection;
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

/// How many items of a batch are logged one by one at `info`; the rest go to
/// `debug`.
const LOGGED_PER_BATCH: usize = 20;

/// Logs a batch: the first lines at `info`, the rest at `debug`, and then how
/// many there were.
fn log_batch<T>(target: &str, what: &str, items: &[T], line: impl Fn(log::Level, &T)) {
    for (index, item) in items.iter().enumerate() {
        line(if index < LOGGED_PER_BATCH { log::Level::Info } else { log::Level::Debug }, item);
    }
    if items.len() > LOGGED_PER_BATCH {
        let count = items.len();
        log::info!(target: target, count; "{what}: the first {LOGGED_PER_BATCH} are shown, the rest at debug");
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
