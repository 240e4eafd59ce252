//! The log of what happens to devices, bounded however often a flush and a check run.

use std::time::Duration;

use log::{Level, warn};

use super::TARGET;
use crate::actors::log_rejection;
use crate::domain::{DeviceId, GapCause, Interval, Rejection, Transition};
use crate::logging::batch_log::BatchLog;
use crate::logging::instant;
use crate::logging::line_budget::LineBudget;
use crate::metrics::Metrics;
use crate::views::text;

/// The lines about devices. Clones share their bounds.
#[derive(Clone)]
pub(super) struct Lines {
    changes: BatchLog,
    skews: BatchLog,
    payloads: BatchLog,
    rejections: LineBudget,
}

impl Lines {
    pub(super) fn new() -> Self {
        Self {
            changes: BatchLog::new(TARGET, Level::Info, "status changes"),
            skews: BatchLog::new(TARGET, Level::Warn, "devices with a skewed clock"),
            payloads: BatchLog::new(TARGET, Level::Warn, "devices with an unreadable payload"),
            rejections: LineBudget::new(TARGET, "rejected heartbeats"),
        }
    }

    pub(super) fn reject(&self, metrics: &Metrics, rejections: &[Rejection]) {
        for rejection in rejections {
            metrics.rejected(rejection);
            self.rejections.spend(|| log_rejection(TARGET, rejection));
        }
    }

    pub(super) fn transitions(&self, transitions: &[Transition]) {
        self.changes.log(transitions, |level, transition| {
            let Transition { device_id: device, from, to, .. } = transition;
            log::log!(target: TARGET, level, device, from, to; "status changed");
        });
    }

    pub(super) fn skews(&self, skewed: &[(DeviceId, i64)], bound: Duration) {
        self.skews.log(skewed, |level, (device, skew_ms)| {
            log::log!(
                target: TARGET, level, device, skew_ms;
                "the device's clock is {}, by more than {}; it decides nothing",
                text::skew(*skew_ms), crate::duration::exact(bound)
            );
        });
    }

    pub(super) fn payloads(&self, unreadable: &[(DeviceId, String)]) {
        self.payloads.log(unreadable, |level, (device, why)| {
            log::log!(
                target: TARGET, level, device;
                "the device lives, but its payload cannot be read: {why}"
            );
        });
    }
}

/// Logs a gap. It needs no bound, because the connection or the echoes come back before there
/// can be another one.
/// In a group, `instances` have not proven it.
pub(super) fn gap(gap: Interval, cause: GapCause, instances: &[String], seconds: f64) {
    let (from, until) = (instant(gap.from), instant(gap.until));
    let instances = (!instances.is_empty()).then(|| instances.join(", "));
    warn!(
        target: TARGET, seconds, from, until, cause = cause.as_str(), instances;
        "not listening for {}: {cause}; no device's silence counts in this time",
        text::duration(gap.length())
    );
}
