//! 24 devices: of each of them its day.

use std::time::Duration;

use super::beats::Beats;
use super::past::{self, DAY, HOUR, MINUTE, Outage, TIMEOUT};
use super::{View, place, start, take};
use crate::support::service::Service;
use servers::mosquitto::heartbeat;

/// The devices of a small fleet.
const SMALL: [&str; 24] = [
    "compressor-1",
    "conveyor-1",
    "conveyor-2",
    "dryer-1",
    "gate-north",
    "gate-south",
    "meter-1",
    "meter-2",
    "meter-3",
    "meter-4",
    "mixer-1",
    "mixer-2",
    "oven-1",
    "oven-2",
    "press-1",
    "press-2",
    "pump-11",
    "pump-12",
    "pump-17",
    "scale-1",
    "valve-1",
    "valve-2",
    "valve-3",
    "valve-4",
];

/// Those that fell silent together, the one that has been silent for hours, and the one that
/// reports an error.
const FELL: [&str; 5] = ["valve-1", "valve-2", "valve-3", "valve-4", "scale-1"];
pub(super) const SILENT: &str = "pump-17";
const FAULTY: &str = "press-2";

pub(super) const PERIOD: Duration = Duration::from_secs(60);

/// Adds 24 devices and what they have been through.
pub(super) fn fleet(sql: &mut String, now: i64) {
    for (number, id) in (0_i64..).zip(SMALL) {
        // Each is due in its turn.
        let heard = now - MINUTE + number * MINUTE / 24;
        past::device(sql, now, id, heard, number);
    }
    for (id, days, hours) in [(SILENT, 19, 5), ("oven-2", 11, 2), (SILENT, 8, 1), ("pump-12", 1, 7)]
    {
        let at = now - days * DAY;
        past::outage(sql, id, at, Some(at + hours * HOUR));
    }
    past::outage(sql, "mixer-2", now - 16 * HOUR, Some(now - 15 * HOUR));
    past::outage(sql, "meter-3", now - 5 * HOUR, Some(now - 4 * HOUR - 20 * MINUTE));
    // A part of this silence fell into a gap.
    let at = now - 9 * HOUR - 35 * MINUTE;
    Outage { id: SILENT, at, timeout: TIMEOUT, blind: 23 * MINUTE, ended: None }.add(sql);
    for id in FELL {
        past::outage(sql, id, now - 12 * MINUTE, None);
    }
}

/// The past of a service that listens alone to 24 devices.
pub(super) fn past(now: i64) -> String {
    let mut sql = String::new();
    past::listened(&mut sql, now);
    fleet(&mut sql, now);
    sql
}

/// Lets those that are not offline send their heartbeats.
pub(super) fn live(port: u16) -> Beats {
    let well = |id: &&str| !FELL.contains(id) && *id != SILENT;
    let payload = |id: &str| match id {
        FAULTY => r#"{"status":"error","error":"bearing temperature 94 over its limit of 90"}"#,
        _ => "",
    };
    let devices = SMALL.into_iter().filter(well);
    let beats = devices.map(move |id| (id.to_owned(), payload(id).to_owned()));
    Beats::once_in(PERIOD, port, beats)
}

/// Lets the faulty one report its error now.
fn report(service: &Service) {
    let hot = br#"{"status":"error","error":"bearing temperature 94 over its limit of 90"}"#;
    heartbeat(service.broker_port(), FAULTY, hot);
    service.await_metric(r#"heartbeatd_devices{status="error"}"#, 1.0);
}

#[test]
#[ignore = "writes into docs; scripts/screenshots.sh runs it"]
fn pictures_of_a_small_fleet() {
    let place = place();
    let service = start(&place, past);
    let _devices = live(service.broker_port());
    report(&service);
    let device = format!("/devices/{SILENT}");
    let faulty = format!("/devices/{FAULTY}");
    let views = [
        View::at("/", "small", ".each .bar > i"),
        View::at("/devices", "small-devices", "tbody td"),
        View::at(&device, "device", ".plain tbody"),
        View { link: Some(".plain tbody a"), ..View::at(&device, "device-then", ".plain tbody") },
        View::at(&faulty, "device-error", ".changes li"),
        View::at("/listening", "listening", ".gaps"),
    ];
    take(&service, &views);
}
