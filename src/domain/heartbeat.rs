//! Heartbeats: what a device may say and what the service makes of it.
//!
//! A heartbeat is evidence of life before it is data: a field of the wrong type
//! is dropped, the heartbeat still counts. Its time is the time at which it was
//! received; the device's own clock decides nothing.

use std::borrow::Cow;
use std::time::Duration;

use chrono::{DateTime, Utc};
use nonmax::NonMaxI64;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::DeviceId;
use super::device_id::InvalidDeviceId;

/// The most bytes that a payload may have.
pub const MAX_PAYLOAD_BYTES: usize = 8 * 1024;

/// The most characters of an error report that are kept.
pub const MAX_ERROR_CHARS: usize = 1024;

/// A device said that it is alive.
///
/// 80 bytes: as many of them as there are devices wait to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Who.
    pub device_id: DeviceId,
    /// When, by the service's clock.
    pub received_at: DateTime<Utc>,
    /// The device's clock minus the service's, if it told its time.
    pub clock_skew_ms: Option<NonMaxI64>,
    /// Seconds since the device booted, if it told.
    pub uptime_seconds: Option<NonMaxI64>,
    /// Bytes of free memory, if it told.
    pub free_memory: Option<NonMaxI64>,
    /// The error that it reports, if any.
    pub error: Option<Box<str>>,
}

impl Heartbeat {
    /// Reads a payload: empty, or a JSON object with optional `timestamp`
    /// (RFC 3339), `uptime_seconds`, `free_memory` (whole numbers) and `error`
    /// (text). Unknown fields are ignored; known ones of a wrong type are named
    /// in the second part of the answer and otherwise ignored too.
    ///
    /// # Errors
    ///
    /// A [`Rejection`] if the payload is larger than 8 KiB, no JSON, or JSON
    /// but no object.
    pub fn parse(
        device_id: DeviceId,
        payload: &[u8],
        received_at: DateTime<Utc>,
    ) -> Result<(Self, DroppedFields), Rejection> {
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(Rejection::PayloadTooLarge { device_id, bytes: payload.len() });
        }
        let report = match Report::read(payload) {
            Ok(report) => report,
            Err(NoReport::NotJson(why)) => return Err(Rejection::InvalidJson { device_id, why }),
            Err(NoReport::NotAnObject) => return Err(Rejection::NotAnObject { device_id }),
        };
        let mut dropped = DroppedFields::new();
        let heartbeat = Self {
            device_id,
            received_at,
            clock_skew_ms: field("timestamp", report.timestamp, timestamp, &mut dropped)
                .and_then(|told| NonMaxI64::new((told - received_at).num_milliseconds())),
            uptime_seconds: field(
                "uptime_seconds",
                report.uptime_seconds,
                whole_number,
                &mut dropped,
            ),
            free_memory: field("free_memory", report.free_memory, whole_number, &mut dropped),
            error: field("error", report.error, error_report, &mut dropped).flatten(),
        };
        Ok((heartbeat, dropped))
    }

    /// Takes in a later heartbeat of the same device: what the later one does
    /// not tell stays as it was told before, except for the error, which holds
    /// only as long as it is reported.
    pub fn merge(&mut self, later: Self) {
        self.received_at = later.received_at;
        self.clock_skew_ms = later.clock_skew_ms.or(self.clock_skew_ms);
        self.uptime_seconds = later.uptime_seconds.or(self.uptime_seconds);
        self.free_memory = later.free_memory.or(self.free_memory);
        self.error = later.error;
    }
}

/// Whether a clock skew is worth a warning: it is above the bound, and it was
/// not before or has moved by more than the bound since.
pub fn is_new_skew(before_ms: Option<i64>, now_ms: i64, bound: Duration) -> bool {
    let exceeds = |ms: i64| u128::from(ms.unsigned_abs()) > bound.as_millis();
    exceeds(now_ms)
        && before_ms.is_none_or(|before| !exceeds(before) || exceeds(now_ms.saturating_sub(before)))
}

/// The names of the fields that had a wrong type.
pub type DroppedFields = Vec<&'static str>;

