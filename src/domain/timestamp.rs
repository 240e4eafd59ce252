//! The time that a device tells, in the formats that devices use.
//!
//! A time is read only if it means one instant. `11/12/2026` does not, and neither does a
//! number that could be seconds as well as milliseconds.

use chrono::{DateTime, Utc};

use super::json::text;

/// The formats that are read, as an error message names them.
pub(super) const EXPECTED: &str = "a time as RFC 3339, or since 1970 in seconds, milliseconds, \
                                   microseconds or nanoseconds (from 1998-07-09 to 2286-11-20)";

/// Reads a JSON value: text in RFC 3339 or a similar format, or the time since 1970 as a
/// number or as text.
pub(super) fn from_json(json: &str) -> Option<DateTime<Utc>> {
    if !json.starts_with('"') {
        return since_1970(json);
    }
    let text = text(json)?;
    let text = text.trim();
    let exact = DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc());
    exact.or_else(|| date_and_time(text)).or_else(|| since_1970(text))
}

/// Reads a number of seconds, milliseconds, microseconds or nanoseconds since 1970. From
/// 1998-07-09 to 2286-11-20 no number can be two of them, and none is a date in digits such
/// as `20261123120000`. A device without a clock tells an earlier time, which is not read.
fn since_1970(number: &str) -> Option<DateTime<Utc>> {
    const FIRST_SECOND: f64 = 9e8;
    const LAST_SECOND: f64 = 1e10;
    let number: f64 = number.replacen(',', ".", 1).parse().ok()?;
    let units_per_second = [1.0, 1e3, 1e6, 1e9];
    let unit = units_per_second
        .into_iter()
        .find(|unit| (FIRST_SECOND * unit..LAST_SECOND * unit).contains(&number))?;
    DateTime::from_timestamp_millis((number / unit * 1000.0).round() as i64)
}

/// Reads a date and a time of day like those of RFC 3339, but with a separator, a fraction
/// or a zone as in other standards. Without a zone it is UTC.
fn date_and_time(text: &str) -> Option<DateTime<Utc>> {
    const DATE: usize = "2026-11-23".len();
    let (date, rest) = text.split_at_checked(DATE)?;
    let rest = rest.strip_prefix(['T', 't', ' ', '_'])?.trim_start();
    let in_time = |c: char| c.is_ascii_digit() || matches!(c, ':' | '.' | ',');
    let (time, zone) = rest.split_at(rest.find(|c| !in_time(c)).unwrap_or(rest.len()));
    let time = time.replacen(',', ".", 1);
    let seconds = if time.len() == "12:00".len() { ":00" } else { "" };
    let exact = format!("{date}T{time}{seconds}{}", offset(zone.trim_start())?);
    DateTime::parse_from_rfc3339(&exact).ok().map(|time| time.to_utc())
}

