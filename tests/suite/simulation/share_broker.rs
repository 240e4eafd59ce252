//! A broker with shared subscriptions, as the members of a group meet it.
//!
//! Each message goes to every plain subscriber, and of each share name to one session, whichever.
//! Connecting with the client id of a session ends that session first. A session that says nothing
//! lasts until its keep-alive has passed, and some time longer, and is given messages until then.
//! What was sent on a connection can be read after its session has ended, as from a socket.
//!
//! It has no clock and waits for nothing. Times are in milliseconds.

use std::collections::{BTreeMap, VecDeque};

use fastrand::Rng;

/// The number of a connection, which is never given again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionId(u64);

/// The way in which the broker chooses among the sessions of a share name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routing {
    Random,
    InTurn,
    ByDevice,
}

impl Routing {
    pub const ALL: [Self; 3] = [Self::Random, Self::InTurn, Self::ByDevice];
}

/// A subscription to the heartbeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subscription {
    /// To all of them.
    Plain,
    /// To a part of them, with whoever else names this group.
    Shared(String),
}

/// A connection, and the session on it while it is open.
struct Connection<M> {
    client: String,
    is_open: bool,
    subscription: Option<Subscription>,
    /// The messages that were sent and not read.
    socket: VecDeque<M>,
    heard_at: i64,
    /// The time after which its silence ends it.
    patience: i64,
}

/// The broker.
pub struct ShareBroker<M> {
    rng: Rng,
    routing: Routing,
    keep_alive: i64,
    is_up: bool,
    connections: BTreeMap<ConnectionId, Connection<M>>,
    /// The connections that there ever were.
    connected: u64,
    /// The number of messages of each share name.
    turns: BTreeMap<String, usize>,
}

impl<M: Clone> ShareBroker<M> {
    pub fn new(routing: Routing, keep_alive: i64, rng: Rng) -> Self {
        Self {
            rng,
            routing,
            keep_alive,
            is_up: true,
            connections: BTreeMap::new(),
            connected: 0,
            turns: BTreeMap::new(),
        }
    }

    pub fn is_up(&self) -> bool {
        self.is_up
    }

    /// Stops it: all sessions end, and what was on its way is lost.
    pub fn stop(&mut self) {
        self.is_up = false;
        for connection in self.connections.values_mut() {
            connection.end();
            connection.socket.clear();
        }
    }

    pub fn start(&mut self) {
        self.is_up = true;
    }

    /// Connects with a clean start. Once this returns, the session that had the client id before
    /// is given nothing more. `None` if the broker is down.
    pub fn connect(&mut self, client: &str, now: i64) -> Option<ConnectionId> {
        if !self.is_up {
            return None;
        }
        let older = self.connections.values_mut().filter(|older| older.client == client);
        older.for_each(Connection::end);
        self.connected += 1;
        let id = ConnectionId(self.connected);
        // mosquitto looks only now and then: up to 6 s later with a keep-alive of 30 s.
        let late = self.rng.i64(0..=self.keep_alive * 2 / 5);
        let connection = Connection {
            client: client.to_owned(),
            is_open: true,
            subscription: None,
            socket: VecDeque::new(),
            heard_at: now,
            patience: self.keep_alive * 3 / 2 + late,
        };
        self.connections.insert(id, connection);
        Some(id)
    }

    /// Closes a connection: by its client, or by the kernel once its process is gone.
    pub fn close(&mut self, id: ConnectionId) {
        self.connections.remove(&id);
    }

    /// Subscribes on a connection. False if its session has ended.
    pub fn subscribe(&mut self, id: ConnectionId, to: Subscription, now: i64) -> bool {
        self.hear(id, now).is_some_and(|connection| {
            connection.subscription = Some(to);
            true
        })
    }

    pub fn unsubscribe(&mut self, id: ConnectionId, now: i64) {
        if let Some(connection) = self.hear(id, now) {
            connection.subscription = None;
        }
    }

    /// Takes a message that comes back on the same connection, behind all that was sent before.
    pub fn echo(&mut self, id: ConnectionId, message: M, now: i64) {
        if let Some(connection) = self.hear(id, now) {
            connection.socket.push_back(message);
        }
    }

    /// Hears that a client lives.
    pub fn ping(&mut self, id: ConnectionId, now: i64) {
        self.hear(id, now);
    }

    fn hear(&mut self, id: ConnectionId, now: i64) -> Option<&mut Connection<M>> {
        let connection = self.connections.get_mut(&id).filter(|connection| connection.is_open)?;
        connection.heard_at = now;
        Some(connection)
    }

    /// True if the session lasts.
    pub fn is_open(&self, id: ConnectionId) -> bool {
        self.connections.get(&id).is_some_and(|connection| connection.is_open)
    }

    /// Reads at most so many of the messages that were sent on a connection.
    pub fn read(&mut self, id: ConnectionId, at_most: usize) -> Vec<M> {
        let Some(connection) = self.connections.get_mut(&id) else { return Vec::new() };
        let count = connection.socket.len().min(at_most);
        connection.socket.drain(..count).collect()
    }

