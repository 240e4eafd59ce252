//! The status of a device, and the events that change it.
//!
//! | from \ event | heartbeat | heartbeat that reports an error | silent past its timeout |
//! |---|---|---|---|
//! | `provisioning` | `online` | `error` | stays |
//! | `online` | stays | `error` | `offline` |
//! | `error` | `online` | stays | `offline` |
//! | `offline` | `online` | `error` | stays |

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};

use super::{DatabaseTimeline, DeviceId, IdempotencyKey};

/// The status of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Status {
    /// Registered, but never heard.
    Provisioning,
    /// Heard within its timeout.
    Online,
    /// Silent for longer than its timeout.
    Offline,
    /// Heard within its timeout, and its last heartbeat reported an error.
    Error,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 4] = [Self::Provisioning, Self::Online, Self::Offline, Self::Error];

    /// The status with this name, if there is one.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }

    /// The status after a heartbeat. It does not depend on the status before, because the
    /// device is alive.
    pub fn on_heartbeat(self, reports_error: bool) -> Self {
        if reports_error { Self::Error } else { Self::Online }
    }

    /// The status after the device has been silent for its timeout. A device that was never
    /// heard cannot fall silent.
    pub fn on_silence(self) -> Self {
        match self {
            Self::Online | Self::Error => Self::Offline,
            Self::Provisioning | Self::Offline => self,
        }
    }

    /// The name in the database, in JSON, in logs and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Provisioning => "provisioning",
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl log::kv::ToValue for Status {
    fn to_value(&self) -> log::kv::Value<'_> {
        self.as_str().into()
    }
}

/// One status change of one device, as in the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// A number that only grows. It is never reused, unless the database loses commits in a
    /// failover: receivers recognise a transition that they already have by its [`key`](Self::key).
    pub sequence: i64,
    /// The timeline of the database on which it was written.
    pub timeline: DatabaseTimeline,
    /// The device whose status changed.
    pub device_id: DeviceId,
    /// The status that was left.
    pub from: Status,
    /// The status that was entered.
    pub to: Status,
    /// The time of the heartbeat, or of the check that found the silence.
    pub at: DateTime<Utc>,
    /// The time of the device's last heartbeat as of then.
    pub last_seen_at: Option<DateTime<Utc>>,
    /// For `offline`: the instant that the last heartbeat was older than.
    pub cutoff: Option<DateTime<Utc>>,
    /// For `offline`: the timeout that decided.
    pub timeout: Option<TimeDelta>,
    /// For `offline`: the part of the silence that was listened to.
    pub listened: Option<TimeDelta>,
    /// For `offline`: the instance that listened, as `mqtt.client_id` names it.
    pub instance: Option<String>,
    /// For `offline`: the time at which a heartbeat or the device's removal ended the outage.
    pub ended_at: Option<DateTime<Utc>>,
    /// The outage that it ends, if it takes the device out of `offline`.
    pub ends: Option<EndedOutage>,
    /// The time at which the sink acknowledged it. Only `offline` ones and those that end an
    /// outage are delivered.
    pub delivered_at: Option<DateTime<Utc>>,
    /// Set if the alert sink takes other alerts but never this one, which was given up.
    pub given_up: Option<GivenUp>,
}

/// An outage, as the transition that ends it remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedOutage {
    /// The key of the offline transition that began it.
    pub key: IdempotencyKey,
    /// The time of the last heartbeat before it.
    pub silent_since: DateTime<Utc>,
    /// The time of the check that found it.
    pub found_at: DateTime<Utc>,
}

/// An outage that lasts, as far as the heartbeat that may end it is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenOutage {
    /// The sequence number of the offline transition that began it.
    pub sequence: i64,
    /// The instant that the last heartbeat was older than; `None` if that was not stored.
    pub cutoff: Option<DateTime<Utc>>,
    /// The time of the check that found it.
    pub found_at: DateTime<Utc>,
}

