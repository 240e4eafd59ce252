//! The newest events, for all streams together. They are read and written as text once, however
//! many streams there are. A stream that is further behind reads the tables itself, so nothing
//! is kept for any single one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use actix_web::web::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::timeout;

use super::{Context, summary};
use crate::domain::{Event, EventPlace};
use crate::views::api::{EventItem, message};

/// The number of events that are kept, of some 500 bytes each.
const KEPT: usize = 4096;

/// The number of events that are read at once.
const PAGE: u64 = 500;

/// The time after which the tables are looked at although nothing is known to have changed:
/// commands write, too.
const LOOK: Duration = Duration::from_secs(1);

/// The least time between two looks, so that a busy fleet is read in pages.
const PAUSE: Duration = Duration::from_millis(100);

/// The time between two summaries.
const SUMMARY: Duration = Duration::from_secs(1);

/// The newest events.
pub(in crate::http) struct Feed {
    newest: Mutex<Newest>,
    /// Grows with each look that has found something.
    news: watch::Sender<u64>,
    /// The last summary, as a message.
    summary: watch::Sender<Bytes>,
}

#[derive(Default)]
struct Newest {
    /// The place before the first event that is kept; `None` before the first look.
    start: Option<EventPlace>,
    events: VecDeque<(EventPlace, Bytes)>,
}

/// Events as text, and the place after them.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    pub(super) text: Vec<u8>,
    pub(super) place: EventPlace,
}

impl Feed {
    pub(in crate::http) fn new() -> Self {
        Self {
            newest: Mutex::default(),
            news: watch::Sender::new(0),
            summary: watch::Sender::new(Bytes::new()),
        }
    }

    /// Resolves with each event from now on.
    pub(super) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// The summary as a message, with a new one every second.
    pub(super) fn summaries(&self) -> watch::Receiver<Bytes> {
        self.summary.subscribe()
    }

    /// The events after `place`, if all of them are kept.
    pub(super) fn after(&self, place: EventPlace) -> Option<Chunk> {
        self.newest.lock().after(place)
    }

    /// Reads the tables for as long as anybody waits for events. Never ends.
    pub(super) async fn follow(&self, context: &Context) {
        let mut changes = context.board.changes();
        loop {
            if self.news.receiver_count() == 0 {
                // What is kept would have holes.
                *self.newest.lock() = Newest::default();
            } else if !self.look(context).await {
                // Nothing new: until something changes.
                let _ = timeout(LOOK, changes.changed()).await;
                continue;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Writes a summary every second for as long as anybody wants one. Never ends.
    pub(super) async fn summarise(&self, context: &Context) {
        loop {
            if self.summary.receiver_count() > 0 {
                self.summary.send_replace(summary_message(context));
            }
            tokio::time::sleep(SUMMARY).await;
        }
    }

    /// Reads the next events. False if there is none, or the database is away.
    async fn look(&self, context: &Context) -> bool {
        let end = self.newest.lock().end();
        let Some(end) = end else {
            let newest = context.reader.newest_event().await.ok();
            self.newest.lock().start = newest;
            // Whoever waits may have missed what came before this place.
            self.news.send_modify(|looks| *looks += 1);
            return false;
        };
        match context.reader.events(end, PAGE).await {
            Ok(Some(events)) if events.is_empty() => false,
            Ok(Some(events)) => {
                self.newest.lock().add(events);
                self.news.send_modify(|looks| *looks += 1);
                true
            }
            Ok(None) => {
                *self.newest.lock() = Newest::default();
                true
            }
            Err(_away) => false,
        }
    }
}

impl Newest {
    fn end(&self) -> Option<EventPlace> {
        self.events.back().map(|(place, _)| *place).or(self.start)
    }

    fn add(&mut self, events: Vec<Event>) {
        for event in events {
            let place = event.place;
            let text = EventItem::from(event).as_message();
            self.events.push_back((place, text.into()));
            if self.events.len() > KEPT
                && let Some((first, _)) = self.events.pop_front()
            {
                self.start = Some(first);
            }
        }
    }

    fn after(&self, place: EventPlace) -> Option<Chunk> {
        let first = if self.start == Some(place) {
            0
        } else {
            // Each event makes one of the numbers larger.
            let sum = |place: EventPlace| place.transition + place.journal;
            let at =
                self.events.binary_search_by_key(&sum(place), |(place, _)| sum(*place)).ok()?;
            (self.events[at].0 == place).then_some(at + 1)?
        };
        let mut chunk = Chunk { text: Vec::new(), place };
        for (place, text) in self.events.range(first..).take(PAGE as usize) {
            chunk.text.extend_from_slice(text);
            chunk.place = *place;
        }
        Some(chunk)
    }
}

/// The summary as a message.
pub(super) fn summary_message(context: &Context) -> Bytes {
    message(None, "summary", &summary::view(context)).into()
}

/// The number of events that a stream reads from the tables at once.
pub(super) const READ_AT_ONCE: u64 = PAGE;

/// Starts to follow the events, on a thread of the workers.
pub(in crate::http) fn start(
    feed: &Arc<Feed>,
    context: &Arc<Context>,
) -> impl FnOnce() + Send + use<> {
    let (feed, context) = (Arc::clone(feed), Arc::clone(context));
    move || {
        let (other_feed, other_context) = (Arc::clone(&feed), Arc::clone(&context));
        actix_rt::spawn(async move { feed.follow(&context).await });
        actix_rt::spawn(async move { other_feed.summarise(&other_context).await });
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::domain::{Entry, EventKind, Happening};

    fn place(transition: i64, journal: i64) -> EventPlace {
        EventPlace { transition, journal, ..EventPlace::default() }
    }

    fn event(place: EventPlace) -> Event {
        let what = Happening::Registered { device: "pump".to_owned() };
        let entry = Entry { at: DateTime::UNIX_EPOCH, what };
        Event { place, what: EventKind::Entry(entry) }
    }

    #[test]
    fn a_stream_continues_only_from_a_place_that_is_kept() {
        let mut newest = Newest { start: Some(place(5, 2)), ..Newest::default() };
        newest.add([place(5, 3), place(8, 3), place(8, 4)].map(event).into());
        let after = |at| newest.after(at).map(|chunk| (chunk.place, chunk.text.len()));
        let length = EventItem::from(event(place(5, 3))).as_message().len();
        assert_eq!(after(place(5, 2)), Some((place(8, 4), 3 * length)));
        assert_eq!(after(place(8, 3)), Some((place(8, 4), length)));
        assert_eq!(after(place(8, 4)), Some((place(8, 4), 0)));
        for unknown in [place(4, 2), place(4, 3), place(6, 2), place(7, 4), place(9, 9)] {
            assert_eq!(after(unknown), None, "{unknown:?}");
        }
        let timeline = "00000002".parse().expect("a timeline");
        for numbers in [place(5, 2), place(8, 3)] {
            assert_eq!(after(EventPlace { timeline, ..numbers }), None, "on another timeline");
        }
    }

    #[test]
    fn only_the_newest_events_are_kept() {
        let mut newest = Newest { start: Some(place(0, 0)), ..Newest::default() };
        newest.add((1..=KEPT as i64 + 3).map(|n| event(place(0, n))).collect());
        assert_eq!((newest.events.len(), newest.start), (KEPT, Some(place(0, 3))));
        assert!(newest.after(place(0, 2)).is_none());
        let chunk = newest.after(place(0, 3)).expect("it is kept");
        assert_eq!(chunk.place, place(0, 3 + PAGE as i64));
    }
}