/// Why a message is no heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// It was published earlier and kept by the broker: no evidence of life.
    #[error("a retained message is no evidence of life")]
    Retained {
        /// Whose topic.
        device_id: DeviceId,
    },
    /// The level of the topic where the id belongs holds none.
    #[error("{0}")]
    InvalidDeviceId(InvalidDeviceId),
    /// More bytes than any heartbeat has.
    #[error("the payload has {bytes} bytes, at most {MAX_PAYLOAD_BYTES} are allowed")]
    PayloadTooLarge {
        /// Whose heartbeat.
        device_id: DeviceId,
        /// How many.
        bytes: usize,
    },
    /// Neither empty nor JSON.
    #[error("the payload is neither empty nor JSON: {why}")]
    InvalidJson {
        /// Whose heartbeat.
        device_id: DeviceId,
        /// What the parser says.
        why: String,
    },
    /// JSON, but no object.
    #[error("the payload is JSON but not an object")]
    NotAnObject {
        /// Whose heartbeat.
        device_id: DeviceId,
    },
    /// Not registered, and `devices.auto_register` is off.
    #[error("the device is not registered and devices.auto_register is false")]
    UnknownDevice {
        /// Who.
        device_id: DeviceId,
    },
    /// Not registered, and the fleet has `devices.max_devices` already.
    #[error("the device is not registered and the fleet has reached devices.max_devices")]
    FleetFull {
        /// Who.
        device_id: DeviceId,
    },
}

impl Rejection {
    /// The value of the `reason` label in the metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Retained { .. } => "retained",
            Self::InvalidDeviceId(_) => "invalid_device_id",
            Self::PayloadTooLarge { .. } => "payload_too_large",
            Self::InvalidJson { .. } => "invalid_json",
            Self::NotAnObject { .. } => "not_an_object",
            Self::UnknownDevice { .. } => "unknown_device",
            Self::FleetFull { .. } => "fleet_full",
        }
    }

    /// Whose message it was, as far as that can be told.
    pub fn device_id(&self) -> Option<&DeviceId> {
        match self {
            Self::InvalidDeviceId(_) => None,
            Self::Retained { device_id }
            | Self::PayloadTooLarge { device_id, .. }
            | Self::InvalidJson { device_id, .. }
            | Self::NotAnObject { device_id }
            | Self::UnknownDevice { device_id }
            | Self::FleetFull { device_id } => Some(device_id),
        }
    }
}

/// What a payload tells, each known field still as it was written: a wrong type
/// in one of them must not fail the others.
#[derive(Debug, Default, Deserialize)]
struct Report<'a> {
    #[serde(borrow)]
    timestamp: Option<&'a RawValue>,
    uptime_seconds: Option<&'a RawValue>,
    free_memory: Option<&'a RawValue>,
    error: Option<&'a RawValue>,
}

enum NoReport {
    NotJson(String),
    NotAnObject,
}

impl<'a> Report<'a> {
    fn read(payload: &'a [u8]) -> Result<Self, NoReport> {
        let text = str::from_utf8(payload).map_err(|e| NoReport::NotJson(e.to_string()))?;
        let not_json = |error: serde_json::Error| NoReport::NotJson(error.to_string());
        // A derived struct would read an array as well.
        match text.trim_ascii_start().as_bytes().first() {
            None => Ok(Self::default()),
            Some(b'{') => serde_json::from_str(text).map_err(not_json),
            Some(_) => {
                serde_json::from_str::<IgnoredAny>(text).map_err(not_json)?;
                Err(NoReport::NotAnObject)
            }
        }
    }
}

/// A field's value; one that cannot be read is noted in `dropped` and gives none.
fn field<T>(
    name: &'static str,
    written: Option<&RawValue>,
    read: fn(&str) -> Option<T>,
    dropped: &mut DroppedFields,
) -> Option<T> {
    let value = read(written?.get());
    if value.is_none() {
        dropped.push(name);
    }
    value
}

/// A whole number from 0 up. Many a device's JSON library writes each number
/// with a fraction (`3600.0`): that is whole too, as far as an `f64` is exact.
fn whole_number(json: &str) -> Option<NonMaxI64> {
    const EXACT: f64 = (1_u64 << 53) as f64;
    let number = json.parse::<i64>().ok().or_else(|| {
        let number = json.parse::<f64>().ok()?;
        (number.fract() == 0.0 && number.abs() <= EXACT).then_some(number as i64)
    });
    number.filter(|&number| number >= 0).and_then(NonMaxI64::new)
}

fn timestamp(json: &str) -> Option<DateTime<Utc>> {
    let text: Cow<'_, str> = text(json)?;
    DateTime::parse_from_rfc3339(&text).ok().map(|time| time.to_utc())
}

/// An error report without what would garble a log or a database (PostgreSQL
/// stores no U+0000); the inner `None`: it is empty, there is no error.
fn error_report(json: &str) -> Option<Option<Box<str>>> {
    let clean: String = text(json)?
        .trim()
        .chars()
        .take(MAX_ERROR_CHARS)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    Some((!clean.is_empty()).then(|| clean.into()))
}

