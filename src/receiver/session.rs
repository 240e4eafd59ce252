//! The protocol between this server and one client, without any socket.
//!
//! A session takes packets out of the bytes that arrived, counts heartbeats, and answers. It
//! ends with its connection. Nobody but the service itself may subscribe, and a will is
//! accepted and never published.
//!
//! Answers are written to a buffer. Its owner sends them after the heartbeats that they
//! acknowledge are in the inbox, and never before.

mod addressed;
mod aliases;
mod open;
mod packet_ids;
mod refusal;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::{Buf, BytesMut};
use chrono::{DateTime, Utc};

use self::open::Open;
pub(super) use self::refusal::{Refusal, Refusals, What};
use super::codec::{self, Accepted, Answers, BadConnect, Connect, Version};
use crate::domain::TopicPattern;
use crate::inbox::Batch;
use crate::users::User;

/// The topics of heartbeats and echoes, the same for all sessions.
#[derive(Debug)]
pub(super) struct Topics {
    /// The topic of heartbeats.
    pub(super) heartbeats: TopicPattern,
    /// The topic of this service's own echoes.
    pub(super) echo: Option<String>,
}

/// The party at the other end.
#[derive(Clone, Debug)]
pub(super) enum Peer {
    /// This service's own client, which sends echoes.
    Service,
    /// A client of a receiver without users, which may publish for any device.
    Anyone,
    /// A client that has logged in.
    User(Arc<User>),
}

/// The time and the destination of the bytes that a session takes in at once.
#[derive(Debug)]
pub(super) struct Intake<'a> {
    topics: &'a Topics,
    /// The time at which the bytes arrived.
    now: DateTime<Utc>,
    /// The content found in them so far.
    taken: &'a mut Taken,
}

/// The content of the bytes that a session took in.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// The heartbeats, and what else the inbox is told.
    pub(super) batch: Batch,
    /// The refusals that did not end the session.
    pub(super) refusals: Refusals,
}

impl<'a> Intake<'a> {
    /// An intake into `taken`, of bytes that arrived at this time.
    pub(super) fn new(topics: &'a Topics, now: DateTime<Utc>, taken: &'a mut Taken) -> Self {
        Self { topics, now, taken }
    }
}

/// The state of the protocol with one client.
#[derive(Debug)]
pub(super) struct Session {
    /// The largest packet that is taken, in bytes.
    max_packet: u32,
    answers: Answers,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The CONNECT has not arrived.
    New,
    /// It has to be decided about the CONNECT.
    Deciding,
    /// The client is in.
    Open(Box<Open>),
    /// The session has ended.
    Over,
}

/// The next step of a connection, once its bytes are handled.
#[derive(Debug)]
pub(super) enum Next {
    /// More bytes are needed.
    Read,
    /// It has to be decided about this CONNECT: [`Session::accept`] or [`Session::end`].
    Decide(Box<Connect>),
    /// The client has ended the session.
    Ended,
    /// This server has ended the session. The last answer says why, if there is one.
    End(Refusal),
}

impl Session {
    /// A session in which nothing has arrived, with a client that may send packets of at most
    /// `max_packet` bytes.
    pub(super) fn new(max_packet: u32) -> Self {
        // Whoever speaks an unknown version is answered as by the first servers.
        Self { max_packet, answers: Answers::new(Version::V311), state: State::New }
    }

    /// Handles the packets in `bytes` until something else has to happen first, each once. It
    /// leaves the beginning of a packet, or what follows a CONNECT.
    pub(super) fn handle(&mut self, bytes: &mut BytesMut, intake: &mut Intake) -> Next {
        match &mut self.state {
            State::New => self.connect(bytes),
            State::Deciding => Next::Read,
            State::Open(open) => {
                let next = open.handle(bytes, self.max_packet, &mut self.answers, intake);
                if let Next::End(refusal) = &next {
                    self.end(refusal);
                } else if let Next::Ended = next {
                    self.state = State::Over;
                }
                next
            }
            State::Over => Next::Ended,
        }
    }

    fn connect(&mut self, bytes: &mut BytesMut) -> Next {
        match codec::connect(bytes, self.max_packet) {
            Ok(None) => Next::Read,
            Ok(Some((connect, size))) => {
                bytes.advance(size);
                self.answers = Answers::to(&connect);
                self.state = State::Deciding;
                Next::Decide(Box::new(connect))
            }
            Err(bad) => {
                let refusal = Refusal::malformed(bad.why);
                if let Some(version) = bad.version {
                    self.answers = Answers::new(version);
                }
                if has_answer(bad) {
                    self.answers.refuse(refusal.reason, refusal.words());
                }
                self.state = State::Over;
                Next::End(refusal)
            }
        }
    }

    /// Accepts the client whose CONNECT this is.
    pub(super) fn accept(&mut self, connect: &Connect, peer: Peer, accepted: Accepted) {
        self.answers.accept(Accepted {
            max_packet: self.max_packet,
            max_aliases: aliases::MAX_ALIASES,
            session_ends: connect.keeps_session,
            ..accepted
        });
        self.state = State::Open(Box::new(Open::new(peer, connect)));
    }

    /// The answers so far, to be sent.
    pub(super) fn answers(&mut self) -> BytesMut {
        self.answers.take()
    }

    /// Ends the session, and says why as far as the version can. Does nothing if it has ended.
    pub(super) fn end(&mut self, refusal: &Refusal) {
        match self.state {
            State::New | State::Over => (),
            State::Deciding => self.answers.refuse(refusal.reason, refusal.words()),
            State::Open(_) => self.answers.disconnect(refusal.reason, refusal.words()),
        }
        self.state = State::Over;
    }
}

/// True if the standard has an answer to a CONNECT that cannot be read. Before MQTT 5 it has
/// only two, and a client that has not said which version it speaks would not understand the
/// others.
fn has_answer(bad: BadConnect) -> bool {
    use codec::Malformed::{ClientId, Level, Protocol};
    match bad.version {
        Some(Version::V5) => true,
        Some(Version::V31 | Version::V311) => bad.why == ClientId,
        None => matches!(bad.why, Level(_) | Protocol),
    }
}
