//! Durations as people write them: `500ms`, `90s`, `3m`, `1h 30m`, `90d`.
//!
//! The largest unit that is written is a day, because the length of a month or a year is
//! ambiguous.

use std::fmt::Write;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer, de};

const SECOND: u128 = 1_000_000_000;
const DAY: u128 = 24 * 60 * 60 * SECOND;

/// The units in which durations are written, in nanoseconds, from large to small.
const WRITTEN: [(&str, u128); 7] = [
    ("d", DAY),
    ("h", 60 * 60 * SECOND),
    ("m", 60 * SECOND),
    ("s", SECOND),
    ("ms", SECOND / 1_000),
    ("us", SECOND / 1_000_000),
    ("ns", 1),
];

/// A text that is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}; a duration is expected, written like 500ms, 90s, 5m, 1h 30m or 90d")]
pub struct InvalidDuration {
    why: String,
}

fn invalid<T>(why: impl Into<String>) -> Result<T, InvalidDuration> {
    Err(InvalidDuration { why: why.into() })
}

/// Reads a duration: the sum of numbers with units.
///
/// # Errors
///
/// [`InvalidDuration`] if a unit is missing or unknown, or if the sum is too long for a
/// [`Duration`].
pub fn parse(text: &str) -> Result<Duration, InvalidDuration> {
    let mut rest = text.trim();
    match rest {
        "" => return invalid("it is empty"),
        "0" => return Ok(Duration::ZERO),
        _ => (),
    }
    let mut nanoseconds: u128 = 0;
    while !rest.is_empty() {
        let (number, after) = split(rest, |c| c.is_ascii_digit() || c == '.');
        let (unit, after) = split(after.trim_start(), char::is_alphabetic);
        rest = after.trim_start();
        let part = in_nanoseconds(number, unit)?;
        nanoseconds = nanoseconds.saturating_add(part);
    }
    let seconds = u64::try_from(nanoseconds / SECOND);
    match (seconds, u32::try_from(nanoseconds % SECOND)) {
        (Ok(seconds), Ok(rest)) => Ok(Duration::new(seconds, rest)),
        _ => invalid("it is too long"),
    }
}

fn split(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

fn in_nanoseconds(number: &str, unit: &str) -> Result<u128, InvalidDuration> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    // Enough digits for the nanoseconds of a year, and few enough for the product to fit.
    const DIGITS: usize = 17;
    let (Ok(whole), Ok(parts)) = (whole.parse::<u128>(), fraction.parse::<u128>()) else {
        return invalid("a number is missing or malformed");
    };
    if unit.is_empty() {
        return invalid(format!("{number} has no unit: {number}s is meant?"));
    }
    let length = length(unit)?;
    let scale = 10_u128.checked_pow(fraction.len() as u32).filter(|_| fraction.len() <= DIGITS);
    let Some(scale) = scale.filter(|scale| (parts * length).is_multiple_of(*scale)) else {
        return invalid("it has fractions of a nanosecond");
    };
    Ok(whole.saturating_mul(length).saturating_add(parts * length / scale))
}

fn length(unit: &str) -> Result<u128, InvalidDuration> {
    Ok(match unit {
        "ns" | "nsec" | "nanos" => 1,
        "us" | "µs" | "usec" => SECOND / 1_000_000,
        "ms" | "msec" | "millis" => SECOND / 1_000,
        "s" | "sec" | "secs" | "second" | "seconds" => SECOND,
        "m" | "min" | "mins" | "minute" | "minutes" => 60 * SECOND,
        "h" | "hr" | "hrs" | "hour" | "hours" => 60 * 60 * SECOND,
        "d" | "day" | "days" => DAY,
        "w" | "wk" | "wks" | "week" | "weeks" => 7 * DAY,
        "M" | "month" | "months" | "y" | "yr" | "yrs" | "year" | "years" => {
            return invalid("a minute is written 1m, a month 30d and a year 365d");
        }
        _ => return invalid(format!("{unit:?} is not a unit: ns, us, ms, s, m, h, d and w are")),
    })
}

