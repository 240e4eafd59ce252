//! The bounds of what clients can use up, and what happens at each of them.

use std::time::Duration;

use log::warn;

use super::TARGET;
use super::codec::Reason;
use super::seats::{Bounds, NoSeat};
use super::session::Refusal;
use crate::config::EmbeddedConfig;
use crate::duration;

/// The maximum size of a client id and of a user name, in bytes.
pub(super) const MAX_NAME: usize = 256;

/// The bounds of what clients can use up.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    /// The number of connections.
    pub(super) seats: Bounds,
    /// The time within which a client has to send its CONNECT.
    pub(super) connect_timeout: Duration,
    /// The maximum size of a packet, in bytes.
    pub(super) max_packet: u32,
    /// The longest keep-alive, in seconds, which holds instead of a longer one or none.
    pub(super) max_keep_alive: u16,
    /// The number of messages per second above which a client is read later.
    pub(super) messages_per_second: u32,
}

impl Limits {
    /// The limits of a receiver whose connections may have `files` open files.
    pub(super) fn new(config: &EmbeddedConfig, files: u64) -> Self {
        let keep_alive = config.max_keep_alive.get().as_secs();
        Self {
            seats: Bounds {
                files,
                clients: config.max_connections,
                per_address: config.max_connections_per_address,
                newcomers: config.max_pending,
            },
            connect_timeout: config.connect_timeout.get(),
            max_packet: config.max_packet,
            max_keep_alive: u16::try_from(keep_alive).unwrap_or(u16::MAX),
            messages_per_second: config.max_messages_per_second,
        }
    }
}

impl Limits {
    /// Warns if the configuration promises more clients than open files allow.
    pub(super) fn warn_of_too_few_files(&self) {
        let Bounds { clients: Some(max_connections), .. } = self.seats else { return };
        let allowed = self.seats.clients_by_files();
        if allowed < max_connections {
            warn!(
                target: TARGET, max_connections, allowed;
                "open files allow fewer clients than mqtt.embedded.max_connections: raise their \
                 limit (LimitNOFILE of the unit, ulimit -n)"
            );
        }
    }
}

/// A limit that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    /// No seat is free.
    Seat(NoSeat),
    /// There were too many newcomers, and this one was the oldest of its address.
    Pending,
    /// The CONNECT did not arrive in time.
    ConnectTimeout(Duration),
    /// The client does not take its answers.
    Answers,
}

/// The label of a client that is read later.
pub(super) const MESSAGE_RATE: &str = "max_messages_per_second";

impl Limit {
    pub(super) const OPEN_FILES: &'static str = "open_files";

    /// Every value of the `reason` label in the metrics that stands for a limit.
    pub(super) const LABELS: [&'static str; 7] = [
        "max_connections",
        Self::OPEN_FILES,
        "max_connections_per_address",
        "max_pending",
        "connect_timeout",
        "answers",
        MESSAGE_RATE,
    ];

    /// The value of the `reason` label in the metrics: the key, if there is one.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Seat(NoSeat::Clients(_)) => "max_connections",
            Self::Seat(NoSeat::Files(_)) => Self::OPEN_FILES,
            Self::Seat(NoSeat::Address(_)) => "max_connections_per_address",
            Self::Pending => "max_pending",
            Self::ConnectTimeout(_) => "connect_timeout",
            Self::Answers => "answers",
        }
    }

    /// True if devices were kept out for lack of room in all, so that it is not known who is
    /// silent.
    pub(super) fn shuts_out(self) -> bool {
        matches!(self, Self::Seat(NoSeat::Clients(_) | NoSeat::Files(_)))
    }

    /// The refusal for the log and the client.
    pub(super) fn refusal(self) -> Refusal {
        match self {
            Self::Seat(no_seat) => Refusal::new(Reason::QuotaExceeded, no_seat.to_string()),
            Self::Pending => Refusal::new(
                Reason::Busy,
                "it sent no CONNECT, and its place is needed: more than \
                 mqtt.embedded.max_pending, or than open files allow, are connecting",
            ),
            Self::ConnectTimeout(patience) => {
                let why = format!(
                    "no complete CONNECT within {}, see mqtt.embedded.connect_timeout",
                    duration::format(patience)
                );
                Refusal::new(Reason::Busy, why)
            }
            Self::Answers => Refusal::new(
                Reason::Busy,
                "it does not read its answers: a client has to, even if it ignores them",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_is_in_the_list_and_every_limit_says_what_would_be_right() {
        for (limit, key) in [
            (Limit::Seat(NoSeat::Clients(7)), "mqtt.embedded.max_connections "),
            (Limit::Seat(NoSeat::Files(7)), "LimitNOFILE"),
            (Limit::Seat(NoSeat::Address(7)), "mqtt.embedded.max_connections_per_address"),
            (Limit::Pending, "mqtt.embedded.max_pending"),
            (Limit::ConnectTimeout(Duration::from_secs(10)), "mqtt.embedded.connect_timeout"),
            (Limit::Answers, "has to"),
        ] {
            assert!(Limit::LABELS.contains(&limit.label()), "{limit:?}");
            let why = limit.refusal().why;
            assert!(why.contains(key), "{limit:?}: {why}");
        }
    }
}
