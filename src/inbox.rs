//! The inbox, which whoever receives messages fills and the ingest empties.
//!
//! paho's thread cannot be made to wait: what exceeds `mqtt.max_backlog` is thrown away, and
//! counted. The receiver's publishers take turns instead ([`turns`]), and nothing is lost.

pub(crate) mod ticks;
pub mod turns;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use self::turns::{Share, Turns};
use crate::clock::{Clock, Reading};
use crate::domain::{EchoToken, Heartbeat, Rejection, Stop, Stops};

/// The time for which the first event waits for others. Each time the inbox is emptied,
/// two threads wake up. Without the wait, 190,000 heartbeats a second came in handfuls
/// and the switches took a fifth of the service's processor time.
const GATHERING: Duration = Duration::from_millis(5);

/// The heartbeats that were in the inbox, and whatever else happened meanwhile.
#[derive(Debug, Default)]
pub struct Content {
    /// The heartbeats, in the order in which they were received.
    pub heartbeats: Vec<Heartbeat>,
    /// Everything else, in the order in which it happened.
    pub events: Vec<Event>,
}

/// Something that happened on the connection, besides heartbeats.
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
    /// A message arrived on the echo topic. When the service's own echo is taken, everything
    /// that the broker had for it when the echo was published has been taken too.
    Echo(EchoToken),
    /// A message is not evidence of life.
    Rejected(Rejection),
    /// Messages were thrown away unread because `mqtt.max_backlog` were waiting.
    Shed(u64),
    /// The receiver had no room for devices that wanted to connect.
    ShutOut,
    /// The process was stopped. What had waited for it is dated at the beginning of the stop, as
    /// is everything until somebody says that it [has arrived](Inbox::all_arrived).
    Stopped(Stop),
}

/// The heartbeats and events that have not been handled yet. paho's thread takes a short lock for
/// each message; the ingest takes one lock for many, because it empties the inbox as a whole.
///
/// Two vectors of heartbeats take turns: one is filled while the other is handled, and comes back
/// through [`give_back`](Self::give_back). A vector for each read from a socket, made on one
/// thread and freed on another, would take twice the memory and leave holes behind.
#[derive(Debug)]
pub struct Inbox {
    waiting: Mutex<Waiting>,
    filled: Notify,
    max_backlog: usize,
    gathering: Duration,
}

#[derive(Debug)]
struct Waiting {
    heartbeats: Vec<Heartbeat>,
    /// The vector that is filled next. Empty, but with the capacity that was needed before.
    spare: Vec<Heartbeat>,
    events: Vec<Event>,
    /// The number of messages on offer among both.
    messages: usize,
    shed: u64,
    /// True if devices were shut out.
    shut_out: bool,
    turns: Turns<oneshot::Sender<Turn>>,
    stops: Stops,
    /// True once nothing more is taken in.
    closed: bool,
}

/// The messages of one turn. Heartbeats come before everything else.
#[derive(Debug, Default)]
pub struct Batch {
    /// The heartbeats, in the order in which they were read.
    pub heartbeats: Vec<Heartbeat>,
    /// The rejected messages.
    pub rejections: Vec<Rejection>,
    /// The newest echo.
    pub echo: Option<EchoToken>,
}

/// The inbox takes in nothing more, because the service is stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the service is stopping")]
pub struct Closed;

/// The right to put up to [`turns::MAX_TURN`] messages into the inbox.
#[derive(Debug)]
pub struct Turn {
    inbox: Arc<Inbox>,
    /// False once the reservation was given back.
    holds: bool,
}

impl Inbox {
    /// Creates an empty inbox for at most `max_backlog` messages.
    #[doc(hidden)]
    pub fn new(max_backlog: usize) -> Self {
        let waiting = Waiting {
            heartbeats: Vec::new(),
            spare: Vec::new(),
            events: Vec::new(),
            messages: 0,
            shed: 0,
            shut_out: false,
            turns: Turns::new(max_backlog),
            stops: Stops::default(),
            closed: false,
        };
        let waiting = Mutex::new(waiting);
        Self { waiting, filled: Notify::new(), max_backlog, gathering: GATHERING }
    }

