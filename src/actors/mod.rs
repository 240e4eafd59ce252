//! The five actors. Each file shows its messages first, then its state, then its handlers.
//! No actor knows SQL or MQTT packets, and each knows the others only by the `Addr` or
//! `Recipient` that it is given.

pub mod alert_sink;
#[doc(hidden)]
pub mod bounds;
pub mod courier;
pub mod device_registry;
pub mod mqtt_ingest;
pub mod ticker;

use actix::prelude::*;

use crate::domain::Rejection;
use crate::process::panics;

/// Starts an actor on its own thread, so that no actor blocks another and a panic can name
/// its actor. Use it for your own alert sink too.
///
/// Must be called inside an actix system.
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

/// Logs why a message is not evidence of life, and which device sent it if that is known.
fn log_rejection(target: &str, rejection: &Rejection) {
    let reason = rejection.reason();
    match rejection.device_id() {
        Some(device) => log::warn!(target: target, device, reason; "rejected: {rejection}"),
        None => log::warn!(target: target, reason; "rejected: {rejection}"),
    }
}
