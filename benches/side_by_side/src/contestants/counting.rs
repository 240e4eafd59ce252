//! The limit behind mosquitto on this machine: a paho client that only counts.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use paho_mqtt as paho;
use servers::process::Running;

use super::{Contestant, await_true, lines};
use crate::process::{Tree, Used};

/// Such a client in a separate process.
pub struct Counting {
    process: Running,
    port: u16,
    received: Arc<AtomicU64>,
}

impl Counting {
    pub fn start(qos: u8, port: u16) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["count", "--port", &port.to_string(), "--qos", &qos.to_string()]);
        let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn()?;
        let mut lines = lines(&mut child)?;
        // The first line says that it is subscribed.
        lines.next().context("the counting client has ended")??;
        let received = Arc::<AtomicU64>::default();
        let counted = Arc::clone(&received);
        std::thread::spawn(move || {
            for number in lines.map_while(Result::ok).filter_map(|line| line.parse().ok()) {
                counted.store(number, Ordering::Relaxed);
            }
        });
        Ok(Self { process: Running(child), port, received })
    }
}

impl Contestant for Counting {
    fn port(&self) -> u16 {
        self.port
    }

    fn used(&self) -> Used {
        Tree { root: self.process.0.id() }.used()
    }

    fn await_processed(&mut self, devices: u64, round: u64) -> anyhow::Result<()> {
        await_true("the counting client", || {
            Ok(self.received.load(Ordering::Relaxed) >= devices * round)
        })
    }

    fn count_processed(&mut self, devices: u64, round: u64) -> anyhow::Result<u64> {
        Ok(self.received.load(Ordering::Relaxed).saturating_sub(devices * (round - 1)))
    }
}

/// The time between two looks at the count, which is no shorter than for heartbeatd.
const POLL: Duration = Duration::from_millis(5);

#[derive(clap::Args)]
pub struct Options {
    /// The port on which the broker listens.
    #[arg(long)]
    port: u16,
    #[arg(long)]
    qos: i32,
}

/// Runs that process. Prints the number of heartbeats that it has received whenever it
/// changes.
pub fn count(options: &Options) -> anyhow::Result<()> {
    let received = Arc::<AtomicU64>::default();
    let create = paho::CreateOptionsBuilder::new()
        .server_uri(format!("mqtt://127.0.0.1:{}", options.port))
        .client_id("counting")
        .persistence(None)
        .finalize();
    let client = paho::AsyncClient::new(create)?;
    let counted = Arc::clone(&received);
    client.set_message_callback(move |_, message| {
        counted.fetch_add(u64::from(message.is_some()), Ordering::Relaxed);
    });
    let mut connect = paho::ConnectOptionsBuilder::new_v5();
    connect.clean_start(true);
    client.connect(connect.finalize()).wait().context("cannot connect")?;
    client.subscribe("devices/+/heartbeat", options.qos).wait().context("cannot subscribe")?;

    let mut out = std::io::stdout().lock();
    let mut shown = None;
    loop {
        let now = received.load(Ordering::Relaxed);
        if shown != Some(now) {
            writeln!(out, "{now}")?;
            out.flush()?;
            shown = Some(now);
        }
        // The orchestrator kills it. If the orchestrator is gone, the closed pipe ends it
        // at the next heartbeat.
        std::thread::sleep(POLL);
    }
}
