//! `heartbeatd demo` and `heartbeatd simulate` with the real binary.

use std::fs;
use std::process::{Command, Output};

use servers::eventually;
use servers::log::Line;

use crate::support::certificates::Certificates;
use crate::support::proxy::Proxy;
use crate::support::service::{Place, Service};

/// The ids of the registered devices.
fn ids(place: &Place) -> Vec<String> {
    let list = place.json(&["device", "list", "--json"]);
    let ids = list.as_array().expect("an array").iter();
    ids.map(|device| device["id"].as_str().expect("a text").to_owned()).collect()
}

#[test]
fn the_demo_shows_a_device_go_offline_and_come_back_and_leaves_nothing_behind() {
    let place = Place::new();
    let temporary = place.path().join("temporary");
    fs::create_dir(&temporary).expect("a folder");
    let mut demo = place.start_command(&["demo"], |command| {
        command.env("TMPDIR", &temporary);
    });
    let page = demo.await_words("INFO demo", &["open http://127.0.0.1:"]);
    assert!(demo.log().iter().take(3).any(|line| *line == page), "{:?}", demo.log());
    let offline = demo.await_event("INFO device_registry device= from=online to=offline");
    let device = Line::parse(&offline).and_then(|line| line.value("device")).expect("an id");
    demo.await_event(&format!("INFO device_registry device={device} from=offline to=online"));
    let (status, page) = demo.get("/");
    assert!(status == 200 && page.contains("<html"), "{status} {page}");
    let address = demo.http_address().to_string();
    let status = place.run(&["status", "--address", &address]);
    let sentence = String::from_utf8_lossy(&status.stdout);
    assert!(sentence.contains(" of 24 online."), "{sentence}");
    // Its files are in the temporary folder and nowhere else.
    assert_eq!(fs::read_dir(&temporary).expect("a folder").count(), 1);
    demo.signal("INT");
    assert_eq!(demo.await_exit(), Some(0), "{:?}", demo.log());
    assert_eq!(fs::read_dir(&temporary).expect("a folder").count(), 0);
    assert_eq!(fs::read_dir(place.path()).expect("a folder").count(), 1);
}

#[test]
fn the_demo_needs_no_valid_configuration_and_ends_by_itself_if_asked() {
    let place = Place::new().with("HEARTBEAT__TIMEOUT", "soon");
    fs::write(place.path().join("config.toml"), "nonsense").expect("a file");
    let out = place.run(&["demo", "--for", "1s", "--seed", "7"]);
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    assert!(log_of(&out).contains("seed=7"), "{out:?}");

    // A shell takes the line for the commands as it is, and it says all that they need.
    let stdout = String::from_utf8_lossy(&out.stdout);
    let line = stdout.lines().find(|line| line.starts_with("export ")).expect("a line");
    let asked = Command::new("sh")
        .args(["-ec", &format!("{line}\n{} check-config", env!("CARGO_BIN_EXE_heartbeatd"))])
        .current_dir(env!("CARGO_TARGET_TMPDIR"))
        .output()
        .expect("a shell");
    let known = String::from_utf8_lossy(&asked.stdout);
    assert!(known.contains("timeout = \"6s\"") && known.contains("heartbeatd-demo-"), "{asked:?}");
}

/// A service that registers devices, and where it is.
fn service() -> (Place, Service, String) {
    let place = Place::new();
    let service = place.start();
    service.await_listening();
    let url = format!("mqtt://127.0.0.1:{}", service.broker_port());
    (place, service, url)
}

