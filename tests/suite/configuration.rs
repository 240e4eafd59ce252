//! `config.toml` matches the code, and a mistake in it is explained.

use heartbeatd::Config;
use heartbeatd::config::ConfigError;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use servers::process::run_to_end;

use crate::support::service::Place;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config.toml");

fn load(text: &str) -> Result<Config, ConfigError> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("config.toml");
    std::fs::write(&path, text).expect("a file");
    Config::load(Some(&path))
}

#[test]
fn config_toml_spells_out_the_defaults() {
    assert_eq!(Config::load(Some(Path::new(FILE))).expect("it is valid"), Config::default());
}

/// A key without a default is commented out. Without the `#` it must be a key that the code
/// knows.
#[test]
fn every_key_in_config_toml_is_known_and_every_known_key_is_there() {
    let text = std::fs::read_to_string(FILE).expect("it is in the repository");
    let is_key = |line: &str| {
        let name = line.split_once(" = ").map_or("", |(name, _)| name);
        !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_')
    };
    let mut section = String::new();
    let mut keys = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
        }
        let bare = line.strip_prefix('#').unwrap_or(line);
        if is_key(bare) {
            keys.push(format!("{section}.{}", bare.split_once(' ').expect("is_key").0));
            if line.starts_with('#') {
                // A named file does not exist, which is another error. Other values parse.
                let known = load(&format!("[{section}]\n{bare}\n"));
                let unknown =
                    known.as_ref().is_err_and(|e| e.to_string().contains("unknown field"));
                assert!(!unknown, "{section}: {bare}: {known:?}");
            }
        }
    }
    // An error about an unknown key lists the known ones.
    for section in
        ["heartbeat", "devices", "mqtt", "mqtt.embedded", "database", "http", "alerts", "history"]
    {
        let error = load(&format!("[{section}]\nno_such_key = 1\n")).expect_err("no such key");
        let error = error.to_string();
        let (_, known) = error.split_once("expected ").expect(&error);
        let known = known.split('`').skip(1).step_by(2).filter(|name| *name != section);
        for name in known.filter(|name| *name != "embedded") {
            let key = format!("{section}.{name}");
            assert!(keys.contains(&key), "config.toml does not have {key}");
        }
    }
    assert_eq!(keys.len(), 57, "{keys:?}");
}

#[test]
fn the_environment_overrides_the_file_and_check_config_shows_it() {
    let place = Place::new()
        .with("HEARTBEAT__TIMEOUT", "5m")
        .with("MQTT__USERNAME", "fleet")
        .with("MQTT__PASSWORD", "12345")
        .with("DATABASE__URL", "postgres://me:s3cret@db/fleet");
    let file = "[heartbeat]\ntimeout = \"1m\"\ncheck_interval = \"7s\"\n";
    std::fs::write(place.path().join("my.toml"), file).expect("a file");
    let place = place.with("HEARTBEAT__CHECK_INTERVAL", "7s");
    let out = place.run(&["--config", "my.toml", "check-config"]);
    let text = String::from_utf8_lossy(&out.stdout);
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    for line in ["timeout = \"5m\"", "check_interval = \"7s\"", "password = \"***\"", "me:***@db"] {
        assert!(text.contains(line), "no {line} in {text}");
    }
    assert!(!text.contains("12345") && !text.contains("s3cret"), "{text}");
}

#[test]
fn the_output_of_check_config_is_a_configuration() {
    let place = Place::new();
    let out = place.run(&["check-config"]);
    let printed = load(&String::from_utf8_lossy(&out.stdout)).expect("it is valid");
    assert_eq!(printed.heartbeat.timeout.get().as_secs(), 3);
    assert_eq!(printed.database, Config::default().database);
}

