//! Fleets that nobody can look through: 2,000 devices and a million.

use std::fmt::Write as _;
use std::time::Duration;

use super::beats::Beats;
use super::past::{self, DAY, FOUND_AFTER, HOUR, MINUTE};
use super::{View, long, place, start, take};
use crate::support::service::Place;

/// A fleet, and what has become of how many devices. The others are online.
#[derive(Clone, Copy)]
pub struct Fleet {
    devices: i64,
    /// Those that fell silent together.
    fell: i64,
    /// Those that are offline each by itself.
    alone: i64,
    faulty: i64,
    /// Those that were registered and never heard.
    unheard: i64,
    /// The digits of a number in an id.
    digits: usize,
    /// The time in which each device sends a heartbeat.
    period: i64,
    /// Ids of devices, by their ranks, that are as long as ids may be in the field.
    long: &'static [(i64, &'static str)],
}

const THOUSANDS: Fleet = Fleet {
    devices: 2_000,
    fell: 139,
    alone: 4,
    faulty: 9,
    unheard: 2,
    digits: 4,
    period: MINUTE,
    long: &[],
};

/// A machine that also runs a browser takes as many heartbeats a second as these send.
pub const MILLION: Fleet = Fleet {
    devices: 1_000_000,
    fell: 139_000,
    alone: 1_186,
    faulty: 912,
    unheard: 61,
    digits: 6,
    period: 5 * MINUTE,
    long: &[(139_000, long::SILENT), (139_000 + 1_186, long::FAULTY)],
};

/// A number by which the devices are mixed. It has no factor in common with the size of a fleet.
const MIXED: i64 = 1237;

const KINDS: [&str; 5] = ["pump", "valve", "press", "meter", "gate"];

impl Fleet {
    pub fn timeout(self) -> i64 {
        3 * self.period
    }

    fn offline(self) -> i64 {
        self.fell + self.alone
    }

    /// The place of a device in the order that decides what has become of it.
    fn rank(self, number: i64) -> i64 {
        number * MIXED % self.devices
    }

    fn id(self, number: i64) -> String {
        let kind = KINDS[usize::try_from(number % 5).expect("it is small")];
        format!("{kind}-{:0width$}", number / 5 + 1, width = self.digits)
    }

    pub fn place(self) -> Place {
        place().with("HEARTBEAT__TIMEOUT", &format!("{}s", self.timeout() / 1_000))
    }

