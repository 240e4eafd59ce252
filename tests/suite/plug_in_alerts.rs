//! The example of a custom alert sink works as a program.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::support::service::Place;
use servers::eventually;
use servers::mosquitto::{Mosquitto, heartbeat};
use servers::process::{Log, Running, output};

#[test]
fn a_custom_sink_gets_the_devices_that_went_offline() {
    let build = ["build", "--quiet", "--example", "plug_in_alerts", "--message-format=json"];
    let mut cargo = Command::new(env!("CARGO"));
    // cargo sets variables about this test's package. Build scripts would take them for a
    // change, and half the dependencies would be built again.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" {
            cargo.env_remove(name);
        }
    }
    let messages = output(cargo.args(build).current_dir(env!("CARGO_MANIFEST_DIR")));
    let example = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find_map(|message| message["executable"].as_str().map(str::to_owned))
        .expect("cargo names what it built");

    let broker = Mosquitto::start();
    let place = Place::new().with("MQTT__URL", &broker.url());
    let mut command = place.command(&[]);
    let environment: Vec<_> =
        command.get_envs().filter_map(|(k, v)| Some((k.to_owned(), v?.to_owned()))).collect();
    command = Command::new(example);
    let log = Log::new(place.path().join("log"));
    let mut child = command
        .envs(environment)
        .current_dir(place.path())
        .stdout(Stdio::piped())
        .stderr(log.file())
        .spawn()
        .expect("the example starts");
    let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    let _running = Running(child);

    eventually("the device is registered", || {
        heartbeat(broker.port, "pump-17", b"");
        let list = place.run(&["device", "list"]);
        String::from_utf8_lossy(&list.stdout).contains("pump-17").then_some(())
    });
    let mut line = String::new();
    stdout.read_line(&mut line).expect("it prints");
    assert_eq!(line, "page somebody: pump-17 is offline\n");
}
