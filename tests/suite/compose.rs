//! `deploy/compose` without Docker: its files are there, what it says to heartbeatd is a
//! configuration, and its broker and its three instances work together. The images and EMQX are
//! not here to be tried.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde::Deserialize;
use tempfile::TempDir;

use crate::support::database::TestDatabase;
use crate::support::http;
use crate::support::service::{Place, Service};
use servers::eventually;
use servers::mosquitto::{Mosquitto, publish};
use servers::process::{program, run_to_end};

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");
const INSTANCES: [&str; 3] = ["heartbeatd-1", "heartbeatd-2", "heartbeatd-3"];
const DEVICE: &str = "pump-17";

/// The parts of `compose.yaml` that something here depends on.
#[derive(Deserialize)]
struct ComposeFile {
    services: BTreeMap<String, Container>,
    secrets: BTreeMap<String, Source>,
    configs: BTreeMap<String, Source>,
}

#[derive(Deserialize)]
struct Container {
    #[serde(default)]
    environment: BTreeMap<String, String>,
    #[serde(default)]
    secrets: Vec<String>,
    #[serde(default)]
    configs: Vec<Mount>,
    #[serde(default)]
    networks: Networks,
    healthcheck: HealthCheck,
    build: Option<Build>,
}

#[derive(Deserialize)]
struct Source {
    file: PathBuf,
}

#[derive(Deserialize)]
struct Mount {
    source: String,
    target: String,
}

#[derive(Deserialize)]
struct HealthCheck {
    test: Vec<String>,
}

#[derive(Deserialize)]
struct Build {
    context: PathBuf,
    dockerfile: PathBuf,
}

/// The networks of a container, with its other names there or without.
#[derive(Deserialize)]
#[serde(untagged)]
enum Networks {
    Names(Vec<String>),
    Aliases(BTreeMap<String, Aliases>),
}

#[derive(Deserialize)]
struct Aliases {
    aliases: Vec<String>,
}

impl Default for Networks {
    fn default() -> Self {
        Self::Names(Vec::new())
    }
}

/// A copy of the folder in which `secrets.sh` has run.
struct Copy {
    folder: TempDir,
    file: ComposeFile,
    /// The password of [`DEVICE`], as the script has printed it.
    password: String,
}

impl Copy {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let original = Path::new(REPOSITORY).join("deploy/compose");
        for entry in fs::read_dir(original).expect("it is in the repository").flatten() {
            let name = entry.file_name();
            // Whoever uses the repository to run it has a .env there, and a folder of secrets.
            if entry.path().is_file() && name != ".env" {
                fs::copy(entry.path(), folder.path().join(name)).expect("a copy");
            }
        }
        let text = fs::read_to_string(folder.path().join("compose.yaml")).expect("it is there");
        let file = serde_saphyr::from_str(&text).expect("it is YAML with these fields");
        let printed = secrets(folder.path(), &[DEVICE]);
        let (device, password) = printed.trim().split_once(' ').expect(&printed);
        assert_eq!(device, DEVICE);
        let password = password.to_owned();
        Self { folder, file, password }
    }

    fn container(&self, name: &str) -> &Container {
        self.file.services.get(name).unwrap_or_else(|| panic!("there is no service {name}"))
    }

    /// A text with the paths of this machine in place of those within the container.
    fn on_this_machine(&self, container: &Container, text: &str) -> String {
        let source = |source: &Source| self.folder.path().join(&source.file).display().to_string();
        let mut text = text.to_owned();
        for name in &container.secrets {
            text = text.replace(&format!("/run/secrets/{name}"), &source(&self.file.secrets[name]));
        }
        for Mount { source: name, target } in &container.configs {
            text = text.replace(target, &source(&self.file.configs[name]));
        }
        assert!(!text.contains("/run/secrets/"), "it is not among its secrets: {text}");
        text
    }

    /// The environment of an instance, with the paths of this machine.
    fn environment(&self, name: &str) -> BTreeMap<String, String> {
        let container = self.container(name);
        let here = |value: &String| self.on_this_machine(container, value);
        container.environment.iter().map(|(key, value)| (key.clone(), here(value))).collect()
    }

    /// mosquitto with its configuration, on a free port.
    fn mosquitto(&self) -> Mosquitto {
        let container = self.container("mosquitto");
        let text = fs::read_to_string(self.folder.path().join("mosquitto.conf")).expect("a file");
        let text = self.on_this_machine(container, &text);
        Mosquitto::configured(|port| {
            let listening =
                text.replace("\nlistener 1883\n", &format!("\nlistener {port} 127.0.0.1\n"));
            assert_ne!(listening, text, "the containers know the port 1883");
            // Started by root, it would switch to a user that cannot read the folder.
            format!("user root\n{listening}")
        })
    }

    /// An instance with its environment, but with this broker and this database.
    fn start(&self, name: &str, broker: &Mosquitto, database: &TestDatabase) -> Service {
        let url_file = self.folder.path().join(format!("{name}-url"));
        fs::write(&url_file, &database.url).expect("a file");
        let mut place = Place::new();
        for (key, value) in self.environment(name) {
            let key = key.strip_prefix("HEARTBEATD_").expect("a key of heartbeatd");
            place = place.with(key, &value);
        }
        place
            .with("MQTT__URL", &broker.url())
            .with("DATABASE__URL_FILE", &url_file.display().to_string())
            .with("HTTP__LISTEN", "127.0.0.1:0")
            .start()
    }

    /// Asks an instance as its container's health check does.
    fn ask_health(&self, name: &str, service: &Service) -> Output {
        let (kind, command) = self.container(name).healthcheck.test.split_first().expect("words");
        assert_eq!(kind, "CMD");
        let (curl, arguments) = command.split_first().expect("a program");
        let port = format!(":{}/", service.http_address().port());
        let mut command = Command::new(program(curl, curl, &[]));
        run_to_end(command.args(arguments.iter().map(|word| word.replace(":8080/", &port))))
    }
}

