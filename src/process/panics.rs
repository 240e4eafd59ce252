//! A panic ends the process.
//!
//! actix would only drop the actor and leave a process that looks alive but does nothing.
//! A dead process is restarted by its supervisor.

use std::cell::Cell;
use std::panic::PanicHookInfo;
use std::sync::LazyLock;

use log::error;

use crate::logging::line_budget::{self, LineBudget};
use crate::receiver;

/// The exit code after a panic: `EX_SOFTWARE` of sysexits.
pub const EXIT_CODE: i32 = 70;

/// Limits the lines about panics, because a client may be able to cause as many as it
/// likes.
static BROKEN_CONNECTIONS: LazyLock<LineBudget> =
    LazyLock::new(|| LineBudget::new("receiver", "connections that panicked"));

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

/// Makes every panic from now on log its actor and exit with [`EXIT_CODE`].
pub fn end_the_process() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        let place = panic.location().map_or_else(|| "?".to_owned(), ToString::to_string);
        let message = message(panic);
        if receiver::is_connection() {
            // Its runtime drops the task, and the other connections go on.
            BROKEN_CONNECTIONS.spend(|| {
                error!(target: "receiver", place; "a connection panicked: {message}");
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
