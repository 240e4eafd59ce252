//! No command prints a secret, whatever is wrong and however much is logged. Files that hold
//! one are checked.

use std::fs::{Permissions, set_permissions, write};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use servers::mosquitto::Mosquitto;
use servers::process::{output, run_to_end};

use crate::support::service::Place;

/// The secret that is looked for. No other text contains it.
const SECRET: &str = "Zq7Xsecret";

/// A filter that names the libraries, which would log little otherwise.
const EVERYTHING: &str = "trace,sea_orm=trace,sea_orm_migration=trace,sqlx=trace,\
                          paho_mqtt=trace,actix_server=trace";

fn openssl(place: &Place, arguments: &str) {
    let mut command = Command::new("openssl");
    output(command.args(arguments.split(' ')).current_dir(place.path()));
}

fn checked(place: &Place) -> (Option<i32>, String) {
    let out = place.run(&["check-config"]);
    (out.status.code(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
}

#[test]
fn no_command_shows_a_secret_whatever_is_wrong_with_it() {
    for (key, value) in [
        ("DATABASE__URL", "postgres://me:QQ@127.0.0.1:1/fleet"),
        ("DATABASE__URL", "postgres://me:1/QQ@127.0.0.1:1/fleet"),
        ("DATABASE__URL", "postgres://me:1#QQ@127.0.0.1:1/fleet"),
        ("DATABASE__URL", "postgres://me:1?QQ@127.0.0.1:1/fleet"),
        ("DATABASE__URL", "postgres://me:x/QQ@127.0.0.1:1/fleet"),
        ("DATABASE__URL", "postgres://127.0.0.1:1/fleet?password=QQ"),
        ("DATABASE__URL", "postgres://127.0.0.1:1/fleet?sslcert=/c&sslkey=QQ"),
        ("DATABASE__URL", "postgres://127.0.0.1:1/fleet?sslpassword=QQ"),
        ("DATABASE__URL", "postgres://me:QQ@127.0.0.1:port/fleet"),
        ("DATABASE__URL", "mysql://me:QQ@127.0.0.1/fleet"),
        ("DATABASE__URL", "QQ"),
        ("DATABASE__URL", "sqlite://a.db?key=QQ"),
        ("MQTT__URL", "mqtt://me:QQ@127.0.0.1:1"),
        ("MQTT__URL", "mqtt://me:1/QQ@127.0.0.1:1"),
        ("MQTT__URL", "tcp://me:QQ@127.0.0.1:1"),
        ("MQTT__URL", "QQ"),
        ("MQTT__PASSWORD", "QQ"),
        ("HTTP__TOKEN", "QQ"),
        ("TOKEN", "QQ"),
    ] {
        let place = Place::new().with(key, &value.replace("QQ", SECRET));
        for command in ["check-config", "device list", "run", "history"] {
            // With a valid token the service would run.
            if command == "run" && key.ends_with("TOKEN") {
                continue;
            }
            let arguments: Vec<&str> = command.split(' ').collect();
            let out = run_to_end(place.command(&arguments).env("RUST_LOG", EVERYTHING));
            let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
            assert!(!text.contains(SECRET), "{key} = {value}, {command}: {text}");
        }
    }
}

#[test]
fn no_error_in_the_file_quotes_a_line_of_it() {
    for text in [
        "[mqtt]\npassword = \"QQ\n",
        "[mqtt]\npassword = QQ\n",
        "[mqtt]\npassword = \"QQ\" \"\n",
        "[mqtt]\npasword = \"QQ\"\n",
        "[mqtt]\npassword = [\"QQ\"]\n",
        "[mqtt]\nurl = \"mqtt://me:QQ@host\"\n",
        "mqtt = \"mqtt://me:QQ@host\"\n",
        "database = { url = \"QQ\" \n",
        "[http]\ntoken = { QQ = 1 }\n",
    ] {
        let place = Place::new();
        write(place.path().join("config.toml"), text.replace("QQ", SECRET)).expect("a file");
        let (code, shown) = checked(&place);
        assert_eq!(code, Some(78), "{text:?}: {shown}");
        // A name is shown, because it is a secret only by mistake.
        let name_is_shown = text.contains("{ QQ =");
        assert!(name_is_shown || !shown.contains(SECRET), "{text:?}: {shown}");
        assert!(shown.contains("config.toml, line "), "{text:?}: {shown}");
    }
}

#[test]
fn a_service_that_logs_everything_does_not_log_the_password() {
    let broker = Mosquitto::start();
    let place = Place::new()
        .with("MQTT__URL", &broker.url())
        .with("MQTT__USERNAME", "me")
        .with("MQTT__PASSWORD", SECRET)
        .with("HTTP__TOKEN", SECRET);
    for filter in [EVERYTHING, "paho_mqtt=debug", "paho_mqtt::async_client=trace"] {
        let mut service = place.start_with(|command| {
            command.env("RUST_LOG", format!("{filter},mqtt_ingest=info,heartbeatd=info"));
        });
        service.await_listening();
        service.signal("TERM");
        assert_eq!(service.await_exit(), Some(0));
        let log = service.log().join("\n");
        assert!(!log.contains(SECRET), "{filter}: {log}");
    }
}

#[test]
fn a_secret_that_protects_nothing_is_refused() {
    for (key, value, code) in [
        ("HTTP__TOKEN", "1234567", 78),
        ("HTTP__TOKEN", "12345678", 0),
        ("HTTP__TOKEN", "", 78),
        ("MQTT__PASSWORD", "", 78),
        ("MQTT__PASSWORD", "1", 0),
    ] {
        let (found, text) = checked(&Place::new().with("MQTT__USERNAME", "me").with(key, value));
        assert_eq!(found, Some(code), "{key} = {value:?}: {text}");
    }
    let place = Place::new().with("MQTT__USERNAME", "me").with("MQTT__PASSWORD_FILE", "empty");
    write(place.path().join("empty"), "\n").expect("a file");
    let (code, text) = checked(&place);
    assert_eq!(code, Some(78), "{text}");
    assert!(text.contains("mqtt.password"), "{text}");
}

#[test]
fn a_secret_that_differs_from_its_file_is_refused() {
    for (key, set, other) in [
        ("MQTT__PASSWORD", "12345678", "87654321"),
        ("HTTP__TOKEN", "12345678", "87654321"),
        ("DATABASE__URL", "sqlite://one.db", "postgres://me:87654321@db/fleet"),
    ] {
        let file = |content: &str| {
            let place = Place::new().with("MQTT__USERNAME", "me");
            let place = place.with(&format!("{key}_FILE"), "secret");
            write(place.path().join("secret"), content).expect("a file");
            place
        };
        let name = key.to_lowercase().replace("__", ".");
        let (code, text) = checked(&file(other).with(key, set));
        assert_eq!(code, Some(78), "{text}");
        let place = format!("HEARTBEATD_{key} in the environment");
        for part in [&format!("{name} = ***"), &format!("{name}_file is set too"), &place] {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
        assert!(!text.contains("12345678") && !text.contains("87654321"), "{text}");
        // The same secret twice is accepted, and so is the output of check-config.
        let (code, text) = checked(&file(set).with(key, set));
        assert_eq!(code, Some(0), "{text}");
        let place = file(other);
        let printed = place.run(&["check-config"]).stdout;
        write(place.path().join("config.toml"), printed).expect("a file");
        let (code, text) = checked(&place);
        assert_eq!(code, Some(0), "{text}");
    }
    let place = Place::new().with("DATABASE__URL_FILE", "url");
    write(place.path().join("url"), "sqlite://other.db").expect("a file");
    let default = "[database]\nurl = \"sqlite://heartbeatd.db?mode=rwc\"\n";
    write(place.path().join("config.toml"), default).expect("a file");
    let (code, text) = checked(&place);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("sqlite://other.db"), "{text}");
}

#[test]
fn a_secret_is_one_line() {
    for (content, code, part) in [
        ("12345678\n", 0, ""),
        ("12345678\r\n", 0, ""),
        ("12345678\n87654321\n", 78, "on one line is expected: it has 2 lines"),
        ("\n12345678", 78, "it has 2 lines"),
        ("12345678\r87654321", 78, "it has 2 lines"),
        ("\n", 78, "it is empty"),
    ] {
        for key in ["MQTT__PASSWORD_FILE", "HTTP__TOKEN_FILE"] {
            let place = Place::new().with("MQTT__USERNAME", "me").with(key, "secret");
            write(place.path().join("secret"), content).expect("a file");
            let (found, text) = checked(&place);
            assert_eq!(found, Some(code), "{key}, {content:?}: {text}");
            assert!(text.contains(part) && !text.contains("12345678"), "{key}: {text}");
        }
    }
    let (code, text) = checked(&Place::new().with("HTTP__TOKEN", "12345678\n12345678"));
    assert_eq!(code, Some(78), "{text}");
    assert!(text.contains("http.token = ***: no line break"), "{text}");
}

#[test]
fn a_change_of_mode_is_suggested_only_for_a_regular_file() {
    for key in ["MQTT__PASSWORD_FILE", "MQTT__KEY_FILE", "DATABASE__URL_FILE", "HTTP__TOKEN_FILE"] {
        for file in ["/etc", "/dev/null"] {
            let place = Place::new().with("MQTT__USERNAME", "me").with(key, file);
            let place = place.with("MQTT__URL", "mqtts://127.0.0.1:1");
            let (code, text) = checked(&place.with("MQTT__CERT_FILE", "/dev/null"));
            assert_eq!(code, Some(78), "{key} = {file}: {text}");
            assert!(!text.contains("chmod"), "{key} = {file}: {text}");
        }
    }
    let (_, text) = checked(&Place::new().with("MQTT__EMBEDDED__USERS_FILE", "/dev/null"));
    assert!(!text.contains("chmod"), "{text}");
}

/// The output of `check-config` is a valid configuration, but `run` refuses it.
#[test]
fn the_stars_that_check_config_prints_are_not_taken_for_secrets() {
    let place = Place::new().with("MQTT__USERNAME", "me").with("MQTT__PASSWORD", SECRET);
    let place = place.with("HTTP__TOKEN", SECRET);
    let printed = place.run(&["check-config"]).stdout;
    let place = Place::new();
    write(place.path().join("config.toml"), printed).expect("a file");
    let (code, text) = checked(&place);
    assert_eq!(code, Some(0), "{text}");
    let out = place.run(&["run"]);
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(78), "{text}");
    assert!(text.contains("mqtt.password = ***") && text.contains("set the secret"), "{text}");
}

#[test]
fn a_secret_file_that_others_can_read_is_warned_about() {
    let place = Place::new().with("HTTP__TOKEN_FILE", "token");
    let file = place.path().join("token");
    write(&file, "12345678").expect("a file");
    for (mode, warned) in [(0o600, false), (0o400, false), (0o640, true), (0o604, true)] {
        set_permissions(&file, Permissions::from_mode(mode)).expect("it is ours");
        let (code, text) = checked(&place);
        assert_eq!(code, Some(0), "{text}");
        assert_eq!(text.contains("chmod 600 token"), warned, "{mode:o}: {text}");
    }
    let place = Place::new();
    let file = place.path().join("config.toml");
    write(&file, "[http]\ntoken = \"12345678\"\n").expect("a file");
    set_permissions(&file, Permissions::from_mode(0o644)).expect("it is ours");
    assert!(checked(&place).1.contains("chmod 600 config.toml"));
}

#[test]
fn files_for_tls_and_users_that_cannot_be_used_are_78() {
    let place = Place::new();
    for name in ["a", "b"] {
        openssl(
            &place,
            &format!(
                "req -x509 -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.pem -subj /CN={name}"
            ),
        );
    }
    openssl(&place, "x509 -in a.pem -outform der -out a.der");
    openssl(&place, "pkey -in a.key -aes128 -passout pass:x -out a.encrypted");
    write(place.path().join("text"), "hello\n").expect("a file");
    write(
        place.path().join("damaged.pem"),
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    )
    .expect("a file");
    let place = place.with("MQTT__URL", "mqtts://127.0.0.1:1");
    let certificate = |certificate: &str, key: &str| {
        vec![
            ("MQTT__CERT_FILE".to_owned(), certificate.to_owned()),
            ("MQTT__KEY_FILE".to_owned(), key.to_owned()),
        ]
    };
    let one = |key: &str, file: &str| vec![(key.to_owned(), file.to_owned())];
    let mut wrong = vec![
        (one("MQTT__CA_FILE", "nowhere"), "mqtt.ca_file = nowhere: there is no such file"),
        (one("MQTT__CA_FILE", "text"), "mqtt.ca_file = text: there is no -----BEGIN CERTIFICATE"),
        (one("MQTT__CA_FILE", "a.der"), "openssl x509 -inform der -in a.der"),
        (
            one("MQTT__CA_FILE", "damaged.pem"),
            "mqtt.ca_file = damaged.pem: it is not a certificate",
        ),
        (
            certificate("a.pem", "b.key"),
            "mqtt.key_file = b.key: it is not the key of the certificate",
        ),
        (certificate("a.pem", "a.encrypted"), "mqtt.key_file = a.encrypted: it is encrypted"),
        (certificate("a.pem", "text"), "mqtt.key_file = text: there is no -----BEGIN PRIVATE KEY"),
        (certificate("text", "a.key"), "mqtt.cert_file = text: there is no -----BEGIN CERTIFICATE"),
        (one("MQTT__EMBEDDED__USERS_FILE", "nowhere"), "mqtt.embedded.users_file = nowhere"),
        (one("MQTT__EMBEDDED__USERS_FILE", "text"), "mqtt.embedded.users_file = text: line 1"),
    ];
    for (variables, expected) in wrong.drain(..) {
        for command in ["check-config", "run"] {
            let mut command = place.command(&[command]);
            for (key, value) in &variables {
                command.env(format!("HEARTBEATD_{key}"), value);
            }
            let out = run_to_end(&mut command);
            let text = String::from_utf8_lossy(&out.stderr);
            assert_eq!(out.status.code(), Some(78), "{expected}: {text}");
            assert!(text.contains(expected), "no {expected:?} in {text}");
        }
    }
    let place = place.with("MQTT__CA_FILE", "a.pem").with("MQTT__CERT_FILE", "a.pem");
    let place = place.with("MQTT__KEY_FILE", "a.key");
    let (code, text) = checked(&place);
    assert_eq!(code, Some(0), "{text}");
    assert!(!text.contains("not used"), "{text}");
    let (code, text) = checked(&place.with("MQTT__URL", "mqtt://127.0.0.1:1"));
    assert_eq!(code, Some(0), "{text}");
    for key in ["mqtt.ca_file", "mqtt.cert_file", "mqtt.key_file"] {
        assert!(text.contains(&format!("{key} is not used: TLS is mqtts://")), "{text}");
    }
}
