//! The pictures in docs/images: a real service and a real browser, and devices whose past is made
//! up.

use std::fmt::Write as _;
use std::path::Path;

use crate::support::browser::{Browser, Light};
use crate::support::database::TestDatabase;
use crate::support::service::{Place, Service};
use heartbeatd::clock::system_clock;
use publishers::Devices;
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
const SILENT: &str = "pump-17";
const FAULTY: &str = "press-2";

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// A silence is found this long after it began.
const FOUND_AFTER: i64 = 3 * MINUTE + 12_000;

/// Adds what the service has listened to, for 30 days until `now`.
fn listened(sql: &mut String, now: i64) {
    // How long ago each gap began, its length and its cause.
    let gaps = [
        (10 * HOUR, 23 * MINUTE, "disconnected"),
        (5 * HOUR, 4 * MINUTE, "no_echo"),
        (MINUTE, MINUTE, "not_running"),
    ];
    let _ = writeln!(
        sql,
        "INSERT INTO listener (id, instance, incarnation, joined_at, left_at) \
         VALUES (1, 'heartbeatd', 1, {now} - 30 * {DAY}, {now});"
    );
    let (mut since, mut cause) = (now - 30 * DAY, "NULL".to_owned());
    for (ago, length, why) in gaps {
        let until = now - ago;
        let _ = writeln!(
            sql,
            "INSERT INTO listening_interval (listener, started_at, ended_at, gap_cause) \
             VALUES (1, {since}, {until}, {cause});"
        );
        (since, cause) = (until + length, format!("'{why}'"));
    }
}

/// Adds an outage that was found at a time, and its end.
fn outage(sql: &mut String, id: &str, at: i64, ended: Option<i64>) {
    let silent = at - FOUND_AFTER;
    let end = ended.map_or("NULL".to_owned(), |end| end.to_string());
    let _ = writeln!(
        sql,
        "INSERT INTO status_transition (device_id, from_status, to_status, at, last_seen_at, \
         cutoff, timeout_ms, listened_ms, instance, ended_at, delivered_at) VALUES ('{id}', \
         'online', 'offline', {at}, {silent}, {at} - 180000, 180000, {FOUND_AFTER}, \
         'heartbeatd', {end}, {at});"
    );
    let _ = match ended {
        Some(end) => writeln!(
            sql,
            "INSERT INTO status_transition (device_id, from_status, to_status, at, delivered_at) \
             VALUES ('{id}', 'offline', 'online', {end}, {end});"
        ),
        None => writeln!(
            sql,
            "UPDATE device SET status = 'offline', last_seen_at = {silent} WHERE id = '{id}';"
        ),
    };
}

/// The past of 24 devices.
fn small_fleet(now: i64) -> String {
    let mut sql = String::new();
    listened(&mut sql, now);
    for (number, id) in (0_i64..).zip(SMALL) {
        let (up, free) = (91_000 * (number + 3) * (number % 7 + 1), 61_440 + 7_919 * number);
        let (skew, registered) = (120 * (number % 5), now - 40 * DAY);
        let _ = writeln!(
            sql,
            "INSERT INTO device (id, status, last_seen_at, uptime_seconds, free_memory, \
             clock_skew_ms, registered_at) \
             VALUES ('{id}', 'online', {now}, {up}, {free}, {skew}, {registered});"
        );
    }
    for (id, days, hours) in [(SILENT, 19, 5), ("oven-2", 11, 2), (SILENT, 8, 1), ("pump-12", 1, 7)]
    {
        let at = now - days * DAY;
        outage(&mut sql, id, at, Some(at + hours * HOUR));
    }
    outage(&mut sql, "mixer-2", now - 16 * HOUR, Some(now - 15 * HOUR));
    outage(&mut sql, "meter-3", now - 5 * HOUR, Some(now - 4 * HOUR - 20 * MINUTE));
    outage(&mut sql, SILENT, now - 3 * HOUR - 14 * MINUTE, None);
    for id in FELL {
        outage(&mut sql, id, now - 12 * MINUTE, None);
    }
    sql
}

