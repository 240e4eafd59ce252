//! The JSON of the commands, byte for byte, because programs rely on each key and on
//! their order.

use crate::support::database::TestDatabase;
use crate::support::service::Place;

/// A device in each status: one with every column set, one with none, and one whose timeout is
/// unusable.
const DEVICES: &str = "
    INSERT INTO device (id, status, last_seen_at, timeout_seconds, uptime_seconds, free_memory,
                        clock_skew_ms, error, payload_error, registered_at)
    VALUES
    ('fan', 'provisioning', NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1795435200000),
    ('press', 'error', 1795435200250, -7, 60, NULL, -3, 'valve \"B\" stuck é', NULL, 1795435200000),
    ('pump \"1\"', 'online', 1795435201000, 90, 3600, 123456, 0, NULL, 'error: not a text', 1795435200001),
    ('valve', 'offline', 1795435260000, 60, NULL, NULL, NULL, NULL, NULL, 1795435200000)";

/// The silence of the device `valve`, with a gap of each cause and one without a cause.
const LISTENING: &str = "
    INSERT INTO listener (id, instance, incarnation, joined_at, left_at)
    VALUES (1, 'gateway', 1, 1795435200000, 1795435420000);
    INSERT INTO listening_interval (listener, started_at, ended_at, gap_cause)
    VALUES
    (1, 1795435200000, 1795435300500, NULL),
    (1, 1795435310000, 1795435320000, 'not_running'),
    (1, 1795435330000, 1795435340000, 'disconnected'),
    (1, 1795435350000, 1795435360000, 'no_echo'),
    (1, 1795435370000, 1795435380000, 'shed'),
    (1, 1795435390000, 1795435400000, 'clock_step'),
    (1, 1795435410000, 1795435420000, NULL)";

/// An alert that was given up, and the transitions of the device `valve` to offline.
const TRANSITIONS: &str = "
    INSERT INTO status_transition (device_id, from_status, to_status, at, last_seen_at, cutoff,
                                   timeout_ms, listened_ms, instance, delivered_at, given_up_at,
                                   given_up_why)
    VALUES
    ('fan', 'online', 'offline', 1795435250000, 1795435000000, 1795435070000, 180000, 250000,
     'gateway', NULL, 1795435260000, 'too long'),
    ('valve', 'provisioning', 'online', 1795435260000, 1795435260000, NULL, NULL, NULL, NULL,
     NULL, NULL, NULL),
    ('valve', 'online', 'offline', 1795435420000, 1795435260000, 1795435360000, 60000, 100500,
     'gateway', 1795435420005, NULL, NULL)";

const DEVICE_LIST: &str = r#"[
{"id":"fan","status":"provisioning","last_seen_at":null,"timeout_seconds":null,"effective_timeout_seconds":3.0,"timeout_error":null,"late":false,"uptime_seconds":null,"free_memory":null,"clock_skew_seconds":null,"error":null,"payload_error":null,"registered_at":"2026-11-23T12:00:00.000Z"},
{"id":"press","status":"error","last_seen_at":"2026-11-23T12:00:00.250Z","timeout_seconds":-7,"effective_timeout_seconds":3.0,"timeout_error":"a timeout_seconds of -7 is unusable: it is not positive; the default is in effect","late":true,"uptime_seconds":60,"free_memory":null,"clock_skew_seconds":-0.003,"error":"valve \"B\" stuck é","payload_error":null,"registered_at":"2026-11-23T12:00:00.000Z"},
{"id":"pump \"1\"","status":"online","last_seen_at":"2026-11-23T12:00:01.000Z","timeout_seconds":90,"effective_timeout_seconds":90.0,"timeout_error":null,"late":true,"uptime_seconds":3600,"free_memory":123456,"clock_skew_seconds":0.0,"error":null,"payload_error":"error: not a text","registered_at":"2026-11-23T12:00:00.001Z"},
{"id":"valve","status":"offline","last_seen_at":"2026-11-23T12:01:00.000Z","timeout_seconds":60,"effective_timeout_seconds":60.0,"timeout_error":null,"late":false,"uptime_seconds":null,"free_memory":null,"clock_skew_seconds":null,"error":null,"payload_error":null,"registered_at":"2026-11-23T12:00:00.000Z"}
]
"#;

