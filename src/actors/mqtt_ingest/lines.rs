//! The log of what the broker sends and grants, bounded however much it sends.

use log::{error, warn};

use super::TARGET;
use crate::actors::log_rejection;
use crate::domain::Rejection;
use crate::logging::line_budget::LineBudget;
use crate::logging::outage;
use crate::mqtt::Granted;

/// The lines about messages and subscriptions.
pub(super) struct Lines {
    rejections: LineBudget,
    sheds: LineBudget,
    shut_outs: LineBudget,
    /// The granted quality of service that the last warning named.
    granted: Option<u8>,
}

impl Lines {
    pub(super) fn new() -> Self {
        Self {
            rejections: LineBudget::new(TARGET, "rejected messages"),
            sheds: LineBudget::new(TARGET, "messages thrown away"),
            shut_outs: LineBudget::of(TARGET, "devices shut out", 1, outage::REMINDER),
            granted: None,
        }
    }

    pub(super) fn rejected(&self, rejection: &Rejection) {
        self.rejections.spend(|| log_rejection(TARGET, rejection));
    }

    pub(super) fn shed(&self, count: u64) {
        self.sheds.spend(|| {
            error!(target: TARGET, count; "threw messages away because more than mqtt.max_backlog were waiting");
        });
    }

    pub(super) fn shut_out(&self) {
        // Not counted as left out: while it lasts, it is mentioned again.
        if self.shut_outs.admits() {
            error!(
                target: TARGET,
                "the embedded broker has no room for devices that want to connect, and until it \
                 has, no device goes offline; its own lines say which limit to raise"
            );
        }
    }

    /// Warns of a subscription that grants less than was asked for, unless the last warning
    /// said the same.
    pub(super) fn granted(&mut self, Granted { asked, granted }: Granted) {
        if granted < asked && self.granted != Some(granted) {
            self.granted = Some(granted);
            warn!(
                target: TARGET, asked, granted;
                "the broker grants only QoS {granted}, and mqtt.qos = {asked} asks for more; \
                 heartbeats and echoes use what it grants"
            );
        }
    }
}
