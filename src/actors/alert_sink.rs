//! Takes the devices that went offline. This sink is a stub that only logs. Alerting is
//! plugged in as another actor that handles [`DevicesOffline`].

use actix::prelude::*;

use crate::domain::Transition;
use crate::logging::batch_log::BatchLog;

const TARGET: &str = "alert_sink";

/// Reports that devices went offline.
///
/// A sink gets every offline transition at least once, in the order of the sequence numbers,
/// and normally exactly once. It gets them again, fewer at once, if it replies with an error
/// or if the service dies before it has noted the reply. A sink for which that matters
/// remembers the [`sequence`](Transition::sequence) of each transition that it has handled.
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

/// The reason why a sink did not take a delivery. Its transitions come again after a pause
/// that grows up to a minute, or with the next check.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AlertError(pub String);

/// The actor that only logs.
#[derive(Debug)]
pub struct AlertSink {
    log: BatchLog,
}

impl Default for AlertSink {
    fn default() -> Self {
        Self { log: BatchLog::new(TARGET, log::Level::Info, "devices offline") }
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
        self.log.log(&transitions, |level, transition| {
            let Transition { device_id: device, sequence, last_seen_at, .. } = transition;
            let last_seen_at = last_seen_at.map(|time| time.to_rfc3339());
            let last_seen_at = last_seen_at.as_deref().unwrap_or("never");
            log::log!(target: TARGET, level, device, sequence, last_seen_at; "device offline");
        });
        Ok(())
    }
}
