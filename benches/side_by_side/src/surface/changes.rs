//! Measures what the indexes that only lists need cost when devices change their status: with
//! them and without them, in turns.

use std::fmt;
use std::time::Duration;

use anyhow::ensure;
use chrono::{DateTime, TimeDelta, Utc};
use heartbeatd::domain::{Coverage, DeviceId, GapCause, Heartbeat};
use heartbeatd::store::{DeviceStore, Grounds, OpenMode, Proven, RecordingRules};

use super::past;
use crate::database::{Database, Server};
use crate::process::Tree;
use crate::sample::median;

/// The number of devices that a transaction changes, as in the service.
const PORTION: usize = 10_000;

const TIMEOUT: Duration = Duration::from_secs(180);

const RULES: RecordingRules = RecordingRules {
    auto_register: true,
    room: u64::MAX,
    registrations: u64::MAX,
    max_clock_skew: Duration::from_secs(3_600_000),
    now: DateTime::<Utc>::MAX_UTC,
};

/// The processor time for which all of them fell, and for which all returned; with that of
/// PostgreSQL. Unlike the time on the clock it does not depend on what else the machine does.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    pub fell: Duration,
    pub returned: Duration,
}

/// The turns with the indexes and without.
#[derive(Clone, Debug)]
pub struct Changes {
    pub server: Server,
    pub pairs: Vec<(Turn, Turn)>,
}

impl Changes {
    /// The median of the times with the indexes, of those without, and of the ratios.
    pub fn medians(&self, of: fn(&Turn) -> Duration) -> [f64; 3] {
        let seconds = |turn| of(turn).as_secs_f64();
        let pairs = || self.pairs.iter();
        [
            median(pairs().map(|(with, _)| seconds(with)).collect()),
            median(pairs().map(|(_, without)| seconds(without)).collect()),
            median(pairs().map(|(with, without)| seconds(with) / seconds(without)).collect()),
        ]
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [fell, returned] = [self.medians(|turn| turn.fell), self.medians(|turn| turn.returned)];
        let name = self.server.name();
        write!(f, "{name}: fell {fell:.2?}, returned {returned:.2?} (with, without, ratio)")
    }
}

/// Lets so many of the devices fall and return, in so many pairs of turns.
pub fn run(server: Server, devices: u64, changing: usize, turns: usize) -> anyhow::Result<Changes> {
    let database = Database::new(server)?;
    past::make(&database, devices)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let store = runtime.block_on(DeviceStore::open(&database.url, OpenMode::Create))?;
    let ids = (0..devices).filter(|&number| past::publishes(number)).take(changing);
    let ids = ids.map(|number| -> anyhow::Result<DeviceId> { Ok(publishers::id(number).parse()?) });
    let mut fleet = Fleet::new(store, ids.collect::<anyhow::Result<_>>()?);
    // The first turn finds nothing in any cache.
    runtime.block_on(fleet.turn())?;
    let mut pairs = Vec::new();
    for turn in 0..turns {
        let mut with_and_without = [None; 2];
        for with in if turn % 2 == 0 { [true, false] } else { [false, true] } {
            database.execute(&if with { created(server) } else { dropped() })?;
            let turn = runtime.block_on(fleet.turn())?;
            eprintln!(
                "{}, {} the indexes: {turn:.2?}",
                server.name(),
                if with { "with" } else { "without" }
            );
            with_and_without[usize::from(!with)] = Some(turn);
        }
        if let [Some(with), Some(without)] = with_and_without {
            pairs.push((with, without));
        }
    }
    runtime.block_on(fleet.store.close())?;
    Ok(Changes { server, pairs })
}

/// The indexes, as the migrations make them.
fn created(server: Server) -> String {
    let (id, sequence, bytes) = match server {
        Server::Sqlite => ("id", "", ""),
        Server::Postgresql => (
            "id COLLATE \"C\"",
            ", sequence",
            "CREATE INDEX IF NOT EXISTS device_id_bytes ON device (id COLLATE \"C\");",
        ),
    };
    format!(
        "{bytes} CREATE INDEX IF NOT EXISTS device_status ON device ((status || ''), {id}); \
         CREATE INDEX IF NOT EXISTS status_transition_to \
             ON status_transition ((to_status || ''), at{sequence}); \
         CREATE INDEX IF NOT EXISTS status_transition_open \
             ON status_transition (at{sequence}) \
             WHERE to_status = 'offline' AND ended_at IS NULL"
    )
}

fn dropped() -> String {
    ["device_status", "device_id_bytes", "status_transition_to", "status_transition_open"]
        .map(|index| format!("DROP INDEX IF EXISTS {index};"))
        .concat()
}

/// The processor time of this process and of the servers that it has started.
fn processor() -> Duration {
    Tree { root: std::process::id() }.used().cpu
}

struct Fleet {
    store: DeviceStore,
    ids: Vec<DeviceId>,
    coverage: Coverage,
    start: DateTime<Utc>,
    /// The seconds since then.
    second: i64,
}

impl Fleet {
    fn new(store: DeviceStore, ids: Vec<DeviceId>) -> Self {
        let start = Utc::now();
        let mut coverage = Coverage::new(Duration::from_secs(1_000_000));
        for until in [0, 100_000] {
            let until = start + TimeDelta::seconds(until);
            coverage.confirm(start - TimeDelta::seconds(1_000), until, GapCause::NotRunning);
        }
        Self { store, ids, coverage, start, second: 0 }
    }

    /// Marks all of them offline, and then hears all of them.
    async fn turn(&mut self) -> anyhow::Result<Turn> {
        self.second += 1_000;
        let at = self.start + TimeDelta::seconds(self.second);
        let cutoffs = self.coverage.cutoffs(at, TIMEOUT, &[]);
        let began = processor();
        for portion in self.ids.chunks(PORTION) {
            let grounds =
                Grounds { cutoffs: &cutoffs, coverage: &self.coverage, instance: "heartbeatd" };
            let marked = self.store.mark_devices_offline(portion, grounds, at).await?;
            ensure!(marked.len() == portion.len(), "only {} fell", marked.len());
        }
        let fell = processor() - began;
        let at = at + TimeDelta::seconds(10);
        let heartbeats: Vec<_> = self
            .ids
            .iter()
            .map(|id| Heartbeat::parse(id.clone(), br#"{"uptime_seconds":86400}"#, at))
            .collect();
        let began = processor();
        for portion in heartbeats.chunks(PORTION) {
            let recorded = self.store.update_last_seen(portion, RULES, &Proven::default()).await?;
            let returned = recorded.transitions.len();
            ensure!(returned == portion.len(), "only {returned} returned");
        }
        Ok(Turn { fell, returned: processor() - began })
    }
}
