//! Devices that live, and die when they are told to.

use std::collections::BTreeSet;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use paho_mqtt as paho;

/// How often each publishes a heartbeat.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(500);

/// A fleet that publishes heartbeats until it is dropped, and connects again
/// whenever the broker is gone.
pub struct Devices {
    alive: Arc<Mutex<BTreeSet<String>>>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Devices {
    pub fn live(port: u16, ids: impl IntoIterator<Item = String>) -> Self {
        let alive: BTreeSet<String> = ids.into_iter().collect();
        let alive = Arc::new(Mutex::new(alive));
        let (stop, stopped) = mpsc::channel();
        let publishing = Arc::clone(&alive);
        let thread = std::thread::spawn(move || {
            let client = connect(port);
            while stopped.recv_timeout(HEARTBEAT_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let ids: Vec<String> =
                    publishing.lock().expect("nobody panics").iter().cloned().collect();
                for id in ids {
                    let topic = format!("devices/{id}/heartbeat");
                    // Without a connection it is lost, as it would be in the field.
                    let _ = client.try_publish(paho::Message::new(topic, "", 1));
                }
            }
        });
        Self { alive, stop: Some(stop), thread: Some(thread) }
    }

    pub fn die(&self, ids: &[&str]) {
        let mut alive = self.alive.lock().expect("nobody panics");
        alive.retain(|id| !ids.contains(&id.as_str()));
    }
}

impl Drop for Devices {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has failed its own assertion already.
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
