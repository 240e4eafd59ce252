//! The real binary.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tempfile::TempDir;

use servers::log::{LISTENING, is_event};
use servers::process::{Running, run_to_end};
use servers::{PATIENCE, POLL, eventually};

/// A folder to run in, and the environment for it.
pub struct Place {
    pub folder: TempDir,
    environment: Vec<(String, String)>,
}

impl Place {
    /// Creates a place with free ports, and a timeout of seconds.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self { folder, environment: Vec::new() }
            .with("HEARTBEAT__TIMEOUT", "3s")
            .with("HEARTBEAT__CHECK_INTERVAL", "500ms")
            .with("MQTT__ECHO_INTERVAL", "200ms")
            .with("HEARTBEAT__FLUSH_INTERVAL", "100ms")
            .with("HTTP__LISTEN", "127.0.0.1:0")
            .with("MQTT__EMBEDDED__LISTEN", "127.0.0.1:0")
    }

    /// Sets a key by its environment variable.
    pub fn with(mut self, key: &str, value: &str) -> Self {
        let key = format!("HEARTBEATD_{key}");
        self.environment.retain(|(other, _)| *other != key);
        self.environment.push((key, value.to_owned()));
        self
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_heartbeatd"));
        command.args(arguments);
        self.prepared(command)
    }

    /// A command that runs in the folder, with the environment.
    pub fn prepared(&self, mut command: Command) -> Command {
        command
            .current_dir(self.folder.path())
            .env_remove("RUST_LOG")
            .env("RUST_BACKTRACE", "0")
            .envs(self.environment.iter().map(|(key, value)| (key, value)));
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        run_to_end(&mut self.command(arguments))
    }

    /// Runs a command that prints JSON.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let out = self.run(arguments);
        let errors = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{arguments:?}: {errors}");
        serde_json::from_slice(&out.stdout).expect("it is JSON")
    }

    /// The statuses of all devices as `id status`, once they are as expected.
    #[track_caller]
    pub fn await_statuses(&self, expected: &[&str]) {
        let mut last = Vec::new();
        let deadline = std::time::Instant::now() + PATIENCE;
        while last != expected {
            assert!(std::time::Instant::now() < deadline, "{last:?} never became {expected:?}");
            let list = self.json(&["device", "list", "--json"]);
            let text = |device: &Value, key: &str| device[key].as_str().unwrap_or("?").to_owned();
            let devices = list.as_array().expect("an array").iter();
            last = devices.map(|d| format!("{} {}", text(d, "id"), text(d, "status"))).collect();
        }
    }

    pub fn start(&self) -> Service {
        self.start_with(|_| ())
    }

    /// Starts the service, and waits until it listens.
    pub fn start_listening(&self) -> Service {
        let service = self.start();
        service.await_listening();
        service
    }

    /// Starts the service with a changed command.
    pub fn start_with(&self, change: impl FnOnce(&mut Command)) -> Service {
        self.start_command(&["run"], change)
    }

    /// Starts a changed command that runs until it is ended.
    pub fn start_command(&self, arguments: &[&str], change: impl FnOnce(&mut Command)) -> Service {
        let mut command = self.command(arguments);
        change(&mut command);
        Service::start(command)
    }

    /// Starts it in a shell that runs `preparation` first.
    pub fn start_after(&self, preparation: &str) -> Service {
        let mut shell = Command::new("bash");
        let script = format!("{preparation}; exec \"$0\" run");
        shell.args(["-c", &script, env!("CARGO_BIN_EXE_heartbeatd")]);
        Service::start(self.prepared(shell))
    }

    /// The URL of the default database of a service that runs here.
    pub fn database_url(&self) -> String {
        format!("sqlite://{}", self.path().join("heartbeatd.db").display())
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// `heartbeatd run`, or another command that runs until it is ended, with its log.
pub struct Service {
    pub process: Running,
    log: Arc<Mutex<Vec<String>>>,
}

impl Service {
    fn start(mut command: Command) -> Self {
        let mut child =
            command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("heartbeatd starts");
        let stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let lines = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                lines.lock().expect("no reader panics").push(line);
            }
        });
        Self { process: Running(child), log }
    }

    pub fn log(&self) -> Vec<String> {
        self.log.lock().expect("no writer panics").clone()
    }

    /// The lines of an event, written as [`servers::log::Line::is`] says.
    #[track_caller]
    pub fn events(&self, event: &str) -> Vec<String> {
        self.log().into_iter().filter(|line| is_event(line, event)).collect()
    }

    /// Waits for a line of an event, written as [`servers::log::Line::is`] says, and returns
    /// it.
    #[track_caller]
    pub fn await_event(&self, event: &str) -> String {
        self.await_words(event, &[])
    }

    /// Waits for a line of an event whose message has all of these words, and returns it. For
    /// a test that is about the words.
    #[track_caller]
    pub fn await_words(&self, event: &str, words: &[&str]) -> String {
        let has_all = |line: &String| words.iter().all(|word| line.contains(word));
        let found = || self.events(event).into_iter().find(has_all);
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            if let Some(line) = found() {
                return line;
            }
            let log = self.log().join("\n");
            assert!(std::time::Instant::now() < deadline, "no {event} with {words:?} in\n{log}");
            std::thread::park_timeout(POLL);
        }
    }

    pub fn await_listening(&self) {
        self.await_event(LISTENING);
    }

    /// The port of the embedded broker.
    pub fn broker_port(&self) -> u16 {
        let line = self.await_words("INFO heartbeatd", &["embedded broker on 127.0.0.1:"]);
        number_after(&line, "127.0.0.1:")
    }

    /// The port on which the embedded broker speaks TLS.
    pub fn tls_port(&self) -> u16 {
        let line = self.await_words("INFO heartbeatd", &["embedded broker with TLS on 127.0.0.1:"]);
        number_after(&line, "127.0.0.1:")
    }

    pub fn http_address(&self) -> SocketAddr {
        let line = self.await_words("INFO heartbeatd", &["metrics on http://127.0.0.1:"]);
        SocketAddr::from(([127, 0, 0, 1], number_after(&line, "http://127.0.0.1:")))
    }

    /// Requests a page and returns its status and body.
    pub fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.http_address()).expect("HTTP is served");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .expect("it is read");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        let Some((head, body)) = answer.split_once("\r\n\r\n") else {
            panic!("no head and body in {answer:?} to {path} in\n{}", self.log().join("\n"));
        };
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        (status.expect("a status"), body.to_owned())
    }

    /// The value of a metric, by its name and labels as on the page.
    pub fn metric(&self, name: &str) -> f64 {
        let (_, page) = self.get("/metrics");
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.parse().ok()).unwrap_or(0.0)
    }

    pub fn await_metric(&self, name: &str, at_least: f64) {
        eventually(&format!("{name} >= {at_least}"), || {
            (self.metric(name) >= at_least).then_some(())
        });
    }

    /// The private memory of the process.
    pub fn memory_kib(&self) -> u64 {
        let status = format!("/proc/{}/status", self.process.0.id());
        let status = std::fs::read_to_string(status).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
        number.and_then(|number| number.parse().ok()).expect("the kernel says it")
    }

    pub fn signal(&self, signal: &str) {
        let id = self.process.0.id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &id]).status().expect("kill starts");
        assert!(sent.success(), "kill -s {signal} {id}");
    }

    /// Waits for the end and returns the exit code.
    pub fn await_exit(&mut self) -> Option<i32> {
        let process = &mut self.process.0;
        eventually("heartbeatd ends", || process.try_wait().expect("it is ours")).code()
    }
}

fn number_after(line: &str, text: &str) -> u16 {
    let (_, rest) = line.split_once(text).expect(line);
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next().expect("split gives one");
    digits.parse().expect(line)
}
