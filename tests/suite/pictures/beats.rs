//! Devices that send their heartbeats once in a period, one after the other.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use publishers::RawClient;

/// The time between two packets of heartbeats.
const PIECE: Duration = Duration::from_millis(100);

/// A fleet that publishes until it is dropped.
pub(super) struct Beats {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Beats {
    /// Publishes a heartbeat of each device, with its payload, once in each period.
    ///
    /// # Panics
    ///
    /// If the broker is not there.
    pub(super) fn once_in<D>(period: Duration, port: u16, devices: D) -> Self
    where
        D: Iterator<Item = (String, String)> + Clone + Send + 'static,
    {
        let (stop, stopped) = mpsc::channel();
        let per_piece = devices.clone().count() as f64 * PIECE.as_secs_f64() / period.as_secs_f64();
        let thread = std::thread::spawn(move || {
            let mut client = RawClient::connect(port, "fleet", None).expect("the broker is there");
            let (mut devices, mut due) = (devices.cycle(), 0.0);
            while stopped.recv_timeout(PIECE) == Err(RecvTimeoutError::Timeout) {
                due += per_piece;
                for (id, payload) in devices.by_ref().take(due as usize) {
                    let topic = format!("devices/{id}/heartbeat");
                    // A broker that is gone is a part of the picture.
                    if !client.try_publish(&topic, payload.as_bytes()) {
                        return;
                    }
                }
                due -= due.floor();
            }
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Beats {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has already failed its own assertion.
            let _ = thread.join();
        }
    }
}
