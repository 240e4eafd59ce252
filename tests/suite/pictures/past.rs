//! The past, as SQL that SQLite and PostgreSQL understand: what was listened to, and outages.

use std::fmt::Write as _;

pub const MINUTE: i64 = 60_000;
pub const HOUR: i64 = 60 * MINUTE;
pub const DAY: i64 = 24 * HOUR;

/// The time for which there is a past.
pub const PAST: i64 = 30 * DAY;

/// The timeout of a fleet in which each device sends a heartbeat once a minute.
pub const TIMEOUT: i64 = 3 * MINUTE;

/// A silence is found when this much more than the timeout has been listened to.
pub const FOUND_AFTER: i64 = 12_000;

/// The newest part of a silence is proven after the check.
const UNPROVEN: i64 = 1_000;

/// A gap: how long before now it began, its length and its cause.
pub type Gap = (i64, i64, &'static str);

/// The gaps of a service that listens alone.
pub const GAPS: [Gap; 2] =
    [(10 * HOUR, 23 * MINUTE, "disconnected"), (5 * HOUR, 4 * MINUTE, "no_echo")];

/// Adds what the service has listened to until `now`.
pub fn listened(sql: &mut String, now: i64) {
    stay(sql, now, "heartbeatd", None, &GAPS);
}

/// Adds the stay of an instance, as a member of a group if there is one.
pub fn stay(sql: &mut String, now: i64, instance: &str, group: Option<&str>, gaps: &[Gap]) {
    let group = group.map_or("NULL".to_owned(), |group| format!("'{group}'"));
    let _ = writeln!(
        sql,
        "INSERT INTO listener (instance, incarnation, share_group, joined_at, left_at, left_how) \
         VALUES ('{instance}', 1, {group}, {now} - {PAST}, {now}, 'left');"
    );
    let last = (0, 0, "not_running");
    let (mut since, mut cause) = (now - PAST, "NULL".to_owned());
    for &(ago, length, why) in gaps.iter().chain(std::iter::once(&last)) {
        let until = now - ago;
        if until > since {
            let _ = writeln!(
                sql,
                "INSERT INTO listening_interval (listener, started_at, ended_at, gap_cause) \
                 SELECT max(id), {since}, {until}, {cause} FROM listener;"
            );
        }
        (since, cause) = (until + length, format!("'{why}'"));
    }
}

/// Adds a device that was heard at a time.
pub fn device(sql: &mut String, now: i64, id: &str, heard: i64, number: i64) {
    let (up, free) = (91_000 * (number + 3) * (number % 7 + 1), 61_440 + 7_919 * number);
    let skew = if number % 11 == 5 { -74_000 } else { 120 * (number % 5) };
    let registered = now - 40 * DAY;
    let _ = writeln!(
        sql,
        "INSERT INTO device (id, status, last_seen_at, uptime_seconds, free_memory, \
         clock_skew_ms, registered_at) \
         VALUES ('{id}', 'online', {heard}, {up}, {free}, {skew}, {registered});"
    );
}

/// An outage.
pub struct Outage<'a> {
    pub id: &'a str,
    /// The time of the check that found it.
    pub at: i64,
    /// The timeout that decided.
    pub timeout: i64,
    /// The part of the silence that was not listened to.
    pub blind: i64,
    pub ended: Option<i64>,
}

impl Outage<'_> {
    /// Adds it, and its end or what it means for its device.
    pub fn add(&self, sql: &mut String) {
        let Self { id, at, timeout, .. } = *self;
        let listened = timeout + FOUND_AFTER;
        let silent = at - listened - self.blind - UNPROVEN;
        let end = self.ended.map_or("NULL".to_owned(), |end| end.to_string());
        let _ = writeln!(
            sql,
            "INSERT INTO status_transition (device_id, from_status, to_status, at, \
             last_seen_at, cutoff, timeout_ms, listened_ms, instance, ended_at, delivered_at) \
             VALUES ('{id}', 'online', 'offline', {at}, {silent}, {silent} + {FOUND_AFTER}, \
             {timeout}, {listened}, 'heartbeatd', {end}, {at});"
        );
        let _ = match self.ended {
            Some(end) => writeln!(
                sql,
                "INSERT INTO status_transition (device_id, from_status, to_status, at, \
                 delivered_at) VALUES ('{id}', 'offline', 'online', {end}, {end});"
            ),
            None => writeln!(
                sql,
                "UPDATE device SET status = 'offline', last_seen_at = {silent} WHERE id = '{id}';"
            ),
        };
    }
}

/// Adds an outage of the default timeout, in which all was listened to.
pub fn outage(sql: &mut String, id: &str, at: i64, ended: Option<i64>) {
    Outage { id, at, timeout: TIMEOUT, blind: 0, ended }.add(sql);
}
