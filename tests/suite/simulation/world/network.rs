//! The devices, the broker, and the network between them and the service.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use futures::FutureExt;
use heartbeatd::actors::mqtt_ingest::ReportListening;
use heartbeatd::domain::{EchoToken, Heartbeat};
use heartbeatd::inbox::turns::Share;
use heartbeatd::inbox::{Batch, Event};

use super::super::truth::Stretch;
use super::{Device, HEARTBEAT_INTERVAL, SECOND, World, clocks, device_id};
use crate::support::connection::{self, Answer, GRANTED, Subscribed};

/// A message that travels from the broker to the service, in order.
pub(super) enum Message {
    Heartbeat {
        device: usize,
        error: bool,
    },
    Echo(EchoToken),
    /// A mark that everything published in this time has reached the service.
    Listened(Stretch),
    Connected(u64),
    Lost(u64),
}

pub(super) struct Queued {
    pub arrives: i64,
    message: Message,
}

/// A connection, as the broker sees it.
pub(super) struct Link {
    pub number: u64,
    pub subscribed: bool,
}

/// A subscription that is not answered yet.
pub(super) struct Subscription {
    connection: u64,
    pub at_broker: i64,
    pub answered_at: i64,
    reached: bool,
    refused: bool,
    answer: Option<Answer<Subscribed>>,
}

impl World {
    /// True if what a device publishes now is on its way to the service.
    fn delivers(&self) -> bool {
        if self.kind.receives() {
            return self.process.is_some() && !self.draining;
        }
        !self.cut && self.link.as_ref().is_some_and(|link| link.subscribed)
    }

    fn send(&mut self, message: Message) {
        let latency = match () {
            // Being connected is the evidence, whatever is still on its way.
            () if !self.kind.echo => 0,
            // All together, because otherwise each would be handled by itself.
            () if self.kind.is_crowd() => 20,
            () if self.now < self.slow_until => self.rng.i64(0..4 * SECOND),
            () => self.rng.i64(0..30),
        };
        let last = self.queue.back().map_or(0, |queued| queued.arrives);
        let arrives = last.max(self.now + latency);
        self.queue.push_back(Queued { arrives, message });
    }

    /// Notes that the service has been listening since `from`.
    pub(super) fn listens(&mut self, from: i64) {
        if !self.delivers() {
            return;
        }
        if let Some(Queued { message: Message::Listened(last), .. }) = self.queue.back_mut()
            && last.until == from
        {
            last.until = self.now;
            return;
        }
        self.send(Message::Listened(Stretch { from, until: self.now }));
    }

    pub(super) fn publish(&mut self) {
        for device in 0..self.devices.len() {
            let Device { alive, publishes_at, broken, .. } = self.devices[device];
            if alive && publishes_at <= self.now {
                let jitter = self.rng.i64(-SECOND..SECOND);
                self.devices[device].publishes_at = self.now + HEARTBEAT_INTERVAL + jitter;
                if self.delivers() {
                    self.send(Message::Heartbeat { device, error: broken });
                }
            }
        }
    }

    /// Publishes heartbeats for invented ids.
    pub(super) fn flood(&mut self) {
        for device in self.kind.devices..self.devices.len() {
            if self.delivers() {
                self.send(Message::Heartbeat { device, error: false });
            }
        }
    }

    pub(super) fn deliver_echoes(&mut self) {
        let now = self.now;
        let arrived: Vec<_> = self.echoes.extract_if(.., |(at, _)| *at <= now).collect();
        for (_, token) in arrived {
            let connected = self.link.is_some() && !self.cut;
            if connected && self.delivers() {
                self.send(Message::Echo(token));
            }
        }
    }

    pub(super) fn replay_an_echo(&mut self) {
        if !self.recorded.is_empty() && self.delivers() {
            let token = self.recorded[self.rng.usize(0..self.recorded.len())];
            self.send(Message::Echo(token));
        }
    }

