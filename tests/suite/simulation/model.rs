//! The specification, written down a second time and as simply as possible: sets
//! of seconds instead of intervals, one device after the other instead of SQL.

use std::collections::{BTreeMap, BTreeSet};

use heartbeatd::domain::Status;

use super::{GRACE, Outage};

/// A check may be overtaken by what came after its reading of the clock: only a clock
/// that is behind by more seconds than this was turned back.
const OVERTAKEN: i64 = 1;

/// A device's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub status: Status,
    pub last_seen: i64,
}

/// What is proven: second `s` stands for the time from `s` until `s + 1`, instant
/// `s` for its beginning alone, which counts for nothing but is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Proven {
    seconds: BTreeSet<i64>,
    instants: BTreeSet<i64>,
}

impl Proven {
    fn newest(&self) -> Option<i64> {
        self.instants.last().copied()
    }
}

/// The service and its database, by the clock of the service.
#[derive(Debug, Default)]
pub struct Model {
    proven: Proven,
    saved: Proven,
    /// The newest heartbeat of a device, and whether it reports an error.
    pending: BTreeMap<usize, (i64, bool)>,
    pub rows: BTreeMap<usize, Row>,
    clamp_due: bool,
    latest_reading: Option<i64>,
}

impl Model {
    /// The process is gone, and with it all that was not written.
    pub fn crash(&mut self) {
        self.proven = self.saved.clone();
        self.pending.clear();
        self.clamp_due = true;
        self.latest_reading = None;
    }

    pub fn heartbeat(&mut self, device: usize, now: i64, error: bool) {
        self.step_back(now);
        self.latest_reading = self.latest_reading.max(Some(now));
        self.pending.insert(device, (now, error));
    }

    pub fn confirm(&mut self, since: i64, until: i64) {
        if self.step_back(until) {
            return;
        }
        let begin = self.proven.newest().map_or(since, |newest| newest.max(since)).min(until);
        if until - begin <= GRACE {
            self.proven.seconds.extend(begin..until);
            self.proven.instants.extend(begin..until);
        }
        self.proven.instants.insert(until);
    }

    fn step_back(&mut self, now: i64) -> bool {
        let stepped_back = self.proven.newest().is_some_and(|newest| newest > now);
        if stepped_back {
            self.proven.seconds.retain(|second| *second < now);
            self.proven.instants.retain(|instant| *instant < now);
            self.proven.instants.insert(now);
            self.clamp_due = true;
        }
        stepped_back
    }

    /// Whether no heartbeat waits to be written.
    pub fn is_flushed(&self) -> bool {
        self.pending.is_empty()
    }

    /// Whether everything could be written.
    pub fn flush(&mut self, outage: Option<Outage>) -> bool {
        let change = |(device, (_, error)): (&usize, &(i64, bool))| {
            let status = self.rows.get(device).map(|row| row.status);
            status != Some(Status::Online.on_heartbeat(*error))
        };
        let written = match outage {
            Some(Outage::Devices) => self.pending.is_empty(),
            Some(Outage::Transitions) => !self.pending.iter().any(change),
            Some(Outage::Coverage) => self.saved == self.proven,
            None => true,
        };
        if written {
            for (device, (last_seen, error)) in std::mem::take(&mut self.pending) {
                let status = Status::Online.on_heartbeat(error);
                self.rows.insert(device, Row { status, last_seen });
            }
            self.saved = self.proven.clone();
        }
        written
    }

    /// Who went offline.
    pub fn check(
        &mut self,
        now: i64,
        outage: Option<Outage>,
        timeout: impl Fn(usize) -> i64,
    ) -> Vec<usize> {
        let proven_later = self.proven.newest() > Some(now + OVERTAKEN);
        let stepped_back = proven_later && self.step_back(now);
        if self.latest_reading > Some(now + OVERTAKEN) {
            self.clamp_due = true;
            self.latest_reading = Some(now);
        }
        self.latest_reading = self.latest_reading.max(Some(now));
        if !self.flush(outage) || outage == Some(Outage::Devices) {
            self.clamp_due = true;
            return Vec::new();
        }
        if std::mem::take(&mut self.clamp_due) {
            for row in self.rows.values_mut() {
                row.last_seen = row.last_seen.min(now);
            }
        }
        let mut offline = Vec::new();
        for (device, row) in &mut self.rows {
            let listened = self.proven.seconds.range(row.last_seen.min(now)..now).count() as i64;
            let falls_silent = row.status.on_silence() != row.status;
            if falls_silent && listened > timeout(*device) {
                offline.push(*device);
            }
        }
        if outage == Some(Outage::Transitions) {
            // Not one status without its transition.
            self.clamp_due = true;
            return Vec::new();
        }
        for device in &offline {
            let row = self.rows.get_mut(device).expect("it was just there");
            row.status = Status::Offline;
        }
        self.clamp_due |= stepped_back || outage.is_some();
        offline
    }
}
