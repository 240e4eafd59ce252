//! The statistics of a candidate's turns.

use super::Results;
use crate::candidates::{Broker, Candidate, Kind};
use crate::database::Server;
use crate::sample::median;
use crate::silence::{self, Silent};
use crate::throughput::{Load, Outcome};

pub fn per_second(turns: &[Outcome]) -> f64 {
    median(turns.iter().map(Outcome::per_second).collect())
}

pub fn cpu(turns: &[Outcome]) -> f64 {
    median(turns.iter().map(Outcome::cpu_seconds_per_million).collect())
}

pub fn megabytes(turns: &[Outcome]) -> f64 {
    turns.iter().map(|turn| turn.peak_memory).max().unwrap_or_default() as f64 / 1e6
}

/// The rate of a candidate relative to another's.
pub fn ratio(turns: &[Outcome], others: &[Outcome]) -> f64 {
    relative(turns, others, Outcome::per_second)
}

/// The cost of a heartbeat relative to its cost elsewhere.
pub fn cost_ratio(turns: &[Outcome], others: &[Outcome]) -> f64 {
    relative(turns, others, Outcome::cpu_seconds_per_million)
}

/// The median of the ratios of each turn, so that whatever else the machine did in a turn
/// cancels out. A peer has a single turn; it is compared by the medians that the page shows,
/// because the first turn of the others would decide alone.
fn relative(turns: &[Outcome], others: &[Outcome], value: fn(&Outcome) -> f64) -> f64 {
    let values = |turns: &[Outcome]| turns.iter().map(value).collect::<Vec<_>>();
    let (ones, others) = (values(turns), values(others));
    if ones.len() != others.len() {
        return median(ones) / median(others);
    }
    median(ones.iter().zip(&others).map(|(one, other)| one / other).collect())
}

impl Results {
    /// The turns of a candidate behind mosquitto.
    pub fn turns(&self, kind: Kind, qos: u8) -> &[Outcome] {
        let wanted = Candidate { kind, broker: Broker::Mosquitto, qos };
        let found = self.throughput.iter().find(|(candidate, _)| *candidate == wanted);
        found.map_or(&[], |(_, turns)| turns)
    }

    /// The turns of a candidate that is compared with the embedded broker, or has it.
    pub fn embedded(&self, kind: Kind, qos: u8, load: Load) -> &[Outcome] {
        let mut all = self.embedded.iter();
        let found = all.find(|(candidate, other, _)| {
            (candidate.kind, candidate.qos, *other) == (kind, qos, load)
        });
        found.map_or(&[], |(.., turns)| turns)
    }

    /// The check of a table, with the cost of a bare count there.
    pub fn check(&self, server: Server, devices: u64, silent: Silent) -> Option<&silence::Outcome> {
        let found = self.silence.iter().find(|(case, _)| {
            (case.server, case.devices, case.silent) == (server, devices, silent)
        });
        found.map(|(_, outcome)| outcome)
    }
}
