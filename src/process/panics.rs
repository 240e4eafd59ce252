//! A panic ends the process.
//!
//! actix would only drop the actor and leave a process that looks alive but does nothing.
//! A dead process is restarted by its supervisor.
//!
//! Only what is done for one client of the receiver is different: a panic in it ends that
//! client's connection, so that no client can end the process.

use std::cell::Cell;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, PanicHookInfo};
use std::sync::LazyLock;

use futures::FutureExt;
use log::error;

use crate::logging::line_budget::{self, LineBudget};

/// The exit code after a panic: `EX_SOFTWARE` of sysexits.
pub const EXIT_CODE: i32 = 70;

/// Limits the lines about panics, because a client may be able to cause as many as it
/// likes.
static BROKEN_CONNECTIONS: LazyLock<LineBudget> =
    LazyLock::new(|| LineBudget::new("receiver", "connections that panicked"));

tokio::task_local! {
    /// The address of the client for which something is done.
    static CLIENT: SocketAddr;
}

/// A panic in the work for one client. The log says where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Panicked;

thread_local! {
    static ACTOR: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// The actor that runs on this thread.
#[doc(hidden)]
pub fn this_actor() -> Option<&'static str> {
    ACTOR.get()
}

/// Records the actor that runs on this thread; each actor has its own thread.
pub(crate) fn this_thread_is(actor: &'static str) {
    ACTOR.set(Some(actor));
}

/// Does something for the client at this address, and contains a panic in it. Whatever it holds
/// is dropped then, and must be given back by that.
///
/// This is not an `async fn`, which would have room for `work` twice: before it begins, and while it
/// is awaited. Each idle connection would take 2.7 KB more.
pub(crate) fn contained<T>(
    client: SocketAddr,
    work: impl Future<Output = T>,
) -> impl Future<Output = Result<T, Panicked>> {
    let work = AssertUnwindSafe(CLIENT.scope(client, work)).catch_unwind();
    work.map(|done| done.map_err(|_printed| Panicked))
}

/// The client for which this task works, if it works for one.
pub(crate) fn this_client() -> Option<SocketAddr> {
    CLIENT.try_with(|client| *client).ok()
}

/// Does a part of the work for a client on another thread, whose runtime contains the panic.
pub(crate) fn on_behalf_of<T>(client: Option<SocketAddr>, work: impl FnOnce() -> T) -> T {
    match client {
        Some(client) => CLIENT.sync_scope(client, work),
        None => work(),
    }
}

/// Makes every panic from now on log its actor and exit with [`EXIT_CODE`], except one that is
/// contained, which is only logged.
pub fn end_the_process() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        let place = panic.location().map_or_else(|| "?".to_owned(), ToString::to_string);
        let message = message(panic);
        if let Some(address) = this_client() {
            BROKEN_CONNECTIONS.spend(|| {
                error!(
                    target: "receiver", address:%, place;
                    "a connection panicked and is closed: {message}"
                );
            });
            return;
        }
        match ACTOR.get() {
            Some(actor) => error!(target: actor, actor, place; "panicked: {message}"),
            None => error!(thread, place; "panicked: {message}"),
        }
        line_budget::tell_all();
        #[expect(clippy::disallowed_methods, reason = "a panic has no way to return")]
        std::process::exit(EXIT_CODE);
    }));
}

fn message<'a>(panic: &'a PanicHookInfo<'_>) -> &'a str {
    panic.payload_as_str().unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_in_the_work_for_a_client_is_contained_and_known_to_be_one() {
        let client = SocketAddr::from(([192, 0, 2, 1], 50_000));
        assert_eq!(this_client(), None);
        let on_another_thread =
            |client| tokio::task::spawn_blocking(move || on_behalf_of(client, this_client));
        let known = contained(client, async {
            // As is the hash of a password.
            let there = on_another_thread(this_client()).await.expect("it does not panic");
            (this_client(), there)
        });
        assert_eq!(known.await, Ok((Some(client), Some(client))));
        let broken = contained(client, async { panic!("on purpose") });
        assert_eq!(broken.await, Err::<(), _>(Panicked));
        assert_eq!(this_client(), None, "this thread goes on with other work");
        assert_eq!(on_another_thread(None).await.expect("it does not panic"), None);
    }
}
