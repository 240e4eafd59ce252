//! Notices a fleet that falls silent as a whole while echoes come back. The death of all
//! devices is less likely than a broker that keeps their heartbeats from this client, unless
//! there are only one or two.

use std::time::Duration;

use log::{Level, info};

use super::TARGET;
use crate::board::FleetSilence;
use crate::domain::TopicPattern;
use crate::duration::human;

/// The number of devices whose silence at the same time is not ordinary. The only device of a
/// first trial is often switched off.
const FLEET: u64 = 3;

/// The number of reasons for refusals that are named.
const NAMED: usize = 3;

/// The refusals of the embedded broker, for each reason.
type Refusals = Vec<(&'static str, u64)>;

/// The watch over the fleet as a whole.
#[derive(Debug)]
pub(super) struct FleetWatch {
    /// The silence that is suspicious.
    suspicious: Duration,
    /// The topic of heartbeats.
    topic: TopicPattern,
    /// True if the embedded broker receives the heartbeats.
    embedded: bool,
    /// The silence at the last look, and the refusals before it began.
    last: (Duration, Refusals),
    silent: Option<FleetSilence>,
}

impl FleetWatch {
    /// A watch over devices that go offline after `timeout`. Silence for half of that is
    /// suspicious.
    pub(super) fn new(timeout: Duration, topic: TopicPattern, embedded: bool) -> Self {
        let last = (Duration::MAX, Vec::new());
        Self { suspicious: timeout / 2, topic, embedded, last, silent: None }
    }

    /// Notes for how long the service has listened since any of the registered `devices` was
    /// last heard, and what the embedded broker has `refused` since its start.
    pub(super) fn listened(&mut self, silent: Duration, devices: u64, refused: Refusals) {
        let advice = self.advice(&refused);
        if silent < self.last.0 {
            self.last.1 = refused;
        }
        self.last.0 = silent;
        if silent < self.suspicious {
            return;
        }
        let silence = FleetSilence { lasts: silent, advice };
        if self.silent.is_none() {
            let (seconds, topic) = (silent.as_secs(), &self.topic);
            let (level, cause) = severity(devices);
            log::log!(
                target: TARGET, level, seconds, devices, topic:%;
                "no device has been heard for {}, yet echoes come back: {cause}{}",
                human(silent), silence.advice
            );
        }
        self.silent = Some(silence);
    }

    /// The advice where to look, if these refusals have been counted by now.
    fn advice(&self, refused: &Refusals) -> String {
        if !self.embedded {
            return "if the devices live, the broker keeps their heartbeats from this client; look \
                    at its rights for the topic of the heartbeats and at its queue limits"
                .to_owned();
        }
        let before = |reason| {
            let counts = self.last.1.iter().find(|(other, _)| *other == reason);
            counts.map_or(0, |(_, count)| *count)
        };
        let since = refused.iter().map(|&(reason, count)| (reason, count - before(reason)));
        let mut since: Refusals = since.filter(|(_, count)| *count > 0).collect();
        since.sort_unstable_by_key(|(_, count)| std::cmp::Reverse(*count));
        if since.is_empty() {
            return "the embedded broker has refused nothing meanwhile; if the devices live, look \
                    at their network, and at the address and port to which they connect"
                .to_owned();
        }
        let all: u64 = since.iter().map(|(_, count)| count).sum();
        let named = since.iter().take(NAMED).map(|(reason, count)| format!("{count} {reason}"));
        format!(
            "the embedded broker has refused {all} connections or messages meanwhile ({}); its \
             log lines say why",
            named.collect::<Vec<_>>().join(", ")
        )
    }

    /// Notes that a device was heard.
    pub(super) fn heard(&mut self) {
        if let Some(FleetSilence { lasts, .. }) = self.silent.take() {
            let (seconds, topic) = (lasts.as_secs(), &self.topic);
            info!(
                target: TARGET, seconds, topic:%;
                "devices are heard again, after {}", human(lasts)
            );
        }
    }

    /// The silence of the fleet, once it has reached half the timeout.
    pub(super) fn silent(&self) -> Option<FleetSilence> {
        self.silent.clone()
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
        let mut watch = FleetWatch::new(Duration::from_secs(60), topic, false);
        watch.listened(Duration::from_secs(29), 3, Vec::new());
        assert_eq!(watch.silent(), None);
        for seconds in [30, 45] {
            watch.listened(Duration::from_secs(seconds), 3, Vec::new());
            let silence = watch.silent().expect("it is suspicious");
            assert_eq!(silence.lasts, Duration::from_secs(seconds));
            assert!(silence.advice.contains("queue limits"), "{}", silence.advice);
        }
        watch.heard();
        assert_eq!(watch.silent(), None);
    }

    #[test]
    fn the_embedded_broker_tells_what_it_has_refused_since_a_device_was_heard() {
        let topic = "devices/+/heartbeat".parse().expect("a pattern");
        let mut watch = FleetWatch::new(Duration::from_secs(60), topic, true);
        let mut said = |seconds, [bad, busy]: [u64; 2]| {
            let refused = vec![("busy", busy), ("bad_credentials", bad)];
            watch.listened(Duration::from_secs(seconds), 3, refused);
            watch.silent().map(|silence| silence.advice)
        };
        assert_eq!(said(1, [70, 4]), None);
        let nothing = said(31, [70, 4]).expect("it is suspicious");
        assert!(nothing.contains("has refused nothing meanwhile"), "{nothing}");
        assert!(!nothing.contains("queue limits"), "{nothing}");
        let refused = said(40, [370, 16]).expect("it is suspicious");
        let expected = "has refused 312 connections or messages meanwhile (300 bad_credentials, \
                        12 busy)";
        assert!(refused.contains(expected), "{refused}");
    }

    #[test]
    fn the_silence_of_one_or_two_devices_is_not_an_error() {
        let levels = [1, 2, 3, 10_000].map(|devices| severity(devices).0);
        assert_eq!(levels, [Level::Warn, Level::Warn, Level::Error, Level::Error]);
    }
}
