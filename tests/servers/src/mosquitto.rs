//! mosquitto, and its client `mosquitto_pub`.

use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::eventually;
use super::process::{Running, free_port, program};

/// A running mosquitto.
pub struct Mosquitto {
    /// The port on which it listens, on loopback.
    pub port: u16,
    process: Option<Running>,
    config: PathBuf,
    _folder: TempDir,
}

impl Mosquitto {
    /// Starts a mosquitto without limits that accepts any client.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// Starts a mosquitto with more lines in its configuration.
    pub fn start_with(more: &str) -> Self {
        // Started by root, it would switch to a user that cannot read the folder.
        Self::configured(|port| {
            format!(
                "user root\nlistener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n\
                 max_queued_messages 0\nmax_inflight_messages 0\n{more}\n"
            )
        })
    }

    /// Starts a mosquitto with the configuration for this port.
    pub fn configured(text: impl FnOnce(u16) -> String) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let port = free_port();
        let config = folder.path().join("mosquitto.conf");
        std::fs::write(&config, text(port)).expect("a file");
        let mut broker = Self { port, process: None, config, _folder: folder };
        broker.go_on();
        broker
    }

    /// Its address, for `mqtt.url`.
    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// Makes it read its files again.
    pub fn reload(&self) {
        let process = self.process.as_ref().expect("it runs");
        let id = process.0.id().to_string();
        let sent = Command::new("kill").args(["-s", "HUP", &id]).status().expect("kill starts");
        assert!(sent.success(), "kill -s HUP {id}");
    }

    /// Stops it. It forgets everything.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Starts it again, on the same port.
    pub fn go_on(&mut self) {
        let mosquitto = program("mosquitto", "mosquitto", &["/usr/sbin", "/usr/local/sbin"]);
        let mut child = Command::new(mosquitto)
            .arg("-c")
            .arg(&self.config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto starts");
        eventually("mosquitto listens", || {
            assert!(matches!(child.try_wait(), Ok(None)), "mosquitto ended at once");
            TcpStream::connect(("127.0.0.1", self.port)).ok()
        });
        self.process = Some(Running(child));
    }
}

fn mosquitto_pub(port: u16, topic: &str) -> Command {
    let mut command = Command::new(program("mosquitto_pub", "mosquitto-clients", &[]));
    command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-q", "1", "-t", topic]);
    command
}

/// Publishes a device's heartbeat.
#[track_caller]
pub fn heartbeat(port: u16, device: &str, payload: &[u8]) {
    publish(port, &format!("devices/{device}/heartbeat"), payload, &[]);
}

/// Publishes a message, with more arguments for `mosquitto_pub`.
#[track_caller]
pub fn publish(port: u16, topic: &str, payload: &[u8], more: &[&str]) {
    let mut child = mosquitto_pub(port, topic)
        .args(more)
        .arg(if payload.is_empty() { "-n" } else { "-s" })
        .stdin(Stdio::piped())
        .spawn()
        .expect("mosquitto_pub starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    if !payload.is_empty() {
        stdin.write_all(payload).expect("mosquitto_pub reads");
    }
    drop(stdin);
    assert!(child.wait().expect("it ends").success(), "mosquitto_pub {topic}");
}
