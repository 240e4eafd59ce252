//! Who is measured: the counting client, heartbeatd in its variants, and the peers
//! in `benches/peers`.

use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use sea_orm::{ConnectionTrait, Database, DatabaseConnection, DbBackend, Statement};
use servers::POLL;
use servers::postgresql::PostgreSql;
use servers::process::{Running, free_port};
use tempfile::TempDir;

use crate::process::{Tree, Used};
use crate::publisher::{SECONDS_PER_ROUND, id, last_of};

/// How long anybody may take for what it was sent.
const PATIENCE: Duration = Duration::from_secs(600);

/// Where the broker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broker {
    /// The mosquitto that all share.
    Mosquitto,
    /// heartbeatd's own, in the candidate's process.
    Embedded,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The client that only counts.
    Counting,
    Heartbeatd(Store),
    /// A folder in `benches/peers`.
    Peer(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    Sqlite,
    Postgresql,
}

/// One that can be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub kind: Kind,
    pub broker: Broker,
    pub qos: u8,
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match &self.kind {
            Kind::Counting => "counting client",
            Kind::Heartbeatd(Store::Sqlite) => "heartbeatd, SQLite",
            Kind::Heartbeatd(Store::Postgresql) => "heartbeatd, PostgreSQL",
            Kind::Peer(name) => name,
        };
        let broker = match self.broker {
            Broker::Mosquitto => "mosquitto",
            Broker::Embedded => "embedded broker",
        };
        f.pad(&format!("{name}, {broker}, QoS {}", self.qos))
    }
}

/// What the candidates are started with.
#[derive(Clone, Debug)]
pub struct Stage {
    /// The heartbeatd that is measured.
    pub heartbeatd: PathBuf,
    /// `benches/peers`.
    pub peers: PathBuf,
    /// Where the peers are installed.
    pub installed: PathBuf,
    /// The port of the mosquitto that all share.
    pub mosquitto: u16,
}

/// One that runs.
pub trait Contestant {
    fn port(&self) -> u16;
    fn used(&self) -> Used;
    /// Waits until everything up to the end of `round` is processed.
    fn await_processed(&mut self, devices: u64, round: u64) -> anyhow::Result<()>;
    /// How many devices show that round as their last.
    fn count_processed(&mut self, devices: u64, round: u64) -> anyhow::Result<u64>;
}

impl Candidate {
    pub fn start(&self, stage: &Stage) -> anyhow::Result<Box<dyn Contestant>> {
        let port = match self.broker {
            Broker::Mosquitto => stage.mosquitto,
            Broker::Embedded => free_port(),
        };
        Ok(match &self.kind {
            Kind::Counting => Box::new(Counting::start(self, port)?),
            Kind::Heartbeatd(store) => {
                let place = Place::new(*store)?;
                Box::new(Heartbeatd::start(self, stage, place, port, &[])?)
            }
            Kind::Peer(name) => Box::new(Peer::start(name, self.qos, stage)?),
        })
    }
}

struct Counting {
    process: Running,
    port: u16,
    received: Arc<AtomicU64>,
}

impl Counting {
    fn start(candidate: &Candidate, port: u16) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["count", "--port", &port.to_string(), "--qos", &candidate.qos.to_string()]);
        if candidate.broker == Broker::Embedded {
            command.arg("--embedded");
        }
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

/// Where a heartbeatd keeps its devices.
pub struct Place {
    pub folder: TempDir,
    pub url: String,
}

impl Place {
    pub fn new(store: Store) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let url = match store {
            Store::Sqlite => {
                format!("sqlite://{}?mode=rwc", folder.path().join("heartbeatd.db").display())
            }
            Store::Postgresql => PostgreSql::shared().new_database(),
        };
        Ok(Self { folder, url })
    }
}

/// A running heartbeatd.
pub struct Heartbeatd {
    process: Running,
    port: u16,
    /// To look into its database.
    runtime: tokio::runtime::Runtime,
    db: DatabaseConnection,
    /// Kept until the process has ended.
    _place: Place,
}

