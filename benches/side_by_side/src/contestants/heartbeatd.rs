//! A heartbeatd with its own database.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use chrono::{TimeDelta, Utc};
use servers::log::LISTENING;
use servers::postgresql::PostgreSql;
use servers::process::Running;

use super::{Contestant, await_true};
use crate::candidates::{Broker, Stage};
use crate::database::{Database, Server};
use crate::log::Log;
use crate::process::{Tree, Used};
use publishers::{id, last_of, uptime};

pub struct Heartbeatd {
    process: Running,
    port: u16,
    log: PathBuf,
    started_up_in: Duration,
    // Dropped after the process.
    pub database: Database,
}

impl Heartbeatd {
    /// Starts a heartbeatd and waits until it listens. The settings are keys and values.
    pub fn start(
        stage: &Stage,
        database: Database,
        broker: Broker,
        port: u16,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let log = database.folder.path().join("log");
        let mut command = Command::new(&stage.heartbeatd);
        command
            .arg("run")
            .current_dir(database.folder.path())
            .env("HEARTBEATD_DATABASE__URL", &database.url)
            .env("HEARTBEATD_DEVICES__MAX_DEVICES", "20000000")
            .env("HEARTBEATD_DEVICES__REGISTRATION_BURST", "20000000")
            .env_remove("RUST_LOG");
        match broker {
            Broker::Mosquitto => {
                command.env("HEARTBEATD_MQTT__URL", format!("mqtt://127.0.0.1:{port}"))
            }
            Broker::Embedded => command
                .env("HEARTBEATD_MQTT__EMBEDDED__LISTEN", format!("127.0.0.1:{port}"))
                // No device sends as much as the publisher.
                .env("HEARTBEATD_MQTT__EMBEDDED__MAX_MESSAGES_PER_SECOND", "100000000"),
        };
        for (key, value) in settings {
            match *key {
                "RUST_LOG" => command.env(key, value),
                key => command.env(format!("HEARTBEATD_{key}"), value),
            };
        }
        let began = Utc::now();
        let child = command.stdin(Stdio::null()).stderr(File::create(&log)?).spawn()?;
        let mut started =
            Self { process: Running(child), port, log, started_up_in: Duration::ZERO, database };
        started.await_listening(began).with_context(|| {
            fs::read_to_string(&started.log).unwrap_or_else(|error| error.to_string())
        })?;
        Ok(started)
    }

    fn await_listening(&mut self, began: chrono::DateTime<Utc>) -> anyhow::Result<()> {
        await_true("heartbeatd listens", || {
            if let Some(status) = self.process.0.try_wait()? {
                bail!("heartbeatd has ended: {status}");
            }
            let log = self.log()?;
            let Some(listening) = log.of(LISTENING).next() else {
                return Ok(false);
            };
            let took: TimeDelta = listening.at - began;
            self.started_up_in = took.to_std().unwrap_or_default();
            Ok(true)
        })
    }

    /// The time from the start of the process until it listened.
    pub fn started_up_in(&self) -> Duration {
        self.started_up_in
    }

    /// The memory that it has now, in bytes.
    pub fn memory(&self) -> u64 {
        Tree { root: self.process.0.id() }.memory_of_root()
    }

    /// The log until now.
    pub fn log(&self) -> anyhow::Result<Log> {
        Log::read(&self.log)
    }
}

impl Contestant for Heartbeatd {
    fn port(&self) -> u16 {
        self.port
    }

    fn used(&self) -> Used {
        let own = Tree { root: self.process.0.id() }.used();
        if self.database.server != Server::Postgresql {
            return own;
        }
        // The server works for it, so its CPU counts. Its memory is shared by all and
        // does not.
        let server = Tree { root: PostgreSql::shared().process() }.used();
        Used { cpu: own.cpu + server.cpu, ..own }
    }

    /// Waits for the device that published last before it counts the whole fleet, because
    /// counting takes time from the candidate.
    fn await_processed(&mut self, devices: u64, round: u64) -> anyhow::Result<()> {
        let last = id(last_of(devices));
        let sql = format!("SELECT uptime_seconds FROM device WHERE id = '{last}'");
        let uptime = i64::try_from(uptime(round))?;
        await_true("the last heartbeat", || Ok(self.database.number(&sql)? == Some(uptime)))?;
        await_true("all heartbeats", || Ok(self.count_processed(devices, round)? == devices))
    }

    fn count_processed(&mut self, _: u64, round: u64) -> anyhow::Result<u64> {
        let uptime = uptime(round);
        let sql = format!("SELECT count(*) FROM device WHERE uptime_seconds = {uptime}");
        Ok(self.database.number(&sql)?.unwrap_or_default().unsigned_abs())
    }
}
