//! Times and durations as people read them.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

/// Formats a time in UTC, to the second; `never` for none.
pub(crate) fn time(time: Option<DateTime<Utc>>) -> String {
    time.map_or_else(|| "never".to_owned(), |time| time.to_rfc3339_opts(SecondsFormat::Secs, true))
}

/// Formats a duration: to the second, or below 10 s to the millisecond. A negative one is
/// zero.
pub(crate) fn duration(time: TimeDelta) -> String {
    const SHORT: TimeDelta = TimeDelta::seconds(10);
    let exact = time.to_std().unwrap_or_default();
    let whole = Duration::from_secs(exact.as_secs());
    let millis = Duration::from_millis(u64::try_from(exact.as_millis()).unwrap_or(u64::MAX));
    crate::duration::format(if time < SHORT { millis } else { whole })
}