    /// Lets those that are not offline send their heartbeats.
    fn live(self, port: u16) -> Beats {
        let beats = move |number| {
            let rank = self.rank(number);
            let ended = self.offline() + self.faulty;
            let silent = rank < self.offline() || (ended..ended + self.unheard).contains(&rank);
            let error = (rank < ended).then(|| format!(r#"{{"error":"{}"}}"#, error(rank)));
            let quiet = silent || self.long.iter().any(|(long, _)| *long == rank);
            (!quiet).then(|| (self.id(number), error.unwrap_or_default()))
        };
        let devices = (0..self.devices).filter_map(beats);
        Beats::once_in(Duration::from_millis(self.period.unsigned_abs()), port, devices)
    }

    /// The past of its devices.
    pub fn past(self, now: i64) -> String {
        let mut sql = String::new();
        past::listened(&mut sql, now);
        self.add_devices(&mut sql, now);
        self.add_transitions(&mut sql, now);
        self.add_samples(&mut sql, now);
        sql
    }

    fn add_devices(self, sql: &mut String, now: i64) {
        let Self { devices, fell, digits, period, faulty, .. } = self;
        let (offline, timeout) = (self.offline(), self.timeout());
        let (faulty, known) = (offline + faulty, offline + faulty + self.unheard);
        let long = |(rank, id): &(i64, &str)| format!("WHEN rank = {rank} THEN '{id}' ");
        let long: String = self.long.iter().map(long).collect();
        let _ = writeln!(
            sql,
            "WITH RECURSIVE number(n) AS (VALUES (0) UNION ALL SELECT n + 1 FROM number \
               WHERE n < {devices} - 1), \
             ranked AS (SELECT n, n * {MIXED} % {devices} AS rank, CASE n % 5 WHEN 0 THEN 'pump' \
               WHEN 1 THEN 'valve' WHEN 2 THEN 'press' WHEN 3 THEN 'meter' ELSE 'gate' END AS kind \
               FROM number), \
             known AS (SELECT *, CASE WHEN rank < {fell} THEN 'offline' \
               WHEN rank < {offline} THEN 'offline' WHEN rank < {faulty} THEN 'error' \
               WHEN rank < {known} THEN 'provisioning' ELSE 'online' END AS status, \
               CASE WHEN rank < {fell} THEN {now} - 12 * {MINUTE} - rank * 13 % 2000 \
               WHEN rank < {offline} THEN {now} - 3 * {HOUR} \
                 - (rank - {fell} + 1) * (rank - {fell} + 1) % 1100 * 37 * {MINUTE} \
               ELSE {now} - {period} + n * {period} / {devices} END AS at FROM ranked) \
             INSERT INTO device (id, status, last_seen_at, uptime_seconds, free_memory, \
               clock_skew_ms, error, registered_at) \
             SELECT CASE {long}WHEN rank >= 0 THEN printf('%s-%0{digits}d', kind, n / 5 + 1) END, \
               status, \
               CASE status WHEN 'offline' THEN at - {timeout} - {FOUND_AFTER} \
                 WHEN 'provisioning' THEN NULL ELSE at END, \
               CASE WHEN status <> 'provisioning' THEN rank * 2917 % 900000 * 9 END, \
               CASE WHEN status <> 'provisioning' THEN 40960 + rank * 7919 % 180000 END, \
               CASE WHEN status = 'provisioning' THEN NULL \
                 WHEN rank % 41 = 7 THEN 61000 + rank % 7 * 38000 ELSE rank * 31 % 900 END, \
               CASE status WHEN 'error' THEN 'bearing temperature ' || (91 + rank % 12) || \
                 ' over its limit of 90' END, \
               {now} - 40 * {DAY} FROM known;"
        );
    }

    fn add_transitions(self, sql: &mut String, now: i64) {
        let timeout = self.timeout();
        let _ = writeln!(
            sql,
            "INSERT INTO status_transition (device_id, from_status, to_status, at, last_seen_at, \
               cutoff, timeout_ms, listened_ms, instance, delivered_at) \
             SELECT id, 'online', 'offline', found, last_seen_at, found - {timeout}, {timeout}, \
               found - last_seen_at, 'heartbeatd', found FROM (SELECT id, last_seen_at, \
                 {now} - ({now} - last_seen_at - {timeout} - {FOUND_AFTER}) / 2000 * 2000 \
                 AS found FROM device WHERE status = 'offline') ORDER BY found;"
        );
        let _ = writeln!(
            sql,
            "INSERT INTO status_transition (device_id, from_status, to_status, at, delivered_at) \
             SELECT id, 'online', 'error', \
               {now} - 40 * {MINUTE} - uptime_seconds * 1009 % (7 * {HOUR}), {now} FROM device WHERE status = 'error';"
        );
    }

    /// Adds the counts of a day, in which some of the fleet was offline for an hour.
    fn add_samples(self, sql: &mut String, now: i64) {
        let (scale, well) = (self.fell / 139, self.devices - self.faulty - self.unheard);
        let _ = writeln!(
            sql,
            "WITH RECURSIVE sample(n) AS (VALUES (0) UNION ALL SELECT n + 1 FROM sample \
               WHERE n < 1439), \
             known AS (SELECT n, {now} - {DAY} + n * {MINUTE} AS at, {scale} * (n / 37 * 7 % 5 \
               + CASE WHEN n BETWEEN 480 AND 545 THEN 61 ELSE 0 END) \
               + CASE WHEN n >= 1428 THEN {} ELSE {} END AS off FROM sample \
               WHERE n NOT BETWEEN 840 AND 863) \
             INSERT INTO fleet_sample (at, provisioning, online, offline, error, late) \
             SELECT at, {}, {well} - off, off, {}, 0 FROM known;",
            self.offline() - scale * 3,
            self.alone,
            self.unheard,
            self.faulty,
        );
    }
}

fn error(rank: i64) -> String {
    format!("bearing temperature {} over its limit of 90", 91 + rank % 12)
}

#[test]
#[ignore = "writes into docs; scripts/screenshots.sh runs it"]
fn pictures_of_a_large_fleet() {
    let place = THOUSANDS.place();
    let service = start(&place, |now| THOUSANDS.past(now));
    let _devices = THOUSANDS.live(service.broker_port());
    let some = "/devices?status=offline&status=error";
    let views = [
        View::at("/", "fleet", ".chart canvas"),
        View::at(some, "devices", "tbody td"),
        View { link: Some(".burst a"), ..View::at("/", "together", "tbody td") },
    ];
    take(&service, &views);
}

#[test]
#[ignore = "writes into docs; scripts/screenshots.sh runs it"]
fn pictures_of_a_million_devices() {
    let place = MILLION.place();
    let service = start(&place, |now| MILLION.past(now) + &long::past(now, MILLION.timeout()));
    let _devices = MILLION.live(service.broker_port());
    let silent = format!("/devices/{}", long::SILENT);
    let faulty = format!("/devices/{}", long::FAULTY);
    let views = [
        View::at("/", "million", ".chart canvas"),
        View::at("/devices?status=offline&status=error", "million-devices", "tbody td"),
        View::at("/devices?q=*99999", "million-found", "tbody td"),
        View::at(&silent, "long", ".plain tbody"),
        View::at(&faulty, "long-error", ".changes li"),
    ];
    take(&service, &views);
}