/// Turns a zone into an offset from UTC as RFC 3339 writes it.
fn offset(zone: &str) -> Option<String> {
    if ["", "Z", "UTC", "GMT"].iter().any(|utc| zone.eq_ignore_ascii_case(utc)) {
        return Some("Z".to_owned());
    }
    let (sign, digits) = zone.split_at_checked(1)?;
    if !matches!(sign, "+" | "-") || !digits.is_ascii() {
        return None;
    }
    let (hours, minutes) = digits.split_at_checked(2)?;
    let minutes = minutes.strip_prefix(':').unwrap_or(minutes);
    Some(format!("{sign}{hours}:{}", if minutes.is_empty() { "00" } else { minutes }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(json: &str) -> Option<String> {
        from_json(json).map(|time| time.to_rfc3339())
    }

    #[test]
    fn a_time_is_read_in_every_format_that_means_one_instant() {
        for spelling in [
            "2026-11-23T12:00:00Z",
            "2026-11-23t12:00:00z",
            "2026-11-23 12:00:00Z",
            "2026-11-23 12:00:00 Z",
            "2026-11-23_12:00:00Z",
            "2026-11-23T12:00:00",
            "2026-11-23 12:00:00",
            "2026-11-23 12:00",
            "2026-11-23T12:00Z",
            "2026-11-23T12:00:00.000",
            "2026-11-23T12:00:00,000Z",
            "2026-11-23T12:00:00+00:00",
            "2026-11-23T12:00:00-00:00",
            "2026-11-23T12:00:00+0000",
            "2026-11-23T12:00:00+00",
            "2026-11-23T14:00:00+02:00",
            "2026-11-23T14:00:00+0200",
            "2026-11-23T14:00:00+02",
            "2026-11-23T14:00:00,0+02",
            "2026-11-23 07:00:00.000000 -0500",
            "2026-11-23 12:00:00 UTC",
            "2026-11-23 12:00:00 gmt",
            "  2026-11-23T12:00:00Z ",
            "1795435200",
            "1795435200.0",
            "1795435200,0",
            "1.7954352e9",
            "1795435200000",
            "1795435200000000",
            "1795435200000000000",
        ] {
            let json = format!("{spelling:?}");
            assert_eq!(read(&json).as_deref(), Some("2026-11-23T12:00:00+00:00"), "{spelling}");
            if spelling.starts_with("17") && !spelling.contains(',') {
                assert_eq!(read(spelling), read(&json), "{spelling}");
            }
        }
    }

    #[test]
    fn a_fraction_is_read_to_the_millisecond() {
        for json in [
            "1795435200.25",
            "1795435200250",
            "1795435200250.0",
            "1795435200250000",
            "1795435200250000000",
            r#""1795435200.25""#,
            r#""2026-11-23T12:00:00.25Z""#,
            r#""2026-11-23 12:00:00,25""#,
            r#""2026-11-23T12:00:00.250000000000""#,
        ] {
            assert_eq!(read(json).as_deref(), Some("2026-11-23T12:00:00.250+00:00"), "{json}");
        }
    }

    #[test]
    fn text_that_may_mean_several_instants_or_none_is_not_read() {
        for json in [
            "0",
            "-1",
            "12345",
            "86400000",
            "1e300",
            "-1795435200",
            "899999999",
            "10000000000",
            // Dates in digits.
            "20261123",
            "20261123120000",
            "261123120000",
            "20261123120000000",
            r#""""#,
            r#""nan""#,
            r#""inf""#,
            r#""-inf""#,
            r#""yesterday""#,
            r#""12:00:00""#,
            r#""2026-11-23""#,
            r#""11/12/2026 12:00:00""#,
            r#""23.11.2026 12:00:00""#,
            r#""2026-11-23T25:00:00""#,
            r#""2026-02-30T12:00:00Z""#,
            r#""2026-11-23T12:00:00+2""#,
            r#""2026-11-23T12:00:00+020""#,
            r#""2026-11-23T12:00:00 CET""#,
            r#""2026-11-23T12:00:00.""#,
            r#""2026-11-23T12""#,
            r#""2026-11-23x12:00:00""#,
            r#""2026-11-23T12:00:00+\u0660\u0660""#,
            r#""2026-11-2\u00e9T12:00:00""#,
            "true",
            "[1795435200]",
            r#"{"s":1795435200}"#,
        ] {
            assert_eq!(read(json), None, "{json}");
        }
    }

    #[test]
    fn a_number_is_read_from_the_first_to_the_last_day_that_the_message_names() {
        for (seconds, day) in [("900000000", "1998-07-09"), ("9999999999", "2286-11-20")] {
            for zeros in ["", "000", "000000", "000000000"] {
                let time = read(&format!("{seconds}{zeros}")).expect(day);
                assert!(time.starts_with(day) && EXPECTED.contains(day), "{time}");
            }
        }
    }

    proptest! {
        #[test]
        fn every_time_is_read_back_from_each_format(millis in 900_000_000_000_i64..10_000_000_000_000) {
            let time = DateTime::from_timestamp_millis(millis).expect("in range");
            let seconds = format!("{}.{:03}", millis / 1000, millis % 1000);
            let spellings = [
                millis.to_string(),
                seconds.clone(),
                format!("{seconds:?}"),
                format!("{}000", millis),
                format!("{}000000", millis),
                format!("{:?}", time.format("%Y-%m-%d %H:%M:%S,%3f").to_string()),
                format!("{:?}", time.format("%Y-%m-%dT%H:%M:%S%.3f+0000").to_string()),
            ];
            for spelling in spellings {
                prop_assert_eq!(from_json(&spelling), Some(time), "{}", spelling);
            }
        }

        #[test]
        fn reading_never_panics(text in "\\PC{0,40}") {
            let _time = from_json(&serde_json::to_string(&text).expect("text serializes"));
        }
    }
}