    /// Breaks the connection. If `loudly`, the service is told.
    pub(super) fn lose_link(&mut self, loudly: bool) {
        let Some(link) = self.link.take() else { return };
        if self.kind.echo {
            self.lose_messages();
        }
        if loudly && !self.cut {
            self.send(Message::Lost(link.number));
        }
        self.cut = false;
        self.connects_at = self.now + self.rng.i64(100..3 * SECOND);
    }

    /// Cuts the connection without telling either side.
    pub(super) fn cut(&mut self) {
        self.cut = true;
        self.lose_messages();
    }

    /// Loses the newest messages, but not what the client itself reports.
    fn lose_messages(&mut self) {
        let kept = self.rng.usize(0..=self.queue.len());
        let lost = self.queue.split_off(kept);
        // Devices have connections of their own to the receiver.
        let receives = self.kind.receives();
        let stays = |message: &Message| match message {
            Message::Connected(_) | Message::Lost(_) => true,
            Message::Heartbeat { .. } | Message::Listened(_) => receives,
            Message::Echo(_) => false,
        };
        self.queue.extend(lost.into_iter().filter(|queued| stays(&queued.message)));
    }

    pub(super) fn connect(&mut self) {
        let due = self.now >= self.connects_at.max(self.broker_down_until);
        if !self.wanted || self.link.is_some() || !due {
            return;
        }
        self.links += 1;
        self.link = Some(Link { number: self.links, subscribed: false });
        self.cut = false;
        if let Some(process) = &self.process {
            process.asked.number.set(self.links);
        }
        self.send(Message::Connected(self.links));
    }

    /// Takes what the service asks of the broker. Returns true if there was anything.
    pub(super) fn answer_broker(&mut self) -> bool {
        let Some(process) = &self.process else { return false };
        let asked = Rc::clone(&process.asked);
        let mut anything = false;
        for answer in asked.connects.take() {
            anything = true;
            self.wanted = true;
            let _gone = answer.send(Ok(()));
        }
        for answer in asked.subscriptions.take() {
            anything = true;
            let slow = !self.is_healed && self.rng.u8(0..4) == 0;
            let at_broker = self.now + self.rng.i64(1..if slow { 6 * SECOND } else { 500 });
            let answered_at = at_broker + self.rng.i64(0..if slow { 9 * SECOND } else { 500 });
            self.subscriptions.push(Subscription {
                connection: self.link.as_ref().map_or(0, |link| link.number),
                at_broker,
                answered_at,
                reached: false,
                refused: !self.is_healed && self.rng.u8(0..16) == 0,
                answer: Some(answer),
            });
        }
        for token in asked.echoes.take() {
            anything = true;
            let delay = match self.rng.u8(0..8) {
                0 if !self.is_healed => self.rng.i64(0..8 * SECOND),
                _ => self.rng.i64(1..30),
            };
            if !self.cut && self.link.is_some() {
                // Nobody can repeat what was never published.
                self.recorded.push(token);
                self.echoes.push((self.now + delay, token));
                if !self.is_healed && self.rng.u8(0..16) == 0 {
                    self.echoes.push((self.now + self.rng.i64(0..9 * SECOND), token));
                }
            }
        }
        for answer in asked.goodbyes.take() {
            anything = true;
            self.wanted = false;
            self.lose_link(false);
            let arrived = match () {
                // After a flood it is not known at once what there was room for.
                () if self.kind.strangers > 0 => 0,
                // What waits for a turn is not taken in any more.
                () if self.kind.receives() => 0,
                () => self.queue.len(),
            };
            self.hand_over(arrived);
            self.queue.clear();
            let _gone = answer.send(());
        }
        anything
    }