/// Writes a duration so that [`parse`] returns exactly the same one.
pub fn format(duration: Duration) -> String {
    let mut rest = duration.as_nanos();
    let mut text = String::new();
    for (unit, length) in WRITTEN {
        let count = rest / length;
        rest %= length;
        if count > 0 {
            let blank = if text.is_empty() { "" } else { " " };
            // Writing to a String cannot fail.
            let _ = write!(text, "{blank}{count}{unit}");
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// Writes a duration for people: `321 days`, `2 h 3 min`, `3 min 12 s`, `1.2 s`, `250 ms`.
///
/// Names at most two units, and from ten days on only days; the rest is cut off. What is
/// shorter than a millisecond is `0 s`.
pub fn human(duration: Duration) -> String {
    let (seconds, millis) = (duration.as_secs(), duration.as_millis());
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match millis {
        0 => "0 s".to_owned(),
        1..1_000 => format!("{millis} ms"),
        1_000..10_000 => match millis % 1_000 / 100 {
            0 => format!("{seconds} s"),
            tenths => format!("{seconds}.{tenths} s"),
        },
        _ if minutes == 0 => format!("{seconds} s"),
        _ if hours == 0 => two((minutes, "min"), (seconds % 60, "s")),
        _ if days == 0 => two((hours, "h"), (minutes % 60, "min")),
        _ if days == 1 => two((1, "day"), (hours % 24, "h")),
        _ if days < 10 => two((days, "days"), (hours % 24, "h")),
        _ => format!("{days} days"),
    }
}

/// Writes a duration for people with all its units, from the day to the second, because it is
/// one that somebody has chosen: `3 min`, `1 h 30 s`. What is shorter than a second is `0 s`.
pub fn exact(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let days = seconds / 86_400;
    let units = [
        (days, if days == 1 { "day" } else { "days" }),
        (seconds / 3_600 % 24, "h"),
        (seconds / 60 % 60, "min"),
        (seconds % 60, "s"),
    ];
    let told = units.iter().filter(|(count, _)| *count > 0);
    let told: Vec<_> = told.map(|(count, unit)| format!("{count} {unit}")).collect();
    if told.is_empty() { "0 s".to_owned() } else { told.join(" ") }
}

/// A number of large units and the rest in small ones, which is left out if there is none.
fn two((large, unit): (u64, &str), (small, lesser): (u64, &str)) -> String {
    if small == 0 { format!("{large} {unit}") } else { format!("{large} {unit} {small} {lesser}") }
}

pub(crate) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&format(*value))
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    parse(&String::deserialize(from)?).map_err(de::Error::custom)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_duration_is_read_as_it_is_written() {
        for (text, seconds) in [
            ("0", 0),
            ("0s", 0),
            ("180s", 180),
            (" 3 m ", 180),
            ("1h 30m", 5400),
            ("1h30m", 5400),
            ("1.5h", 5400),
            ("2 hours 5min", 7500),
            ("90d", 90 * 24 * 60 * 60),
            ("2w", 14 * 24 * 60 * 60),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(parse("0.25s"), Ok(Duration::from_millis(250)));
    }

    #[test]
    fn text_that_is_not_a_duration_is_refused_with_the_expected_form() {
        for (text, expected) in [
            ("", "empty"),
            ("180", "180s is meant?"),
            ("1h 30", "30s is meant?"),
            ("1.5", "1.5s is meant?"),
            ("3 parsecs", "\"parsecs\" is not a unit"),
            ("5S", "\"S\" is not a unit"),
            ("1M", "a minute is written 1m, a month 30d"),
            ("2 months", "30d"),
            ("1y", "365d"),
            ("-5s", "a number"),
            ("s", "a number"),
            ("1..5s", "a number"),
            ("1s, 2s", "a number"),
            ("0.5ns", "fractions of a nanosecond"),
            ("0.1234567890123456789012345678901234567890s", "a number is missing or malformed"),
            ("0.000000000000000000001d", "fractions of a nanosecond"),
            ("1000000000000000d", "too long"),
            ("18446744073709551615s 1000ms", "too long"),
            ("340282366920938463463374607431768211455d", "too long"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(error.contains("a duration is expected, written like 500ms, 90s"), "{error}");
        }
    }

    #[test]
    fn a_duration_is_written_as_people_write_it() {
        for text in ["0s", "500ms", "1m 30s", "3m", "1h 30m", "90d", "365d 6h", "1s 1ms 1us 1ns"] {
            assert_eq!(format(parse(text).expect(text)), text);
        }
        assert_eq!(format(Duration::from_secs(7_776_000)), "90d");
    }

    #[test]
    fn a_duration_for_people_has_two_units_at_most() {
        const MINUTE: u64 = 60_000;
        const HOUR: u64 = 60 * MINUTE;
        const DAY: u64 = 24 * HOUR;
        for (millis, expected) in [
            (0, "0 s"),
            (1, "1 ms"),
            (999, "999 ms"),
            (1_000, "1 s"),
            (1_099, "1 s"),
            (1_250, "1.2 s"),
            (9_999, "9.9 s"),
            (10_000, "10 s"),
            (59_999, "59 s"),
            (MINUTE, "1 min"),
            (3 * MINUTE + 12_345, "3 min 12 s"),
            (HOUR - 1, "59 min 59 s"),
            (HOUR, "1 h"),
            (2 * HOUR + 3 * MINUTE + 59_000, "2 h 3 min"),
            (DAY - 1, "23 h 59 min"),
            (DAY, "1 day"),
            (DAY + HOUR - 1, "1 day"),
            (6 * DAY + 4 * HOUR, "6 days 4 h"),
            (10 * DAY + 4 * HOUR, "10 days"),
            (27_812_142_968, "321 days"),
            (36_500 * DAY, "36500 days"),
            (u64::MAX, "213503982334 days"),
        ] {
            assert_eq!(human(Duration::from_millis(millis)), expected);
        }
    }

    #[test]
    fn a_chosen_duration_is_told_to_the_second() {
        for (seconds, expected) in [
            (0, "0 s"),
            (180, "3 min"),
            (3630, "1 h 30 s"),
            (86_400, "1 day"),
            (2 * 86_400 + 3661, "2 days 1 h 1 min 1 s"),
        ] {
            assert_eq!(exact(Duration::from_secs(seconds)), expected);
        }
    }

    proptest! {
        #[test]
        fn a_duration_for_people_is_short_and_never_longer_than_it_is(millis in 1..=u64::MAX) {
            let told = human(Duration::from_millis(millis));
            prop_assert!(told.len() <= 20, "{}", told);
            let said = told.replace(" days", "d").replace(" day", "d").replace(" ", "");
            let said = parse(&said).expect("a duration").as_millis() as u64;
            prop_assert!(said <= millis, "{}", told);
            // The second unit, or a tenth of a second.
            prop_assert!(millis - said < (millis / 10).max(100), "{}", told);
        }

        #[test]
        fn an_exact_duration_for_people_is_read_again(seconds: u64) {
            let duration = Duration::from_secs(seconds);
            prop_assert_eq!(parse(&exact(duration)), Ok(duration));
        }

        #[test]
        fn a_written_duration_is_read_again(seconds: u64, nanoseconds in 0_u32..1_000_000_000) {
            let duration = Duration::new(seconds, nanoseconds);
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }

        #[test]
        fn no_text_panics(text in "([0-9]{0,40}\\.?[0-9]{0,40} ?[a-zµ]{0,3} ?){0,3}") {
            let _ = parse(&text);
        }
    }
}
