//! `/devices/{id}/timeline`: what a device's bar is drawn from.

use chrono::{DateTime, TimeDelta, Utc};

use super::device::find;
use super::parameters::Query;
use super::window::window;
use super::{Answer, Answered, Context, Problem};
use crate::domain::{Coverage, DeviceId, Interval, Judge, Listener, Stay, Transition};
use crate::store::{Position, TransitionQuery};
use crate::views::api::{KnownListening, Life, Timeline};

/// The maximum number of transitions that are read for one timeline, page by page.
const TRANSITIONS: usize = 20_000;

/// The maximum number of intervals of listening that are read for one answer: for a month, one
/// every two minutes.
const INTERVALS: usize = 20_000;

/// The number of transitions of a page.
const PAGE: u64 = 2_000;

pub(super) async fn show(context: &Context, id: &str, query: &Query) -> Answered {
    let device = find(context, id).await?;
    let now = (context.clock)().wall;
    let window = window(context, query, 96, now)?;
    // A silence that began in the window is found later.
    let timeout = device.timeout().unwrap_or(context.settings.timeout());
    let timeout = TimeDelta::from_std(timeout).unwrap_or(TimeDelta::MAX);
    let later = window.to.checked_add_signed(timeout).unwrap_or(now) + TimeDelta::hours(1);
    let life = Life {
        registered_at: device.registered_at,
        status: device.status,
        transitions: between(context, &device.id, window.from, later.max(window.to)).await?,
        before: newest_before(context, &device.id, window.from).await?,
    };
    let known = known(context, window.from, window.to).await?;
    Ok(Answer::ok(&Timeline::new(window, &life, &known, now)))
}

/// Reads the listening of all instances together in a stretch of time.
pub(super) async fn known(
    context: &Context,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
) -> Result<KnownListening, Problem> {
    let stays = context.reader.reads().newest_stays((from, to), INTERVALS).await?;
    let oldest = |stay: &Stay| stay.listened.first().map(|first| first.interval.from);
    let count: usize = stays.iter().map(|stay| stay.listened.len()).sum();
    let oldest = stays.iter().filter_map(oldest).min().filter(|_| count >= INTERVALS);
    let since = oldest.map_or(from, |oldest| oldest.max(from));
    let first = context.reader.reads().first_listened().await?;
    let settings = &context.settings;
    let judge = Judge::named(settings.instance(), &stays);
    let coverage = Coverage::of_stays(settings.confirm_interval(), &stays, judge);
    let listeners = Listener::of_stays(&stays, judge, Interval { from: since, until: to });
    let provable_from = context.board.provable_from((context.clock)());
    Ok(KnownListening { coverage, since, first, provable_from, listeners })
}

async fn newest_before(
    context: &Context,
    id: &DeviceId,
    until: DateTime<Utc>,
) -> Result<Option<Transition>, Problem> {
    let query = TransitionQuery {
        device: Some(id.clone()),
        until: Some(until),
        ..TransitionQuery::default()
    };
    Ok(context.reader.transitions(&query, None, 1).await?.transitions.pop())
}

/// The transitions of a device in a stretch of time, oldest first; if there are too many, the
/// newest.
async fn between(
    context: &Context,
    id: &DeviceId,
    from: DateTime<Utc>,
    until: DateTime<Utc>,
) -> Result<Vec<Transition>, Problem> {
    let query = TransitionQuery {
        device: Some(id.clone()),
        from: Some(from),
        until: Some(until),
        ..TransitionQuery::default()
    };
    let (mut transitions, mut after): (Vec<Transition>, Option<Position>) = (Vec::new(), None);
    while transitions.len() < TRANSITIONS {
        let page = context.reader.transitions(&query, after, PAGE).await?;
        transitions.extend(page.transitions);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    transitions.reverse();
    Ok(transitions)
}
