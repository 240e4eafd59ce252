//! `/events`: what has happened, in order; waits for news if asked to.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::parameters::Query;
use super::{Answer, Answered, Api, Context, Kind, Problem};
use crate::domain::EventPlace;
use crate::views::api::{EventItem, EventPage, place_as_text, place_of_text};

/// The pause between two looks while the service waits for news.
const LOOK: Duration = Duration::from_secs(1);

/// The reason why nothing follows a place.
pub(super) const NOT_KEPT: &str = "events after this one are not kept any more, or the database \
    was replaced, restored or failed over, so that some may be lost";

/// Answers with the events after a place, or without one with the place after the newest event.
pub(super) async fn list(api: &Api, query: &Query) -> Answered {
    let wait = Duration::from_secs(query.number("wait").unwrap_or(0));
    let deadline = Instant::now() + wait;
    let mut news = (!wait.is_zero()).then(|| api.feed.news());
    let mut ending = api.ending.subscribe();
    let limit = query.limit();
    let mut place = match query.text("after") {
        Some(after) => Some(read_place(after)?),
        None => None,
    };
    loop {
        let context = std::sync::Arc::clone(&api.context);
        let after = place;
        let page = api.workers.run(async move || page(&context, after, limit).await).await?;
        let ends = Instant::now() >= deadline || *ending.borrow();
        if !page.0.is_empty() || ends {
            let (items, next) = (page.0, place_as_text(page.1));
            return Ok(Answer::ok(&EventPage { items, next }));
        }
        place = Some(page.1);
        let next_look = deadline.min(Instant::now() + LOOK);
        let changed = async {
            match &mut news {
                Some(news) => news.changed().await.is_ok(),
                None => true,
            }
        };
        tokio::select! {
            _ = timeout_at(next_look, changed) => (),
            _ = ending.changed() => (),
        }
    }
}

fn read_place(text: &str) -> Result<EventPlace, Problem> {
    place_of_text(text)
        .ok_or_else(|| Problem::parameter("after", "the `id` of an event or a `next` is expected"))
}

async fn page(
    context: &Context,
    after: Option<EventPlace>,
    limit: u64,
) -> Result<(Vec<EventItem>, EventPlace), Problem> {
    let Some(after) = after else {
        return Ok((Vec::new(), context.reader.newest_event().await?));
    };
    let Some(events) = after_place(context, after, limit).await? else {
        let detail = format!(
            "{NOT_KEPT}; read the current state, and leave `after` out to continue with the newest \
             events"
        );
        return Err(Problem::new(Kind::Gone, detail));
    };
    let place = events.last().map_or(after, |event| event.place);
    Ok((events.into_iter().map(EventItem::from).collect(), place))
}

/// The events after a place; `None` if some are not kept any more, or if the place is not one of
/// this database.
pub(super) async fn after_place(
    context: &Context,
    after: EventPlace,
    limit: u64,
) -> Result<Option<Vec<crate::domain::Event>>, Problem> {
    // A place that is ahead in anything was given out before the database was replaced by one
    // that tells no timelines. What follows it would be events of long ago.
    let newest = context.reader.newest_event().await?;
    if after.transition > newest.transition || after.journal > newest.journal {
        return Ok(None);
    }
    Ok(context.reader.events(after, limit).await?)
}
