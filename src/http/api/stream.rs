//! `/events/stream`: events as they happen (server-sent events).
//!
//! A stream is a place and nothing more. It takes what follows from the feed or, if it is
//! further behind, from the tables, page by page as its client reads. So a slow client costs no
//! memory, and one that was cut off misses nothing and gets nothing twice.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse};
use futures::stream::unfold;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep_until};

use super::events::{NOT_KEPT, after_place};
use super::feed::{Chunk, READ_AT_ONCE, summary_message};
use super::parameters::Query;
use super::{Api, Kind, Problem};
use crate::domain::EventPlace;
use crate::http::connection::Exchange;
use crate::views::api::{EventItem, message, place_as_text, place_of_text};

/// The time after which a silent stream sends a comment, so that nothing between it and its
/// client takes it for dead.
const COMMENT: Duration = Duration::from_secs(15);

/// The time after which the tables are asked again when the database was away.
const AGAIN: Duration = Duration::from_secs(1);

/// What a client that was cut off waits before it comes back.
const RETRY: &str = "retry: 3000\n";

static LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Opens a stream.
pub(super) async fn open(
    request: &HttpRequest,
    api: Data<Api>,
    query: &Query,
) -> Result<HttpResponse, Problem> {
    let last = request.headers().get(&LAST_EVENT_ID).and_then(|id| id.to_str().ok());
    let last = last.filter(|id| !id.is_empty()).map(place_of_last).transpose()?;
    let permit = Arc::clone(&api.streams).try_acquire_owned().map_err(|_| {
        let most = api.max_streams;
        let detail = format!("{most} event streams are open already, as many as http.max_streams");
        Problem::new(Kind::TooManyStreams, detail).retry_after(5)
    })?;
    let body = if query.text("summary").is_some() {
        let first = summary_message(&api.context);
        let summaries = Summaries::new(&api, permit, first);
        HttpResponse::Ok()
            .insert_header((CONTENT_TYPE, "text/event-stream"))
            .insert_header((CACHE_CONTROL, "no-store"))
            .insert_header(("x-accel-buffering", "no"))
            .streaming(unfold(summaries, Summaries::next))
    } else {
        // From before the place is known, so that nothing is missed.
        let news = api.feed.news();
        let place = match last {
            Some(place) => place,
            None => {
                let context = Arc::clone(&api.context);
                let newest = async move || Ok(context.reader.newest_event().await?);
                api.workers.run(newest).await?
            }
        };
        let events = Events::new(api.clone(), permit, news, place);
        HttpResponse::Ok()
            .insert_header((CONTENT_TYPE, "text/event-stream"))
            .insert_header((CACHE_CONTROL, "no-store"))
            .insert_header(("x-accel-buffering", "no"))
            .streaming(unfold(events, Events::next))
    };
    if let Some(exchange) = request.conn_data::<Exchange>() {
        exchange.stream();
    }
    Ok(body)
}

fn place_of_last(id: &str) -> Result<EventPlace, Problem> {
    place_of_text(id).ok_or_else(|| {
        let detail = "the id of the last event is expected, as it is";
        Problem::new(Kind::InvalidParameter, format!("Last-Event-ID: {detail}"))
            .flaw("/headers/Last-Event-ID", detail)
    })
}

type Sent = Result<Bytes, actix_web::Error>;

/// A stream of summaries.
struct Summaries {
    first: Option<Bytes>,
    summaries: watch::Receiver<Bytes>,
    ending: watch::Receiver<bool>,
    ended: bool,
    _permit: OwnedSemaphorePermit,
}

impl Summaries {
    fn new(api: &Api, permit: OwnedSemaphorePermit, first: Bytes) -> Self {
        let first = [RETRY.as_bytes(), b"\n", &first].concat().into();
        let (summaries, ending) = (api.feed.summaries(), api.ending.subscribe());
        Self { first: Some(first), summaries, ending, ended: false, _permit: permit }
    }

