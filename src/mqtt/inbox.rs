//! Between paho's thread, which fills it, and the ingest, which empties it.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::domain::{EchoToken, Heartbeat, Rejection};

/// How long the first event waits for others. Two threads are woken for whatever
/// is taken out: at 190,000 heartbeats a second they came in handfuls, and the
/// switches took a fifth of the service's processor time.
const GATHERING: Duration = Duration::from_millis(5);

/// Something that happened, in the order in which it did.
#[derive(Debug)]
pub enum Event {
    /// The broker accepted a connection; nothing is subscribed yet.
    Connected {
        /// Its number: 1 is the first, and each has a greater one than those before.
        connection: u64,
    },
    /// A connection is gone, and the next one is being tried already.
    Disconnected {
        /// The number of the connection that is gone.
        connection: u64,
        /// What is known about it.
        why: String,
    },
    /// Devices live; these heartbeats came one after the other.
    Heartbeats(Vec<Heartbeat>),
    /// A message on the echo topic. An echo of ours comes after everything that the
    /// broker had for us when it was published.
    Echo(EchoToken),
    /// A message is no evidence of life.
    Rejected(Rejection),
    /// Messages were thrown away unread: `mqtt.max_backlog` were waiting.
    Shed(u64),
}

/// What happened and was not yet looked at. Filled by paho's thread, emptied as
/// a whole by the ingest: one lock for many messages on the one side, a short
/// one for each on the other.
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
    /// How many of them are messages.
    messages: usize,
    shed: u64,
}

impl Inbox {
    /// An empty inbox that holds at most so many messages.
    #[doc(hidden)]
    pub fn new(max_backlog: usize) -> Self {
        Self { waiting: Mutex::default(), filled: Notify::new(), max_backlog, gathering: GATHERING }
    }

    /// The same inbox, whose events do not wait for others.
    #[doc(hidden)]
    #[must_use]
    pub fn at_once(self) -> Self {
        Self { gathering: Duration::ZERO, ..self }
    }

    /// True if everything was taken out.
    #[doc(hidden)]
    pub fn is_empty(&self) -> bool {
        self.waiting.lock().is_empty()
    }

    /// Puts in what must never be lost. Nobody outside may be able to cause many.
    #[doc(hidden)]
    pub fn push(&self, event: Event) {
        self.waiting.lock().events.push(event);
        self.filled.notify_one();
    }

    /// Puts in a message from a device, or throws it away if too many are waiting.
    #[doc(hidden)]
    pub fn offer(&self, message: Result<Heartbeat, Rejection>) {
        self.offer_event(match message {
            Ok(heartbeat) => Message::Heartbeat(heartbeat),
            Err(rejection) => Message::Other(Event::Rejected(rejection)),
        });
    }

    /// Puts in a message from the echo topic, or throws it away if too many messages
    /// are waiting: anybody may be able to publish there.
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
        // Whoever empties the inbox takes all: one wake-up is enough.
        if first {
            self.filled.notify_one();
        }
    }

    /// All that is waiting, soon after there is something.
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

    /// All that is waiting, if anything.
    pub fn rest(&self) -> Vec<Event> {
        let Waiting { mut events, shed, .. } = std::mem::take(&mut *self.waiting.lock());
        if shed > 0 {
            events.push(Event::Shed(shed));
        }
        events
    }
}

/// What is offered; heartbeats that follow each other become one event.
enum Message {
    Heartbeat(Heartbeat),
    Other(Event),
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.events.is_empty() && self.shed == 0
    }
}
