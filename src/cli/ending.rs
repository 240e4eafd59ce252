//! The signals that end a command.

use std::io;
use std::pin::pin;

use actix_rt::signal::unix::{Signal, SignalKind, signal};
use futures::future::{Either, select};

/// The signals that end a command which runs until somebody ends it.
pub(super) struct Ending {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Ending {
    /// From now on none of these signals ends the process by itself.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            // The terminal was closed.
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Resolves with the name of the first signal.
    pub(super) async fn signal(&mut self) -> &'static str {
        let Self { terminate, interrupt, hangup } = self;
        let (terminate, interrupt) = (pin!(terminate.recv()), pin!(interrupt.recv()));
        match select(select(terminate, interrupt), pin!(hangup.recv())).await {
            Either::Left((Either::Left(_), _)) => "SIGTERM",
            Either::Left((Either::Right(_), _)) => "SIGINT",
            Either::Right(_) => "SIGHUP",
        }
    }
}
