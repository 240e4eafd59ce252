//! The readings by which the inbox notices that the process was stopped.
//!
//! They are taken on a thread that does nothing else: an actor may be busy, and a message may not
//! come for hours. It ends with the inbox.

use std::sync::{Arc, Weak};
use std::time::Duration;

use log::warn;

use super::Inbox;
use crate::clock::Clock;

/// The time between two readings: short against what counts as a stop, so that one that is late
/// on a busy machine is none.
const EVERY: Duration = Duration::from_millis(100);

/// The stack of the thread, in bytes. It needs next to nothing.
const STACK: usize = 128 * 1024;

/// Takes readings of `clock` for `inbox` as long as it is there.
pub(crate) fn begin(inbox: &Arc<Inbox>, clock: Clock) {
    inbox.tick(clock());
    let inbox = Arc::downgrade(inbox);
    let thread = std::thread::Builder::new().name("ticks".to_owned()).stack_size(STACK);
    if let Err(error) = thread.spawn(move || run(&inbox, clock)) {
        warn!(
            target: "mqtt_ingest", error:%;
            "no thread could be started that notices when this process is stopped, so \
             heartbeats that wait meanwhile are dated when they are read"
        );
    }
}

fn run(inbox: &Weak<Inbox>, clock: Clock) {
    loop {
        std::thread::park_timeout(EVERY);
        let Some(inbox) = inbox.upgrade() else { return };
        inbox.tick(clock());
    }
}