impl Heartbeatd {
    pub fn start(
        candidate: &Candidate,
        stage: &Stage,
        place: Place,
        port: u16,
        more: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(&stage.heartbeatd);
        command
            .arg("run")
            .current_dir(place.folder.path())
            .env_remove("RUST_LOG")
            .env("HEARTBEATD_DATABASE__URL", &place.url)
            .env("HEARTBEATD_HTTP__LISTEN", "off")
            .env("HEARTBEATD_DEVICES__MAX_DEVICES", "20000000")
            .env("HEARTBEATD_MQTT__QOS", candidate.qos.to_string());
        match candidate.broker {
            Broker::Mosquitto => {
                command.env("HEARTBEATD_MQTT__URL", format!("mqtt://127.0.0.1:{port}"))
            }
            Broker::Embedded => {
                command.env("HEARTBEATD_MQTT__EMBEDDED__LISTEN", format!("127.0.0.1:{port}"))
            }
        };
        command.envs(more.iter().copied());
        let log = place.folder.path().join("log");
        let child = command.stdin(Stdio::null()).stderr(File::create(&log)?).spawn()?;
        let process = Running(child);
        await_true("heartbeatd listens", || Ok(fs::read_to_string(&log)?.contains("listening")))
            .with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut options = sea_orm::ConnectOptions::new(&place.url);
        options.max_connections(1).sqlx_logging(false);
        let db = runtime.block_on(Database::connect(options))?;
        Ok(Self { process, port, runtime, db, _place: place })
    }

    /// The only number that a query gives.
    pub fn number(&self, sql: &str) -> anyhow::Result<Option<i64>> {
        let statement = Statement::from_string(self.db.get_database_backend(), sql);
        let row = self.runtime.block_on(self.db.query_one_raw(statement))?;
        row.map_or(Ok(None), |row| Ok(row.try_get_by_index(0)?))
    }
}

impl Contestant for Heartbeatd {
    fn port(&self) -> u16 {
        self.port
    }

    fn used(&self) -> Used {
        let own = Tree { root: self.process.0.id() }.used();
        if self.db.get_database_backend() != DbBackend::Postgres {
            return own;
        }
        // The server works for it; its memory is shared by all, and not counted.
        let server = Tree { root: PostgreSql::shared().process() }.used();
        Used { cpu: own.cpu + server.cpu, ..own }
    }

    /// Counting the whole fleet takes its time from the candidate, so the device
    /// that published last has to be there first.
    fn await_processed(&mut self, devices: u64, round: u64) -> anyhow::Result<()> {
        let last = id(last_of(devices));
        let sql = format!("SELECT uptime_seconds FROM device WHERE id = '{last}'");
        let uptime = i64::try_from(round * SECONDS_PER_ROUND)?;
        await_true("the last heartbeat", || Ok(self.number(&sql)? == Some(uptime)))?;
        await_true("all heartbeats", || Ok(self.count_processed(devices, round)? == devices))
    }

    fn count_processed(&mut self, _: u64, round: u64) -> anyhow::Result<u64> {
        let uptime = round * SECONDS_PER_ROUND;
        let sql = format!("SELECT count(*) FROM device WHERE uptime_seconds = {uptime}");
        Ok(self.number(&sql)?.unwrap_or_default().unsigned_abs())
    }
}

/// One of `benches/peers`, which has the contract of the scripts.
struct Peer {
    process: Running,
    scripts: PathBuf,
    installed: PathBuf,
    work: TempDir,
    environment: Vec<(&'static str, String)>,
    port: u16,
}

impl Peer {
    fn start(name: &str, qos: u8, stage: &Stage) -> anyhow::Result<Self> {
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

    /// Asking a peer may cost it more than its work, so it is watched: once it is
    /// idle it has processed everything or will never do.
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
            .env("UPTIME", (round * SECONDS_PER_ROUND).to_string())
            .output()?;
        let text = String::from_utf8_lossy(&out.stdout);
        text.trim().parse().with_context(|| String::from_utf8_lossy(&out.stderr).into_owned())
    }
}

fn lines(child: &mut Child) -> anyhow::Result<std::io::Lines<BufReader<ChildStdout>>> {
    Ok(BufReader::new(child.stdout.take().context("a pipe")?).lines())
}

fn await_true(
    what: &str,
    mut condition: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !condition()? {
        if Instant::now() > deadline {
            bail!("waited {PATIENCE:?} in vain: {what}");
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}
