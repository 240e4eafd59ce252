//! Notices a fleet that falls silent as a whole while echoes come back. The death of all
//! devices is less likely than a broker that keeps their heartbeats from this client, unless
//! there are only one or two.

use std::time::Duration;

use log::{Level, info};

use super::TARGET;
use crate::domain::TopicPattern;
use crate::duration::human;

/// The number of devices whose silence at the same time is not ordinary. The only device of a
/// first trial is often switched off.
const FLEET: u64 = 3;

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
    /// A watch over devices that go offline after `timeout`. Silence for half of that is
    /// suspicious.
    pub(super) fn new(timeout: Duration, topic: TopicPattern) -> Self {
        Self { suspicious: timeout / 2, topic, silent: None }
    }

    /// Notes for how long the service has listened since any of the registered `devices` was
    /// last heard.
    pub(super) fn listened(&mut self, silent: Duration, devices: u64) {
        if silent < self.suspicious {
            return;
        }
        if self.silent.replace(silent).is_none() {
            let (seconds, topic) = (silent.as_secs(), &self.topic);
            let (level, cause) = severity(devices);
            log::log!(
                target: TARGET, level, seconds, devices, topic:%;
                "no device has been heard for {}, yet echoes come back: {cause}if the devices \
                 live, the broker keeps their heartbeats from this client; look at its rights \
                 for this topic and at its queue limits",
                human(silent)
            );
        }
    }

    /// Notes that a device was heard.
    pub(super) fn heard(&mut self) {
        if let Some(silent) = self.silent.take() {
            let (seconds, topic) = (silent.as_secs(), &self.topic);
            info!(
                target: TARGET, seconds, topic:%;
                "devices are heard again, after {}", human(silent)
            );
        }
    }

    /// The time since any device was heard, once it has reached half the timeout.
    pub(super) fn silent(&self) -> Option<Duration> {
        self.silent
    }
}

/// The level at which the silence of this many devices is logged, and the cause that is named
/// first.
fn severity(devices: u64) -> (Level, &'static str) {
    if devices < FLEET {
        (Level::Warn, "with so few devices it may be the devices themselves; ")
    } else {
        (Level::Error, "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_is_suspicious_from_half_its_timeout_until_a_device_is_heard() {
        let topic = "devices/+/heartbeat".parse().expect("a pattern");
        let mut watch = FleetWatch::new(Duration::from_secs(60), topic);
        watch.listened(Duration::from_secs(29), 3);
        assert_eq!(watch.silent(), None);
        for seconds in [30, 45] {
            watch.listened(Duration::from_secs(seconds), 3);
            assert_eq!(watch.silent(), Some(Duration::from_secs(seconds)));
        }
        watch.heard();
        assert_eq!(watch.silent(), None);
    }

    #[test]
    fn the_silence_of_one_or_two_devices_is_not_an_error() {
        let levels = [1, 2, 3, 10_000].map(|devices| severity(devices).0);
        assert_eq!(levels, [Level::Warn, Level::Warn, Level::Error, Level::Error]);
    }
}
