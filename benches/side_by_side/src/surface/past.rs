//! The past of a large fleet: every device has once been lost and has returned, a tenth was lost
//! in one burst and is still offline, a few report errors, and fewer are late.

use crate::database::{Database, Server};

/// The timeout. A device is late after 40 min of it.
pub const TIMEOUT: &str = "1h";

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// One in so many is offline, reports an error or is late.
const OFFLINE: u64 = 10;
const ERROR: (u64, u64) = (1_000, 7);
const LATE: (u64, u64) = (25_000, 13);

/// True for a device that is online and not late, so that it publishes.
pub fn publishes(number: u64) -> bool {
    let is_one_of = |(of, which)| number % of == which;
    !is_one_of((OFFLINE, 0)) && !is_one_of(ERROR) && !is_one_of(LATE)
}

/// Registers the devices and writes their past.
pub fn make(database: &Database, devices: u64) -> anyhow::Result<()> {
    database.register(devices, None)?;
    let now = chrono::Utc::now().timestamp_millis();
    let number = "CAST(substr(id, 8) AS bigint)";
    let one_of = |(of, which): (u64, u64)| format!("{number} % {of} = {which}");
    // Found by sixty checks, a minute apart.
    let fell = format!("{now} - 3 * {HOUR} + {number} % 60 * {MINUTE}");
    let columns = "device_id, from_status, to_status, at, last_seen_at, cutoff, timeout_ms, \
                   listened_ms, instance, ended_at, delivered_at";
    let outages = format!(
        "INSERT INTO status_transition ({columns}) \
         SELECT id, 'online', 'offline', fell, fell - {HOUR} - 5000, fell - {HOUR}, {HOUR}, \
             {HOUR} + 5000, 'heartbeatd', fell + 5 * {MINUTE}, fell \
         FROM (SELECT id, {fell} AS fell FROM device) AS fallen ORDER BY fell, id"
    );
    let returns =
        "INSERT INTO status_transition (device_id, from_status, to_status, at, delivered_at) \
         SELECT device_id, 'offline', 'online', ended_at, ended_at FROM status_transition \
         ORDER BY sequence"
            .to_owned();
    let burst = now - 30 * MINUTE;
    let offline = one_of((OFFLINE, 0));
    let lasting = format!(
        "INSERT INTO status_transition ({columns}) \
         SELECT id, 'online', 'offline', {burst}, {burst} - {HOUR} - 5000, {burst} - {HOUR}, \
             {HOUR}, {HOUR} + 5000, 'heartbeatd', CAST(NULL AS bigint), {burst} \
         FROM device WHERE {offline} ORDER BY id"
    );
    let errors = format!(
        "INSERT INTO status_transition (device_id, from_status, to_status, at, delivered_at) \
         SELECT id, 'online', 'error', {now} - 20 * {MINUTE}, {now} FROM device WHERE {error}",
        error = one_of(ERROR),
    );
    let journal = format!(
        "INSERT INTO journal (kind, at, device_id) \
         SELECT 'registered', {now} - {DAY}, id FROM device ORDER BY id"
    );
    let stay = format!(
        "INSERT INTO listener (instance, incarnation, joined_at, left_at, left_how, proven_until) \
         VALUES ('heartbeatd', 0, {now} - {DAY}, {now}, 'left', {now})"
    );
    let listened = format!(
        "INSERT INTO listening_interval (listener, started_at, ended_at, gap_cause) \
         SELECT max(id), {now} - {DAY}, {now} - 5 * {HOUR}, NULL FROM listener UNION ALL \
         SELECT max(id), {now} - 5 * {HOUR} + {MINUTE}, {now}, 'disconnected' FROM listener"
    );
    let samples = match database.server {
        Server::Sqlite => {
            "WITH RECURSIVE minute(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM minute WHERE n < 1440)"
                .to_owned()
        }
        Server::Postgresql => "WITH minute(n) AS (SELECT generate_series(1, 1440))".to_owned(),
    };
    let samples = format!(
        "{samples} INSERT INTO fleet_sample (at, provisioning, online, offline, error, late) \
         SELECT {now} - n * {MINUTE}, 0, {devices} - n, n, 0, 0 FROM minute"
    );
    let fallen = format!(
        "UPDATE device SET status = 'offline', last_seen_at = {burst} - {HOUR} - 5000 \
         WHERE {offline}"
    );
    let faulty =
        format!("UPDATE device SET status = 'error', error = 'too hot' WHERE {}", one_of(ERROR));
    let late = format!(
        "UPDATE device SET last_seen_at = {now} - 45 * {MINUTE} WHERE {} AND status = 'online'",
        one_of(LATE),
    );
    let coverage = [stay, listened];
    let devices = [samples, fallen, faulty, late];
    let transitions = [outages, returns, lasting, errors, journal];
    for sql in transitions.into_iter().chain(coverage).chain(devices) {
        database.execute(&sql)?;
    }
    database.settle()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_past_fits_the_newest_schema_of_both_databases() {
        for server in [Server::Sqlite, Server::Postgresql] {
            let database = Database::new(server).expect("it opens");
            make(&database, 1_000).expect("it is written");
            let listened = "SELECT count(*) FROM listening_interval \
                            JOIN listener ON listener.id = listening_interval.listener";
            assert_eq!(database.number(listened).expect("it reads"), Some(2));
        }
    }
}