    pub(super) fn answer_subscriptions(&mut self) {
        let now = self.now;
        for subscription in &mut self.subscriptions {
            let Subscription { connection, at_broker, reached, refused, .. } = subscription;
            if !*reached && *at_broker <= now {
                match &mut self.link {
                    Some(link) if link.number == *connection && !self.cut => {
                        *reached = true;
                        link.subscribed |= !*refused;
                    }
                    // No answer within ten seconds, perhaps during another connection.
                    _ => {
                        *reached = true;
                        if self.cut {
                            subscription.answered_at = now + 10 * SECOND;
                            subscription.refused = false;
                            subscription.connection = u64::MAX;
                        }
                    }
                }
            }
        }
        let due = |s: &mut Subscription| s.answered_at <= now;
        let answered: Vec<_> = self.subscriptions.extract_if(.., due).collect();
        for Subscription { connection, refused, answer, .. } in answered {
            let answer = answer.expect("it is answered once");
            if refused {
                // Its rights return with the next connection.
                self.broker_closes_at = Some(now + self.rng.i64(SECOND..20 * SECOND));
                self.note(format_args!("subscription refused"));
            }
            let answered = match () {
                () if connection == u64::MAX => connection::no_answer(),
                () if refused => connection::refused(),
                () => Ok(GRANTED),
            };
            let _gone = answer.send(answered);
        }
        if self.broker_closes_at.is_some_and(|at| at <= now) {
            self.broker_closes_at = None;
            self.lose_link(true);
        }
    }

    /// Lets the service handle what has arrived.
    pub(super) async fn ingest(&mut self) {
        let arrived = self.queue.partition_point(|queued| queued.arrives <= self.now);
        if arrived == 0 || self.draining {
            return;
        }
        let handed = self.hand_over(arrived);
        if handed.shed > 0 {
            self.is_disturbed();
        }
        self.settle().await;
        self.note_taken();
        let process = self.process.as_ref().expect("it runs");
        assert!(process.asked.inbox.is_empty(), "the ingest is late");
        process.ingest.send(ReportListening).await.expect("it lives");
        if self.kind.strangers > 0 && self.no_room_for(handed.shed) {
            self.note(format_args!("no room for all of it"));
            self.truth.unhand(handed.heard, handed.from);
            self.is_disturbed();
        }
    }

    /// True if the registry has thrown heartbeats away besides those of the inbox.
    fn no_room_for(&mut self, shed_by_inbox: u32) -> bool {
        let process = self.process.as_ref().expect("it runs");
        let page = process.metrics.encode().expect("it prints");
        let name = r#"heartbeatd_heartbeats_rejected_total{reason="shed"} "#;
        let value = page.lines().find_map(|line| line.strip_prefix(name));
        let shed: f64 = value.map_or(0.0, |value| value.parse().expect("a number"));
        let more = shed > self.shed + f64::from(shed_by_inbox);
        self.shed = shed;
        more
    }

