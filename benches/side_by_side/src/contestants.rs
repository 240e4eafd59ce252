//! Those that run: each is told apart only by how it is started and asked.

mod counting;
mod heartbeatd;
mod peer;

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use servers::POLL;

pub use self::counting::{Counting, Options, count};
pub use self::heartbeatd::Heartbeatd;
pub use self::peer::Peer;
use crate::process::Used;

/// How long anybody may take for one heartbeat of each device.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// One that runs.
pub trait Contestant {
    /// Where to publish.
    fn port(&self) -> u16;
    fn used(&self) -> Used;
    /// Waits until everything up to the end of `round` is processed.
    fn await_processed(&mut self, devices: u64, round: u64) -> anyhow::Result<()>;
    /// How many devices show that round as their last.
    fn count_processed(&mut self, devices: u64, round: u64) -> anyhow::Result<u64>;
}

fn lines(child: &mut Child) -> anyhow::Result<std::io::Lines<BufReader<ChildStdout>>> {
    Ok(BufReader::new(child.stdout.take().context("a pipe")?).lines())
}

pub fn await_true(
    what: &str,
    condition: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    await_every(POLL, PATIENCE, what, condition)
}

pub fn await_every(
    interval: Duration,
    patience: Duration,
    what: &str,
    mut condition: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    while !condition()? {
        if Instant::now() > deadline {
            bail!("waited {patience:?} in vain: {what}");
        }
        std::thread::sleep(interval);
    }
    Ok(())
}
