//! Times, durations and numbers as people read them.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

use crate::duration;
use crate::logging::escape::in_quotes;

/// The maximum number of ids that are proposed in place of one that is unknown.
pub(crate) const PROPOSED: usize = 3;

/// Asks whether one of these ids is meant; `None` if there are none.
pub(crate) fn did_you_mean(ids: &[String]) -> Option<String> {
    let quoted: Vec<_> = ids.iter().map(|id| in_quotes(id)).collect();
    match &quoted[..] {
        [] => None,
        [only] => Some(format!("did you mean {only}?")),
        [first @ .., last] => Some(format!("did you mean {} or {last}?", first.join(", "))),
    }
}

/// Formats a time in UTC, to the second; `never` for none.
pub(crate) fn time(time: Option<DateTime<Utc>>) -> String {
    time.map_or_else(|| "never".to_owned(), |time| time.to_rfc3339_opts(SecondsFormat::Secs, true))
}

/// Formats a time in UTC with the time since then; `never` for none.
pub(crate) fn time_and_age(at: Option<DateTime<Utc>>, now: DateTime<Utc>) -> String {
    match at {
        None => time(None),
        Some(past) if past <= now => format!("{}, {} ago", time(at), duration(now - past)),
        Some(future) => format!("{}, in {}", time(at), duration(future - now)),
    }
}

/// Formats the skew of a clock, in milliseconds.
pub(crate) fn skew(millis: i64) -> String {
    let amount = duration::human(Duration::from_millis(millis.unsigned_abs()));
    match millis {
        0 => "none".to_owned(),
        1.. => format!("{amount} ahead"),
        _ => format!("{amount} behind"),
    }
}

/// Formats a number of seconds that a device has reported, of any sign and size.
pub(crate) fn seconds(seconds: i64) -> String {
    let sign = if seconds < 0 { "-" } else { "" };
    format!("{sign}{}", duration::human(Duration::from_secs(seconds.unsigned_abs())))
}

/// Formats a number of bytes that a device has reported.
pub(crate) fn bytes(bytes: i64) -> String {
    let sign = if bytes < 0 { "-" } else { "" };
    format!("{sign}{} bytes", number(bytes.unsigned_abs()))
}

/// The precision of a time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    Minute,
    Second,
}

/// Formats a time of the last 24 hours before `now` as a time of day in UTC, and any other
/// with its date.
pub(crate) fn time_of_day(time: DateTime<Utc>, now: DateTime<Utc>, to: To) -> String {
    let recent = (TimeDelta::zero()..TimeDelta::hours(24)).contains(&(now - time));
    let format = match (recent, to) {
        (true, To::Minute) => "%H:%M",
        (true, To::Second) => "%H:%M:%S",
        (false, To::Minute) => "%Y-%m-%d %H:%M",
        (false, To::Second) => "%Y-%m-%d %H:%M:%S",
    };
    time.format(format).to_string()
}

/// Formats a number with separators for the thousands: `1,846`.
pub(crate) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats a duration; a negative one is zero.
pub(crate) fn duration(time: TimeDelta) -> String {
    duration::human(time.to_std().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_separators_for_its_thousands() {
        for (given, expected) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (12_345, "12,345"),
            (100_000, "100,000"),
            (u64::MAX, "18,446,744,073,709,551,615"),
        ] {
            assert_eq!(number(given), expected);
        }
    }

    #[test]
    fn a_skew_says_its_direction() {
        for (millis, expected) in [
            (0, "none"),
            (-200, "200 ms behind"),
            (90_000, "1 min 30 s ahead"),
            (-27_812_142_968, "321 days behind"),
            (i64::MIN, "106751991167 days behind"),
        ] {
            assert_eq!(skew(millis), expected);
        }
    }

    #[test]
    fn numbers_that_a_device_reports_may_be_absurd() {
        assert_eq!(seconds(273_600), "3 days 4 h");
        assert_eq!(seconds(i64::MIN), "-106751991167300 days");
        assert_eq!(bytes(-81_234), "-81,234 bytes");
        assert_eq!(bytes(i64::MIN), "-9,223,372,036,854,775,808 bytes");
    }

    #[test]
    fn a_time_is_told_with_its_age() {
        let at = DateTime::from_timestamp(1_795_435_331, 0).expect("small");
        let told = |seconds| time_and_age(Some(at), at + TimeDelta::seconds(seconds));
        assert_eq!(told(125), "2026-11-23T12:02:11Z, 2 min 5 s ago");
        assert_eq!(told(-60), "2026-11-23T12:02:11Z, in 1 min");
        assert_eq!(time_and_age(None, at), "never");
    }

    #[test]
    fn a_time_of_day_has_its_date_once_it_is_a_day_ago() {
        let at = DateTime::from_timestamp(1_795_435_331, 0).expect("small");
        let told = |later: i64, to| time_of_day(at, at + TimeDelta::seconds(later), to);
        assert_eq!(told(0, To::Second), "12:02:11");
        assert_eq!(told(86_399, To::Minute), "12:02");
        assert_eq!(told(86_400, To::Minute), "2026-11-23 12:02");
        assert_eq!(told(86_400, To::Second), "2026-11-23 12:02:11");
        assert_eq!(told(-1, To::Minute), "2026-11-23 12:02", "a clock that was set back");
    }
}
