//! The inbox, which paho's thread fills and the ingest empties.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::domain::{EchoToken, Heartbeat, Rejection};

/// The time for which the first event waits for others. Each time the inbox is emptied,
/// two threads wake up. Without the wait, 190,000 heartbeats a second came in handfuls
/// and the switches took a fifth of the service's processor time.
const GATHERING: Duration = Duration::from_millis(5);

/// An event on the connection. Events keep the order in which they happened.
#[derive(Debug)]
pub enum Event {
    /// The broker accepted a connection; nothing is subscribed yet.
    Connected {
        /// The number of the connection, which begins at 1 and only grows.
        connection: u64,
    },
    /// A connection is lost, and the client is already retrying.
    Disconnected {
        /// The number of the lost connection.
        connection: u64,
        /// The reason, as far as it is known.
        why: String,
    },
    /// Devices sent these heartbeats, one after the other.
    Heartbeats(Vec<Heartbeat>),
    /// A message arrived on the echo topic. The service's own echo comes after everything
    /// that the broker had for it when the echo was published.
    Echo(EchoToken),
    /// A message is not evidence of life.
    Rejected(Rejection),
    /// Messages were thrown away unread because `mqtt.max_backlog` were waiting.
    Shed(u64),
}

/// The events that have not been handled yet. paho's thread takes a short lock for each
/// message; the ingest takes one lock for many, because it empties the inbox as a whole.
#[derive(Debug)]
pub struct Inbox {
    waiting: Mutex<Waiting>,
    filled: Notify,
    max_backlog: usize,
    gathering: Duration,
}

#[derive(Debug, Default)]
struct Waiting {
    events: Vec<Event>,
    /// The number of messages among the events.
    messages: usize,
    shed: u64,
}

impl Inbox {
    /// Creates an empty inbox for at most `max_backlog` messages.
    #[doc(hidden)]
    pub fn new(max_backlog: usize) -> Self {
        Self { waiting: Mutex::default(), filled: Notify::new(), max_backlog, gathering: GATHERING }
    }

    /// Makes the inbox hand over events at once, without waiting for others.
    #[doc(hidden)]
    #[must_use]
    pub fn at_once(self) -> Self {
        Self { gathering: Duration::ZERO, ..self }
    }

    /// True if nothing is waiting.
    #[doc(hidden)]
    pub fn is_empty(&self) -> bool {
        self.waiting.lock().is_empty()
    }

    /// Adds an event that must never be lost. Outside input must not be able to cause
    /// many of them.
    #[doc(hidden)]
    pub fn push(&self, event: Event) {
        self.waiting.lock().events.push(event);
        self.filled.notify_one();
    }

    /// Adds a message from a device, or throws it away if too many are waiting.
    #[doc(hidden)]
    pub fn offer(&self, message: Result<Heartbeat, Rejection>) {
        self.offer_event(match message {
            Ok(heartbeat) => Message::Heartbeat(heartbeat),
            Err(rejection) => Message::Other(Event::Rejected(rejection)),
        });
    }

    /// Adds a message from the echo topic, or throws it away if too many are waiting,
    /// because any client may be able to publish there.
    #[doc(hidden)]
    pub fn offer_echo(&self, token: EchoToken) {
        self.offer_event(Message::Other(Event::Echo(token)));
    }

    fn offer_event(&self, message: Message) {
        let first = {
            let mut waiting = self.waiting.lock();
            if waiting.messages >= self.max_backlog {
                waiting.shed += 1;
                return;
            }
            waiting.messages += 1;
            match (message, waiting.events.last_mut()) {
                (Message::Heartbeat(heartbeat), Some(Event::Heartbeats(heartbeats))) => {
                    return heartbeats.push(heartbeat);
                }
                (Message::Heartbeat(heartbeat), _) => {
                    waiting.events.push(Event::Heartbeats(vec![heartbeat]));
                }
                (Message::Other(event), _) => waiting.events.push(event),
            }
            waiting.events.len() == 1
        };
        // One wake-up is enough, because the ingest takes everything.
        if first {
            self.filled.notify_one();
        }
    }

    /// Waits for events and takes all of them, shortly after the first.
    pub async fn take(&self) -> Vec<Event> {
        loop {
            if self.waiting.lock().is_empty() {
                self.filled.notified().await;
            }
            if !self.gathering.is_zero() {
                tokio::time::sleep(self.gathering).await;
            }
            let events = self.rest();
            if !events.is_empty() {
                return events;
            }
        }
    }

    /// Takes all waiting events, if there are any.
    pub fn rest(&self) -> Vec<Event> {
        let Waiting { mut events, shed, .. } = std::mem::take(&mut *self.waiting.lock());
        if shed > 0 {
            events.push(Event::Shed(shed));
        }
        events
    }
}

/// A message on offer. Consecutive heartbeats become one event.
enum Message {
    Heartbeat(Heartbeat),
    Other(Event),
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.events.is_empty() && self.shed == 0
    }
}
