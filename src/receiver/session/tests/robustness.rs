//! Whatever a client sends, and in whatever pieces.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::client::{Client, MAX_PACKET, kinds, packets};
use crate::receiver::codec::Version;
use crate::receiver::codec::testing::{
    DISCONNECT, PING, VERSIONS, connect, packet, publish, publish_with, release, subscribe,
    unsubscribe,
};

/// The visible effects of a client's bytes.
#[derive(Debug, PartialEq)]
struct Seen {
    answers: Vec<u8>,
    heartbeats: Vec<String>,
    rejections: Vec<String>,
    end: Option<super::client::End>,
    rest: Vec<u8>,
}

/// Sends pieces, and checks what holds for all of them.
fn send<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Seen {
    let mut client = Client::new();
    let (mut answers, mut sent) = (Vec::new(), 0);
    for piece in pieces {
        if client.end.is_some() {
            break;
        }
        let before = client.rest.len();
        let answer = client.send(piece);
        // Words are given up to a bound, and else an answer has a byte more than its packet at
        // most: a PUBCOMP that says that nothing was known has five for four.
        let most = (before + piece.len()) * 5 / 4 + 2048;
        assert!(answer.len() <= most, "{} > {most}", answer.len());
        answers.extend(answer);
        sent += piece.len();
        assert!(client.end.is_some() || client.rest.len() < MAX_PACKET as usize);
    }
    let messages = client.heartbeats.len() + client.rejections.len();
    assert!(messages <= sent / 5, "the smallest message has five bytes");
    Seen {
        answers,
        heartbeats: client.heartbeats,
        rejections: client.rejections,
        // After the end, it does not matter what is left.
        rest: if client.end.is_some() { Vec::new() } else { client.rest.to_vec() },
        end: client.end,
    }
}

/// A stream in which everything happens that may.
fn everything(version: Version) -> Vec<u8> {
    let topic = "devices/pump/heartbeat";
    let mut packets = vec![
        connect(version, "c").will("gone", "{}").user("ann", "secret").bytes(),
        publish(version, 0, 0, topic, "{\"uptime_seconds\":1}"),
        publish(version, 1, 1, topic, ""),
        publish(version, 2, 2, topic, "{}"),
        publish(version, 2, 2, topic, "{}"),
        release(2),
        release(3),
        publish(version, 1, 4, "devices/ /heartbeat", ""),
        publish(version, 2, 5, "elsewhere", ""),
        subscribe(version, 6, &[("a", 0), ("b/#", 2)]),
        unsubscribe(version, 7, &["a"]),
        PING.to_vec(),
    ];
    if version == Version::V5 {
        packets.extend([
            publish_with(version, 1, 8, topic, &[0x23, 0, 1, 0x01, 1], "{}"),
            publish_with(version, 1, 9, "", &[0x26, 0, 1, b'k', 0, 1, b'v', 0x23, 0, 1], "{}"),
            packet(0x62, &[&[0, 5, 0, 0]]),
            packet(0xe0, &[&[4, 5, 0x11, 0, 0, 0, 0]]),
        ]);
    } else {
        packets.push(DISCONNECT.to_vec());
    }
    packets.concat()
}

#[test]
fn bytes_one_by_one_are_the_same_as_all_at_once() {
    for version in VERSIONS {
        let stream = everything(version);
        let at_once = send([&stream[..]]);
        assert_eq!(at_once.end, Some(super::client::End::ByClient));
        assert_eq!(at_once.heartbeats.len(), if version == Version::V5 { 5 } else { 3 });
        assert_eq!(send(stream.chunks(1)), at_once);
    }
}

#[test]
fn bytes_split_anywhere_are_the_same_as_all_at_once() {
    for version in VERSIONS {
        let stream = everything(version);
        let at_once = send([&stream[..]]);
        for middle in 0..=stream.len() {
            assert_eq!(send([&stream[..middle], &stream[middle..]]), at_once, "{middle}");
        }
    }
}

#[test]
fn a_stream_that_ends_anywhere_leaves_the_beginning_of_a_packet() {
    for version in VERSIONS {
        let stream = everything(version);
        for end in 0..stream.len() {
            assert_eq!(send([&stream[..end]]).end, None, "{end}");
        }
    }
}

/// Refused messages, whose answers say why.
#[test]
fn words_are_bounded_however_much_is_refused() {
    let refused = publish(Version::V5, 1, 1, "x", "");
    let stream = refused.repeat(16_000 / refused.len());
    let answers = send([&connect(Version::V5, "c").bytes()[..], &stream]).answers;
    assert!(answers.len() < stream.len() + 2048, "{}", answers.len());
}

