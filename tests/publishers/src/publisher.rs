//! The load: heartbeats as fast as a broker takes them, from one connection.
//!
//! It only writes MQTT 3.1.1 packets into a socket, so that it takes as little as
//! possible of the processors that it shares with the candidates.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use chrono::{SecondsFormat, Utc};

use crate::packet;

/// The most messages of QoS 1 that may be on their way; fewer than there are packet ids.
const WINDOW: u64 = 10_000;

/// The number of bytes written at once.
const CHUNK: usize = 32 * 1024;

/// The uptime between two rounds. A round is one heartbeat from each device, and devices
/// publish once a minute.
pub const SECONDS_PER_ROUND: u64 = 60;

/// A connection that publishes for a whole fleet.
pub struct Publisher {
    stream: TcpStream,
    qos: u8,
    sent: u64,
    acknowledged: Arc<AtomicU64>,
    reader: Option<JoinHandle<()>>,
    buffer: Vec<u8>,
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
        stream.write_all(&packet::connect("side-by-side", None))?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer)?;
        ensure!(answer == packet::ACCEPTED, "the broker refuses the publisher: {answer:?}");

        let acknowledged = Arc::<AtomicU64>::default();
        let reader = {
            let (input, acknowledged) = (stream.try_clone()?, Arc::clone(&acknowledged));
            let writer = std::thread::current();
            std::thread::spawn(move || count_acknowledgements(input, &acknowledged, &writer))
        };
        Ok(Self { stream, qos, sent: 0, acknowledged, reader: Some(reader), buffer: Vec::new() })
    }

    /// Publishes one heartbeat of each device, in an arbitrary order that ends with the
    /// device of [`last_of`].
    ///
    /// # Errors
    ///
    /// If the connection is lost.
    pub fn round(&mut self, devices: u64, round: u64) -> anyhow::Result<()> {
        self.heartbeats(order(devices), round)
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
            self.heartbeats(std::iter::once(device), 1)?;
            due += interval;
        }
        Ok(())
    }

    fn heartbeats(&mut self, devices: impl Iterator<Item = u64>, round: u64) -> anyhow::Result<()> {
        let uptime = round * SECONDS_PER_ROUND;
        let mut timestamp = now();
        for device in devices {
            self.publish(device, &timestamp, uptime)?;
            if self.buffer.len() >= CHUNK {
                self.flush()?;
                timestamp = now();
            }
        }
        self.flush()
    }

    fn publish(&mut self, device: u64, timestamp: &str, uptime: u64) -> std::io::Result<()> {
        let start = self.buffer.len();
        let out = &mut self.buffer;
        // PUBLISH; two bytes of length hold up to 16 KiB.
        out.extend_from_slice(&[packet::PUBLISH | (self.qos << 1), 0, 0, 0, 0]);
        write!(out, "devices/{}/heartbeat", id(device))?;
        let topic = (out.len() - start - 5) as u16;
        self.sent += 1;
        if self.qos > 0 {
            let packet_id = (self.sent % u64::from(u16::MAX)) as u16 + 1;
            out.extend_from_slice(&packet_id.to_be_bytes());
        }
        write!(
            out,
            r#"{{"timestamp":"{timestamp}","uptime_seconds":{uptime},"free_memory":{}}}"#,
            100_000 + device % 50_000
        )?;
        let remaining = out.len() - start - 3;
        out[start + 1] = (remaining & 0x7f) as u8 | 0x80;
        out[start + 2] = (remaining >> 7) as u8;
        out[start + 3..start + 5].copy_from_slice(&topic.to_be_bytes());
        Ok(())
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        if self.qos > 0 {
            while self.sent - self.acknowledged.load(Ordering::Acquire) > WINDOW {
                let gone = self.reader.as_ref().is_none_or(JoinHandle::is_finished);
                ensure!(!gone, "the broker has closed the publisher's connection");
                std::thread::park();
            }
        }
        self.stream.write_all(&self.buffer).context("the broker reads")?;
        self.buffer.clear();
        Ok(())
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        // It may be closed already.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// Counts acknowledgements. To a client that only publishes, a broker sends only PUBACKs
/// of 4 bytes.
fn count_acknowledgements(mut input: TcpStream, acknowledged: &AtomicU64, writer: &Thread) {
    let mut buffer = [0; 16 * 1024];
    let mut bytes = 0;
    while let Ok(read @ 1..) = input.read(&mut buffer) {
        bytes += read as u64;
        acknowledged.store(bytes / 4, Ordering::Release);
        writer.unpark();
    }
    writer.unpark();
}

fn now() -> String {
    Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// The id of a device by its number.
pub fn id(device: u64) -> String {
    format!("device-{device:07}")
}

/// The numbers below `devices`, scattered by steps of a prime that does not divide their
/// count.
fn order(devices: u64) -> impl Iterator<Item = u64> + Clone {
    const PRIME: u64 = 2_654_435_761;
    (0..devices).map(move |step| step * PRIME % devices)
}

/// The device that a round ends with.
pub fn last_of(devices: u64) -> u64 {
    order(devices).last().unwrap_or_default()
}
