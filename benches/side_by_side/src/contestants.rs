//! Running candidates. They differ only in how they are started and asked.

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

/// The longest time that a contestant may take for one heartbeat of each device.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// A running candidate.
pub trait Contestant {
    /// The port to publish to.
    fn port(&self) -> u16;
    fn used(&self) -> Used;
    /// Waits until everything up to the end of `round` is processed.
    fn await_processed(&mut self, devices: u64, round: u64) -> anyhow::Result<()>;
    /// Counts the devices whose last heartbeat is of that round.
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