/// The past of 2,000 devices: `rank` decides what has become of each.
fn large_fleet(now: i64) -> String {
    let mut sql = String::new();
    listened(&mut sql, now);
    let _ = writeln!(
        sql,
        "WITH RECURSIVE number(n) AS (VALUES (0) UNION ALL SELECT n + 1 FROM number \
           WHERE n < 1999), \
         ranked AS (SELECT n, n * 1237 % 2000 AS rank, CASE n % 5 WHEN 0 THEN 'pump' \
           WHEN 1 THEN 'valve' WHEN 2 THEN 'press' WHEN 3 THEN 'meter' ELSE 'gate' END AS kind \
           FROM number), \
         fallen AS (SELECT *, CASE WHEN rank < 139 THEN {now} - 12 * {MINUTE} \
           WHEN rank < 143 THEN {now} - (rank - 138) * (rank - 138) * 3 * {HOUR} END AS found_at \
           FROM ranked) \
         INSERT INTO device (id, status, last_seen_at, uptime_seconds, free_memory, \
           clock_skew_ms, error, registered_at) \
         SELECT printf('%s-%04d', kind, n / 5 + 1), \
           CASE WHEN rank < 143 THEN 'offline' WHEN rank < 152 THEN 'error' \
             WHEN rank < 154 THEN 'provisioning' ELSE 'online' END, \
           CASE WHEN rank < 143 THEN found_at - {FOUND_AFTER} - rank * 13 % 2000 \
             WHEN rank NOT BETWEEN 152 AND 153 THEN {now} - rank * 29 END, \
           CASE WHEN rank NOT BETWEEN 152 AND 153 THEN rank * 2917 % 900000 * 9 END, \
           CASE WHEN rank NOT BETWEEN 152 AND 153 THEN 40960 + rank * 7919 % 180000 END, \
           CASE WHEN rank NOT BETWEEN 152 AND 153 THEN rank * 31 % 900 END, \
           CASE WHEN rank BETWEEN 143 AND 151 THEN 'bearing temperature ' || (rank - 50) || \
             ' over its limit of 90' END, \
           {now} - 40 * {DAY} FROM fallen;"
    );
    let _ = writeln!(
        sql,
        "INSERT INTO status_transition (device_id, from_status, to_status, at, last_seen_at, \
           cutoff, timeout_ms, listened_ms, instance, delivered_at) \
         SELECT id, 'online', 'offline', found, last_seen_at, found - 180000, 180000, \
           {FOUND_AFTER}, 'heartbeatd', found FROM (SELECT id, last_seen_at, \
             (last_seen_at + {FOUND_AFTER} + 2000) / {MINUTE} * {MINUTE} AS found FROM device \
             WHERE status = 'offline') ORDER BY found;"
    );
    let _ = writeln!(
        sql,
        "INSERT INTO status_transition (device_id, from_status, to_status, at, delivered_at) \
         SELECT id, 'online', 'error', {now} - 40 * {MINUTE} - last_seen_at % 7 * {HOUR}, {now} \
         FROM device WHERE status = 'error';"
    );
    let _ = writeln!(
        sql,
        "WITH RECURSIVE sample(n) AS (VALUES (0) UNION ALL SELECT n + 1 FROM sample \
           WHERE n < 1439), \
         known AS (SELECT n, {now} - {DAY} + n * {MINUTE} AS at, 4 + n / 37 * 7 % 5 \
           + CASE WHEN n BETWEEN 480 AND 545 THEN 61 ELSE 0 END \
           + CASE WHEN n >= 1428 THEN 134 ELSE 0 END AS off FROM sample \
           WHERE n NOT BETWEEN 840 AND 863) \
         INSERT INTO fleet_sample (at, provisioning, online, offline, error, late) \
         SELECT at, 2, 1989 - off, off, 9, 4 FROM known;"
    );
    sql
}

