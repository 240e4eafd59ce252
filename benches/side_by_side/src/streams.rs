//! Measures what open event streams and a scraper cost the heartbeats: the same load with and
//! without them, in turns.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use publishers::Fleet;
use servers::process::free_port;

use crate::candidates::{Broker, Stage};
use crate::contestants::{Contestant, Heartbeatd};
use crate::database::{Database, Server};
use crate::http::{self, Stream};
use crate::open_files;
use crate::sample::median;
use crate::throughput::{Load, Outcome};

/// The kinds of streams, by their messages while the fleet is steady.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Events, of which there are none: a comment every 15 s.
    Idle,
    /// A summary every second, as an open page gets it.
    Summaries,
}

impl Kind {
    pub const ALL: [Self; 2] = [Self::Idle, Self::Summaries];

    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Summaries => "with a summary each second",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Idle => "/api/v1/events/stream",
            Self::Summaries => "/api/v1/events/stream?summary=1s",
        }
    }
}

/// A turn without streams and scrapes, and one with them.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    pub without: Outcome,
    pub with: Outcome,
}

impl Pair {
    /// The rate with them, in parts of the rate without.
    pub fn rate(&self) -> f64 {
        self.with.per_second() / self.without.per_second()
    }

    /// The processor time with them, in parts of that without.
    pub fn cpu(&self) -> f64 {
        self.with.cpu.as_secs_f64() / self.without.cpu.as_secs_f64()
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { without, with } = self;
        write!(f, "{without}; with {with}; rate {:.3}, CPU {:.3}", self.rate(), self.cpu())
    }
}

/// All pairs of one kind.
#[derive(Clone, Debug)]
pub struct Streams {
    pub kind: Kind,
    pub streams: u64,
    pub load: Load,
    pub pairs: Vec<Pair>,
}

impl Streams {
    pub fn rate(&self) -> f64 {
        median(self.pairs.iter().map(Pair::rate).collect())
    }

    pub fn cpu(&self) -> f64 {
        median(self.pairs.iter().map(Pair::cpu).collect())
    }
}

/// Measures so many pairs, in alternating order, with one service.
pub fn run(
    kind: Kind,
    streams: u64,
    turns: usize,
    load: Load,
    stage: &Stage,
) -> anyhow::Result<Streams> {
    open_files::check(streams + load.connections)?;
    let http = free_port();
    let settings = [
        ("HTTP__LISTEN", &*format!("127.0.0.1:{http}")),
        ("HTTP__MAX_STREAMS", &*streams.to_string()),
    ];
    let database = Database::new(Server::Sqlite)?;
    let service = Heartbeatd::start(stage, database, Broker::Embedded, free_port(), &settings)?;
    let Load { devices, rounds: _, connections } = load;
    let fleet = Fleet::connect(service.port(), 1, devices, connections)?;
    let mut measured = Measured { service, http, fleet, load, round: 0 };
    // The first registers the fleet, the second makes room for it.
    measured.publish(1)?;
    measured.publish(load.rounds)?;
    let mut pairs = Vec::new();
    for turn in 0..turns {
        let (without, with) = if turn % 2 == 0 {
            let without = measured.publish(load.rounds)?;
            (without, measured.publish_with(kind, streams)?)
        } else {
            let with = measured.publish_with(kind, streams)?;
            (measured.publish(load.rounds)?, with)
        };
        let pair = Pair { without, with };
        eprintln!("turn {}: {pair}", turn + 1);
        pairs.push(pair);
    }
    Ok(Streams { kind, streams, load, pairs })
}

struct Measured {
    service: Heartbeatd,
    http: u16,
    fleet: Fleet,
    load: Load,
    /// The last round that was published.
    round: u64,
}

impl Measured {
    /// Publishes so many rounds, and waits until they are acknowledged, which is when they are
    /// in the service's hands. The processor time is that until they are written.
    fn publish(&mut self, rounds: u64) -> anyhow::Result<Outcome> {
        let devices = self.load.devices;
        let (before, began) = (self.service.used(), Instant::now());
        for _ in 0..rounds {
            self.round += 1;
            self.fleet.publish(self.round)?;
        }
        self.fleet.await_acknowledged()?;
        // The last flush would add up to a second by chance.
        let took = began.elapsed();
        self.service.await_processed(devices, self.round)?;
        let after = self.service.used();
        Ok(Outcome {
            heartbeats: devices * rounds,
            took,
            cpu: after.cpu.saturating_sub(before.cpu),
            peak_memory: after.peak_memory,
        })
    }

    /// The same with open streams, and a scrape each second.
    fn publish_with(&mut self, kind: Kind, streams: u64) -> anyhow::Result<Outcome> {
        let (http, done) = (self.http, AtomicBool::new(false));
        let open = open(http, kind, streams)?;
        let outcome = std::thread::scope(|scope| {
            let scraping = scope.spawn(|| scrape(http, &done));
            let outcome = self.publish(self.load.rounds);
            done.store(true, Ordering::Relaxed);
            scraping.thread().unpark();
            scraping.join().expect("it does not panic")?;
            outcome
        });
        drop(open);
        outcome
    }
}

/// Opens the streams. Those of the turn before may not have been noticed to be closed.
fn open(http: u16, kind: Kind, streams: u64) -> anyhow::Result<Vec<Stream>> {
    let mut open = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(60);
    while (open.len() as u64) < streams {
        match Stream::open(http, kind.path())? {
            Some(mut stream) => {
                stream.message()?;
                open.push(stream);
            }
            None => {
                ensure!(Instant::now() < deadline, "only {} streams are open", open.len());
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
    Ok(open)
}

fn scrape(http: u16, done: &AtomicBool) -> anyhow::Result<()> {
    let mut next = Instant::now();
    while !done.load(Ordering::Relaxed) {
        http::get(http, "/metrics")?.ok()?;
        next += Duration::from_secs(1);
        std::thread::park_timeout(next.saturating_duration_since(Instant::now()));
    }
    Ok(())
}