    /// Puts the oldest messages into the inbox, which throws away what exceeds its bound.
    fn hand_over(&mut self, count: usize) -> Handed {
        let mut handed = Handed { heard: self.truth.count_heard(), from: i64::MAX, shed: 0 };
        let Some(process) = &self.process else { return handed };
        let inbox = Rc::clone(&process.asked);
        let inbox = &inbox.inbox;
        if self.kind.receives() {
            self.take_turns(count);
            return handed;
        }
        let mut room = self.kind.max_backlog;
        let mut late = Vec::new();
        for Queued { message, .. } in self.queue.drain(..count) {
            match message {
                Message::Connected(connection) => inbox.push(Event::Connected { connection }),
                Message::Lost(connection) => {
                    let why = "the simulation says so".to_owned();
                    inbox.push(Event::Disconnected { connection, why });
                }
                Message::Listened(stretch) if room > 0 => {
                    handed.from = handed.from.min(stretch.from);
                    self.truth.is_handed(stretch);
                }
                Message::Listened(stretch) => late.push(stretch),
                Message::Heartbeat { device, error } => {
                    let payload = if error { r#"{"error":"hot"}"# } else { "" };
                    let payload = payload.as_bytes();
                    let now = clocks::read();
                    inbox.offer(Ok(Heartbeat::parse(device_id(device), payload, now.wall)), now);
                    if room == 0 {
                        handed.shed += 1;
                    } else {
                        room -= 1;
                        self.truth.is_heard(device, self.now);
                        self.devices[device].handed_at = self.now;
                    }
                }
                Message::Echo(token) => {
                    inbox.offer_echo(token, clocks::read());
                    handed.shed += u32::from(room == 0);
                    room = room.saturating_sub(1);
                }
            }
        }
        if handed.shed == 0 {
            late.into_iter().for_each(|stretch| self.truth.is_handed(stretch));
        }
        handed
    }
}

impl World {
    /// Lets the oldest messages take their turns at the inbox, each on a connection of its own.
    fn take_turns(&mut self, count: usize) {
        let Some(process) = &self.process else { return };
        let asked = Rc::clone(&process.asked);
        for Queued { message, .. } in self.queue.drain(..count) {
            let inbox = Arc::clone(&asked.inbox);
            match message {
                Message::Connected(connection) => inbox.push(Event::Connected { connection }),
                Message::Lost(connection) => {
                    let why = "the simulation says so".to_owned();
                    inbox.push(Event::Disconnected { connection, why });
                }
                Message::Listened(stretch) => self.taking.push(Taken::Listened(stretch)),
                Message::Heartbeat { device, error } => {
                    self.taking.push(Taken::Heartbeat(device));
                    let payload = if error { r#"{"error":"hot"}"# } else { "" };
                    let heartbeat =
                        Heartbeat::parse(device_id(device), payload.as_bytes(), clocks::wall());
                    let mut batch = Batch { heartbeats: vec![heartbeat], ..Batch::default() };
                    spawn_counted(&self.waiting, async move {
                        let turn = inbox.turn(&Share::default()).await?;
                        turn.put(&mut batch, &mut Share::default(), clocks::read)
                    });
                }
                Message::Echo(token) => {
                    let mut batch = Batch { echo: Some(token), ..Batch::default() };
                    spawn_counted(&self.waiting, async move {
                        let turn = inbox.last_turn().await?;
                        turn.put(&mut batch, &mut Share::default(), clocks::read)
                    });
                }
            }
        }
    }

    /// Notes what the service has received. While the inbox is full, that is the time until the
    /// first heartbeat that waits.
    fn note_taken(&mut self) {
        let waits = |taken: &Taken| self.jam.is_some() && matches!(taken, Taken::Heartbeat(_));
        let taken = self.taking.iter().position(waits).unwrap_or(self.taking.len());
        for taken in self.taking.drain(..taken).collect::<Vec<_>>() {
            match taken {
                Taken::Listened(stretch) => self.truth.is_handed(stretch),
                Taken::Heartbeat(device) => {
                    self.truth.is_heard(device, self.now);
                    self.devices[device].handed_at = self.now;
                }
            }
        }
    }

    /// Keeps all the room of the inbox, so that everything that arrives has to wait.
    pub(super) fn jam(&mut self, until: i64) {
        let Some(process) = &self.process else { return };
        let turn = process.asked.inbox.turn(&Share::default()).now_or_never();
        self.jam = turn.and_then(Result::ok).map(|turn| (until, turn));
    }

    /// Ends a jam that is over.
    pub(super) async fn unjam(&mut self) {
        if self.jam.as_ref().is_some_and(|(until, _)| *until <= self.now) {
            self.jam = None;
            if self.draining {
                // The drain has closed the inbox, and forgotten who waited.
                self.taking.clear();
            }
            self.settle().await;
            self.note_taken();
        }
    }
}

/// A message that a turn at the inbox has brought, or will once it is there.
pub(super) enum Taken {
    Listened(Stretch),
    Heartbeat(usize),
}

/// The messages that the service was given at once.
struct Handed {
    /// The number of heartbeats that it had before.
    heard: usize,
    /// The earliest time at which the oldest of these messages may have been published.
    from: i64,
    /// The number of messages that its inbox threw away.
    shed: u32,
}

/// Runs a task beside the others, and counts it until it is done.
fn spawn_counted<T: 'static>(count: &Rc<Cell<usize>>, task: impl Future<Output = T> + 'static) {
    let count = Rc::clone(count);
    count.set(count.get() + 1);
    actix_rt::spawn(async move {
        let _done = task.await;
        count.set(count.get() - 1);
    });
}