/// A service as it is by default.
fn place() -> Place {
    Place::new()
        .with("HEARTBEAT__TIMEOUT", "3m")
        .with("HEARTBEAT__CHECK_INTERVAL", "1m")
        .with("MQTT__ECHO_INTERVAL", "2s")
}

/// A service with a past.
fn start(place: &Place, past: impl Fn(i64) -> String) -> Service {
    let mut service = place.start();
    service.await_listening();
    service.signal("TERM");
    service.await_exit();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let database = TestDatabase::at(&place.path().join("heartbeatd.db"));
    runtime.block_on(database.execute(&past(system_clock().wall.timestamp_millis())));
    let service = place.start();
    service.await_listening();
    service
}

/// Keeps a picture of the window of a browser, once the page shows all that it is to show.
fn take(service: &Service, name: &str, path: &str, whole: &str, (light, width): (Light, u32)) {
    let browser = Browser::with(light, width);
    browser.open(&format!("http://{}{path}", service.http_address()));
    browser.await_state("listening");
    browser.await_value(&format!("document.querySelector('{whole}') !== null"), &true.into());
    // What is drawn by a canvas is there with the next frame.
    browser.await_value("document.fonts.status", &"loaded".into());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/images");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join(format!("{name}.png")), browser.screenshot()).expect("a picture");
}

const DESK: u32 = 1280;
const PHONE: u32 = 360;

#[test]
#[ignore = "writes into docs; scripts/screenshots.sh runs it"]
fn pictures_of_a_small_fleet() {
    let place = place();
    let service = start(&place, small_fleet);
    let silent = |id: &&str| FELL.contains(id) || [SILENT, FAULTY].contains(id);
    let alive = SMALL.iter().filter(|id| !silent(id)).map(|&id| id.to_owned());
    let _devices = Devices::live(service.broker_port(), alive);
    let hot = br#"{"status":"error","error":"bearing temperature 94 over its limit of 90"}"#;
    heartbeat(service.broker_port(), FAULTY, hot);
    service.await_metric(r#"heartbeatd_devices{status="error"}"#, 1.0);
    let device = format!("/devices/{SILENT}");
    let bar = ".bar > i";
    take(&service, "small", "/", bar, (Light::Light, DESK));
    take(&service, "device", &device, bar, (Light::Light, DESK));
    take(&service, "device-dark", &device, bar, (Light::Dark, DESK));
    take(&service, "listening", "/listening", ".gaps", (Light::Light, DESK));
    take(&service, "listening-dark", "/listening", ".gaps", (Light::Dark, DESK));
    take(&service, "phone-device", &device, bar, (Light::Dark, PHONE));
}

#[test]
#[ignore = "writes into docs; scripts/screenshots.sh runs it"]
fn pictures_of_a_large_fleet() {
    let place =
        Place::new().with("HEARTBEAT__TIMEOUT", "3m").with("HEARTBEAT__CHECK_INTERVAL", "60s");
    let service = start(&place, large_fleet);
    // As `large_fleet` ranks them: none of those that are offline or report an error.
    let is_well = |number: &i64| ((number - 1) * 5 + 4) * 1237 % 2000 >= 154;
    let some = (1..).filter(is_well).take(17).map(|number| format!("gate-{number:04}"));
    let _devices = Devices::live(service.broker_port(), some);
    let chart = ".chart canvas";
    take(&service, "fleet", "/", chart, (Light::Light, DESK));
    take(&service, "fleet-dark", "/", chart, (Light::Dark, DESK));
    take(
        &service,
        "devices",
        "/devices?status=offline&status=error",
        "tbody",
        (Light::Light, DESK),
    );
    take(&service, "phone", "/", chart, (Light::Light, PHONE));
}
