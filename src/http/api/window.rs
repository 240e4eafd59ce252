//! The times that may be asked for.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::parameters::Query;
use super::{Context, Problem};
use crate::duration;
use crate::views::api::Window;
use crate::views::text;

/// A window of this length may be asked for even if less is kept: the page draws it, with what
/// is not kept as unknown.
const MONTH: Duration = Duration::from_secs(31 * 24 * 60 * 60);

/// The time by which a window may end in the future, because the clocks of clients differ.
const AHEAD: TimeDelta = TimeDelta::days(1);

/// The window that a query asks for, with `from` and `to`: by default the last 24 hours.
pub(super) fn window(
    context: &Context,
    query: &Query,
    buckets: u64,
    now: DateTime<Utc>,
) -> Result<Window, Problem> {
    let to = query.time("to").unwrap_or(now);
    let day_before = (to - TimeDelta::days(1)).max(DateTime::UNIX_EPOCH);
    let from = query.time("from").unwrap_or(day_before);
    for (name, time) in [("from", from), ("to", to)] {
        after_1970(name, time)?;
    }
    if to > now + AHEAD {
        let detail = format!("nothing is known about the future; it is {}", text::time(Some(now)));
        return Err(Problem::parameter("to", detail));
    }
    begins_before_it_ends(query, ("from", from), ("to", to))?;
    let longest = context.retention.max(MONTH);
    if TimeDelta::from_std(longest).is_ok_and(|longest| to - from > longest) {
        let longest = duration::exact(longest);
        let detail = format!("a window of at most {longest} is expected (history.retention)");
        return Err(Problem::parameter("from", detail));
    }
    Ok(Window::new(from, to, query.number("buckets").unwrap_or(buckets)))
}

/// Checks that the time in `begin` is before that in `end`, if both are given.
pub(super) fn is_a_stretch(
    query: &Query,
    begin: &'static str,
    end: &'static str,
) -> Result<(), Problem> {
    match (query.time(begin), query.time(end)) {
        (Some(from), Some(until)) => begins_before_it_ends(query, (begin, from), (end, until)),
        _ => Ok(()),
    }
}

fn begins_before_it_ends(
    query: &Query,
    (begin, from): (&'static str, DateTime<Utc>),
    (end, until): (&'static str, DateTime<Utc>),
) -> Result<(), Problem> {
    if from < until {
        return Ok(());
    }
    let end = if query.time(end).is_some() { format!("`{end}`") } else { "now".to_owned() };
    Err(Problem::parameter(begin, format!("a time before {end} is expected")))
}

/// The instant of `at`, of which the history may still be kept.
pub(super) fn instant(
    context: &Context,
    query: &Query,
    now: DateTime<Utc>,
) -> Result<Option<DateTime<Utc>>, Problem> {
    let Some(at) = query.time("at") else { return Ok(None) };
    after_1970("at", at)?;
    if at > now {
        let detail = format!("a time that has passed is expected; it is {}", text::time(Some(now)));
        return Err(Problem::parameter("at", detail));
    }
    if TimeDelta::from_std(context.retention).is_ok_and(|kept| now - at > kept) {
        let kept = duration::exact(context.retention);
        let detail = format!("a time within the last {kept} is expected (history.retention)");
        return Err(Problem::parameter("at", detail));
    }
    Ok(Some(at))
}

fn after_1970(name: &str, time: DateTime<Utc>) -> Result<(), Problem> {
    if time >= DateTime::UNIX_EPOCH {
        return Ok(());
    }
    Err(Problem::parameter(name, "a time in 1970 or later is expected"))
}
