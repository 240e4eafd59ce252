//! The payload of a heartbeat: the fields that can be read, and why the others cannot.
//!
//! Reading never fails, because a heartbeat is evidence of life whatever it carries.

use std::fmt;

use chrono::{DateTime, Utc};
use nonmax::NonMaxI64;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::json::text;
use super::timestamp;

/// The maximum size of a payload that is read, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = 8 * 1024;

/// The maximum number of characters of an error report that are kept.
pub const MAX_ERROR_CHARS: usize = 1024;

/// The reason why a payload, or a field of it, counts as absent.
///
/// Its text names what was expected and where, and repeats nothing of the payload. So it is
/// short, safe to show, and the same for the same mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PayloadError {
    /// The payload has more than [`MAX_PAYLOAD_BYTES`].
    TooLarge,
    /// The payload is neither empty nor JSON.
    NotJson {
        /// The parser's reason and the position.
        why: String,
    },
    /// The payload is JSON, but not an object.
    NotAnObject,
    /// The payload is an object, but these known fields have a wrong type. The others were read.
    Fields(Vec<DroppedField>),
}

/// The names of the known fields.
pub const FIELDS: [&str; 4] = ["timestamp", "uptime_seconds", "free_memory", "error"];

/// A known field that counts as absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DroppedField {
    /// The name of the field.
    pub name: &'static str,
    /// The kind of value that it should have.
    expected: &'static str,
}

impl PayloadError {
    /// The values of the `reason` label in the metrics.
    pub const REASONS: [&str; 3] = ["too_large", "not_json", "not_an_object"];

    /// The value of the `reason` label in the metrics; `None` for single fields, which are
    /// counted by their names.
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            Self::TooLarge => Some("too_large"),
            Self::NotJson { .. } => Some("not_json"),
            Self::NotAnObject => Some("not_an_object"),
            Self::Fields(_) => None,
        }
    }

    /// The fields that were dropped from a payload whose other fields were read.
    pub fn dropped_fields(&self) -> &[DroppedField] {
        match self {
            Self::Fields(fields) => fields,
            Self::TooLarge | Self::NotJson { .. } | Self::NotAnObject => &[],
        }
    }
}

impl fmt::Display for PayloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge => write!(f, "more than {MAX_PAYLOAD_BYTES} bytes"),
            Self::NotJson { why } => write!(f, "not JSON: {why}"),
            Self::NotAnObject => f.write_str("JSON, but not an object"),
            Self::Fields(fields) => {
                for (index, DroppedField { name, expected }) in fields.iter().enumerate() {
                    let separator = if index == 0 { "" } else { "; " };
                    write!(f, "{separator}{name}: not {expected}")?;
                }
                Ok(())
            }
        }
    }
}

/// True if the text of an error differs from the previous one in more than the position,
/// which moves with the length of whatever precedes it.
pub fn is_new_payload_error(before: Option<&str>, now: &str) -> bool {
    let kind = |text: &str| text.split_once(" at ").map_or(text, |(kind, _)| kind).to_owned();
    before.is_none_or(|before| before != now && kind(before) != kind(now))
}

/// The known fields of a payload.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    pub timestamp: Option<DateTime<Utc>>,
    pub uptime_seconds: Option<NonMaxI64>,
    pub free_memory: Option<NonMaxI64>,
    pub error: Option<Box<str>>,
}

impl Report {
    /// Reads as much as can be read.
    pub(super) fn read(payload: &[u8]) -> (Self, Option<PayloadError>) {
        let written = match Written::read(payload) {
            Ok(written) => written,
            Err(error) => return (Self::default(), Some(error)),
        };
        let mut dropped = Vec::new();
        let report = Self {
            timestamp: field(
                "timestamp",
                written.timestamp,
                timestamp::EXPECTED,
                timestamp::from_json,
                &mut dropped,
            ),
            uptime_seconds: field(
                "uptime_seconds",
                written.uptime_seconds,
                WHOLE_NUMBER,
                whole_number,
                &mut dropped,
            ),
            free_memory: field(
                "free_memory",
                written.free_memory,
                WHOLE_NUMBER,
                whole_number,
                &mut dropped,
            ),
            error: field("error", written.error, "text", error_report, &mut dropped).flatten(),
        };
        (report, (!dropped.is_empty()).then_some(PayloadError::Fields(dropped)))
    }
}