/// Runs `secrets.sh` for these devices, and returns what it printed.
#[track_caller]
fn secrets(folder: &Path, devices: &[&str]) -> String {
    let out = run_to_end(Command::new("bash").arg(folder.join("secrets.sh")).args(devices));
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

#[test]
fn every_file_that_the_compose_file_names_is_there_and_used() {
    let copy = Copy::new();
    let ComposeFile { services, secrets, configs } = &copy.file;
    for (name, source) in secrets.iter().chain(configs) {
        assert!(copy.folder.path().join(&source.file).is_file(), "{name}: {:?}", source.file);
    }
    let containers = || services.values();
    let used = containers().flat_map(|container| &container.secrets).collect::<BTreeSet<_>>();
    assert_eq!(used, secrets.keys().collect());
    let mounts = containers().flat_map(|container| &container.configs);
    let used = mounts.map(|mount| &mount.source).collect::<BTreeSet<_>>();
    assert_eq!(used, configs.keys().collect());

    let here = Path::new(REPOSITORY).join("deploy/compose");
    for Build { context, dockerfile } in containers().filter_map(|c| c.build.as_ref()) {
        let context = here.join(context);
        assert!(context.join("Cargo.toml").is_file(), "{context:?}");
        assert!(context.join(dockerfile).is_file(), "{dockerfile:?}");
    }
}

#[test]
fn each_instance_has_a_configuration_without_faults_and_a_name_of_its_own() {
    let copy = Copy::new();
    let mut names = BTreeSet::new();
    for name in INSTANCES {
        let environment = copy.environment(name);
        let mut check = Command::new(env!("CARGO_BIN_EXE_heartbeatd"));
        check.arg("check-config").current_dir(copy.folder.path()).env_clear().envs(&environment);
        let out = run_to_end(&mut check);
        let (text, log) =
            (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success() && log.is_empty(), "{name}: {log}");
        let checked: toml::Table = toml::from_str(&text).expect(&text);
        let (mqtt, database) = (&checked["mqtt"], &checked["database"]);
        assert_eq!(mqtt["client_id"].as_str(), Some(name));
        assert!(names.insert(mqtt["echo_topic"].to_string()), "{name}: {mqtt}");
        assert!(
            database["url"].as_str().is_some_and(|url| url.ends_with("@postgresql/heartbeatd"))
        );
    }
}

/// An instance finds its broker and its database by the names of their containers.
#[test]
fn both_brokers_and_the_database_have_the_names_that_the_instances_know() {
    let copy = Copy::new();
    for broker in ["mosquitto", "emqx"] {
        let Networks::Aliases(networks) = &copy.container(broker).networks else {
            panic!("{broker} has no alias");
        };
        assert_eq!(networks["devices"].aliases, ["broker"], "{broker}");
    }
    for name in INSTANCES {
        let container = copy.container(name);
        assert_eq!(container.environment["HEARTBEATD_MQTT__URL"], "mqtt://broker:1883");
        let Networks::Names(networks) = &container.networks else { panic!("{name}: no names") };
        assert_eq!(*networks, ["devices", "database"]);
    }
    assert!(copy.file.services.contains_key("postgresql"));
}

#[test]
fn three_instances_behind_mosquitto_become_ready_and_one_of_them_writes() {
    let copy = Copy::new();
    let mut broker = copy.mosquitto();
    let database = TestDatabase::postgres();
    broker.stop();
    let instances = INSTANCES.map(|name| copy.start(name, &broker, &database));
    for (name, service) in INSTANCES.iter().zip(&instances) {
        assert_eq!(copy.ask_health(name, service).status.code(), Some(22), "curl: refused");
    }
    broker.go_on();
    for (name, service) in INSTANCES.iter().zip(&instances) {
        eventually("it is ready", || copy.ask_health(name, service).status.success().then_some(()));
        // Ready is also who has only just subscribed.
        service.await_metric("heartbeatd_echo_latency_seconds_count", 1.0);
    }
    let active = |service: &&Service| service.metric("heartbeatd_active") > 0.0;
    let writing = eventually("one of them writes", || {
        let mut writing = instances.iter().filter(active);
        writing.next().filter(|_| writing.next().is_none())
    });

    // mosquitto takes from a device what is its own, and nothing from strangers.
    let credentials = ["-u", DEVICE, "-P", &copy.password];
    publish(broker.port, "devices/pump-18/heartbeat", b"{}", &credentials);
    publish(broker.port, &format!("devices/{DEVICE}/heartbeat"), b"{}", &credentials);
    let token = fs::read_to_string(copy.folder.path().join("secrets/http-token")).expect("a file");
    let listed = eventually("the heartbeat is written", || {
        let page = http::get_with(writing, "/api/v1/devices", token.trim()).ok();
        page["items"].as_array().filter(|items| !items.is_empty()).cloned()
    });
    let ids = listed.iter().map(|device| device["id"].as_str()).collect::<Vec<_>>();
    assert_eq!(ids, [Some(DEVICE)]);
    let stranger =
        run_to_end(Command::new(program("mosquitto_pub", "mosquitto-clients", &[])).args([
            "-p",
            &broker.port.to_string(),
            "-t",
            "devices/pump-17/heartbeat",
            "-n",
        ]));
    assert!(!stranger.status.success(), "{stranger:?}");
}

#[test]
fn secrets_stay_as_they_are_when_devices_are_added() {
    let copy = Copy::new();
    let read = || {
        let files = fs::read_dir(copy.folder.path().join("secrets")).expect("a folder").flatten();
        let text = |path: PathBuf| fs::read_to_string(path).expect("a file");
        files.map(|file| (file.file_name(), text(file.path()))).collect::<BTreeMap<_, _>>()
    };
    let before = read();
    assert_eq!(secrets(copy.folder.path(), &[DEVICE]), "");
    assert_eq!(read(), before);

    assert!(secrets(copy.folder.path(), &["pump-18"]).starts_with("pump-18 "));
    for (name, after) in read() {
        let before = &before[&name];
        let added = after.strip_prefix(before.as_str()).expect("nothing is taken away");
        let is_of_users =
            ["mosquitto-passwords", "emqx-users.csv"].contains(&&*name.to_string_lossy());
        assert_eq!(added.starts_with("pump-18"), is_of_users, "{name:?}: {added}");
        assert_eq!(added.lines().count(), usize::from(is_of_users));
    }
    for name in ["a b", "a:b", "a,b", "+", "a/b", "heartbeatd", ""] {
        let mut script = Command::new("bash");
        let out = run_to_end(script.arg(copy.folder.path().join("secrets.sh")).arg(name));
        assert_eq!(out.status.code(), Some(64), "{name:?}: {out:?}");
    }
}

#[test]
fn the_image_is_built_by_the_compiler_and_from_the_folders_of_the_repository() {
    let read = |path: &str| {
        let path = Path::new(REPOSITORY).join(path);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"))
    };
    let toolchain: toml::Table = toml::from_str(&read("rust-toolchain.toml")).expect("TOML");
    let channel = toolchain["toolchain"]["channel"].as_str().expect("a version");
    let version = format!("ARG RUST={channel}");
    assert!(read("deploy/compose/Dockerfile").lines().any(|line| line == version), "{version}");

    let ignored = read("deploy/compose/Dockerfile.dockerignore");
    let let_in: Vec<_> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    for name in &let_in {
        assert!(Path::new(REPOSITORY).join(name).exists(), "{name}");
    }
    let workspace: toml::Table = toml::from_str(&read("Cargo.toml")).expect("TOML");
    let members = workspace["workspace"]["members"].as_array().expect("a list");
    for member in members.iter().filter_map(toml::Value::as_str).filter(|member| *member != ".") {
        let folder = member.split('/').next().expect("a path");
        assert!(let_in.contains(&folder), "cargo needs {member}");
    }
}