impl OpenOutage {
    /// True if a heartbeat that is written at `now` ends it. One that was received before the
    /// cutoff does not, because it is as old as the silence: another process held it back, or was
    /// stopped over it.
    ///
    /// An outage from the future of `now` was found by a clock that has been set back since, so
    /// its cutoff says nothing.
    pub fn is_ended_by(&self, received_at: DateTime<Utc>, now: DateTime<Utc>) -> bool {
        self.found_at > now || self.cutoff.is_none_or(|cutoff| received_at >= cutoff)
    }
}

/// The end of an outage, as a sink gets it. The device was down for a time between
/// `ended_at - found_at` and `ended_at - silent_since`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// The key of the transition that ends the outage. Offline transitions and recoveries share
    /// these keys.
    pub key: IdempotencyKey,
    /// The device that is back.
    pub device_id: DeviceId,
    /// The key of the offline transition that began the outage, which is the one that the sink got
    /// with it.
    pub offline_key: IdempotencyKey,
    /// The time of the last heartbeat before the outage.
    pub silent_since: DateTime<Utc>,
    /// The time of the check that found the silence.
    pub found_at: DateTime<Utc>,
    /// The time of the first heartbeat after it.
    pub ended_at: DateTime<Utc>,
    /// The status that was entered: online, or error if that heartbeat reports one.
    pub to: Status,
}

impl Transition {
    /// The key by which a receiver recognises it.
    pub fn key(&self) -> IdempotencyKey {
        IdempotencyKey { timeline: self.timeline, sequence: self.sequence }
    }

    /// The end of an outage, if it is one.
    pub fn recovery(&self) -> Option<Recovery> {
        let EndedOutage { key: offline_key, silent_since, found_at } = self.ends?;
        Some(Recovery {
            key: self.key(),
            device_id: self.device_id.clone(),
            offline_key,
            silent_since,
            found_at,
            ended_at: self.at,
            to: self.to,
        })
    }
}

/// An alert that was given up for the sake of the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenUp {
    /// The time at which it was given up.
    pub at: DateTime<Utc>,
    /// The reason that the alert sink gave last.
    pub why: String,
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta};

    use super::OpenOutage;
    use super::Status::{self, *};

    #[test]
    fn all_has_every_status_and_each_is_found_by_its_name() {
        // A fifth status does not compile here. It belongs in `Status::ALL`, too.
        let count = match Provisioning {
            Provisioning | Online | Offline | Error => 4,
        };
        assert_eq!(Status::ALL.len(), count);
        for status in Status::ALL {
            assert_eq!(Status::named(status.as_str()), Some(status));
        }
        assert_eq!(Status::named("Online"), None);
    }

    #[test]
    fn a_heartbeat_brings_every_status_online_and_an_error_report_to_error() {
        for status in Status::ALL {
            assert_eq!(status.on_heartbeat(false), Online);
            assert_eq!(status.on_heartbeat(true), Error);
        }
    }

    #[test]
    fn silence_takes_only_devices_offline_that_were_heard_before() {
        assert_eq!(Provisioning.on_silence(), Provisioning);
        assert_eq!(Online.on_silence(), Offline);
        assert_eq!(Error.on_silence(), Offline);
        assert_eq!(Offline.on_silence(), Offline);
    }
    #[test]
    fn a_heartbeat_that_is_as_old_as_the_silence_ends_no_outage() {
        let at = |second| DateTime::UNIX_EPOCH + TimeDelta::seconds(second);
        let (found_at, cutoff) = (at(200), Some(at(20)));
        for (cutoff, received, now, ends) in [
            (cutoff, 19, 200, false),
            (cutoff, 20, 200, true),
            (cutoff, 210, 210, true),
            (None, 0, 200, true),
            // The clock was set back, so that the outage is of its future.
            (cutoff, 10, 199, true),
        ] {
            let outage = OpenOutage { sequence: 1, cutoff, found_at };
            assert_eq!(outage.is_ended_by(at(received), at(now)), ends, "{received} at {now}");
        }
    }
}
