//! Heartbeats: their content, and the reasons to reject a message that is not one.
//!
//! A heartbeat is evidence of life before it is data. A part of it that cannot be read
//! counts as absent, but the heartbeat still counts. Its time is the time at which it was
//! received; the device's own clock decides nothing.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use nonmax::NonMaxI64;

use super::device_id::InvalidDeviceId;
use super::payload::{PayloadError, Report};
use super::{Dated, DeviceId};

/// A sign of life from a device.
///
/// 88 bytes long, because one for each device of the fleet may wait to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The device that sent it.
    pub device_id: DeviceId,
    /// The time of its arrival, by the service's clock.
    pub received_at: DateTime<Utc>,
    /// The device's clock minus the service's, if the device told its time.
    pub clock_skew_ms: Option<NonMaxI64>,
    /// Seconds since the device booted, if it told them.
    pub uptime_seconds: Option<NonMaxI64>,
    /// Bytes of free memory, if it told them.
    pub free_memory: Option<NonMaxI64>,
    /// The error that the device reports, if any.
    pub error: Option<Box<str>>,
    /// The reason why the payload, or a part of it, counts as absent.
    pub payload_error: Option<Box<PayloadError>>,
}

impl Heartbeat {
    /// Reads a payload: empty, or a JSON object with optional `timestamp`,
    /// `uptime_seconds`, `free_memory` (whole numbers) and `error` (text). Unknown
    /// fields are ignored. Whatever cannot be read counts as absent and is named by
    /// [`payload_error`](Self::payload_error).
    pub fn parse(device_id: DeviceId, payload: &[u8], received_at: DateTime<Utc>) -> Self {
        let (report, payload_error) = Report::read(payload);
        Self {
            device_id,
            received_at,
            clock_skew_ms: report
                .timestamp
                .and_then(|told| NonMaxI64::new((told - received_at).num_milliseconds())),
            uptime_seconds: report.uptime_seconds,
            free_memory: report.free_memory,
            error: report.error,
            payload_error: payload_error.map(Box::new),
        }
    }

    /// Dates it. If that is the beginning of a stop of the process, the time that the device told
    /// says nothing about its clock.
    pub fn date(&mut self, date: Dated) {
        match date {
            Dated::When(at) => self.received_at = at,
            Dated::AtStop(at) => (self.received_at, self.clock_skew_ms) = (at, None),
        }
    }

    /// The number of bytes of the texts that it holds besides its own size.
    pub fn text_bytes(&self) -> usize {
        self.device_id.text_bytes() + self.error.as_ref().map_or(0, |error| error.len())
    }

    /// Merges a later heartbeat of the same device into this one. Numbers that the later one
    /// does not tell stay as they are. Both errors are those of the later one, because the
    /// device's error holds only as long as it is reported.
    pub fn merge(&mut self, later: Self) {
        self.received_at = later.received_at;
        self.clock_skew_ms = later.clock_skew_ms.or(self.clock_skew_ms);
        self.uptime_seconds = later.uptime_seconds.or(self.uptime_seconds);
        self.free_memory = later.free_memory.or(self.free_memory);
        self.error = later.error;
        self.payload_error = later.payload_error;
    }
}

/// The time by which a stored instant may lie in the future, because another machine's clock may
/// be ahead. A later one was stored by a clock that has been set back since.
pub const TOLERATED_FUTURE: TimeDelta = TimeDelta::minutes(1);