fn log_of(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

#[test]
fn a_simulation_publishes_for_its_devices_until_its_time_is_over() {
    let (place, service, url) = service();
    let arguments = ["--devices", "50", "--period", "200ms", "--for", "2s", "--seed", "11"];
    // Each of them is special.
    let special = ["--dying", "10", "--errors", "10", "--skewed", "10", "--malformed", "10"];
    let arguments = [&["simulate", "--url", &url][..], &arguments, &special].concat();
    let out = place.run(&arguments);
    let log = log_of(&out);
    assert_eq!(out.status.code(), Some(0), "{log}");
    let last = log.lines().filter_map(Line::parse).next_back().expect("a line");
    let sent = last.number("sent").expect(&log);
    assert!(last.is("INFO heartbeatd lost=0 seconds=2") && sent > 100, "{log}");
    assert!(log.contains(" seed=11 "), "{log}");
    service.await_metric("heartbeatd_heartbeats_total", sent as f64);
    let registered = ids(&place);
    assert_eq!(registered.len(), 50, "{registered:?}");
    assert!(registered.iter().all(|id| id.starts_with("sim-")), "{registered:?}");
    assert!(service.metric(r#"heartbeatd_payload_errors_total{reason="not_json"}"#) > 0.0);
    service.await_event("WARN device_registry device= skew_ms=");
}

#[test]
fn a_simulation_ends_cleanly_when_it_is_interrupted_and_its_devices_fall_silent() {
    let (place, _service, url) = service();
    let arguments = ["simulate", "--url", &url, "--devices", "5", "--period", "500ms"];
    let arguments =
        [&arguments[..], &["--prefix", "lab-", "--dying", "0", "--burst", "0"]].concat();
    let mut simulation = place.start_command(&arguments, |_| ());
    let statuses = |status: &str| [1, 2, 3, 4, 5].map(|number| format!("lab-{number} {status}"));
    let expected = statuses("online");
    place.await_statuses(&expected.each_ref().map(String::as_str));
    simulation.signal("INT");
    assert_eq!(simulation.await_exit(), Some(0), "{:?}", simulation.log());
    simulation.await_event("INFO heartbeatd sent= lost=0 seconds=");
    let expected = statuses("offline");
    place.await_statuses(&expected.each_ref().map(String::as_str));
}

#[test]
fn a_simulation_survives_the_loss_of_its_broker() {
    let (place, service, _) = service();
    let proxy = Proxy::to(service.broker_port());
    let url = format!("mqtt://127.0.0.1:{}", proxy.port);
    let arguments = ["simulate", "--url", &url, "--devices", "5", "--period", "100ms"];
    let mut simulation = place.start_command(&arguments, |_| ());
    service.await_metric("heartbeatd_heartbeats_total", 10.0);
    proxy.refuse();
    simulation.await_words("WARN heartbeatd", &["the connection is lost"]);
    proxy.heal();
    simulation.await_words("INFO heartbeatd", &["connected again"]);
    let before = service.metric("heartbeatd_heartbeats_total");
    service.await_metric("heartbeatd_heartbeats_total", before + 10.0);
    simulation.signal("TERM");
    assert_eq!(simulation.await_exit(), Some(0), "{:?}", simulation.log());
}

#[test]
fn a_simulation_logs_in_by_tls_and_password_and_says_why_it_may_not() {
    let files = Certificates::new();
    let place = Place::new()
        .with("MQTT__EMBEDDED__USERS_FILE", "users")
        .with("MQTT__EMBEDDED__TLS_LISTEN", "127.0.0.1:0")
        .with("MQTT__EMBEDDED__TLS_CERT_FILE", &files.path("broker.pem"))
        .with("MQTT__EMBEDDED__TLS_KEY_FILE", &files.path("broker.key"));
    fs::write(place.path().join("right"), "hunter2\n").expect("a file");
    fs::write(place.path().join("wrong"), "hunter3\n").expect("a file");
    let add = "\"$0\" user add simulator --devices 'sim-*' < right";
    let mut shell = std::process::Command::new("bash");
    shell.args(["-c", add, env!("CARGO_BIN_EXE_heartbeatd")]);
    servers::process::output(&mut place.prepared(shell));
    let service = place.start();
    service.await_listening();
    let url = format!("mqtts://localhost:{}", service.tls_port());
    let ca = files.path("ca.pem");
    let simulate = |more: &[&str]| {
        let fixed =
            ["simulate", "--url", &url, "--devices", "3", "--period", "100ms", "--for", "1s"];
        place.run(&[&fixed[..], more].concat())
    };
    for (more, why) in [
        (&["--username", "simulator", "--password-file", "right"][..], "certificate"),
        (&["--ca-file", &ca], "give --username and --password-file"),
        (&["--ca-file", &ca, "--username", "simulator", "--password-file", "wrong"], "password"),
    ] {
        let out = simulate(more);
        assert_eq!(out.status.code(), Some(69), "{more:?}: {}", log_of(&out));
        assert!(log_of(&out).contains(why), "no {why:?} in {}", log_of(&out));
        assert!(!log_of(&out).contains("hunter"), "{}", log_of(&out));
    }
    let out = simulate(&["--ca-file", &ca, "--username", "simulator", "--password-file", "right"]);
    assert_eq!(out.status.code(), Some(0), "{}", log_of(&out));
    eventually("all are registered", || (ids(&place).len() == 3).then_some(()));
}

#[test]
fn a_simulation_whose_heartbeats_are_refused_counts_them_and_says_what_would_be_right() {
    let place = Place::new().with("MQTT__EMBEDDED__USERS_FILE", "users");
    fs::write(place.path().join("password"), "hunter2\n").expect("a file");
    for (user, devices) in [("nobody", "other"), ("some", "sim-2"), ("all", "sim-*")] {
        let add = format!("\"$0\" user add {user} --devices '{devices}' < password");
        let mut shell = Command::new("bash");
        shell.args(["-c", &add, env!("CARGO_BIN_EXE_heartbeatd")]);
        servers::process::output(&mut place.prepared(shell));
    }
    let service = place.start();
    service.await_listening();
    let url = format!("mqtt://127.0.0.1:{}", service.broker_port());
    let lasts = ["--devices", "4", "--period", "100ms", "--for", "1s"];
    let still = ["--dying", "0", "--burst", "0"];
    for (user, qos, code) in
        [("nobody", "1", 1), ("nobody", "2", 1), ("some", "1", 0), ("all", "1", 0)]
    {
        let login = ["--username", user, "--password-file", "password", "--qos", qos];
        let arguments = [&["simulate", "--url", &url][..], &lasts, &still, &login].concat();
        let out = place.run(&arguments);
        let log = log_of(&out);
        assert_eq!(out.status.code(), Some(code), "{user}: {log}");
        let last = log.lines().filter_map(Line::parse).next_back().expect("a line");
        let (sent, refused) = (last.number("sent"), last.number("refused"));
        assert!(last.is("INFO heartbeatd lost=0 seconds=1") && sent > Some(4), "{user}: {log}");
        match user {
            "nobody" => assert_eq!(refused, sent, "{log}"),
            "some" => assert!(refused > Some(3) && refused < sent, "{log}"),
            _ => assert_eq!(refused, Some(0), "{log}"),
        }
        let told = log.matches("WARN").count();
        assert_eq!(told, usize::from(user != "all"), "{log}");
        let right = "(0x87); give --username and --password-file of a user with the right for all";
        assert_eq!(log.contains(right), user != "all", "{log}");
        assert_eq!(log.contains("user add NAME --devices 'sim-*'`"), user != "all", "{log}");
    }
    assert_eq!(ids(&place).len(), 4);
}

#[test]
fn a_simulation_that_cannot_be_is_refused_with_what_would_be_right() {
    let place = Place::new();
    for (arguments, code, why) in [
        // The place has a port that only the running service knows.
        (&["--devices", "3"][..], 64, "give --url"),
        (&["--url", "mqtt://127.0.0.1:1"], 69, "or --url have another host or port"),
        (&["--url", "127.0.0.1:1883"], 64, "mqtt://127.0.0.1:1883 is expected"),
        (&["--devices", "0"], 64, "'--devices <COUNT>'"),
        (
            &["--dying", "60%", "--errors", "60%"],
            64,
            "--dying 60%, --burst 10%, --errors 60%, --skewed 1% and --malformed 1%: each device",
        ),
        (&["--devices", "1", "--dying", "2"], 64, "takes 2 devices, and there is 1;"),
        (&["--dying", "many"], 64, "'--dying <AMOUNT>'"),
        (&["--burst-every", "5m", "--down", "5m"], 64, "longer than --down"),
        (&["--prefix", "a/b"], 64, "this one contains '/'"),
        (&["--period", "0s"], 64, "at least 1ms"),
        (&["--password-file", "x"], 64, "--username"),
    ] {
        let out = place.run(&[&["simulate"][..], arguments].concat());
        let log = log_of(&out);
        assert_eq!(out.status.code(), Some(code), "{arguments:?}: {log}");
        assert!(log.contains(why), "{arguments:?}: no {why:?} in {log}");
    }
}