const DEVICE_NEVER_HEARD: &str = r#"{
  "id": "fan",
  "status": "provisioning",
  "last_seen_at": null,
  "timeout_seconds": null,
  "effective_timeout_seconds": 3.0,
  "timeout_error": null,
  "late": false,
  "uptime_seconds": null,
  "free_memory": null,
  "clock_skew_seconds": null,
  "error": null,
  "payload_error": null,
  "registered_at": "2026-11-23T12:00:00.000Z",
  "evidence": null
}
"#;

const DEVICE_OFFLINE: &str = r#"{
  "id": "valve",
  "status": "offline",
  "last_seen_at": "2026-11-23T12:01:00.000Z",
  "timeout_seconds": 60,
  "effective_timeout_seconds": 60.0,
  "timeout_error": null,
  "late": false,
  "uptime_seconds": null,
  "free_memory": null,
  "clock_skew_seconds": null,
  "error": null,
  "payload_error": null,
  "registered_at": "2026-11-23T12:00:00.000Z",
  "evidence": {
    "verdict": "offline",
    "silent_since": "2026-11-23T12:01:00Z",
    "until": "2026-11-23T12:03:40Z",
    "timeout_seconds": 60.0,
    "listened_seconds": 100.5,
    "gaps": [
      {
        "from": "2026-11-23T12:01:40.500Z",
        "until": "2026-11-23T12:01:50Z",
        "cause": "not_running"
      },
      {
        "from": "2026-11-23T12:02:00Z",
        "until": "2026-11-23T12:02:10Z",
        "cause": "disconnected"
      },
      {
        "from": "2026-11-23T12:02:20Z",
        "until": "2026-11-23T12:02:30Z",
        "cause": "no_echo"
      },
      {
        "from": "2026-11-23T12:02:40Z",
        "until": "2026-11-23T12:02:50Z",
        "cause": "shed"
      },
      {
        "from": "2026-11-23T12:03:00Z",
        "until": "2026-11-23T12:03:10Z",
        "cause": "clock_step"
      },
      {
        "from": "2026-11-23T12:03:20Z",
        "until": "2026-11-23T12:03:30Z",
        "cause": null
      }
    ]
  }
}
"#;

const HISTORY: &str = r#"[
{"sequence":3,"key":"0-3","device_id":"valve","from":"online","to":"offline","at":"2026-11-23T12:03:40Z","last_seen_at":"2026-11-23T12:01:00Z","delivered_at":"2026-11-23T12:03:40.005Z","given_up":null},
{"sequence":2,"key":"0-2","device_id":"valve","from":"provisioning","to":"online","at":"2026-11-23T12:01:00Z","last_seen_at":"2026-11-23T12:01:00Z","delivered_at":null,"given_up":null},
{"sequence":1,"key":"0-1","device_id":"fan","from":"online","to":"offline","at":"2026-11-23T12:00:50Z","last_seen_at":"2026-11-23T11:56:40Z","delivered_at":null,"given_up":{"at":"2026-11-23T12:01:00Z","why":"too long"}}
]
"#;

async fn place() -> Place {
    let place = Place::new();
    assert!(place.run(&["device", "add", "first"]).status.success());
    let database = TestDatabase::at(&place.path().join("heartbeatd.db"));
    for sql in ["DELETE FROM device", DEVICES, LISTENING, TRANSITIONS] {
        database.execute(sql).await;
    }
    place
}

#[track_caller]
fn assert_prints(place: &Place, arguments: &[&str], expected: &str) {
    let out = place.run(arguments);
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && errors.is_empty(), "{arguments:?}: {errors}");
    let printed = String::from_utf8(out.stdout).expect("it is text");
    assert_eq!(printed, expected, "{arguments:?} printed\n{printed}");
}

/// The lines of a list that contain `text`, as a list.
fn only(list: &str, text: &str) -> String {
    let items = list.lines().filter(|line| line.contains(text));
    let items: Vec<_> = items.map(|line| line.trim_end_matches(',')).collect();
    format!("[\n{}\n]\n", items.join(",\n"))
}

