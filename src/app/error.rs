//! The errors of starting, running and draining the service.

use std::net::SocketAddr;

use actix::MailboxError;

use crate::mqtt::ClientError;
use crate::process::open_files::TooFewFiles;
use crate::receiver::ReceiverError;
use crate::store::StoreError;

/// An error that keeps the service from starting, or that it ended with.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The limit of open files is too low to start.
    #[error(transparent)]
    OpenFiles(#[from] TooFewFiles),
    /// The database could not be opened or used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The MQTT client could not be created.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The embedded broker could not be started.
    #[error(transparent)]
    Receiver(#[from] ReceiverError),
    /// The address for HTTP is in use, or is not this machine's.
    #[error("cannot listen on http.listen = {address}: {source}; {}", listening_remedy(source))]
    Http {
        /// The address that could not be bound.
        address: SocketAddr,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// An actor has stopped.
    #[error("an actor has stopped: {0}")]
    Mailbox(#[from] MailboxError),
    /// The address for HTTP is bound, but HTTP cannot be served.
    #[error("HTTP cannot be served: {0}")]
    Serve(std::io::Error),
    /// The database did not take what was received before the service had to end.
    #[error(
        "{} lost, not written within {}: {why}",
        what_is(*heartbeats),
        crate::duration::format(super::DRAIN_TIMEOUT)
    )]
    NotWritten {
        /// The number of lost heartbeats. The proof of the last seconds of listening is
        /// lost with them.
        heartbeats: usize,
        /// The last error of the database.
        why: String,
    },
}

/// The subject of the sentence about the loss.
fn what_is(heartbeats: usize) -> String {
    match heartbeats {
        0 => "the proof of the last seconds of listening is".to_owned(),
        1 => "1 heartbeat is".to_owned(),
        many => format!("{many} heartbeats are"),
    }
}

/// The remedy for an address that cannot be bound.
fn listening_remedy(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind::{AddrInUse, AddrNotAvailable, PermissionDenied};
    match error.kind() {
        AddrInUse => {
            "another process listens there, perhaps another heartbeatd: stop it, or set \
             http.listen to a free address or to \"off\""
        }
        AddrNotAvailable => {
            "this machine has no such address: set http.listen to one that it has, or to \
             0.0.0.0 for all of them"
        }
        PermissionDenied => {
            "ports below 1024 need a privilege: set http.listen to a port from 1024 up"
        }
        _ => "set http.listen to an address of this machine, or to \"off\"",
    }
}
