//! The candidates: the counting client, heartbeatd in its variants, and the peers in
//! `benches/peers`.

use std::fmt;
use std::path::PathBuf;

use servers::process::free_port;

use crate::contestants::{Contestant, Counting, Heartbeatd, Peer};
use crate::database::{Database, Server};

/// The broker of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broker {
    /// The mosquitto that all candidates share.
    Mosquitto,
    /// heartbeatd's embedded broker, in the candidate's process.
    Embedded,
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Mosquitto => "mosquitto",
            Self::Embedded => "embedded",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The client that only counts.
    Counting,
    Heartbeatd(Server),
    /// A folder in `benches/peers`.
    Peer(&'static str),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Counting => "counting client",
            Self::Heartbeatd(Server::Sqlite) => "heartbeatd, SQLite",
            Self::Heartbeatd(Server::Postgresql) => "heartbeatd, PostgreSQL",
            Self::Peer(folder) => folder,
        })
    }
}

/// heartbeatd in its variants, after the client that it is compared with.
pub const KINDS: [Kind; 3] =
    [Kind::Counting, Kind::Heartbeatd(Server::Sqlite), Kind::Heartbeatd(Server::Postgresql)];

/// The folders in `benches/peers` that can be compared.
pub const PEERS: [&str; 3] = ["asyncio", "mqtt-exporter", "node-red"];

/// A program that can be started and measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub kind: Kind,
    pub broker: Broker,
    pub qos: u8,
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}, {}, QoS {}", self.kind, self.broker, self.qos))
    }
}

/// The programs and servers that candidates need to start.
#[derive(Clone, Debug)]
pub struct Stage {
    /// The heartbeatd that is measured.
    pub heartbeatd: PathBuf,
    /// `benches/peers`.
    pub peers: PathBuf,
    /// The folder in which the peers are installed.
    pub installed: PathBuf,
    /// The port of the mosquitto that all share.
    pub mosquitto: u16,
}

impl Candidate {
    /// The candidates behind mosquitto, with these peers: first all at QoS 0, then heartbeatd
    /// and the counting client at QoS 1. The peers are fastest at QoS 0.
    pub fn behind_mosquitto(peers: &[&'static str]) -> Vec<Self> {
        let behind = |qos| move |kind| Self { kind, broker: Broker::Mosquitto, qos };
        let peers = peers.iter().copied().map(Kind::Peer);
        let mut all: Vec<_> = KINDS.into_iter().chain(peers).map(behind(0)).collect();
        all.extend(KINDS.map(behind(1)));
        all
    }

    /// heartbeatd with its embedded broker, and the counting client that it is compared with.
    pub fn embedded(qos: u8) -> [Self; 3] {
        KINDS.map(|kind| {
            let counts = kind == Kind::Counting;
            let broker = if counts { Broker::Mosquitto } else { Broker::Embedded };
            Self { kind, broker, qos }
        })
    }

    pub fn start(&self, stage: &Stage) -> anyhow::Result<Box<dyn Contestant>> {
        let port = match self.broker {
            Broker::Mosquitto => stage.mosquitto,
            Broker::Embedded => free_port(),
        };
        Ok(match self.kind {
            Kind::Counting => Box::new(Counting::start(self.qos, port)?),
            Kind::Heartbeatd(server) => {
                let database = Database::new(server)?;
                let qos = self.qos.to_string();
                let settings = [("MQTT__QOS", &*qos), ("HTTP__LISTEN", "off")];
                Box::new(Heartbeatd::start(stage, database, self.broker, port, &settings)?)
            }
            Kind::Peer(folder) => Box::new(Peer::start(folder, self.qos, stage)?),
        })
    }
}
