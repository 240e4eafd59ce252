//! A connection that publishes heartbeats at equal intervals.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::heartbeat::{Told, heartbeat};
use crate::packet::{self, ACCEPTED};

/// The number of pieces in which a second's heartbeats are sent.
const PIECES: u64 = 100;

/// A connection that publishes for a whole fleet.
pub struct Publisher {
    stream: TcpStream,
    qos: u8,
    sent: u16,
    reader: Option<JoinHandle<()>>,
}

impl Publisher {
    /// Connects, to publish at QoS 0 or 1.
    ///
    /// # Errors
    ///
    /// If the broker is not there or refuses the connection.
    pub fn connect(port: u16, qos: u8) -> anyhow::Result<Self> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).context("the broker is there")?;
        stream.set_nodelay(true)?;
        stream.write_all(&packet::connect("publisher", None))?;
        let mut answer = [0; ACCEPTED.len()];
        stream.read_exact(&mut answer)?;
        ensure!(answer == ACCEPTED, "the broker refuses the publisher: {answer:?}");
        let mut input = stream.try_clone()?;
        // Unread acknowledgements would make the broker wait in the end.
        let reader = std::thread::spawn(move || {
            let _ = std::io::copy(&mut input, &mut std::io::sink());
        });
        Ok(Self { stream, qos, sent: 0, reader: Some(reader) })
    }

    /// Publishes a heartbeat of each device at equal intervals, until all have one or
    /// `enough` says so.
    ///
    /// # Errors
    ///
    /// If the connection is lost.
    pub fn paced(
        &mut self,
        devices: impl Iterator<Item = u64>,
        interval: Duration,
        enough: impl Fn() -> bool,
    ) -> anyhow::Result<()> {
        let mut due = Instant::now();
        for device in devices {
            if enough() {
                break;
            }
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let heartbeat = self.next(device, &Told::now(1));
            self.stream.write_all(&heartbeat).context("the broker reads")?;
            due += interval;
        }
        Ok(())
    }

    /// Publishes so many heartbeats a second, a hundredth of them every 10 ms, which costs less
    /// than one by one. Ends when all devices have one or `enough` says so.
    ///
    /// # Errors
    ///
    /// If the connection is lost.
    pub fn steady(
        &mut self,
        mut devices: impl Iterator<Item = u64>,
        per_second: u64,
        enough: impl Fn() -> bool,
    ) -> anyhow::Result<()> {
        let mut due = Instant::now();
        while !enough() {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let (told, mut piece) = (Told::now(1), Vec::new());
            for device in devices.by_ref().take((per_second / PIECES) as usize) {
                piece.extend(self.next(device, &told));
            }
            if piece.is_empty() {
                break;
            }
            self.stream.write_all(&piece).context("the broker reads")?;
            due += Duration::from_secs(1) / PIECES as u32;
        }
        Ok(())
    }

    fn next(&mut self, device: u64, told: &Told) -> Vec<u8> {
        self.sent = self.sent.checked_add(1).unwrap_or(1);
        heartbeat(device, self.qos, self.sent, told)
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        // It may be closed already.
        let _ = self.stream.shutdown(Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}
