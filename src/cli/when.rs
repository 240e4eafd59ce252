//! Times as people type them: a time, a date, or how long ago.

use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Utc};

use crate::logging::escape::Escaped;

/// The forms of times, for `--help`.
pub(super) const TIMES: &str = "\
A TIME is 2026-11-26T14:02:00Z, with another offset such as +01:00, 2026-11-26 14:02 in UTC, a
date, which begins at midnight UTC, or a duration such as 90m, 2h or 7d, that long ago.";

/// A point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    At(DateTime<Utc>),
    Ago(Duration),
}

impl When {
    /// Reads a time.
    ///
    /// # Errors
    ///
    /// If the text is none, with what would be right.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if let Some(at) = instant(text) {
            return Ok(Self::At(at));
        }
        if let Ok(ago) = crate::duration::parse(text) {
            return Ok(Self::Ago(ago));
        }
        Err(format!(
            "{} is not a time: 2026-11-26T14:02:00Z, 2026-11-26 14:02, 2026-11-26, or how long \
             ago, such as 2h",
            Escaped(text)
        ))
    }

    /// The instant that is meant at `now`. One before all times is the earliest of all.
    pub(super) fn before(self, now: DateTime<Utc>) -> DateTime<Utc> {
        match self {
            Self::At(at) => at,
            Self::Ago(ago) => {
                let earlier =
                    TimeDelta::from_std(ago).ok().and_then(|ago| now.checked_sub_signed(ago));
                earlier.unwrap_or(DateTime::<Utc>::MIN_UTC)
            }
        }
    }
}

fn instant(text: &str) -> Option<DateTime<Utc>> {
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Some(at.to_utc());
    }
    if let Ok(date) = text.parse::<NaiveDate>() {
        return Some(date.and_time(NaiveTime::MIN).and_utc());
    }
    let forms =
        ["%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f"];
    let read = |form| NaiveDateTime::parse_from_str(text, form).ok();
    Some(forms.into_iter().find_map(read)?.and_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_an_instant_a_date_or_how_long_ago() {
        let now = DateTime::from_timestamp(1_795_442_902, 0).expect("small");
        for (text, expected) in [
            ("2026-11-26T14:02:00Z", "2026-11-26T14:02:00+00:00"),
            ("2026-11-26T14:02:00.25+01:00", "2026-11-26T13:02:00.250+00:00"),
            ("2026-11-26 14:02", "2026-11-26T14:02:00+00:00"),
            ("2026-11-26T14:02:30.5", "2026-11-26T14:02:30.500+00:00"),
            ("2026-11-26", "2026-11-26T00:00:00+00:00"),
            ("90m", "2026-11-23T12:38:22+00:00"),
            ("1d 2h", "2026-11-22T12:08:22+00:00"),
            ("0s", "2026-11-23T14:08:22+00:00"),
        ] {
            let when = When::parse(text).expect(text);
            assert_eq!(when.before(now).to_rfc3339(), expected, "{text}");
        }
        let ages = When::parse("1000000000000d").expect("a duration");
        assert_eq!(ages.before(now), DateTime::<Utc>::MIN_UTC);
    }

    #[test]
    fn what_is_not_a_time_is_refused_with_the_forms_of_one() {
        for text in
            ["", "soon", "14:02", "2026-13-01", "26.11.2026", "2026-11-26T25:00", "2", "-2h"]
        {
            let error = When::parse(text).expect_err(text);
            assert!(
                error.contains("2026-11-26T14:02:00Z, 2026-11-26 14:02, 2026-11-26"),
                "{error}"
            );
        }
    }
}