/// The latest instant that can have been stored by a clock that is right, if it is `now`.
pub fn latest_credible(now: DateTime<Utc>) -> DateTime<Utc> {
    now.checked_add_signed(TOLERATED_FUTURE).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

/// True if a heartbeat changes nothing, because a later one of its device is stored already, at
/// `last_seen_at`. So the time of a device's last heartbeat never moves back.
///
/// One of the same instant is not overtaken: times are stored in milliseconds, and it may be the
/// later one. Neither is any if `last_seen_at` is from a clock that has been set back since.
pub fn is_overtaken(
    received_at: DateTime<Utc>,
    last_seen_at: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> bool {
    last_seen_at.is_some_and(|seen| received_at < seen && seen <= latest_credible(now))
}

/// True if a clock skew is worth a warning: it exceeds the bound, and the previous skew did
/// not, or differs from it by more than the bound.
pub fn is_new_skew(before_ms: Option<i64>, now_ms: i64, bound: Duration) -> bool {
    let exceeds = |ms: i64| u128::from(ms.unsigned_abs()) > bound.as_millis();
    exceeds(now_ms)
        && before_ms.is_none_or(|before| !exceeds(before) || exceeds(now_ms.saturating_sub(before)))
}

/// The reason why a message does not count as a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// It was published earlier and kept by the broker, so it is not evidence of life.
    #[error("a retained message is not evidence of life")]
    Retained {
        /// The device of its topic.
        device_id: DeviceId,
    },
    /// The level of the topic for the id does not hold one.
    #[error("{0}")]
    InvalidDeviceId(InvalidDeviceId),
    /// The topic is not UTF-8 or contains a U+0000; the part of it that can be shown.
    #[error(
        "the topic {0:?} is not UTF-8 or contains a U+0000; the broker should refuse such topics"
    )]
    InvalidTopic(Box<str>),
    /// It was received before the device was removed.
    #[error("the device has been removed since")]
    Removed {
        /// The device that sent it.
        device_id: DeviceId,
    },
    /// It was received in the silence that took the device offline, and arrives only now.
    #[error("the device is offline for a silence that is later; its next heartbeat counts")]
    Outdated {
        /// The device that sent it.
        device_id: DeviceId,
    },
    /// The device is not registered, and `devices.auto_register` is off.
    #[error("the device is not registered and devices.auto_register is false")]
    UnknownDevice {
        /// The device that sent it.
        device_id: DeviceId,
    },
    /// The device is not registered, and more new ones report than
    /// `devices.registration_rate` allows.
    #[error(
        "the device is not registered and there are more new ones than \
         devices.registration_rate allows; its next heartbeat tries again"
    )]
    RegistrationRate {
        /// The device that sent it.
        device_id: DeviceId,
    },
    /// The device is not registered, and the fleet has `devices.max_devices` already.
    #[error("the device is not registered and the fleet has reached devices.max_devices")]
    FleetFull {
        /// The device that sent it.
        device_id: DeviceId,
    },
    /// The database accepts other heartbeats, but not this one.
    #[error("the database refuses this heartbeat: {why}")]
    Refused {
        /// The device that sent it.
        device_id: DeviceId,
        /// The reason that the database gives.
        why: String,
    },
    /// More devices report than there is room for until the next flush.
    #[error("too many unregistered devices report; no silence is counted across this")]
    NoRoom {
        /// The device that sent it.
        device_id: DeviceId,
    },
}

impl Rejection {
    /// The values of the `reason` label in the metrics.
    pub const REASONS: [&str; 10] = [
        "retained",
        "invalid_device_id",
        "invalid_topic",
        "removed",
        "outdated",
        "unknown_device",
        "registration_rate",
        "fleet_full",
        "refused_by_database",
        "shed",
    ];

