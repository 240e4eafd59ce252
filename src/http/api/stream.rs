//! `/events/stream`: events as they happen (server-sent events).
//!
//! A stream is a place and nothing more. It takes what follows from the feed or, if it is
//! further behind, from the tables, page by page as its client reads. So a slow client costs no
//! memory, and one that was cut off misses nothing and gets nothing twice.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use actix_web::http::{ConnectionType, Version};
use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse};
use futures::stream::{Stream, unfold};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep_until};

use super::access::Permitted;
use super::events::{NOT_KEPT, after_place};
use super::feed::{Chunk, READ_AT_ONCE, summary_message};
use super::parameters::Query;
use super::{Api, Kind, Problem};
use crate::domain::EventPlace;
use crate::http::connection::Exchange;
use crate::metrics::Counted;
use crate::views::api::{EventItem, message, place_as_text, place_of_text};

/// The time after which a silent stream sends a comment, so that nothing between it and its
/// client takes it for dead.
const COMMENT: Duration = Duration::from_secs(15);

/// The time after which the tables are asked again when the database was away.
const AGAIN: Duration = Duration::from_secs(1);

/// The line that makes a client wait 3 s before it comes back when it was cut off.
const RETRY: &str = "retry: 3000\n";

static LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Opens a stream.
pub(super) async fn open(
    request: &HttpRequest,
    api: Data<Api>,
    query: &Query,
) -> Result<HttpResponse, Problem> {
    let last = last_event_id(request)?;
    let permit = Arc::clone(&api.streams).try_acquire_owned().map_err(|_| {
        let most = api.max_streams;
        let detail = format!("{most} event streams are open already, as many as http.max_streams");
        Problem::new(Kind::TooManyStreams, detail).retry_after(5)
    })?;
    let open = Open {
        login: api.access.permitted(request),
        ending: api.ending.subscribe(),
        _permit: permit,
        _counted: api.context.metrics.stream_opened(),
    };
    let body = if query.text("summary").is_some() {
        let first = summary_message(&api.context);
        let summaries = Summaries::new(&api, open, first);
        answer(request, unfold(summaries, Summaries::next))
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
        let events = Events::new(api.clone(), open, news, place);
        answer(request, unfold(events, Events::next))
    };
    if let Some(exchange) = request.conn_data::<Exchange>() {
        exchange.stream();
    }
    Ok(body)
}

/// The answer whose body is this stream. That of a client of HTTP/1.0, which knows no chunks, ends
/// with the connection (RFC 9112, 6.1).
fn answer(request: &HttpRequest, body: impl Stream<Item = Sent> + 'static) -> HttpResponse {
    let mut answer = HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "text/event-stream"))
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header(("x-accel-buffering", "no"))
        .streaming(body);
    if request.version() < Version::HTTP_11 {
        answer.head_mut().no_chunking(true);
        answer.head_mut().set_connection_type(ConnectionType::Close);
    }
    answer
}

/// The place after which the client wants to go on; an empty one is none.
fn last_event_id(request: &HttpRequest) -> Result<Option<EventPlace>, Problem> {
    let mut ids = request.headers().get_all(&LAST_EVENT_ID);
    match (ids.next(), ids.next()) {
        (None, _) => Ok(None),
        (Some(id), None) if id.is_empty() => Ok(None),
        (Some(id), None) => {
            id.to_str().ok().and_then(place_of_text).map(Some).ok_or_else(not_a_place)
        }
        (Some(_), Some(_)) => Err(not_a_place()),
    }
}

/// The problem with a header that is not one place. To begin with the newest event instead would
/// lose what the client has missed.
fn not_a_place() -> Problem {
    let detail = "the id of the last event is expected once, as it is";
    Problem::new(Kind::InvalidParameter, format!("Last-Event-ID: {detail}"))
        .flaw("/headers/Last-Event-ID", detail)
}

type Sent = Result<Bytes, actix_web::Error>;

/// The place of an open stream among `http.max_streams`, and the signals that end it.
struct Open {
    login: Permitted,
    ending: watch::Receiver<bool>,
    _permit: OwnedSemaphorePermit,
    _counted: Counted,
}

/// The end of a stream.
enum End {
    /// The service is stopping.
    Stopping,
    /// Its client has logged out.
    LoggedOut,
}

impl Open {
    /// Resolves when the stream has to end.
    async fn ends(&mut self) -> End {
        tokio::select! {
            // If the sender is gone, the service is.
            _ = self.ending.wait_for(|ending| *ending) => End::Stopping,
            () = self.login.ended() => End::LoggedOut,
        }
    }
}

/// A stream of summaries.
struct Summaries {
    first: Option<Bytes>,
    summaries: watch::Receiver<Bytes>,
    open: Open,
    ended: bool,
}

impl Summaries {
    fn new(api: &Api, open: Open, first: Bytes) -> Self {
        let first = [RETRY.as_bytes(), b"\n", &first].concat().into();
        Self { first: Some(first), summaries: api.feed.summaries(), open, ended: false }
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
            end = self.open.ends() => {
                self.ended = true;
                let End::Stopping = end else { return None };
                Some((Ok(bye()), self))
            }
        }
    }
}

/// A stream of events.
struct Events {
    api: Data<Api>,
    place: EventPlace,
    /// The messages to be sent next, oldest first.
    waiting: VecDeque<Bytes>,
    news: watch::Receiver<u64>,
    open: Open,
    ended: bool,
}

/// The events after a place.
enum Following {
    Events(Chunk),
    /// Some of them are not kept any more, or may be lost.
    Gone {
        newest: EventPlace,
    },
}

impl Events {
    fn new(api: Data<Api>, open: Open, news: watch::Receiver<u64>, place: EventPlace) -> Self {
        // The id alone is no event, but the client keeps it. So one that is cut off before the
        // first event continues here.
        let first = format!("{RETRY}id: {}\n\n", place_as_text(place));
        Self { api, place, waiting: [first.into()].into(), news, open, ended: false }
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
            // Also while it catches up.
            if self.open.login.has_ended() {
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
                end = self.open.ends() => {
                    self.ended = true;
                    let End::Stopping = end else { return None };
                    self.waiting.push_back(bye());
                }
            }
        }
    }

    /// Takes the next events from the feed or, if the stream is further behind, from the tables.
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

/// Says that events are missing, and where the stream goes on.
fn reset(newest: EventPlace) -> Bytes {
    let id = place_as_text(newest);
    let why = format!("{NOT_KEPT}: read the current state");
    message(Some(&id), "reset", &json!({"id": id, "detail": why})).into()
}

fn bye() -> Bytes {
    message(None, "bye", &json!({"detail": "the service is stopping"})).into()
}