const WHOLE_NUMBER: &str = "a whole number from 0 to 9223372036854775806";

/// Each known field in its raw form, so that a wrong type in one of them does not fail the
/// others.
#[derive(Default)]
struct Written<'a> {
    timestamp: Option<&'a RawValue>,
    uptime_seconds: Option<&'a RawValue>,
    free_memory: Option<&'a RawValue>,
    error: Option<&'a RawValue>,
}

impl<'a> Written<'a> {
    fn read(payload: &'a [u8]) -> Result<Self, PayloadError> {
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(PayloadError::TooLarge);
        }
        let text = str::from_utf8(payload).map_err(|error| PayloadError::NotJson {
            why: format!("not UTF-8 at byte {}", error.valid_up_to() + 1),
        })?;
        let not_json = |error: serde_json::Error| PayloadError::NotJson { why: error.to_string() };
        match text.trim_ascii_start().as_bytes().first() {
            None => Ok(Self::default()),
            Some(b'{') => serde_json::from_str(text).map_err(not_json),
            Some(_) => {
                serde_json::from_str::<IgnoredAny>(text).map_err(not_json)?;
                Err(PayloadError::NotAnObject)
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Key {
    Timestamp,
    UptimeSeconds,
    FreeMemory,
    Error,
    #[serde(other)]
    Unknown,
}

/// Not derived, because a derived struct refuses a key that comes twice. Here the last one
/// wins, as with most readers of JSON.
impl<'de> Deserialize<'de> for Written<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Written<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut written = Written::default();
                while let Some(key) = map.next_key()? {
                    let field = match key {
                        Key::Timestamp => &mut written.timestamp,
                        Key::UptimeSeconds => &mut written.uptime_seconds,
                        Key::FreeMemory => &mut written.free_memory,
                        Key::Error => &mut written.error,
                        Key::Unknown => {
                            map.next_value::<IgnoredAny>()?;
                            continue;
                        }
                    };
                    *field = map.next_value()?;
                }
                Ok(written)
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// The value of a field. One that cannot be read is `None` and is noted in `dropped`.
fn field<T>(
    name: &'static str,
    written: Option<&RawValue>,
    expected: &'static str,
    read: fn(&str) -> Option<T>,
    dropped: &mut Vec<DroppedField>,
) -> Option<T> {
    let value = read(written?.get());
    if value.is_none() {
        dropped.push(DroppedField { name, expected });
    }
    value
}

/// Reads a whole number from 0 up. The JSON libraries of many devices write every number
/// with a fraction (`3600.0`). That is whole too, as far as an `f64` is exact.
fn whole_number(json: &str) -> Option<NonMaxI64> {
    const EXACT: f64 = (1_u64 << 53) as f64;
    let number = json.parse::<i64>().ok().or_else(|| {
        let number = json.parse::<f64>().ok()?;
        (number.fract() == 0.0 && number.abs() <= EXACT).then_some(number as i64)
    });
    number.filter(|&number| number >= 0).and_then(NonMaxI64::new)
}

/// Reads an error report, without characters that would garble a log or that a database
/// refuses (PostgreSQL stores no U+0000). The inner `None`: it is empty, so there is no
/// error.
fn error_report(json: &str) -> Option<Option<Box<str>>> {
    let clean: String = text(json)?
        .trim()
        .chars()
        .take(MAX_ERROR_CHARS)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    Some((!clean.is_empty()).then(|| clean.into()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number(number: i64) -> Option<NonMaxI64> {
        NonMaxI64::new(number)
    }

    fn read(payload: &str) -> Report {
        let (report, error) = Report::read(payload.as_bytes());
        assert_eq!(error, None, "{payload}");
        report
    }

    /// The report, and the text of the error.
    fn read_with_error(payload: impl AsRef<[u8]>) -> (Report, String) {
        let (report, error) = Report::read(payload.as_ref());
        let shown = String::from_utf8_lossy(payload.as_ref());
        (report, error.unwrap_or_else(|| panic!("no error: {shown}")).to_string())
    }

    #[test]
    fn an_empty_payload_and_an_object_without_known_fields_tell_nothing() {
        for payload in ["", "  \n", "{}", r#" {"vendor":{"a":[1,{"b":null}]},"x":1e400} "#] {
            assert_eq!(read(payload), Report::default(), "{payload:?}");
        }
    }

    #[test]
    fn a_payload_that_cannot_be_read_tells_nothing_and_says_why() {
        let too_large = " ".repeat(MAX_PAYLOAD_BYTES + 1);
        let nested = "[".repeat(4000);
        for (payload, reason, text) in [
            (too_large.as_bytes(), "too_large", "more than 8192 bytes"),
            (b"{", "not_json", "not JSON: EOF while parsing an object at line 1 column 1"),
            (b"{}{}", "not_json", "not JSON: trailing characters at line 1 column 3"),
            (b"{\"rssi\":nan}", "not_json", "not JSON: expected ident at line 1 column 10"),
            (
                b"{\"uptime_seconds\":5}\0",
                "not_json",
                "not JSON: trailing characters at line 1 col",
            ),
            (b"\0", "not_json", "not JSON: expected value at line 1 column 1"),
            (b"{\"a\":1,}", "not_json", "not JSON: trailing comma at line 1 column 8"),
            (b"\xff\xfe", "not_json", "not JSON: not UTF-8 at byte 1"),
            (b"{\"error\":\"\xff\"}", "not_json", "not JSON: not UTF-8 at byte 11"),
            (b"{\"vendor\":\"\xff\"}", "not_json", "not JSON: not UTF-8 at byte 12"),
            (nested.as_bytes(), "not_json", "not JSON: "),
            (b"alive", "not_json", "not JSON: expected value at line 1 column 1"),
            (b"[]", "not_an_object", "JSON, but not an object"),
            (b"[{}]", "not_an_object", "JSON, but not an object"),
            (b"\"online\"", "not_an_object", "JSON, but not an object"),
            (b"1", "not_an_object", "JSON, but not an object"),
            (b"-1.5", "not_an_object", "JSON, but not an object"),
            (b"true", "not_an_object", "JSON, but not an object"),
            (b"null", "not_an_object", "JSON, but not an object"),
        ] {
            let shown = String::from_utf8_lossy(payload);
            let (report, error) = Report::read(payload);
            let error = error.unwrap_or_else(|| panic!("no error: {shown}"));
            assert_eq!(report, Report::default(), "{shown}");
            assert_eq!(error.reason(), Some(reason), "{shown}");
            assert!(error.to_string().starts_with(text), "{shown}: {error}");
        }
    }

    #[test]
    fn a_payload_of_the_most_bytes_is_read() {
        let mut payload = r#"{"uptime_seconds":7}"#.to_owned();
        payload += &" ".repeat(MAX_PAYLOAD_BYTES - payload.len());
        assert_eq!(read(&payload).uptime_seconds, number(7));
    }

    #[test]
    fn the_largest_whole_number_is_the_one_that_is_named() {
        let most = WHOLE_NUMBER.rsplit(' ').next().expect("a number");
        let (report, error) = Report::read(format!(r#"{{"free_memory":{most}}}"#).as_bytes());
        assert_eq!((report.free_memory, error), (number(i64::MAX - 1), None));
    }

    #[test]
    fn a_field_of_a_wrong_type_is_dropped_and_the_others_are_read() {
        const NOT_WHOLE: &str = "not a whole number from 0 to 9223372036854775806";
        const NO_TIME: &str = "not a time as RFC 3339, or since 1970 in seconds, milliseconds, \
                               microseconds or nanoseconds (from 1998-07-09 to 2286-11-20)";
        for (field, value, why) in [
            ("timestamp", r#""yesterday""#, NO_TIME),
            ("timestamp", "[1700000000]", NO_TIME),
            ("timestamp", "true", NO_TIME),
            ("uptime_seconds", r#""3600""#, NOT_WHOLE),
            ("uptime_seconds", "-1", NOT_WHOLE),
            ("uptime_seconds", "1.5", NOT_WHOLE),
            ("uptime_seconds", "18446744073709551615", NOT_WHOLE),
            ("uptime_seconds", "9223372036854775807", NOT_WHOLE),
            ("uptime_seconds", "1e400", NOT_WHOLE),
            ("free_memory", "[1]", NOT_WHOLE),
            ("free_memory", r#"{"a":1}"#, NOT_WHOLE),
            ("error", "true", "not text"),
            ("error", r#""\ud800""#, "not text"),
        ] {
            let other = if field == "free_memory" { "uptime_seconds" } else { "free_memory" };
            let payload = format!(r#"{{"{field}":{value},"{other}":7}}"#);
            let (report, error) = read_with_error(&payload);
            assert_eq!(error, format!("{field}: {why}"), "{payload}");
            let told = report.uptime_seconds.or(report.free_memory);
            assert_eq!(told, number(7), "{payload}");
        }
        let (_, error) = read_with_error(r#"{"uptime_seconds":"1","error":2}"#);
        assert_eq!(error, format!("uptime_seconds: {NOT_WHOLE}; error: not text"));
    }

    #[test]
    fn the_last_of_two_equal_keys_wins() {
        let report = read(r#"{"error":"a","uptime_seconds":"no","error":"b","uptime_seconds":2}"#);
        assert_eq!((report.error.as_deref(), report.uptime_seconds), (Some("b"), number(2)));
        assert_eq!(read(r#"{"free_memory":1,"free_memory":null}"#).free_memory, None);
        assert_eq!(read(r#"{"vendor":1,"vendor":2}"#), Report::default());
    }

    #[test]
    fn null_means_not_told() {
        let payload = r#"{"timestamp":null,"uptime_seconds":null,"error":null}"#;
        assert_eq!(read(payload), Report::default());
    }

    #[test]
    fn a_whole_number_may_be_written_with_a_fraction_of_zero() {
        assert_eq!(read(r#"{"uptime_seconds":3600.0}"#).uptime_seconds, number(3600));
        assert_eq!(read(r#"{"free_memory":1.5e6}"#).free_memory, number(1_500_000));
    }

    #[test]
    fn an_error_report_is_printable_and_short_and_an_empty_one_is_not_an_error() {
        let error = |payload: &str| read(payload).error;
        assert_eq!(error(r#"{"error":"valve stuck"}"#).as_deref(), Some("valve stuck"));
        assert_eq!(error(r#"{"error":"a\u0000b\nc"}"#).as_deref(), Some("a b c"));
        assert_eq!(error(r#"{"error":""}"#), None);
        assert_eq!(error(r#"{"error":"  "}"#), None);
        let long = error(&format!(r#"{{"error":"{}"}}"#, "é".repeat(3000)));
        assert_eq!(long.map(|text| text.chars().count()), Some(MAX_ERROR_CHARS));
    }

    #[test]
    fn an_error_is_new_if_it_differs_in_more_than_its_position() {
        for (before, now, new) in [
            (None, "not JSON: expected ident at line 1 column 9", true),
            (Some("x: not text"), "x: not text", false),
            (Some("x: not text"), "y: not text", true),
            (Some("not JSON: a at line 1 column 9"), "not JSON: a at line 1 column 10", false),
            (Some("not JSON: a at line 1 column 9"), "not JSON: b at line 1 column 9", true),
            (Some("more than 8192 bytes"), "JSON, but not an object", true),
        ] {
            assert_eq!(is_new_payload_error(before, now), new, "{before:?} -> {now}");
        }
    }

    proptest! {
        #[test]
        fn reading_never_fails_and_an_error_is_short_and_printable(
            payload in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..64),
                r#"\{"(timestamp|error|free_memory|uptime_seconds|x)":\PC{0,12}(\}|\x00)"#
                    .prop_map(String::into_bytes),
            ],
        ) {
            if let (_, Some(error)) = Report::read(&payload) {
                let text = error.to_string();
                prop_assert!(text.len() <= 256 && !text.contains(char::is_control), "{}", text);
            }
        }
    }
}
