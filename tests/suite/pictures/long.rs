//! Two devices with long ids and long texts, which no view may be spoiled by.

use std::fmt::Write as _;

use super::past::{DAY, FOUND_AFTER, HOUR, MINUTE, Outage};

pub(super) const SILENT: &str =
    "rotterdam-maasvlakte-2-quay-north-crane-07-hoist-gearbox-bearing-temperature-sensor-b";
pub(super) const FAULTY: &str =
    "rotterdam-maasvlakte-2-quay-north-crane-11-trolley-drive-inverter-cooling-fan-monitor-a";

const ERROR: &str = "E-0x8021F33C0000417A: the cooling fan of inverter 2 turns at 412 rpm, less than its limit of \
     1,200 rpm, for 00:14:09; derated to 60 %; \
     last_frames=7e00a1ff7e00a1ff7e00a2037e00a2077e00a20f7e00a2ff7e00a3007e00a3017e00a3037e00a307; \
     maintenance was due on 2026-10-31";

const PAYLOAD_ERROR: &str = "free_memory: invalid type: string \"1,048,576 bytes\", expected u64";

/// Gives them a past. They are there already, with the changes of their status.
pub(super) fn past(now: i64, timeout: i64) -> String {
    let mut sql = format!("DELETE FROM status_transition WHERE device_id = '{SILENT}';\n");
    for (days, hours) in [(26, 31), (12, 4), (2, 9)] {
        let at = now - days * DAY;
        let ended = Some(at + hours * HOUR);
        Outage { id: SILENT, at, timeout, blind: 0, ended }.add(&mut sql);
    }
    // It fell silent 5 minutes before the gap of 23 minutes, 10 hours ago.
    let blind = 23 * MINUTE;
    let at = now - 10 * HOUR - 5 * MINUTE + blind + timeout + FOUND_AFTER;
    Outage { id: SILENT, at, timeout, blind, ended: None }.add(&mut sql);
    let payload_error = PAYLOAD_ERROR.replace('\'', "''");
    let _ = writeln!(
        sql,
        "UPDATE device SET error = '{ERROR}', payload_error = '{payload_error}', \
         clock_skew_ms = -86400000 * 213, uptime_seconds = 98765432, \
         free_memory = 17179869184 WHERE id = '{FAULTY}';"
    );
    sql
}
