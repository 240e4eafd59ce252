//! The reasons why the service does not start, or did not end well.

use std::net::SocketAddr;

use actix::MailboxError;

use crate::broker::EmbeddedError;
use crate::mqtt::ClientError;
use crate::process::open_files::TooFewFiles;
use crate::store::StoreError;

/// Why the service does not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The limit of open files is too low to start.
    #[error(transparent)]
    OpenFiles(#[from] TooFewFiles),
    /// The database is not to be had.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The MQTT client cannot be made.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The embedded broker does not start.
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
    /// The address for HTTP is taken or not this machine's.
    #[error("cannot listen on http.listen = {address}: {source}; {}", listening_remedy(source))]
    Http {
        /// Which.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// An actor is gone.
    #[error("an actor is gone: {0}")]
    Mailbox(#[from] MailboxError),
    /// HTTP is bound and cannot be served.
    #[error("HTTP cannot be served: {0}")]
    Serve(std::io::Error),
    /// The database did not take what was received until the service had to end.
    #[error(
        "{} lost, not written within {}: {why}",
        what_is(*heartbeats),
        crate::duration::format(super::DRAIN_TIMEOUT)
    )]
    NotWritten {
        /// The number of heartbeats that are lost; with them, the proof of the last
        /// seconds of listening.
        heartbeats: usize,
        /// What the database said last.
        why: String,
    },
}

/// The subject of what is lost with so many heartbeats.
fn what_is(heartbeats: usize) -> String {
    match heartbeats {
        0 => "the proof of the last seconds of listening is".to_owned(),
        1 => "1 heartbeat is".to_owned(),
        many => format!("{many} heartbeats are"),
    }
}

/// What helps against an address that cannot be listened on.
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