#[actix_rt::test]
async fn the_json_of_devices_stays_as_it_is() {
    let place = place().await;
    assert_prints(&place, &["device", "list", "--json"], DEVICE_LIST);
    for status in ["provisioning", "online", "offline", "error"] {
        let expected = only(DEVICE_LIST, &format!(r#""status":"{status}""#));
        assert_prints(&place, &["device", "list", "--json", "--status", status], &expected);
    }
    assert_prints(&place, &["device", "show", "fan", "--json"], DEVICE_NEVER_HEARD);
    assert_prints(&place, &["device", "show", "valve", "--json"], DEVICE_OFFLINE);
}

#[actix_rt::test]
async fn the_json_of_transitions_stays_as_it_is() {
    let place = place().await;
    assert_prints(&place, &["history", "--json"], HISTORY);
    let of_fan = only(HISTORY, r#""device_id":"fan""#);
    assert_prints(&place, &["history", "fan", "--json"], &of_fan);
    let newest = only(HISTORY, r#""sequence":3"#);
    assert_prints(&place, &["history", "valve", "--limit", "1", "--json"], &newest);
    assert_prints(&place, &["history", "press", "--json"], "[]\n");
}

#[actix_rt::test]
async fn devices_are_listed_by_the_beginning_of_their_ids() {
    let place = place().await;
    for (prefix, ids) in [
        ("p", &["press", "pump \"1\""][..]),
        ("pump ", &["pump \"1\""]),
        ("fan", &["fan"]),
        ("fans", &[]),
        ("P", &[]),
        ("*", &[]),
        ("", &["fan", "press", "pump \"1\"", "valve"]),
    ] {
        let listed = place.json(&["device", "list", "--json", "--prefix", prefix]);
        let listed = listed.as_array().expect("an array").iter();
        let listed: Vec<_> = listed.map(|device| device["id"].as_str().expect("a text")).collect();
        assert_eq!(listed, ids, "{prefix:?}");
    }
    let press = only(DEVICE_LIST, r#""status":"error""#);
    let arguments = ["device", "list", "--prefix", "p", "--status", "error", "--json"];
    assert_prints(&place, &arguments, &press);
    let arguments = ["device", "list", "--prefix", "p", "--status", "offline"];
    assert_prints(&place, &arguments, "DEVICE  STATUS  LAST SEEN  TIMEOUT  ERROR\n");
}

#[actix_rt::test]
async fn the_history_is_shown_from_a_time_until_another_and_to_a_status() {
    let place = place().await;
    let sequence = |numbers: &[u64]| {
        let lines = numbers.iter().map(|number| only(HISTORY, &format!("\"sequence\":{number},")));
        let lines: Vec<_> = lines.map(|line| line[2..line.len() - 3].to_owned()).collect();
        if lines.is_empty() { "[]\n".to_owned() } else { format!("[\n{}\n]\n", lines.join(",\n")) }
    };
    for (arguments, numbers) in [
        (&["--since", "2026-11-23T12:01:00Z"][..], &[3, 2][..]),
        (&["--since", "2026-11-23T13:01:00.001+01:00"], &[3]),
        (&["--until", "2026-11-23 12:01"], &[1]),
        (&["--since", "2026-11-23", "--until", "2026-11-24"], &[3, 2, 1]),
        (&["--since", "2026-11-24", "--until", "2026-11-25"], &[]),
        (&["--until", "36500d"], &[]),
        (&["--since", "36500d", "--limit", "2"], &[3, 2]),
        (&["--since", "1ms"], &[]),
        (&["--to", "offline"], &[3, 1]),
        (&["--to", "online", "--since", "2026-11-23"], &[2]),
        (&["valve", "--to", "offline"], &[3]),
        (&["valve", "--until", "2026-11-23 12:03"], &[2]),
    ] {
        let arguments = [&["history", "--json"], arguments].concat();
        assert_prints(&place, &arguments, &sequence(numbers));
    }
}

#[actix_rt::test]
async fn a_history_of_nothing_that_is_known_is_refused() {
    let place = place().await;
    let refused = |arguments: &[&str]| {
        let out = place.run(arguments);
        assert!(out.stdout.is_empty(), "{arguments:?}: {:?}", out.stdout);
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    for arguments in [&["history", "valv"][..], &["history", "valv", "--json"]] {
        let (code, errors) = refused(arguments);
        assert_eq!(code, Some(1), "{errors}");
        let hint = r#"there is no device valv; did you mean "valve"? `heartbeatd device list`"#;
        assert!(errors.contains(hint), "{errors}");
    }
    let between = ["history", "--since", "2026-11-24", "--until", "2026-11-24"];
    let (code, errors) = refused(&between);
    assert_eq!(code, Some(64), "{errors}");
    assert!(errors.contains("--until must be later than --since"), "{errors}");
    for arguments in [
        &["device", "show", "valv"][..],
        &["device", "set-timeout", "valv", "5m"],
        &["device", "remove", "valv"],
    ] {
        let (code, errors) = refused(arguments);
        assert_eq!(code, Some(1), "{errors}");
        assert!(errors.contains(r#"did you mean "valve"?"#), "{errors}");
    }
    // What is removed has a history.
    assert!(place.run(&["device", "remove", "valve"]).status.success());
    assert_eq!(place.json(&["history", "valve", "--json"])[0]["sequence"], 3);
}

#[actix_rt::test]
async fn a_long_id_widens_no_line_but_its_own() {
    let place = Place::new();
    let long = "x".repeat(128);
    for id in ["pump", &long] {
        assert!(place.run(&["device", "add", id]).status.success());
    }
    let listed = place.run(&["device", "list"]);
    let listed = String::from_utf8(listed.stdout).expect("it is text");
    let expected = [
        "DEVICE  STATUS        LAST SEEN  TIMEOUT  ERROR".to_owned(),
        "pump    provisioning  never".to_owned(),
        format!("{long}  provisioning  never"),
    ];
    assert_eq!(listed.lines().collect::<Vec<_>>(), expected);
}

#[actix_rt::test]
async fn durations_are_told_to_people_in_words() {
    let place = place().await;
    let database = TestDatabase::at(&place.path().join("heartbeatd.db"));
    database.execute("UPDATE device SET clock_skew_ms = -27812142968 WHERE id = 'press'").await;
    for (device, lines) in [
        (
            "press",
            &["uptime       1 min", "clock skew   321 days behind", "timeout      3 s (def"][..],
        ),
        (
            "pump \"1\"",
            &["uptime       1 h", "free memory  123,456 bytes", "timeout      1 min 30 s"],
        ),
        (
            "valve",
            &["registered   2026-11-23T12:00:00Z, ", "1 min 40 s of its 2 min 40 s of silence"],
        ),
    ] {
        let out = place.run(&["device", "show", device]);
        let shown = String::from_utf8(out.stdout).expect("it is text");
        for line in lines {
            assert!(shown.contains(line), "no {line:?} in {shown}");
        }
    }
}

#[actix_rt::test]
async fn late_devices_are_those_of_which_two_thirds_of_their_timeout_were_listened_to() {
    let place = place().await;
    let late = |place: &Place| {
        let listed = place.json(&["device", "list", "--late", "--json"]);
        let listed = listed.as_array().expect("an array").iter();
        let listed = listed.map(|device| device["id"].as_str().expect("a text").to_owned());
        listed.collect::<Vec<_>>()
    };
    let place = place.with("MQTT__CLIENT_ID", "gateway");
    assert_eq!(late(&place), ["press", "pump \"1\""]);
    let database = TestDatabase::at(&place.path().join("heartbeatd.db"));
    // The coverage ends at 1795435420000, and two thirds of 3 s and of 90 s are 2 s and 60 s.
    for (seen, expected) in [(1_795_435_417_999_i64, true), (1_795_435_418_000, false)] {
        let sql = format!("UPDATE device SET last_seen_at = {seen} WHERE id = 'press'");
        database.execute(&sql).await;
        assert_eq!(late(&place).contains(&"press".to_owned()), expected, "{seen}");
    }
    let arguments = ["device", "list", "--late", "--status", "error", "--json"];
    assert_prints(&place, &arguments, "[]\n");
    let arguments = ["device", "list", "--late", "--prefix", "pump", "--json"];
    let listed = place.json(&arguments);
    assert_eq!(listed[0]["id"], "pump \"1\"", "{listed}");
    // Another instance has listened as well as this one would have.
    let other = place.with("MQTT__CLIENT_ID", "other");
    assert_eq!(late(&other), ["pump \"1\""]);
    database.execute("DELETE FROM listening_interval").await;
    let out = other.run(&["device", "list", "--late", "--json"]);
    assert_eq!(String::from_utf8_lossy(&out.stdout), "[]\n");
    let warning = String::from_utf8_lossy(&out.stderr);
    assert!(warning.contains("not listened for long enough"), "{warning}");
}