/// A JSON string, borrowed where it has no escapes.
fn text(json: &str) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    serde_json::from_str(json).ok().map(|Text(text)| text)
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

    fn parse(payload: &[u8]) -> Result<(Heartbeat, DroppedFields), Rejection> {
        Heartbeat::parse(id(), payload, received_at())
    }

    fn accepted(payload: &str) -> Heartbeat {
        let (heartbeat, dropped) = parse(payload.as_bytes()).expect(payload);
        assert!(dropped.is_empty(), "{payload}: {dropped:?}");
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
        }
    }

    #[test]
    fn an_empty_payload_and_an_object_without_known_fields_prove_life() {
        for payload in ["", "  \n", "{}", r#" {"vendor":{"a":[1,{"b":null}]},"x":1e400} "#] {
            assert_eq!(accepted(payload), bare(), "{payload:?}");
        }
    }

    #[test]
    fn a_heartbeat_is_small() {
        assert_eq!(size_of::<Heartbeat>(), 80);
    }

    #[test]
    fn the_specifications_payload_is_read_whole() {
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
    fn a_field_of_a_wrong_type_is_dropped_and_the_heartbeat_counts() {
        for (payload, dropped) in [
            (r#"{"timestamp":"yesterday"}"#, "timestamp"),
            (r#"{"timestamp":1700000000}"#, "timestamp"),
            (r#"{"uptime_seconds":"3600"}"#, "uptime_seconds"),
            (r#"{"uptime_seconds":-1}"#, "uptime_seconds"),
            (r#"{"uptime_seconds":1.5}"#, "uptime_seconds"),
            (r#"{"uptime_seconds":18446744073709551615}"#, "uptime_seconds"),
            (r#"{"free_memory":[1]}"#, "free_memory"),
            (r#"{"free_memory":{"a":1}}"#, "free_memory"),
            (r#"{"uptime_seconds":1e400}"#, "uptime_seconds"),
            (r#"{"error":true}"#, "error"),
            (r#"{"error":"\ud800"}"#, "error"),
        ] {
            assert_eq!(parse(payload.as_bytes()), Ok((bare(), vec![dropped])), "{payload}");
        }
    }

    #[test]
    fn null_means_not_told() {
        assert_eq!(accepted(r#"{"timestamp":null,"uptime_seconds":null,"error":null}"#), bare());
    }

    #[test]
    fn a_whole_number_may_be_written_with_a_fraction_of_zero() {
        assert_eq!(accepted(r#"{"uptime_seconds":3600.0}"#).uptime_seconds, number(3600));
        assert_eq!(accepted(r#"{"free_memory":1.5e6}"#).free_memory, number(1_500_000));
    }

    #[test]
    fn an_error_report_is_kept_printable_and_short_and_an_empty_one_is_none() {
        let error = |payload: &str| accepted(payload).error;
        assert_eq!(error(r#"{"error":"valve stuck"}"#).as_deref(), Some("valve stuck"));
        assert_eq!(error(r#"{"error":"a\u0000b\nc"}"#).as_deref(), Some("a b c"));
        assert_eq!(error(r#"{"error":""}"#), None);
        assert_eq!(error(r#"{"error":"  "}"#), None);
        let long = error(&format!(r#"{{"error":"{}"}}"#, "é".repeat(3000)));
        assert_eq!(long.map(|text| text.chars().count()), Some(MAX_ERROR_CHARS));
    }

    #[test]
    fn what_is_no_object_is_rejected_with_its_reason() {
        let too_large = vec![b' '; MAX_PAYLOAD_BYTES + 1];
        for (payload, reason) in [
            (too_large.as_slice(), "payload_too_large"),
            (b"{", "invalid_json"),
            (b"{}{}", "invalid_json"),
            (b"{\"a\":1,}", "invalid_json"),
            (b"\xff\xfe", "invalid_json"),
            (b"{\"error\":\"\xff\"}", "invalid_json"),
            (b"{\"vendor\":\"\xff\"}", "invalid_json"),
            (b"{\"error\":\"a\", \"error\":\"b\"}", "invalid_json"),
            ("[".repeat(4000).as_bytes(), "invalid_json"),
            (b"alive", "invalid_json"),
            (b"[]", "not_an_object"),
            (b"[{}]", "not_an_object"),
            (b"\"online\"", "not_an_object"),
            (b"1", "not_an_object"),
            (b"-1", "not_an_object"),
            (b"1.5", "not_an_object"),
            (b"true", "not_an_object"),
            (b"null", "not_an_object"),
        ] {
            let rejection = parse(payload).expect_err("no heartbeat");
            assert_eq!(rejection.reason(), reason, "{:?}", String::from_utf8_lossy(payload));
            assert_eq!(rejection.device_id(), Some(&id()));
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
