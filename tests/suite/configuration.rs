//! `config.toml` says what the code does.

use heartbeatd::Config;
use heartbeatd::config::ConfigError;
use std::path::Path;

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

/// A key without a default is commented out there; uncommented, it must be one
/// that the code knows.
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
                // A file that is named must be there; any other value parses.
                let known = load(&format!("[{section}]\n{bare}\n"));
                let unknown =
                    known.as_ref().is_err_and(|e| e.to_string().contains("unknown field"));
                assert!(!unknown, "{section}: {bare}: {known:?}");
            }
        }
    }
    // What the code knows it names when it is asked for what it does not know.
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
    assert_eq!(keys.len(), 30, "{keys:?}");
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
fn what_check_config_prints_is_a_configuration() {
    let place = Place::new();
    let out = place.run(&["check-config"]);
    let printed = load(&String::from_utf8_lossy(&out.stdout)).expect("it is valid");
    assert_eq!(printed.heartbeat.timeout.as_secs(), 3);
    assert_eq!(printed.database, Config::default().database);
}
