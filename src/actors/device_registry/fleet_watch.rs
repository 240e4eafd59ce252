//! Notices a fleet that falls silent as a whole while echoes come back. The death of all
//! devices is less likely than a broker that keeps their heartbeats from this client.

use std::time::Duration;

use log::{error, info};

use super::TARGET;
use crate::domain::TopicPattern;

/// The watch over the fleet as a whole.
#[derive(Debug)]
pub(super) struct FleetWatch {
    /// The silence that is suspicious.
    suspicious: Duration,
    /// The topic of heartbeats.
    topic: TopicPattern,
    silent: Option<Duration>,
}

impl FleetWatch {
    /// A watch over devices that are offline after `timeout`. Half of it is suspicious.
    pub(super) fn new(timeout: Duration, topic: TopicPattern) -> Self {
        Self { suspicious: timeout / 2, topic, silent: None }
    }

    /// Notes for how long the service has listened since any device was last heard.
    pub(super) fn listened(&mut self, silent: Duration) {
        if silent < self.suspicious {
            return;
        }
        if self.silent.replace(silent).is_none() {
            let (seconds, topic) = (silent.as_secs(), &self.topic);
            error!(
                target: TARGET, seconds;
                "no device is heard any more, yet echoes come back: if the devices live, the \
                 broker keeps their heartbeats from this client; look at its rights for \
                 {topic} and at its queue limits"
            );
        }
    }

    /// Notes that a device was heard.
    pub(super) fn heard(&mut self) {
        if let Some(silent) = self.silent.take() {
            info!(target: TARGET, seconds = silent.as_secs(); "devices are heard again");
        }
    }

    /// The time since any device was heard, once it has reached half the timeout.
    pub(super) fn silent(&self) -> Option<Duration> {
        self.silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_is_suspicious_from_half_its_timeout_until_a_device_is_heard() {
        let topic = "devices/+/heartbeat".parse().expect("a pattern");
        let mut watch = FleetWatch::new(Duration::from_secs(60), topic);
        watch.listened(Duration::from_secs(29));
        assert_eq!(watch.silent(), None);
        for seconds in [30, 45] {
            watch.listened(Duration::from_secs(seconds));
            assert_eq!(watch.silent(), Some(Duration::from_secs(seconds)));
        }
        watch.heard();
        assert_eq!(watch.silent(), None);
    }
}
