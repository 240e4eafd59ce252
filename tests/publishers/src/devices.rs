//! Devices that live until they are told to die.

use std::collections::BTreeSet;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use paho_mqtt as paho;

/// The interval at which each publishes a heartbeat.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(500);

/// The time within which a working broker acknowledges a round of heartbeats, even on a
/// busy machine.
const PATIENCE: Duration = Duration::from_secs(2);

/// A fleet that publishes heartbeats until it is dropped, and reconnects whenever the
/// broker is gone.
pub struct Devices {
    /// The ids of the living devices. Locked until a round is acknowledged.
    alive: Arc<Mutex<BTreeSet<String>>>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Devices {
    /// Connects, and publishes a heartbeat of each every half second from now on.
    ///
    /// # Panics
    ///
    /// If the broker is not there.
    pub fn live(port: u16, ids: impl IntoIterator<Item = String>) -> Self {
        let alive: BTreeSet<String> = ids.into_iter().collect();
        let alive = Arc::new(Mutex::new(alive));
        let (stop, stopped) = mpsc::channel();
        let publishing = Arc::clone(&alive);
        let thread = std::thread::spawn(move || {
            let client = connect(port);
            while stopped.recv_timeout(HEARTBEAT_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let alive = publishing.lock().expect("no thread panics");
                let round: Vec<_> = alive
                    .iter()
                    .map(|id| paho::Message::new(format!("devices/{id}/heartbeat"), "", 1))
                    // Without a connection it is lost, as it would be in the field.
                    .filter_map(|heartbeat| client.try_publish(heartbeat).ok())
                    .collect();
                let deadline = Instant::now() + PATIENCE;
                for sent in round {
                    let left = deadline.saturating_duration_since(Instant::now());
                    // A broker that is gone acknowledges nothing.
                    let _ = sent.wait_for(left);
                }
            }
        });
        Self { alive, stop: Some(stop), thread: Some(thread) }
    }

    /// Stops the devices from publishing. A working broker then has everything that they
    /// have published; otherwise their client would send it again after the next connect.
    pub fn die(&self, ids: &[&str]) {
        let mut alive = self.alive.lock().expect("no thread panics");
        alive.retain(|id| !ids.contains(&id.as_str()));
    }
}

impl Drop for Devices {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has already failed its own assertion.
            let _ = thread.join();
        }
    }
}

fn connect(port: u16) -> paho::AsyncClient {
    let create = paho::CreateOptionsBuilder::new()
        .server_uri(format!("mqtt://127.0.0.1:{port}"))
        .client_id("devices")
        .persistence(None)
        .finalize();
    let client = paho::AsyncClient::new(create).expect("a client");
    let options = paho::ConnectOptionsBuilder::new()
        .clean_session(true)
        .automatic_reconnect(Duration::from_secs(1), Duration::from_secs(1))
        .finalize();
    client.connect(options).wait().expect("the broker is there");
    client
}
