//! A client and its session.

use std::sync::Arc;

use bytes::{Buf, BytesMut};
use chrono::{DateTime, Utc};

use crate::domain::EchoToken;
use crate::receiver::codec::testing::connect;
use crate::receiver::codec::{Accepted, Connect, Reason, Version};
use crate::receiver::session::{Intake, Next, Peer, Refusal, Refusals, Session, Taken, Topics};

/// The largest packet that the sessions take, in bytes.
pub(super) const MAX_PACKET: u32 = 16 * 1024;

/// The answer to what has none.
pub(super) const NOTHING: [u8; 0] = [];

/// A client, seen from the server's side of its connection.
pub(super) struct Client {
    session: Session,
    topics: Arc<Topics>,
    peer: Peer,
    accepted: Accepted,
    /// The bytes that have arrived and were not handled.
    pub(super) rest: BytesMut,
    /// The CONNECT, once it was read.
    pub(super) connect: Option<Connect>,
    /// The devices of the heartbeats, in their order.
    pub(super) heartbeats: Vec<String>,
    pub(super) rejections: Vec<String>,
    pub(super) echoes: Vec<EchoToken>,
    pub(super) refusals: Refusals,
    /// The end of the session, once it has come.
    pub(super) end: Option<End>,
}

/// The end of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By the client.
    ByClient,
    /// By the server, for this reason.
    ByServer(Reason),
}

pub(super) fn topics() -> Topics {
    Topics {
        heartbeats: "devices/+/heartbeat".parse().expect("a pattern"),
        echo: Some("devices/heartbeatd-echo-1/heartbeat".to_owned()),
    }
}

fn now() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH
}

impl Client {
    /// A client that has sent nothing, and that nobody knows.
    pub(super) fn new() -> Self {
        Self::of(Peer::Anyone, Arc::new(topics()))
    }

    pub(super) fn of(peer: Peer, topics: Arc<Topics>) -> Self {
        Self {
            session: Session::new(MAX_PACKET),
            topics,
            peer,
            accepted: Accepted::default(),
            rest: BytesMut::new(),
            connect: None,
            heartbeats: Vec::new(),
            rejections: Vec::new(),
            echoes: Vec::new(),
            refusals: Refusals::default(),
            end: None,
        }
    }

    /// A client that is in.
    pub(super) fn connected(version: Version) -> Self {
        let mut client = Self::new();
        client.send(connect(version, "c").bytes());
        assert_eq!(client.end, None);
        client
    }

    /// The client of the service itself, which is in.
    pub(super) fn service(version: Version) -> Self {
        let mut client = Self::of(Peer::Service, Arc::new(topics()));
        client.send(connect(version, "heartbeatd").bytes());
        client
    }

    /// Has the client be told this when it is accepted.
    pub(super) fn accepted(self, accepted: Accepted) -> Self {
        Self { accepted, ..self }
    }

    /// Sends bytes, and returns the answer. A CONNECT is accepted.
    pub(super) fn send(&mut self, bytes: impl AsRef<[u8]>) -> Vec<u8> {
        let mut next = self.receive(bytes);
        if let Next::Decide(connect) = next {
            self.session.accept(&connect, self.peer.clone(), self.accepted.clone());
            self.connect = Some(*connect);
            next = self.receive([]);
        }
        self.note(next);
        self.session.answers().to_vec()
    }

    /// Sends bytes with a CONNECT, which is refused, and returns the answer.
    pub(super) fn send_and_be_refused(&mut self, bytes: &[u8], refusal: &Refusal) -> Vec<u8> {
        assert!(matches!(self.receive(bytes), Next::Decide(_)), "it is a CONNECT");
        self.session.end(refusal);
        self.session.answers().to_vec()
    }

    /// Ends the session from the server's side, and returns the answer.
    pub(super) fn be_ended(&mut self, refusal: &Refusal) -> Vec<u8> {
        self.session.end(refusal);
        self.session.answers().to_vec()
    }

    fn receive(&mut self, bytes: impl AsRef<[u8]>) -> Next {
        self.rest.extend_from_slice(bytes.as_ref());
        let topics = Arc::clone(&self.topics);
        let mut taken = Taken::default();
        let mut intake = Intake::new(&topics, now(), &mut taken);
        let next = self.session.handle(&mut self.rest, &mut intake);
        let devices = taken.batch.heartbeats.into_iter();
        self.heartbeats.extend(devices.map(|heartbeat| heartbeat.device_id.to_string()));
        self.rejections.extend(taken.batch.rejections.iter().map(ToString::to_string));
        self.echoes.extend(taken.batch.echo);
        for (reason, count) in taken.refusals.counts {
            match self.refusals.counts.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, sum)) => *sum += count,
                None => self.refusals.counts.push((reason, count)),
            }
        }
        self.refusals.first = self.refusals.first.take().or(taken.refusals.first);
        next
    }

    fn note(&mut self, next: Next) {
        match next {
            Next::Read => (),
            Next::Decide(_) => panic!("a second decision"),
            Next::Ended => {
                self.end.get_or_insert(End::ByClient);
            }
            Next::End(refusal) => {
                assert!(!refusal.why.is_empty());
                assert_eq!(self.end, None, "it ends once");
                self.end = Some(End::ByServer(refusal.reason));
            }
        }
    }
}

/// The packets in answers: the first byte and the body of each.
pub(super) fn packets(answers: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut rest = answers;
    let mut packets = Vec::new();
    while rest.has_remaining() {
        let first = rest.get_u8();
        let (mut length, mut shift) = (0, 0);
        loop {
            let byte = rest.get_u8();
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                break;
            }
        }
        packets.push((first, rest[..length].to_vec()));
        rest.advance(length);
    }
    packets
}

/// The first bytes of the packets in answers, which tell what they are.
pub(super) fn kinds(answers: &[u8]) -> Vec<u8> {
    packets(answers).into_iter().map(|(first, _)| first).collect()
}

/// Sends a CONNECT that must be refused, and returns the answer and the reason.
#[track_caller]
pub(super) fn refused(connect: impl AsRef<[u8]>) -> (Vec<u8>, Reason) {
    let mut client = Client::new();
    let answer = client.send(connect);
    match client.end {
        Some(End::ByServer(reason)) => (answer, reason),
        other => panic!("{other:?} {answer:x?}"),
    }
}

/// The reason code of a CONNACK of MQTT 5.
#[track_caller]
pub(super) fn code(answer: &[u8]) -> u8 {
    assert_eq!(kinds(answer), [0x20], "{answer:x?}");
    assert_eq!(answer[2], 0, "no session is present");
    answer[3]
}