    /// The value of the `reason` label in the metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Retained { .. } => "retained",
            Self::InvalidDeviceId(_) => "invalid_device_id",
            Self::InvalidTopic(_) => "invalid_topic",
            Self::Removed { .. } => "removed",
            Self::Outdated { .. } => "outdated",
            Self::UnknownDevice { .. } => "unknown_device",
            Self::RegistrationRate { .. } => "registration_rate",
            Self::FleetFull { .. } => "fleet_full",
            Self::Refused { .. } => "refused_by_database",
            Self::NoRoom { .. } => "shed",
        }
    }

    /// The device that sent the message, as far as that is known.
    pub fn device_id(&self) -> Option<&DeviceId> {
        match self {
            Self::InvalidDeviceId(_) | Self::InvalidTopic(_) => None,
            Self::Retained { device_id }
            | Self::Removed { device_id }
            | Self::Outdated { device_id }
            | Self::RegistrationRate { device_id }
            | Self::UnknownDevice { device_id }
            | Self::FleetFull { device_id }
            | Self::Refused { device_id, .. }
            | Self::NoRoom { device_id } => Some(device_id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(number: i64) -> Option<NonMaxI64> {
        NonMaxI64::new(number)
    }

    const RECEIVED_AT: &str = "2026-11-23T12:00:00Z";

    fn received_at() -> DateTime<Utc> {
        RECEIVED_AT.parse().expect("a constant")
    }

    fn id() -> DeviceId {
        "pump-17".parse().expect("a constant")
    }

    fn parse(payload: &str) -> Heartbeat {
        Heartbeat::parse(id(), payload.as_bytes(), received_at())
    }

    fn accepted(payload: &str) -> Heartbeat {
        let heartbeat = parse(payload);
        assert_eq!(heartbeat.payload_error, None, "{payload}");
        heartbeat
    }

    fn bare() -> Heartbeat {
        Heartbeat {
            device_id: id(),
            received_at: received_at(),
            clock_skew_ms: None,
            uptime_seconds: None,
            free_memory: None,
            error: None,
            payload_error: None,
        }
    }

    #[test]
    fn a_payload_that_cannot_be_read_proves_life_and_tells_nothing() {
        assert_eq!(accepted(""), bare());
        for payload in [r#"{"rssi":nan}"#, "\0", "[]", "17", r#"{"uptime_seconds":"17"}"#] {
            let heartbeat = parse(payload);
            assert!(heartbeat.payload_error.is_some(), "{payload}");
            assert_eq!(Heartbeat { payload_error: None, ..heartbeat }, bare(), "{payload}");
        }
    }

    #[test]
    fn a_heartbeat_is_small() {
        assert_eq!(size_of::<Heartbeat>(), 88);
    }

    #[test]
    fn the_payload_of_the_specification_is_read_whole() {
        let heartbeat = accepted(
            r#"{"timestamp":"2026-11-23T11:59:59.5Z","uptime_seconds":3600,"free_memory":123456}"#,
        );
        let expected = Heartbeat {
            clock_skew_ms: number(-500),
            uptime_seconds: number(3600),
            free_memory: number(123_456),
            ..bare()
        };
        assert_eq!(heartbeat, expected);
    }

    #[test]
    fn a_skewed_clock_changes_the_skew_and_nothing_else() {
        for (timestamp, skew) in [
            ("2026-11-24T12:00:00Z", 86_400_000),
            ("2026-11-22T12:00:00Z", -86_400_000),
            ("2026-11-23T14:00:00+02:00", 0),
            ("0000-01-01T00:00:00Z", -63_962_654_400_000),
            ("9999-12-31T23:59:59Z", 251_606_865_599_000),
        ] {
            let heartbeat = accepted(&format!(r#"{{"timestamp":"{timestamp}"}}"#));
            assert_eq!(
                heartbeat,
                Heartbeat { clock_skew_ms: number(skew), ..bare() },
                "{timestamp}"
            );
        }
    }

    #[test]
    fn a_later_heartbeat_keeps_what_it_does_not_tell_but_not_an_error() {
        let mut heartbeat = accepted(r#"{"uptime_seconds":1,"free_memory":2,"error":"hot"}"#);
        let later = received_at() + chrono::TimeDelta::seconds(1);
        heartbeat.merge(Heartbeat { received_at: later, uptime_seconds: number(9), ..bare() });
        let expected = Heartbeat {
            received_at: later,
            uptime_seconds: number(9),
            free_memory: number(2),
            ..bare()
        };
        assert_eq!(heartbeat, expected);
    }

    #[test]
    fn the_payload_error_is_that_of_the_later_heartbeat() {
        let (readable, unreadable) = (accepted(r#"{"free_memory":2}"#), parse("17"));
        let mut heartbeat = readable.clone();
        heartbeat.merge(unreadable.clone());
        assert_eq!(heartbeat.payload_error, unreadable.payload_error);
        assert_eq!(heartbeat.free_memory, number(2), "what was told stays");
        heartbeat.merge(readable.clone());
        assert_eq!(heartbeat, readable);
    }

    #[test]
    fn a_heartbeat_is_overtaken_by_a_later_one_unless_that_is_from_a_clock_set_back_since() {
        let now = received_at();
        let at = |millis| now + TimeDelta::milliseconds(millis);
        for (received, stored, overtaken) in [
            (-5_000, None, false),
            (-5_000, Some(-5_001), false),
            (-5_000, Some(-5_000), false),
            (-5_000, Some(-4_999), true),
            (0, Some(60_000), true),
            (0, Some(60_001), false),
        ] {
            let is = is_overtaken(at(received), stored.map(at), now);
            assert_eq!(is, overtaken, "{received} after {stored:?}");
        }
        assert!(is_overtaken(now, Some(at(1)), DateTime::<Utc>::MAX_UTC));
    }

    #[test]
    fn a_skew_is_warned_about_once_until_it_changes() {
        let bound = Duration::from_secs(30);
        for (before, now, warned) in [
            (None, 30_000, false),
            (None, 30_001, true),
            (None, -30_001, true),
            (Some(0), 86_400_000, true),
            (Some(86_400_000), 86_400_900, false),
            (Some(86_400_000), 172_800_000, true),
            (Some(86_400_000), -86_400_000, true),
            (Some(86_400_000), 0, false),
            (Some(i64::MIN), i64::MAX, true),
        ] {
            assert_eq!(is_new_skew(before, now, bound), warned, "{before:?} -> {now}");
        }
    }
}