    async fn next(mut self) -> Option<(Sent, Self)> {
        if self.ended {
            return None;
        }
        if let Some(first) = self.first.take() {
            return Some((Ok(first), self));
        }
        tokio::select! {
            changed = self.summaries.changed() => {
                changed.ok()?;
                let summary = self.summaries.borrow_and_update().clone();
                Some((Ok(summary), self))
            }
            () = has_ended(&mut self.ending) => {
                self.ended = true;
                Some((Ok(bye()), self))
            }
        }
    }
}

/// A stream of events.
struct Events {
    api: Data<Api>,
    place: EventPlace,
    /// What is sent next.
    waiting: VecDeque<Bytes>,
    news: watch::Receiver<u64>,
    ending: watch::Receiver<bool>,
    ended: bool,
    _permit: OwnedSemaphorePermit,
}

/// What follows a place.
enum Following {
    Events(Chunk),
    /// Some of it is not kept any more, or may be lost.
    Gone {
        newest: EventPlace,
    },
}

impl Events {
    fn new(
        api: Data<Api>,
        permit: OwnedSemaphorePermit,
        news: watch::Receiver<u64>,
        place: EventPlace,
    ) -> Self {
        // The id alone is no event, but the client keeps it. So one that is cut off before the
        // first event continues here.
        let first = format!("{RETRY}id: {}\n\n", place_as_text(place));
        let (ending, waiting) = (api.ending.subscribe(), [first.into()].into());
        Self { api, place, waiting, news, ending, ended: false, _permit: permit }
    }

    async fn next(mut self) -> Option<(Sent, Self)> {
        let mut comment = Instant::now() + COMMENT;
        loop {
            if let Some(waiting) = self.waiting.pop_front() {
                return Some((Ok(waiting), self));
            }
            if self.ended {
                return None;
            }
            self.news.borrow_and_update();
            let again = match self.following().await {
                Ok(Following::Events(chunk)) if !chunk.text.is_empty() => {
                    self.place = chunk.place;
                    self.waiting.push_back(chunk.text.into());
                    continue;
                }
                Ok(Following::Events(_)) => None,
                Ok(Following::Gone { newest }) => {
                    self.place = newest;
                    self.waiting.push_back(reset(newest));
                    continue;
                }
                Err(_away) => Some(Instant::now() + AGAIN),
            };
            tokio::select! {
                changed = self.news.changed(), if again.is_none() => changed.ok()?,
                () = sleep_until(again.unwrap_or(comment).min(comment)) => {
                    if Instant::now() >= comment {
                        comment += COMMENT;
                        self.waiting.push_back(Bytes::from_static(b":\n\n"));
                    }
                }
                () = has_ended(&mut self.ending) => {
                    self.ended = true;
                    self.waiting.push_back(bye());
                }
            }
        }
    }

    /// What follows the place of the stream.
    async fn following(&self) -> Result<Following, Problem> {
        if let Some(chunk) = self.api.feed.after(self.place) {
            return Ok(Following::Events(chunk));
        }
        let (context, place) = (Arc::clone(&self.api.context), self.place);
        let read = async move || {
            let Some(events) = after_place(&context, place, READ_AT_ONCE).await? else {
                let newest = context.reader.newest_event().await?;
                return Ok(Following::Gone { newest });
            };
            let place = events.last().map_or(place, |event| event.place);
            let texts = events.into_iter().map(|event| EventItem::from(event).as_message());
            let text = texts.collect::<String>().into_bytes();
            Ok(Following::Events(Chunk { text, place }))
        };
        self.api.workers.run(read).await
    }
}

async fn has_ended(ending: &mut watch::Receiver<bool>) {
    // If the sender is gone, the service is.
    let _ = ending.wait_for(|ending| *ending).await;
}

/// Says that events are missing, and where the stream goes on.
fn reset(newest: EventPlace) -> Bytes {
    let id = place_as_text(newest);
    let why = format!("{NOT_KEPT}: read the current state");
    message(Some(&id), "reset", &json!({"id": id, "detail": why})).into()
}

fn bye() -> Bytes {
    message(None, "bye", &json!({"detail": "the service is stopping"})).into()
}
