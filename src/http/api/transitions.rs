//! `/transitions` and `/outages`: status changes, the newest first.

use chrono::DateTime;

use super::cursor::{List, Order, malformed};
use super::parameters::Query;
use super::window::is_a_stretch;
use super::{Answer, Answered, Context, Problem};
use crate::domain::{Status, Transition};
use crate::store::{Position, TransitionQuery};
use crate::views::api::{OutageItem, OutagePage, TransitionItem, TransitionPage};

/// The number of pages that are read for one in which only ended outages are left.
const PAGES_TO_FILTER: usize = 10;

pub(super) async fn list(context: &Context, query: &Query) -> Answered {
    is_a_stretch(query, "from", "until")?;
    let wanted = TransitionQuery {
        device: query.device("device").cloned(),
        to: query.statuses("to").first().copied(),
        from: query.time("from"),
        until: query.time("until"),
        ..TransitionQuery::default()
    };
    let (transitions, next) = read(context, query, "/transitions", &wanted, |_| true).await?;
    let items = transitions.into_iter().map(TransitionItem::from).collect();
    Ok(Answer::ok(&TransitionPage { items, next }))
}

pub(super) async fn outages(context: &Context, query: &Query) -> Answered {
    is_a_stretch(query, "from", "until")?;
    is_a_stretch(query, "silent_from", "silent_until")?;
    let wanted = TransitionQuery {
        device: query.device("device").cloned(),
        to: Some(Status::Offline),
        open: query.flag("open") == Some(true),
        at: query.time("found_at"),
        from: query.time("from"),
        until: query.time("until"),
    };
    let only_ended = query.flag("open") == Some(false);
    let (from, until) = (query.time("silent_from"), query.time("silent_until"));
    let keep = |outage: &Transition| {
        let silent_since = outage.last_seen_at.unwrap_or(outage.at);
        (!only_ended || outage.ended_at.is_some())
            && from.is_none_or(|from| silent_since >= from)
            && until.is_none_or(|until| silent_since < until)
    };
    let (outages, next) = read(context, query, "/outages", &wanted, keep).await?;
    let items = outages.into_iter().map(OutageItem::from).collect();
    Ok(Answer::ok(&OutagePage { items, next }))
}

/// Reads a page of those transitions that `keep` keeps, and the cursor of the next page.
async fn read(
    context: &Context,
    query: &Query,
    path: &str,
    wanted: &TransitionQuery,
    keep: impl Fn(&Transition) -> bool,
) -> Result<(Vec<Transition>, Option<String>), Problem> {
    let list = List::new(path, Order::Newest, query.filters());
    let mut after = query.text("cursor").map(|cursor| position(&list, cursor)).transpose()?;
    let mut kept = Vec::new();
    // One more shows whether there is a next page.
    let limit = query.limit() as usize + 1;
    for _ in 0..PAGES_TO_FILTER {
        let missing = limit - kept.len();
        let page = context.reader.transitions(wanted, after, missing as u64).await?;
        kept.extend(page.transitions.into_iter().filter(&keep));
        after = page.next;
        if after.is_none() || kept.len() >= limit {
            break;
        }
    }
    if kept.len() >= limit {
        kept.truncate(limit - 1);
        after = kept.last().map(|last| Position { at: last.at, sequence: last.sequence });
    }
    Ok((kept, after.map(|next| list.after(&key(next)))))
}

fn key(position: Position) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&position.at.timestamp_millis().to_be_bytes());
    key[8..].copy_from_slice(&position.sequence.to_be_bytes());
    key
}

fn position(list: &List, cursor: &str) -> Result<Position, Problem> {
    let key = list.key(cursor)?;
    let key: [[u8; 8]; 2] = match key.as_chunks() {
        ([at, sequence], []) => [*at, *sequence],
        _ => return Err(malformed()),
    };
    let [at, sequence] = key.map(i64::from_be_bytes);
    let at = DateTime::from_timestamp_millis(at).ok_or_else(malformed)?;
    Ok(Position { at, sequence })
}