    /// Makes the inbox hand over events at once, without waiting for others.
    #[doc(hidden)]
    #[must_use]
    pub fn at_once(self) -> Self {
        Self { gathering: Duration::ZERO, ..self }
    }

    /// Gives turns of at most `turn` messages, with room for `room` messages.
    #[doc(hidden)]
    #[must_use]
    pub fn with_turns(self, room: usize, turn: usize) -> Self {
        self.waiting.lock().turns = Turns::of(room, turn);
        self
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

    /// Notes that there was no room for a device that wanted to connect. Of many such notes one
    /// is kept.
    #[doc(hidden)]
    pub fn shut_out(&self) {
        if !std::mem::replace(&mut self.waiting.lock().shut_out, true) {
            self.filled.notify_one();
        }
    }

    /// Takes a reading of the clocks, as has to be done again and again for a stop of the process
    /// to be noticed.
    #[doc(hidden)]
    pub fn tick(&self, now: Reading) {
        let mut waiting = self.waiting.lock();
        if let Some(stop) = waiting.stops.tick(now) {
            waiting.events.push(Event::Stopped(stop));
            drop(waiting);
            self.filled.notify_one();
        }
    }

    /// Notes that everything has arrived that had waited for the end of this stop. False if
    /// there was a later one.
    pub fn all_arrived(&self, stop: Stop) -> bool {
        self.waiting.lock().stops.all_arrived(stop)
    }

    /// Adds a message from a device that was read at `now`, or throws it away if too many are
    /// waiting.
    #[doc(hidden)]
    pub fn offer(&self, message: Result<Heartbeat, Rejection>, now: Reading) {
        self.offer_message(now, |waiting| match message {
            Ok(mut heartbeat) => {
                heartbeat.date(waiting.stops.date(now));
                waiting.heartbeats.push(heartbeat);
            }
            Err(rejection) => waiting.events.push(Event::Rejected(rejection)),
        });
    }

    /// Adds a message from the echo topic that was read at `now`, or throws it away if too many are
    /// waiting, because any client may be able to publish there. It is also thrown away while
    /// publishers wait for a turn, because it proves that what came before it is in the inbox.
    #[doc(hidden)]
    pub fn offer_echo(&self, token: EchoToken, now: Reading) {
        if !self.waiting.lock().turns.is_free() {
            return;
        }
        self.offer_message(now, |waiting| waiting.events.push(Event::Echo(token)));
    }

    fn offer_message(&self, now: Reading, add: impl FnOnce(&mut Waiting)) {
        let first = {
            let mut waiting = self.waiting.lock();
            let first = waiting.has_nothing_to_handle();
            waiting.is_read(now);
            if waiting.messages >= self.max_backlog {
                waiting.shed += 1;
                return;
            }
            waiting.messages += 1;
            add(&mut waiting);
            first
        };
        // One wake-up is enough, because the ingest takes everything.
        if first {
            self.filled.notify_one();
        }
    }

    /// Waits until something is there and takes all of it, shortly after the first.
    pub async fn take(self: &Arc<Self>) -> Content {
        loop {
            if self.waiting.lock().is_empty() {
                self.filled.notified().await;
            }
            if !self.gathering.is_zero() {
                tokio::time::sleep(self.gathering).await;
            }
            let content = self.rest();
            if !content.is_empty() {
                return content;
            }
        }
    }

    /// Takes everything that waits, if there is anything.
    pub fn rest(self: &Arc<Self>) -> Content {
        let mut waiting = self.waiting.lock();
        let spare = std::mem::take(&mut waiting.spare);
        let heartbeats = std::mem::replace(&mut waiting.heartbeats, spare);
        let mut events = std::mem::take(&mut waiting.events);
        waiting.messages = 0;
        let shed = std::mem::take(&mut waiting.shed);
        let shut_out = std::mem::take(&mut waiting.shut_out);
        waiting.turns.empty();
        waiting.give_turns(self);
        drop(waiting);
        if shed > 0 {
            events.push(Event::Shed(shed));
        }
        if shut_out {
            events.push(Event::ShutOut);
        }
        Content { heartbeats, events }
    }

    /// Takes back the vector of the heartbeats that were handled, to be filled again.
    pub fn give_back(&self, mut heartbeats: Vec<Heartbeat>) {
        heartbeats.clear();
        // A flood through an external broker may have made it larger than is ever needed again.
        heartbeats.shrink_to(turns::ROOM);
        self.waiting.lock().spare = heartbeats;
    }

    /// Takes in nothing more. Publishers that wait for a turn, or ask for one, are told so.
    pub fn close(&self) {
        let mut waiting = self.waiting.lock();
        waiting.closed = true;
        waiting.turns.forget_waiting();
    }

    /// Waits for a turn of the publisher whose share this is. Its messages that were not read
    /// before stay where they are meanwhile.
    ///
    /// # Errors
    ///
    /// [`Closed`] if nothing more is taken in.
    pub async fn turn(self: &Arc<Self>, share: &Share) -> Result<Turn, Closed> {
        self.turn_by(|turns| turns.begin(share)).await
    }

    /// Waits for a turn after those of all publishers that wait at this moment.
    ///
    /// # Errors
    ///
    /// [`Closed`] if nothing more is taken in.
    pub async fn last_turn(self: &Arc<Self>) -> Result<Turn, Closed> {
        self.turn_by(Turns::begin_last).await
    }

    async fn turn_by(
        self: &Arc<Self>,
        begin: impl FnOnce(&mut Turns<oneshot::Sender<Turn>>) -> bool,
    ) -> Result<Turn, Closed> {
        let turn = {
            let mut waiting = self.waiting.lock();
            if waiting.closed {
                return Err(Closed);
            }
            if begin(&mut waiting.turns) {
                return Ok(Turn { inbox: Arc::clone(self), holds: true });
            }
            let (publisher, turn) = oneshot::channel();
            waiting.turns.wait(publisher);
            turn
        };
        turn.await.map_err(|_forgotten| Closed)
    }
}

impl Turn {
    /// Ends the turn with these messages, which were received now. The heartbeats get the time
    /// at which the inbox has them, so that no proof that is in it is later than a heartbeat
    /// behind it; or that of a stop of the process. The batch is empty then, and keeps its
    /// capacity.
    ///
    /// # Errors
    ///
    /// [`Closed`] if nothing more is taken in. The messages are lost and must not be
    /// acknowledged.
    pub fn put(mut self, batch: &mut Batch, share: &mut Share, clock: Clock) -> Result<(), Closed> {
        let inbox = Arc::clone(&self.inbox);
        let first = {
            let mut waiting = inbox.waiting.lock();
            // If it panics, the turn is given back with all of its room.
            let now = clock();
            self.holds = false;
            let taken = if waiting.closed { 0 } else { batch.places() };
            waiting.turns.end(taken, share);
            if waiting.closed {
                return Err(Closed);
            }
            let had_nothing = waiting.has_nothing_to_handle();
            waiting.is_read(now);
            let date = waiting.stops.date(now);
            for heartbeat in &mut batch.heartbeats {
                heartbeat.date(date);
            }
            waiting.take_in(batch);
            waiting.give_turns(&inbox);
            had_nothing && !waiting.has_nothing_to_handle()
        };
        if first {
            inbox.filled.notify_one();
        }
        Ok(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.holds {
            let mut waiting = self.inbox.waiting.lock();
            waiting.turns.end(0, &mut Share::default());
            waiting.give_turns(&self.inbox);
        }
    }
}

impl Batch {
    /// The part of the inbox that the messages take: one place each, and as many more as their
    /// texts would fill.
    fn places(&self) -> usize {
        let texts: usize = self.heartbeats.iter().map(Heartbeat::text_bytes).sum();
        self.len() + texts / size_of::<Heartbeat>()
    }