/// Returns the exit code and the output of `check-config` with one key set.
fn checked(key: &str, value: &str) -> (Option<i32>, String) {
    let out = Place::new().with(key, value).run(&["check-config"]);
    (out.status.code(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
}

#[test]
fn a_duration_is_printed_as_it_was_written() {
    for (key, value) in [
        ("HISTORY__RETENTION", "90d"),
        ("HEARTBEAT__TIMEOUT", "1m 30s"),
        ("HEARTBEAT__TIMEOUT", "3650d"),
        ("HEARTBEAT__FLUSH_INTERVAL", "1s 500ms"),
        ("MQTT__ECHO_INTERVAL", "0s"),
    ] {
        let (code, text) = checked(key, value);
        let name = key.rsplit("__").next().expect("a key").to_lowercase();
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains(&format!("{name} = \"{value}\"")), "{key} = {value}: {text}");
    }
}

#[test]
fn every_duration_and_number_has_bounds() {
    for (key, refused, allowed, part) in [
        ("HEARTBEAT__TIMEOUT", "3651d", "3650d", "at least 1ms and at most 3650d"),
        ("HEARTBEAT__TIMEOUT", "0s", "1ms", "at least 1ms"),
        ("HEARTBEAT__TIMEOUT", "1500us", "2ms", "whole milliseconds"),
        ("HEARTBEAT__TIMEOUT", "1000000000000d", "1d", "at most 3650d"),
        ("HEARTBEAT__TIMEOUT", "1000000000000000d", "1d", "too long"),
        ("HEARTBEAT__CHECK_INTERVAL", "999us", "1ms", "at least 1ms"),
        ("HEARTBEAT__CHECK_INTERVAL", "25h", "1d", "at most 1d"),
        ("HEARTBEAT__FLUSH_INTERVAL", "1ns", "10ms", "at least 10ms"),
        ("HEARTBEAT__FLUSH_INTERVAL", "61m", "1h", "at most 1h"),
        ("HEARTBEAT__MAX_CLOCK_SKEW", "366d", "365d", "at most 365d"),
        ("MQTT__ECHO_INTERVAL", "1ns", "100ms", "or 0s to turn the echo off"),
        ("MQTT__ECHO_INTERVAL", "61m", "1h", "at most 1h"),
        ("MQTT__KEEP_ALIVE", "65536s", "65535s", "two bytes"),
        ("MQTT__KEEP_ALIVE", "0s", "1s", "whole seconds"),
        ("ALERTS__TIMEOUT", "99ms", "100ms", "at least 100ms"),
        ("ALERTS__TIMEOUT", "1d", "1h", "at most 1h"),
        ("HISTORY__RETENTION", "36501d", "36500d", "at most 36500d"),
        ("HISTORY__RETENTION", "0s", "1s", "at least 1s"),
        ("DEVICES__MAX_DEVICES", "100000001", "100000000", "at most 100000000"),
        ("DEVICES__MAX_DEVICES", "18446744073709551616", "1", "an integer"),
        ("DEVICES__MAX_DEVICES", "-1", "1", "an integer"),
        ("MQTT__MAX_BACKLOG", "0", "1", "at least 1"),
        ("MQTT__QOS", "256", "2", "8 bit integer"),
        ("MQTT__EMBEDDED__MAX_CONNECTIONS", "0", "1", "at least 1"),
        ("MQTT__EMBEDDED__MAX_CONNECTIONS_PER_ADDRESS", "0", "100000000", "at least 1"),
        ("MQTT__EMBEDDED__MAX_PENDING", "100000001", "100000000", "at most 100000000"),
        ("MQTT__EMBEDDED__CONNECT_TIMEOUT", "6m", "5m", "at least 100ms and at most 5m"),
        ("MQTT__EMBEDDED__MAX_PACKET", "1023", "1024", "at least 1024 and at most 1048576 bytes"),
        ("MQTT__EMBEDDED__MAX_PACKET", "268435455", "1048576", "at most 1048576 bytes"),
        ("MQTT__EMBEDDED__MAX_KEEP_ALIVE", "9s", "10s", "at least 10s and at most 18h 12m 15s"),
        ("MQTT__EMBEDDED__MAX_KEEP_ALIVE", "65536s", "65535s", "two bytes"),
        ("MQTT__EMBEDDED__MAX_MESSAGES_PER_SECOND", "0", "1", "at least 1"),
        ("DATABASE__MAX_CONNECTIONS", "1", "2", "at least 2 and at most 100"),
        ("DATABASE__MAX_CONNECTIONS", "101", "100", "a process of the server"),
        ("DATABASE__MAX_READ_CONNECTIONS", "0", "1", "at least 1 and at most 32"),
        ("DATABASE__MAX_READ_CONNECTIONS", "33", "32", "32 requests at once"),
        ("DATABASE__CONNECT_TIMEOUT", "999ms", "1s", "at least 1s and at most 1m"),
        ("DATABASE__STATEMENT_TIMEOUT", "11m", "10m", "at least 2s and at most 10m"),
        ("DATABASE__LOCK_TIMEOUT", "30s", "29s", "below database.statement_timeout, which is 30s"),
        ("DATABASE__LOCK_TIMEOUT", "500ms", "1s", "at least 1s and at most 10m"),
        ("DATABASE__IDLE_IN_TRANSACTION_SESSION_TIMEOUT", "0s", "1s", "at least 1s"),
    ] {
        let name = key.to_lowercase().replace("__", ".");
        let (code, text) = checked(key, refused);
        assert_eq!(code, Some(78), "{key} = {refused}: {text}");
        for part in [name.as_str(), part, &format!("HEARTBEATD_{key} in the environment")] {
            assert!(text.contains(part), "{key} = {refused}: no {part:?} in {text}");
        }
        let (code, text) = checked(key, allowed);
        assert_eq!(code, Some(0), "{key} = {allowed}: {text}");
    }
}

#[test]
fn a_value_that_is_nearly_right_is_refused_with_the_expected_form() {
    for (key, value, expected) in [
        ("HEARTBEAT__TIMEOUT", "180", "180s"),
        ("HEARTBEAT__TIMEOUT", "1M", "a minute is written 1m, a month 30d"),
        ("MQTT__URL", "192.168.1.5:1883", "mqtt://192.168.1.5:1883"),
        ("MQTT__URL", "localhost:1883", "mqtt://localhost:1883"),
        ("MQTT__URL", "broker.example:8883", "mqtts://broker.example:8883"),
        ("MQTT__ENTRY_URLS", r#"["mqtt://node1", "mqtt://node2"]"#, "only commas: ONE, OTHER"),
        ("HTTP__NAMES", r#"["gateway.lan"]"#, "only commas: ONE, OTHER"),
        ("DATABASE__URL", "heartbeatd.db", "sqlite://PATH?mode=rwc"),
        ("HTTP__LISTEN", "8080", "127.0.0.1:8080"),
        ("MQTT__EMBEDDED__LISTEN", "localhost:1883", "such as \"127.0.0.1:1883\""),
        ("MQTT__EMBEDDED__LISTEN", "1883", "such as \"127.0.0.1:1883\""),
        ("MQTT__PASSWORD", "x", "mqtt.username is not set: set it as well, because mqtt.password"),
        (
            "MQTT__CERT_FILE",
            "x",
            "mqtt.key_file is not set: set it as well, because mqtt.cert_file",
        ),
        ("MQTT__KEY_FILE", "x", "mqtt.cert_file is not set: set it as well, because mqtt.key_file"),
        (
            "DATABASE__STATEMENT_TIMEOUT",
            "5s",
            "database.lock_timeout = 5s: a time below database.statement_timeout, which is 5s",
        ),
    ] {
        let (code, text) = checked(key, value);
        assert_eq!(code, Some(78), "{text}");
        assert!(text.contains(expected), "{key} = {value}: no {expected:?} in {text}");
    }
}

#[test]
fn limits_of_postgresql_are_said_to_be_unused_with_sqlite() {
    for (key, value) in [
        ("MAX_CONNECTIONS", "8"),
        ("MAX_READ_CONNECTIONS", "4"),
        ("CONNECT_TIMEOUT", "10s"),
        ("STATEMENT_TIMEOUT", "1m"),
        ("LOCK_TIMEOUT", "2s"),
        ("IDLE_IN_TRANSACTION_SESSION_TIMEOUT", "20s"),
    ] {
        let name = format!("database.{}", key.to_lowercase());
        let (code, text) = checked(&format!("DATABASE__{key}"), value);
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains(&format!("{name} is not used: it is for PostgreSQL")), "{text}");
        let place = Place::new().with("DATABASE__URL", "postgres://db/fleet");
        let out = place.with(&format!("DATABASE__{key}"), value).run(&["check-config"]);
        let errors = String::from_utf8_lossy(&out.stderr);
        assert!(!errors.contains("is not used"), "{errors}");
    }
}

#[test]
fn no_text_in_the_configuration_may_have_invisible_characters() {
    for (key, before, after) in [
        ("MQTT__CLIENT_ID", "a", "b"),
        ("MQTT__SHARE_GROUP", "a", "b"),
        ("MQTT__USERNAME", "a", "b"),
        ("MQTT__TOPIC", "a", "/+/b"),
        ("MQTT__ECHO_TOPIC", "a", "b"),
    ] {
        for hazard in ["\u{202e}", "\u{200b}", "\u{2028}", "\u{feff}", "\u{3164}", "\u{85}", "\n"] {
            let (code, text) = checked(key, &format!("{before}{hazard}{after}"));
            assert_eq!(code, Some(78), "{key}, {hazard:?}: {text}");
            assert!(text.contains("invisible"), "{key}, {hazard:?}: {text}");
            assert!(!text.trim_end().contains(hazard), "{key}, {hazard:?}: {text}");
        }
        // A group needs both.
        let place = Place::new()
            .with("MQTT__URL", "mqtt://broker")
            .with("DATABASE__URL", "postgres://db/fleet")
            .with(key, &format!("{before}ü温{after}"));
        let checked = place.run(&["check-config"]);
        let text = String::from_utf8_lossy(&checked.stderr);
        assert_eq!(checked.status.code(), Some(0), "{key}: {text}");
    }
}

#[test]
fn an_error_in_the_file_names_its_line_and_column() {
    for (text, parts) in [
        ("[heartbeat]\n  timout = \"3s\"\n", &["line 2, column 3", "`timout`", "`timeout`"][..]),
        ("[heartbeat]\ntimeout = 180\n", &["line 2, column 11", "heartbeat.timeout = 180", "180s"]),
        ("[mqtt]\nqos = 1.5\n", &["line 2, column 7", "mqtt.qos = 1.5", "an integer"]),
        ("[mqtt]\nqos = 3\n", &["line 2, column 7", "mqtt.qos = 3", "0, 1 or 2"]),
        ("[mqtt]\nclient_id = true\n", &["line 2", "mqtt.client_id", "text in quotes"]),
        (
            "[devices]\nmax_devices = 99999999999999999999\n",
            &["line 2, column 15", "devices.max_devices = 99999999999999999999", "at most 9223"],
        ),
        ("[mqtt]\nmax_backlog = 0xffffffffffffffffffff\n", &["line 2, column 15", "= 0xfff"]),
        ("[mqtt]\nqos = -9223372036854775809\n", &["line 2, column 7", "mqtt.qos = -9223"]),
        ("[heartbeat]\ntimeout = 99999999999999999999\n", &["heartbeat.timeout", "text in quotes"]),
        ("[mqtt]\nusername = 99999999999999999999\n", &["mqtt.username", "text in quotes"]),
        ("mqtt = 1\n", &["line 1, column 8", "[mqtt]", "a section"]),
        (
            "\n\nfleet = 1\n",
            &["line 3, column 1", "`fleet`", "`heartbeat`", "outside of a section"],
        ),
        ("[devices]\nauto_register = \n", &["line 2"]),
        ("[devices]\nauto_register = 1\n", &["line 2, column 17", "true or false"]),
    ] {
        let error = load(text).expect_err(text).to_string();
        for part in parts {
            assert!(error.contains(part), "{text:?}: no {part:?} in {error}");
        }
        assert!(!error.contains('\n'), "{error}");
    }
}

/// A Kubernetes Service called heartbeatd sets its own variables in every container, and so
/// does one called heartbeatd-mqtt.
#[test]
fn variables_that_are_not_keys_are_warned_about_once_without_their_values() {
    let place = Place::new();
    let mut command = place.command(&["check-config"]);
    for name in [
        "PORT",
        "SERVICE_HOST",
        "SERVICE_PORT",
        "SERVICE_PORT_HTTP",
        "PORT_1883_TCP",
        "PORT_1883_TCP_ADDR",
        "PORT_1883_TCP_PORT",
        "PORT_1883_TCP_PROTO",
        "MQTT_SERVICE_HOST",
        "MQTT_PORT_8883_TCP_ADDR",
        "MQTT_URL",
        "TOKEN",
    ] {
        command.env(format!("HEARTBEATD_{name}"), "tcp://10.0.0.7:1883");
    }
    let out = run_to_end(&mut command);
    let log = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(0), "{log}");
    assert_eq!(log.lines().count(), 3, "{log}");
    for part in [
        "HEARTBEATD_MQTT_URL is ignored",
        "is HEARTBEATD_MQTT__URL meant?",
        "HEARTBEATD_TOKEN is ignored",
        "Kubernetes",
        "count=10",
    ] {
        assert!(log.contains(part), "no {part:?} in {log}");
    }
    assert!(!log.contains("10.0.0.7"), "{log}");
}

#[test]
fn a_variable_that_names_no_key_is_an_error_that_names_it() {
    for (key, parts) in [
        ("X__Y", &["HEARTBEATD_X__Y", "`x`", "`heartbeat`"][..]),
        ("MQTT__URI", &["HEARTBEATD_MQTT__URI", "`uri`", "`url`"]),
        ("MQTT__URL__PORT", &["HEARTBEATD_MQTT__URL__PORT", "`port`"]),
        ("MQTT__", &["HEARTBEATD_MQTT__", "``"]),
        ("_MQTT__URL", &["HEARTBEATD__MQTT__URL", "`_mqtt`"]),
        ("MQTT__EMBEDDED", &["HEARTBEATD_MQTT__EMBEDDED"]),
    ] {
        let (code, text) = checked(key, "s3cret");
        // Each name has a __, which makes it a key.
        assert_eq!(code, Some(78), "{key}: {text}");
        for part in parts {
            assert!(text.contains(part), "{key}: no {part:?} in {text}");
        }
        assert!(!text.contains("s3cret"), "{text}");
    }
}

#[test]
fn a_variable_that_is_not_utf_8_is_an_error_that_names_it() {
    let place = Place::new();
    let value = OsStr::from_bytes(b"s3cret\xff");
    for (name, what) in [
        (OsStr::from_bytes(b"HEARTBEATD_MQTT__PASSWORD"), "HEARTBEATD_MQTT__PASSWORD"),
        (OsStr::from_bytes(b"HEARTBEATD_MQTT__\xff"), "HEARTBEATD_MQTT__"),
    ] {
        let out = run_to_end(place.command(&["run"]).env(name, value));
        let log = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(78), "{log}");
        assert!(log.contains(what) && log.contains("not UTF-8"), "{log}");
        assert!(!log.contains("s3cret") && log.lines().count() == 1, "{log}");
    }
}

#[test]
fn signals_that_ask_for_a_reload_are_logged_and_do_not_end_the_service() {
    let place = Place::new();
    let mut service = place.start();
    service.await_listening();
    for name in ["HUP", "USR1", "USR2"] {
        service.signal(name);
        service.await_words(
            "INFO heartbeatd",
            &[&format!("SIG{name}: nothing is reloaded"), "restart"],
        );
    }
    let (status, _) = service.get("/healthz");
    assert_eq!(status, 200);
    service.signal("TERM");
    assert_eq!(service.await_exit(), Some(0));
}
