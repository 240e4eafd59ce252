//! Events: status changes, and what else happens, in one order.

use std::fmt::Write;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::TransitionItem;
use crate::domain::{
    DatabaseTimeline, Event, EventKind, EventPlace, Gap, GapCause, Happening, Interval,
};
use crate::views::{as_millis, gap_in_words};

/// A page of events. Its `next` is the `after` of the next page, and is always there.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct EventPage {
    pub(crate) items: Vec<EventItem>,
    pub(crate) next: String,
}

/// An event.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct EventItem {
    /// The place after it, from which to continue.
    id: String,
    r#type: &'static str,
    #[serde(serialize_with = "as_millis")]
    at: DateTime<Utc>,
    data: Data,
}

/// The `data` of an event, by its type.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
enum Data {
    Transition(Box<TransitionItem>),
    Device {
        device_id: String,
    },
    Gap {
        #[serde(serialize_with = "as_millis")]
        from: DateTime<Utc>,
        #[serde(serialize_with = "as_millis")]
        to: DateTime<Utc>,
        cause: &'static str,
        /// The members of a group that have not proven it; empty without a group.
        instances: Vec<String>,
        sentence: String,
    },
    Listening {},
    TookOver {
        from: String,
        by: String,
    },
    State {
        state: String,
        detail: Option<String>,
    },
}

/// A place as clients get it, with the mark of the database if it is known.
pub(crate) fn place_as_text(place: EventPlace) -> String {
    let EventPlace { transition, journal, timeline } = place;
    if timeline.is_none() {
        format!("{transition}-{journal}")
    } else {
        format!("{transition}-{journal}-{timeline}")
    }
}

/// The place of a text that [`place_as_text`] has made.
pub(crate) fn place_of_text(text: &str) -> Option<EventPlace> {
    let mut parts = text.split('-');
    let (transition, journal) = (parts.next()?, parts.next()?);
    let timeline = match parts.next() {
        // The second has the form of a timeline, as the documentation of the API describes it.
        None | Some("00000000") => DatabaseTimeline::NONE,
        Some(timeline) => timeline.parse().ok()?,
    };
    if parts.next().is_some() {
        return None;
    }
    let number = |digits: &str| {
        let number: i64 = digits.parse().ok()?;
        // All that a client may send is what it got, and no number gets that large.
        let fits = (0..1_000_000_000_000_000_000).contains(&number);
        (fits && number.to_string() == digits).then_some(number)
    };
    Some(EventPlace { transition: number(transition)?, journal: number(journal)?, timeline })
}

impl From<Event> for EventItem {
    fn from(Event { place, what }: Event) -> Self {
        let id = place_as_text(place);
        let (at, r#type, data) = match what {
            EventKind::Transition(transition) => {
                let at = transition.at;
                (at, "transition", Data::Transition(Box::new((*transition).into())))
            }
            EventKind::Entry(entry) => {
                let (r#type, data) = happening(entry.what, entry.at);
                (entry.at, r#type, data)
            }
        };
        Self { id, r#type, at, data }
    }
}

fn happening(what: Happening, at: DateTime<Utc>) -> (&'static str, Data) {
    match what {
        Happening::Registered { device } => ("registered", Data::Device { device_id: device }),
        Happening::Removed { device } => ("removed", Data::Device { device_id: device }),
        Happening::Gap { from, cause, instances } => {
            let unproven_by = instances.iter().map(|name| name.as_str().into()).collect();
            let gap = Gap { unproven_by, ..Gap::new(Interval { from, until: at }, Some(cause)) };
            let sentence = gap_in_words(&gap);
            let cause = GapCause::as_str(cause);
            ("gap", Data::Gap { from, to: at, cause, instances, sentence })
        }
        Happening::Listening => ("listening", Data::Listening {}),
        Happening::TookOver { from, by } => ("took_over", Data::TookOver { from, by }),
        Happening::State { state, detail } => ("state", Data::State { state, detail }),
    }
}

/// A message of an event stream. The data is one line, because JSON has no line breaks.
pub(crate) fn message(id: Option<&str>, event: &str, data: &impl Serialize) -> String {
    let mut text = String::new();
    // Writing to a String does not fail, and a view is JSON.
    if let Some(id) = id {
        let _ = writeln!(text, "id: {id}");
    }
    let data = serde_json::to_string(data).unwrap_or_default();
    let _ = write!(text, "event: {event}\ndata: {data}\n\n");
    text
}

impl EventItem {
    /// The event as a message of a stream.
    pub(crate) fn as_message(&self) -> String {
        message(Some(&self.id), self.r#type, self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Entry;

    #[test]
    fn a_place_is_a_text_and_no_other_text_is_a_place() {
        let place = EventPlace { transition: 1234, ..EventPlace::default() };
        let later = EventPlace { timeline: "0000000A".parse().expect("a timeline"), ..place };
        for (place, text) in [(place, "1234-0"), (later, "1234-0-0000000A")] {
            assert_eq!(place_as_text(place), text);
            assert_eq!(place_of_text(text), Some(place));
        }
        for wrong in ["", "-", "1", "1-", "-1", "1-2-3", "+1-2", "01-2", " 1-2", "1--2", "x-y"] {
            assert_eq!(place_of_text(wrong), None, "{wrong}");
        }
        for wrong in ["1-2-", "1-2-0", "1-2-0000000a", "1-2-00000002-3"] {
            assert_eq!(place_of_text(wrong), None, "{wrong}");
        }
        assert_eq!(place_of_text("99999999999999999999-1"), None);
    }

    #[test]
    fn a_message_has_an_id_a_type_and_one_line_of_data() {
        let at = DateTime::from_timestamp(1_795_442_902, 0).expect("small");
        let what = EventKind::Entry(Entry {
            at,
            what: Happening::Registered { device: "a\u{2028}b\"".to_owned() },
        });
        let place = EventPlace { transition: 1, journal: 2, ..EventPlace::default() };
        let message = EventItem::from(Event { place, what }).as_message();
        let expected = "id: 1-2\nevent: registered\ndata: {\"id\":\"1-2\",\"type\":\"registered\",\
                        \"at\":\"2026-11-23T14:08:22.000Z\",\
                        \"data\":{\"device_id\":\"a\u{2028}b\\\"\"}}\n\n";
        assert_eq!(message, expected);
    }
}