    /// The number of messages.
    pub fn len(&self) -> usize {
        self.heartbeats.len() + self.rejections.len() + usize::from(self.echo.is_some())
    }

    /// True if there is no message.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Content {
    /// True if nothing was there.
    pub fn is_empty(&self) -> bool {
        self.heartbeats.is_empty() && self.events.is_empty()
    }
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.has_nothing_to_handle() && self.shed == 0 && !self.shut_out
    }

    fn has_nothing_to_handle(&self) -> bool {
        self.heartbeats.is_empty() && self.events.is_empty()
    }

    /// Notes that messages were read at `now`.
    fn is_read(&mut self, now: Reading) {
        self.events.extend(self.stops.read(now).map(Event::Stopped));
    }

    fn take_in(&mut self, Batch { heartbeats, rejections, echo }: &mut Batch) {
        self.heartbeats.append(heartbeats);
        self.events.extend(rejections.drain(..).map(Event::Rejected));
        self.events.extend(echo.take().map(Event::Echo));
    }

    /// Gives waiting publishers their turns as far as there is room.
    fn give_turns(&mut self, inbox: &Arc<Inbox>) {
        while let Some(publisher) = self.turns.next() {
            let turn = Turn { inbox: Arc::clone(inbox), holds: true };
            if let Err(mut gone) = publisher.send(turn) {
                // Dropping it would lock the inbox, which is locked.
                gone.holds = false;
                self.turns.end(0, &mut Share::default());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};
    use futures::FutureExt;

    use super::turns::MAX_TURN;
    use super::*;
    use crate::clock::Reading;

    fn at_noon() -> Reading {
        let wall = "2026-11-26T12:00:00Z".parse().expect("a constant");
        Reading { wall, monotonic: std::time::Instant::now() }
    }

    fn heartbeats(device: &str, count: usize) -> Batch {
        let heartbeat =
            Heartbeat::parse(device.parse().expect("an id"), b"", DateTime::<Utc>::UNIX_EPOCH);
        Batch { heartbeats: vec![heartbeat; count], ..Batch::default() }
    }

    fn inbox() -> Arc<Inbox> {
        Arc::new(Inbox::new(1).at_once().with_turns(MAX_TURN, MAX_TURN))
    }

    fn begin(inbox: &Arc<Inbox>) -> Turn {
        inbox.turn(&Share::default()).now_or_never().expect("there is room").expect("it is open")
    }

    /// The content in short: each device with the number of its heartbeats, then echoes.
    fn taken(inbox: &Arc<Inbox>) -> Vec<String> {
        let Content { heartbeats, events } = inbox.rest();
        let of_devices = heartbeats.chunk_by(|a, b| a.device_id == b.device_id);
        let of_devices = of_devices.map(|same| format!("{} {}", same[0].device_id, same.len()));
        let events = events.into_iter().map(|event| match event {
            Event::Echo(_) => "echo".to_owned(),
            other => format!("{other:?}"),
        });
        of_devices.chain(events).collect()
    }

    #[test]
    fn a_heartbeat_has_the_time_at_which_it_was_put_in() {
        let inbox = inbox();
        begin(&inbox)
            .put(&mut heartbeats("pump", 1), &mut Share::default(), at_noon)
            .expect("it is open");
        let Content { heartbeats, events } = inbox.rest();
        assert_eq!((heartbeats.len(), events.len()), (1, 0));
        assert_eq!(heartbeats[0].received_at, at_noon().wall);
    }

    #[test]
    fn what_is_read_after_a_stop_has_its_time_and_tells_no_skew_until_all_has_arrived() {
        let began = std::time::Instant::now();
        let noon = at_noon().wall;
        let now = |seconds| Reading {
            wall: noon + chrono::TimeDelta::seconds(seconds),
            monotonic: began + Duration::from_secs(seconds.unsigned_abs()),
        };
        let told = |seconds| {
            let payload = format!(r#"{{"timestamp":"{}"}}"#, now(seconds).wall.to_rfc3339());
            Heartbeat::parse("pump".parse().expect("an id"), payload.as_bytes(), now(seconds).wall)
        };
        let inbox = Arc::new(Inbox::new(10).at_once());
        inbox.tick(now(0));
        for _ in 0..2 {
            inbox.offer(Ok(told(20)), now(20));
        }
        let Content { heartbeats, events } = inbox.rest();
        let [Event::Stopped(stop)] = events[..] else { panic!("{events:?}") };
        for heartbeat in &heartbeats {
            assert_eq!((heartbeat.received_at, heartbeat.clock_skew_ms), (noon, None));
        }
        assert!(inbox.all_arrived(stop));
        inbox.offer(Ok(told(20)), now(20));
        let heartbeats = inbox.rest().heartbeats;
        assert_eq!(heartbeats[0].received_at, now(20).wall);
        assert!(heartbeats[0].clock_skew_ms.is_some());
    }

    #[tokio::test]
    async fn whoever_waits_for_events_is_woken_by_a_stop_and_by_nothing_else_of_a_tick() {
        let inbox = inbox();
        let now = at_noon();
        inbox.tick(now);
        let mut taking = Box::pin(inbox.take());
        assert!(taking.as_mut().now_or_never().is_none());
        inbox.tick(Reading { monotonic: now.monotonic + Duration::from_millis(200), ..now });
        assert!(taking.as_mut().now_or_never().is_none());
        inbox.tick(Reading { monotonic: now.monotonic + Duration::from_secs(2), ..now });
        assert!(matches!(taking.await.events[..], [Event::Stopped(_)]));
    }

    #[test]
    fn a_full_inbox_makes_publishers_wait_and_loses_nothing() {
        let inbox = inbox();
        let mut share = Share::default();
        let turn = begin(&inbox);
        turn.put(&mut heartbeats("pump", MAX_TURN), &mut share, at_noon).expect("it is open");
        let mut waiting = Box::pin(inbox.turn(&share));
        assert!(waiting.as_mut().now_or_never().is_none());
        let mut echo = Box::pin(inbox.last_turn());
        assert!(echo.as_mut().now_or_never().is_none());
        assert_eq!(taken(&inbox), [format!("pump {MAX_TURN}")]);

        let turn = waiting.now_or_never().expect("there is room").expect("it is open");
        assert!(echo.as_mut().now_or_never().is_none(), "it is behind");
        turn.put(&mut heartbeats("fan", 2), &mut share, at_noon).expect("it is open");
        assert!(echo.as_mut().now_or_never().is_none(), "a whole turn has no room");
        assert_eq!(taken(&inbox), ["fan 2"]);
        let turn = echo.now_or_never().expect("there is room").expect("it is open");
        let mut batch = Batch { echo: Some(EchoToken::new(1)), ..Batch::default() };
        turn.put(&mut batch, &mut Share::default(), at_noon).expect("it is open");
        assert_eq!(taken(&inbox), ["echo"]);
    }

    #[test]
    fn long_texts_take_as_many_places_as_they_would_fill() {
        let inbox = Arc::new(Inbox::new(1).at_once().with_turns(2 * MAX_TURN, MAX_TURN));
        let hot = |count| {
            let payload = format!(r#"{{"error":"{}"}}"#, "!".repeat(1000));
            let device = "pump".parse().expect("an id");
            let hot = Heartbeat::parse(device, payload.as_bytes(), DateTime::<Utc>::UNIX_EPOCH);
            Batch { heartbeats: vec![hot; count], ..Batch::default() }
        };
        let count = MAX_TURN / (1 + 1000 / size_of::<Heartbeat>());
        begin(&inbox).put(&mut hot(count), &mut Share::default(), at_noon).expect("it is open");
        begin(&inbox).put(&mut hot(count), &mut Share::default(), at_noon).expect("it is open");
        assert!(inbox.turn(&Share::default()).now_or_never().is_none(), "it is full");
    }

    #[test]
    fn two_vectors_take_turns_and_none_is_larger_than_the_room() {
        let inbox = Arc::new(Inbox::new(usize::MAX).at_once());
        let mut filled = Vec::new();
        for count in [turns::ROOM + 1, 1, 1, 1, 1] {
            let Batch { heartbeats, .. } = heartbeats("pump", count);
            heartbeats.into_iter().for_each(|heartbeat| inbox.offer(Ok(heartbeat), at_noon()));
            let taken = inbox.rest().heartbeats;
            filled.push((taken.as_ptr(), taken.capacity()));
            inbox.give_back(taken);
        }
        assert_eq!(filled[1].0, filled[3].0, "{filled:?}");
        assert_eq!(filled[2].0, filled[4].0, "{filled:?}");
        assert_eq!(filled[2].1, turns::ROOM, "{filled:?}");
    }

    #[test]
    fn a_turn_that_is_not_used_goes_to_the_next() {
        let inbox = inbox();
        let turn = begin(&inbox);
        let mut gone = Box::pin(inbox.last_turn());
        assert!(gone.as_mut().now_or_never().is_none());
        let mut next = Box::pin(inbox.last_turn());
        assert!(next.as_mut().now_or_never().is_none());
        drop(gone);
        drop(turn);
        next.now_or_never().expect("there is room").expect("it is open");
    }

    #[test]
    fn a_publisher_that_goes_with_its_turn_gives_it_back() {
        let inbox = inbox();
        let turn = begin(&inbox);
        let mut gone = Box::pin(inbox.last_turn());
        assert!(gone.as_mut().now_or_never().is_none());
        // It gets the turn, and does not learn of it.
        drop(turn);
        drop(gone);
        begin(&inbox);
    }

    #[test]
    fn a_turn_that_ends_by_a_panic_is_given_back_with_all_of_its_room() {
        fn broken() -> Reading {
            panic!("on purpose")
        }
        let inbox = inbox();
        let turn = begin(&inbox);
        let put = std::panic::AssertUnwindSafe(|| {
            turn.put(&mut heartbeats("pump", MAX_TURN), &mut Share::default(), broken)
        });
        assert!(std::panic::catch_unwind(put).is_err());
        // Nothing is there that would make the ingest empty it.
        assert!(inbox.is_empty());
        begin(&inbox);
    }

    #[test]
    fn a_closed_inbox_takes_nothing_in_and_says_so() {
        let inbox = inbox();
        let turn = begin(&inbox);
        let mut waiting = Box::pin(inbox.last_turn());
        assert!(waiting.as_mut().now_or_never().is_none());
        inbox.close();
        assert_eq!(waiting.now_or_never().map(Result::err), Some(Some(Closed)));
        let put = turn.put(&mut heartbeats("pump", 1), &mut Share::default(), at_noon);
        assert_eq!(put, Err(Closed));
        assert_eq!(
            inbox.turn(&Share::default()).now_or_never().map(Result::err),
            Some(Some(Closed))
        );
        assert!(inbox.rest().is_empty());
    }

    #[tokio::test]
    async fn whoever_waits_for_events_is_woken_by_a_turn() {
        let inbox = inbox();
        let taking = tokio::spawn({
            let inbox = Arc::clone(&inbox);
            async move { inbox.take().await.heartbeats.len() }
        });
        tokio::task::yield_now().await;
        let turn = inbox.turn(&Share::default()).await.expect("it is open");
        turn.put(&mut heartbeats("pump", 3), &mut Share::default(), at_noon).expect("it is open");
        assert_eq!(taking.await.expect("it does not panic"), 3);
    }

    #[tokio::test]
    async fn devices_that_are_shut_out_are_one_event_until_it_is_taken() {
        let inbox = inbox();
        for _ in 0..2 {
            inbox.shut_out();
            inbox.shut_out();
            let content = inbox.take().await;
            assert!(matches!(content.events[..], [Event::ShutOut]), "{content:?}");
            assert!(inbox.is_empty());
        }
    }
}
