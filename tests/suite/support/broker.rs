//! mosquitto, and its clients.

use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::eventually;
use super::process::{Running, free_port, program};

/// A running mosquitto.
pub struct Mosquitto {
    pub port: u16,
    process: Option<Running>,
    config: PathBuf,
    _folder: TempDir,
}

impl Mosquitto {
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// With more lines for its configuration.
    pub fn start_with(more: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let port = free_port();
        let config = folder.path().join("mosquitto.conf");
        // As root it would change to a user that cannot read the folder.
        let text = format!(
            "user root\nlistener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n\
             max_queued_messages 0\nmax_inflight_messages 0\n{more}\n"
        );
        std::fs::write(&config, text).expect("a file");
        let mut broker = Self { port, process: None, config, _folder: folder };
        broker.go_on();
        broker
    }

    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// Ends it; what it knew is gone.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Starts it again, on the same port.
    pub fn go_on(&mut self) {
        let mosquitto = program("mosquitto", "mosquitto", &["/usr/sbin", "/usr/local/sbin"]);
        let child = Command::new(mosquitto)
            .arg("-c")
            .arg(&self.config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto starts");
        self.process = Some(Running(child));
        eventually("mosquitto listens", || TcpStream::connect(("127.0.0.1", self.port)).ok());
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

/// Publishes anything, with more arguments for `mosquitto_pub`.
#[track_caller]
pub fn publish(port: u16, topic: &str, payload: &[u8], more: &[&str]) {
    let mut child = mosquitto_pub(port, topic)
        .args(more)
        .arg("-s")
        .stdin(Stdio::piped())
        .spawn()
        .expect("mosquitto_pub starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(payload).expect("mosquitto_pub reads");
    drop(stdin);
    assert!(child.wait().expect("it ends").success(), "mosquitto_pub {topic}");
}

/// Publishes the payload `count` times through one connection, at QoS 1, and
/// waits until the broker has acknowledged them all.
pub fn lines(port: u16, device: &str, payload: &str, count: usize) {
    let mut publisher = burst(port, device, payload, count);
    assert!(publisher.0.wait().expect("it is ours").success(), "mosquitto_pub -l");
}

/// The same, without waiting.
pub fn burst(port: u16, device: &str, payload: &str, count: usize) -> Running {
    let mut child = mosquitto_pub(port, &format!("devices/{device}/heartbeat"))
        .arg("-l")
        .stdin(Stdio::piped())
        .spawn()
        .expect("mosquitto_pub starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let text = format!("{payload}\n").repeat(count);
    std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    Running(child)
}
