//! Takes the devices that went offline, and those that came back. This sink is a stub that only
//! logs. Alerting is plugged in as another actor that handles [`DevicesOffline`], and if it
//! likes [`DevicesRecovered`].

use actix::prelude::*;

use crate::domain::{Recovery, Transition};
use crate::logging::batch_log::BatchLog;
use crate::logging::instant;

const TARGET: &str = "alert_sink";

/// Reports that devices went offline.
///
/// A sink gets every offline transition at least once, in the order of the sequence numbers,
/// and normally exactly once. It gets them again, fewer at once, if it replies with an error
/// or if the service dies before it has noted the reply. A sink for which that matters
/// remembers the [`key`](Transition::key) of each transition that it has handled, or passes it on
/// to a pager that does. The sequence number alone is not enough: a PostgreSQL that loses commits
/// in a failover gives the same numbers to other transitions, on another timeline.
/// No transition comes again while the sink may still be handling it, however long that takes.
///
/// An alert that the sink refuses five times on its own, while it takes the one after it, is
/// given up: it does not come again. The one after it may have come before the last attempt.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<(), AlertError>")]
pub struct DevicesOffline {
    /// One transition for each time that a device went offline. Never empty.
    pub transitions: Vec<Transition>,
}

/// Reports that devices came back: each outage that a heartbeat has ended.
///
/// Recoveries go through the same outbox as [`DevicesOffline`], and both come in the one order
/// of their sequence numbers. Each has a [`key`](Recovery::key) of its own, and names that of the
/// offline transition whose outage it ends ([`offline_key`](Recovery::offline_key)). A sink therefore never gets a recovery before its offline
/// transition, unless that was given up. All that is said there holds here, too: at least once,
/// normally exactly once, again after an error, given up if the sink refuses it while it takes
/// others. For a recovery these others may also be offline transitions, because no alert waits
/// for ever behind it. Nor do recoveries wait for ever behind an alert of another device that is
/// refused: they go past it once it was refused five times on its own, until there is another
/// alert.
///
/// Without a recipient, recoveries are not delivered. The removal of a device ends its outage,
/// too, but is no recovery. The recoveries of outages that ended before this version are never
/// delivered.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<(), AlertError>")]
pub struct DevicesRecovered {
    /// One recovery for each outage that ended. Never empty.
    pub recoveries: Vec<Recovery>,
}

/// The reason why a sink did not take a delivery. Its transitions come again after a pause
/// that grows up to a minute, or with the next check.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AlertError(pub String);

/// The actor that only logs.
#[derive(Debug)]
pub struct AlertSink {
    offline: BatchLog,
    recovered: BatchLog,
}

impl Default for AlertSink {
    fn default() -> Self {
        Self {
            offline: BatchLog::new(TARGET, log::Level::Info, "devices offline"),
            recovered: BatchLog::new(TARGET, log::Level::Info, "devices recovered"),
        }
    }
}

impl Actor for AlertSink {
    type Context = Context<Self>;
}

impl Handler<DevicesOffline> for AlertSink {
    type Result = Result<(), AlertError>;

    fn handle(
        &mut self,
        DevicesOffline { transitions }: DevicesOffline,
        _: &mut Context<Self>,
    ) -> Result<(), AlertError> {
        self.offline.log(&transitions, |level, transition| {
            let Transition { device_id: device, last_seen_at, .. } = transition;
            let key = transition.key();
            let last_seen_at = last_seen_at.map(instant);
            let last_seen_at = last_seen_at.as_deref().unwrap_or("never");
            log::log!(target: TARGET, level, device, key, last_seen_at; "device offline");
        });
        Ok(())
    }
}

impl Handler<DevicesRecovered> for AlertSink {
    type Result = Result<(), AlertError>;

    fn handle(
        &mut self,
        DevicesRecovered { recoveries }: DevicesRecovered,
        _: &mut Context<Self>,
    ) -> Result<(), AlertError> {
        self.recovered.log(&recoveries, |level, recovery| {
            let Recovery { key, device_id: device, silent_since, ended_at, .. } = recovery;
            let seconds = (*ended_at - *silent_since).num_seconds();
            let silent_since = instant(*silent_since);
            log::log!(target: TARGET, level, device, key, silent_since, seconds; "device recovered");
        });
        Ok(())
    }
}