proptest! {
    #[test]
    fn any_bytes_end_the_session_or_wait(stream in prop::collection::vec(any::<u8>(), 0..4096)) {
        send([&stream[..]]);
        for version in VERSIONS {
            send([&[connect(version, "c").bytes(), stream.clone()].concat()[..]]);
        }
    }
}

/// Streams that are changed again and again. Those with a new outcome are kept and changed
/// further, so the changes reach states that no single one does.
struct Corpus {
    random: fastrand::Rng,
    streams: Vec<Vec<u8>>,
    outcomes: HashSet<Outcome>,
}

/// The mark of a stream: its answers without their words, its end, and the number of its
/// heartbeats, up to 8.
type Outcome = (Vec<(u8, Option<u8>)>, String, usize);

impl Corpus {
    fn new(seed: u64) -> Self {
        let streams = VERSIONS.map(everything).to_vec();
        Self { random: fastrand::Rng::with_seed(seed), streams, outcomes: HashSet::new() }
    }

    /// Changes a stream, and sends it at once and in pieces.
    fn step(&mut self) {
        const MAX_STREAM: usize = 4096;
        let mut stream = self.streams[self.random.usize(..self.streams.len())].clone();
        for _ in 0..self.random.usize(1..6) {
            self.change(&mut stream);
        }
        stream.truncate(MAX_STREAM);
        let at_once = send([&stream[..]]);
        let in_pieces = send(self.cut(&stream));
        // The bound of words is one of each turn, so they may differ.
        assert_eq!(in_pieces.heartbeats, at_once.heartbeats);
        assert_eq!(in_pieces.rejections, at_once.rejections);
        assert_eq!(in_pieces.end, at_once.end);
        assert_eq!(in_pieces.rest, at_once.rest);
        assert_eq!(kinds(&in_pieces.answers), kinds(&at_once.answers));
        let code = |(first, body): (u8, Vec<u8>)| (first, body.get(2).copied());
        let mut answers: Vec<_> = packets(&at_once.answers).into_iter().map(code).collect();
        answers.dedup();
        let end = format!("{:?}", at_once.end);
        if self.outcomes.insert((answers, end, at_once.heartbeats.len().min(8))) {
            self.streams.push(stream);
        }
    }

    fn change(&mut self, stream: &mut Vec<u8>) {
        /// Bytes that mean something in many places.
        const TELLING: [u8; 12] = [0, 1, 2, 4, 0x23, 0x26, 0x30, 0x62, 0x7f, 0x80, 0x82, 0xff];
        if stream.is_empty() {
            return stream.extend(everything(VERSIONS[self.random.usize(..3)]));
        }
        let at = self.random.usize(..stream.len());
        let end = stream.len().min(at + self.random.usize(1..32));
        match self.random.u8(..7) {
            0 => stream[at] = self.random.u8(..),
            1 => stream[at] ^= 1 << self.random.u8(..8),
            2 => stream[at] = TELLING[self.random.usize(..TELLING.len())],
            3 => stream.insert(at, TELLING[self.random.usize(..TELLING.len())]),
            4 => drop(stream.drain(at..end)),
            5 => {
                let again = stream[at..end].to_vec();
                stream.splice(at..at, again);
            }
            _ => {
                let other = &self.streams[self.random.usize(..self.streams.len())];
                let from = self.random.usize(..=other.len());
                let other = other[from..].to_vec();
                stream.splice(at.., other);
            }
        }
    }

    fn cut<'a>(&mut self, stream: &'a [u8]) -> Vec<&'a [u8]> {
        let mut places = vec![0, stream.len()];
        places.extend((0..self.random.usize(..6)).map(|_| self.random.usize(..=stream.len())));
        places.sort_unstable();
        places.windows(2).map(|ends| &stream[ends[0]..ends[1]]).collect()
    }
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// For longer, set `FUZZ_SECONDS`; for the same again, `FUZZ_SEED`.
#[test]
fn mutated_packets_end_the_session_or_wait_in_whatever_pieces() {
    let seed = from_environment("FUZZ_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("FUZZ_SEED={seed}");
    let duration = from_environment("FUZZ_SECONDS").map_or(Duration::ZERO, Duration::from_secs);
    let (mut corpus, end, mut steps) = (Corpus::new(seed), Instant::now() + duration, 0_u64);
    while steps < 2000 || Instant::now() < end {
        corpus.step();
        steps += 1;
    }
    println!("{steps} streams, {} different outcomes", corpus.outcomes.len());
    assert!(corpus.outcomes.len() > 50, "changes change nothing");
}
