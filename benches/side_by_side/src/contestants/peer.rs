//! Peers from `benches/peers`, run by their scripts.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use servers::process::{Running, free_port};
use tempfile::TempDir;

use super::{Contestant, await_true, lines};
use crate::candidates::Stage;
use crate::process::{Tree, Used};
use publishers::uptime;

/// A running peer, whose scripts follow the contract in `benches/peers/README.md`.
pub struct Peer {
    process: Running,
    scripts: PathBuf,
    installed: PathBuf,
    work: TempDir,
    environment: Vec<(&'static str, String)>,
    port: u16,
}

impl Peer {
    pub fn start(name: &str, qos: u8, stage: &Stage) -> anyhow::Result<Self> {
        let (scripts, installed) = (stage.peers.join(name), stage.installed.join(name));
        let work = tempfile::tempdir()?;
        let environment = vec![
            ("MQTT_PORT", stage.mosquitto.to_string()),
            ("HTTP_PORT", free_port().to_string()),
            ("QOS", qos.to_string()),
        ];
        let mut child = Command::new(scripts.join("run.sh"))
            .args([&installed, work.path()] as [&Path; 2])
            .envs(environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(work.path().join("log"))?)
            .spawn()
            .with_context(|| format!("{name}: run.sh"))?;
        let mut lines = lines(&mut child)?;
        let process = Running(child);
        let ready = lines.find(|line| matches!(line.as_deref(), Ok("ready") | Err(_)));
        ensure!(
            matches!(ready, Some(Ok(_))),
            "{name} has not become ready:\n{}",
            fs::read_to_string(work.path().join("log"))?
        );
        Ok(Self { process, scripts, installed, work, environment, port: stage.mosquitto })
    }

    fn tree(&self) -> Tree {
        Tree { root: self.process.0.id() }
    }
}

impl Contestant for Peer {
    fn port(&self) -> u16 {
        self.port
    }

    fn used(&self) -> Used {
        self.tree().used()
    }

    /// Watches the peer's CPU, because asking it may cost more than its work. Once it is
    /// idle, it has processed everything or never will.
    fn await_processed(&mut self, devices: u64, round: u64) -> anyhow::Result<()> {
        const IDLE: Duration = Duration::from_millis(500);
        const BUSY: Duration = Duration::from_millis(25);
        let mut last = self.used().cpu;
        await_true("the peer", || {
            std::thread::sleep(IDLE);
            let before = std::mem::replace(&mut last, self.tree().used().cpu);
            Ok(last - before < BUSY)
        })?;
        let processed = self.count_processed(devices, round)?;
        ensure!(processed == devices, "only {processed} of {devices} devices show round {round}");
        Ok(())
    }

    fn count_processed(&mut self, _: u64, round: u64) -> anyhow::Result<u64> {
        let out = Command::new(self.scripts.join("processed.sh"))
            .args([&self.installed, self.work.path()] as [&Path; 2])
            .envs(self.environment.iter().map(|(key, value)| (key, value)))
            .env("UPTIME", uptime(round).to_string())
            .output()?;
        let text = String::from_utf8_lossy(&out.stdout);
        text.trim().parse().with_context(|| String::from_utf8_lossy(&out.stderr).into_owned())
    }
}
