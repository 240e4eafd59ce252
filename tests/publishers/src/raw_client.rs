//! A client without a library.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::packet;

/// The time that a broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection that sends single packets.
pub struct RawClient(TcpStream);

impl RawClient {
    /// Connects. `None` if the broker refuses the client, or is not there.
    pub fn connect(port: u16, client_id: &str, will_topic: Option<&str>) -> Option<Self> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.write_all(&packet::connect(client_id, will_topic)).ok()?;
        let mut answer = [0; packet::ACCEPTED.len()];
        stream.read_exact(&mut answer).ok()?;
        (answer == packet::ACCEPTED).then_some(Self(stream))
    }

    /// Publishes at QoS 0.
    ///
    /// # Panics
    ///
    /// If the connection is closed.
    #[track_caller]
    pub fn publish(&mut self, topic: &str, payload: &[u8]) {
        self.0.write_all(&packet::publish(topic, payload)).expect("it is connected");
    }

    /// Publishes at QoS 0. False if the connection is known to be closed.
    pub fn try_publish(&mut self, topic: &str, payload: &[u8]) -> bool {
        self.0.write_all(&packet::publish(topic, payload)).is_ok()
    }

    /// Waits until the broker closes the connection.
    ///
    /// # Panics
    ///
    /// If it does not within 30 s.
    #[track_caller]
    pub fn await_close(mut self) {
        let mut rest = Vec::new();
        // A reset closes the connection too.
        let end = self.0.read_to_end(&mut rest);
        let timed_out = end.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        assert!(!timed_out, "the broker keeps the connection");
    }
}
