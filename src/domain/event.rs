//! Events: status changes, and whatever else happens, in one order.

use chrono::{DateTime, Utc};

use super::{DatabaseTimeline, GapCause, Transition};

/// Something that is not a status change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The time at which it happened. A gap happens when it ends.
    pub at: DateTime<Utc>,
    /// Its kind, with the details.
    pub what: Happening,
}

/// The kinds of what happens besides status changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happening {
    /// A device was registered, by its first heartbeat or by a command.
    Registered {
        /// Its id.
        device: String,
    },
    /// A device was removed.
    Removed {
        /// Its id, or the bytes of one that is not a text.
        device: String,
    },
    /// For a while nothing was proven, so no silence counts in it.
    Gap {
        /// The last proof before it.
        from: DateTime<Utc>,
        /// The reason.
        cause: GapCause,
        /// The members of a share group that have not proven it, by their `mqtt.client_id`. Empty
        /// without a group.
        instances: Vec<String>,
    },
    /// Listening was proven for the first time, or again.
    Listening,
    /// An instance that stood by writes from now on.
    TookOver {
        /// The instance that wrote before, by its `mqtt.client_id`.
        from: String,
        /// The instance that writes now.
        by: String,
    },
    /// The service is in another state than before.
    State {
        /// Its name, as [`ServiceState`](super::ServiceState) spells it.
        state: String,
        /// The reason, for people.
        detail: Option<String>,
    },
}

/// A place between two events: all up to it are known. Transitions and the journal have numbers
/// of their own, and a place names the last one of each, and the timeline of the database on which
/// they were read. On a later timeline the same numbers may be those of other events. A database
/// without timelines has the second in which it was made instead, for another one has other events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventPlace {
    /// The sequence number of the last transition.
    pub transition: i64,
    /// The number of the last entry of the journal.
    pub journal: i64,
    /// The timeline of the database on which both were read, or the mark of one that has none.
    pub timeline: DatabaseTimeline,
}

impl EventPlace {
    /// The place before all events, which is the same on every timeline.
    pub fn is_beginning(self) -> bool {
        (self.transition, self.journal) == (0, 0)
    }
}

/// An event with the place after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The place from which to continue.
    pub place: EventPlace,
    /// The status change or the entry.
    pub what: EventKind,
}

/// The kinds of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A status change.
    Transition(Box<Transition>),
    /// Something else.
    Entry(Entry),
}

/// Merges what follows `after` into one order: that of the times, as far as each list keeps its
/// own. At one time what is no status change comes first, because a device is registered
/// before it is online. Ends after `limit` events.
pub fn merge(
    after: EventPlace,
    transitions: Vec<Transition>,
    journal: Vec<(i64, Entry)>,
    limit: usize,
) -> Vec<Event> {
    let mut place = after;
    let mut transitions = transitions.into_iter().peekable();
    let mut journal = journal.into_iter().peekable();
    let mut events = Vec::new();
    while events.len() < limit {
        let takes_entry = match (transitions.peek(), journal.peek()) {
            (Some(transition), Some((_, entry))) => entry.at <= transition.at,
            (None, entry) => entry.is_some(),
            (Some(_), None) => false,
        };
        let what = if takes_entry {
            let Some((number, entry)) = journal.next() else { break };
            place.journal = number;
            EventKind::Entry(entry)
        } else {
            let Some(transition) = transitions.next() else { break };
            place.transition = transition.sequence;
            EventKind::Transition(Box::new(transition))
        };
        events.push(Event { place, what });
    }
    events
}