    /// Takes a message of a device. False if the broker is down.
    pub fn publish(&mut self, device: usize, message: &M) -> bool {
        if !self.is_up {
            return false;
        }
        let mut groups: BTreeMap<String, Vec<ConnectionId>> = BTreeMap::new();
        for (id, connection) in &mut self.connections {
            match &connection.subscription {
                None => (),
                Some(Subscription::Plain) => connection.socket.push_back(message.clone()),
                Some(Subscription::Shared(name)) => {
                    groups.entry(name.clone()).or_default().push(*id);
                }
            }
        }
        for (name, sessions) in groups {
            let chosen = sessions[self.choose(name, device, sessions.len())];
            if let Some(connection) = self.connections.get_mut(&chosen) {
                connection.socket.push_back(message.clone());
            }
        }
        true
    }

    fn choose(&mut self, name: String, device: usize, sessions: usize) -> usize {
        let turn = self.turns.entry(name).or_default();
        *turn += 1;
        match self.routing {
            Routing::Random => self.rng.usize(0..sessions),
            Routing::InTurn => *turn % sessions,
            Routing::ByDevice => device % sessions,
        }
    }

    /// Ends the sessions that have been silent for too long.
    pub fn expire(&mut self, now: i64) {
        let silent = |connection: &&mut Connection<M>| {
            connection.is_open && now - connection.heard_at > connection.patience
        };
        self.connections.values_mut().filter(silent).for_each(Connection::end);
    }
}

impl<M> Connection<M> {
    fn end(&mut self) {
        (self.is_open, self.subscription) = (false, None);
    }
}

mod tests {
    use super::*;

    const KEEP_ALIVE: i64 = 1_500;

    fn broker(routing: Routing) -> ShareBroker<usize> {
        ShareBroker::new(routing, KEEP_ALIVE, Rng::with_seed(1))
    }

    impl ShareBroker<usize> {
        fn member(&mut self, client: &str, group: &str) -> ConnectionId {
            let id = self.connect(client, 0).expect("it is up");
            assert!(self.subscribe(id, Subscription::Shared(group.to_owned()), 0));
            id
        }

        fn publish_all(&mut self, messages: std::ops::Range<usize>) {
            for message in messages {
                assert!(self.publish(message, &message));
            }
        }

        fn read_all(&mut self, id: ConnectionId) -> Vec<usize> {
            self.read(id, usize::MAX)
        }
    }

    #[test]
    fn each_message_goes_to_one_session_of_each_group_and_to_every_plain_subscriber() {
        for routing in Routing::ALL {
            let mut broker = broker(routing);
            let members = ["a", "b", "c"].map(|client| broker.member(client, "g.1"));
            let other = broker.member("d", "g.2");
            let plain = broker.connect("e", 0).expect("it is up");
            assert!(broker.subscribe(plain, Subscription::Plain, 0));
            broker.publish_all(0..300);
            let parts = members.map(|id| broker.read_all(id));
            assert!(parts.iter().all(|part| part.len() > 50), "{routing:?}: {parts:?}");
            let mut all = parts.concat();
            all.sort_unstable();
            assert!(all.into_iter().eq(0..300), "{routing:?}");
            for id in [other, plain] {
                assert!(broker.read_all(id).into_iter().eq(0..300), "{routing:?}");
            }
        }
    }

    #[test]
    fn whoever_connects_with_a_client_id_ends_the_session_that_had_it() {
        let mut broker = broker(Routing::Random);
        let (old, other) = (broker.member("a", "g"), broker.member("b", "g"));
        broker.publish_all(0..20);
        let fence = broker.connect("a", 1).expect("it is up");
        assert!(!broker.is_open(old) && broker.is_open(fence));
        broker.close(fence);
        broker.publish_all(20..40);
        assert!(!broker.subscribe(old, Subscription::Plain, 2), "it is too late");
        let (read, rest) = (broker.read_all(old), broker.read_all(other));
        assert!(read.iter().all(|message| *message < 20), "as from a socket: {read:?}");
        assert_eq!(read.len() + rest.len(), 40);
    }

    #[test]
    fn a_silent_session_is_given_messages_until_its_keep_alive_has_passed() {
        let mut broker = broker(Routing::InTurn);
        let (silent, living) = (broker.member("a", "g"), broker.member("b", "g"));
        let end = (0..).step_by(50).find(|now| {
            broker.ping(living, *now);
            broker.expire(*now);
            !broker.is_open(silent)
        });
        let end = end.expect("it ends");
        assert!((2_250..=2_900).contains(&end), "{end}");
        assert!(broker.is_open(living));
        broker.publish_all(0..10);
        assert_eq!((broker.read_all(silent).len(), broker.read_all(living).len()), (0, 10));
    }

    #[test]
    fn a_broker_that_restarts_has_lost_all_sessions_and_all_that_was_on_its_way() {
        let mut broker = broker(Routing::ByDevice);
        let member = broker.member("a", "g");
        broker.publish_all(0..10);
        broker.stop();
        assert!(broker.connect("a", 1).is_none() && !broker.publish(0, &0));
        broker.start();
        broker.publish_all(10..20);
        assert!(!broker.is_open(member) && broker.read_all(member).is_empty() && broker.is_up());
    }

    #[test]
    fn an_echo_comes_behind_what_was_sent_before_and_after_unsubscribing_too() {
        let mut broker = broker(Routing::InTurn);
        let member = broker.member("a", "g");
        broker.publish_all(0..3);
        broker.unsubscribe(member, 1);
        broker.publish_all(3..6);
        broker.echo(member, 99, 2);
        assert_eq!(broker.read(member, 2), [0, 1]);
        assert_eq!(broker.read_all(member), [2, 99]);
    }
}
