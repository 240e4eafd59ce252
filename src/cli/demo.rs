//! `heartbeatd demo`: the service with its own broker, a temporary database and a few virtual
//! devices, some of which die, return, report errors and fall together.

use std::fs::Permissions;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::pin::pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use futures::future::{Either, select};
use log::{info, warn};
use tempfile::TempDir;

use super::ending::Ending;
use super::greeting::greet;
use crate::address::reachable;
use crate::clock::system_clock;
use crate::config::{DatabaseUrl, Listen};
use crate::domain::TopicPattern;
use crate::mqtt::{self, Broker, Publisher};
use crate::process::open_files::Needed;
use crate::simulate::{Amount, Burst, Drive, Fleet, Names, Plan, Step, Told, What};
use crate::{App, Config, app, duration};

const TARGET: &str = "demo";

/// The time between two heartbeats of a device.
const PERIOD: Duration = Duration::from_secs(2);

/// The silence after which a device is offline: three heartbeats.
const TIMEOUT: Duration = Duration::from_secs(6);

/// The time between two checks.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// The time between two echoes.
const ECHO_INTERVAL: Duration = Duration::from_secs(1);

/// The time for which a device is dead, on average. Half of it, which is the least, is longer
/// than a check needs to find the device.
const DOWN: Duration = Duration::from_secs(20);

/// The time between two lines with what `heartbeatd status` would say.
const SENTENCE_INTERVAL: Duration = Duration::from_secs(5);

/// The name of the hall whose devices fall together.
const DARK: &str = "hall-3";

/// The devices in each hall.
const MACHINES: [&str; 8] =
    ["press-1", "press-2", "pump-1", "pump-2", "pump-3", "pump-4", "valve-1", "valve-2"];

const AFTER_HELP: &str = "\
Needs no configuration and reads none. If the usual ports are taken, it uses others and says
which. Ctrl-C ends it; then its temporary files are removed.";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// End after this time [default: at Ctrl-C]
    #[arg(long = "for", value_name = "DURATION", allow_hyphen_values = true,
          value_parser = super::device::duration)]
    lasts: Option<Duration>,
    /// Seed of the random choices; the same seed is the same story
    #[arg(long, default_value_t = 16, allow_hyphen_values = true, value_parser = super::count)]
    seed: u64,
}

/// The devices of the demo. Within half a minute each of them has shown what it is there for.
fn plan() -> Plan {
    let halls = ["hall-1", "hall-2", DARK];
    let names = halls.iter().flat_map(|hall| MACHINES.map(|machine| format!("{hall}-{machine}")));
    let names: Vec<_> = names.collect();
    Plan {
        devices: names.len() as u32,
        names: Names::Listed(names),
        period: PERIOD,
        jitter: 0.2,
        dying: Amount::Devices(3),
        up: Duration::from_secs(10),
        down: DOWN,
        burst: Some(Burst {
            devices: Amount::Devices(MACHINES.len() as u32),
            first: Duration::from_secs(12),
            every: Duration::from_secs(60),
        }),
        failing: Amount::Devices(2),
        skewed: Amount::Devices(2),
        malformed: Amount::Devices(1),
    }
}

/// The defaults, with a database in `folder`, times that fit an impatient spectator, and free
/// ports.
fn configuration(folder: &Path) -> anyhow::Result<Config> {
    let mut config = Config::default();
    let file = url::Url::from_file_path(folder.join("heartbeatd.db"));
    let file = file.map_err(|()| anyhow!("{} is not an absolute path", folder.display()))?;
    config.database.url = DatabaseUrl::from(format!("sqlite://{}?mode=rwc", file.path()));
    config.heartbeat.timeout = TIMEOUT.try_into()?;
    config.heartbeat.check_interval = CHECK_INTERVAL.try_into()?;
    config.heartbeat.flush_interval = Duration::from_millis(500).try_into()?;
    config.mqtt.echo_interval = Some(ECHO_INTERVAL.try_into()?);
    for listen in [&mut config.mqtt.embedded.listen, &mut config.http.listen] {
        if let Listen::At(address) = listen {
            *address = free(*address);
        }
    }
    Ok(config)
}

/// The address, or if that is taken any port of it.
fn free(address: SocketAddr) -> SocketAddr {
    match TcpListener::bind(address) {
        Ok(_) => address,
        Err(_) => SocketAddr::new(address.ip(), 0),
    }
}

/// The files that the demo needs.
pub(super) fn files() -> Needed {
    app::needed_files(&Config::default()).with("the devices", mqtt::CLIENT_OPEN_FILES)
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut ending = Ending::new()?;
    let folder = tempfile::Builder::new()
        .prefix("heartbeatd-demo-")
        .permissions(Permissions::from_mode(0o700))
        .tempdir()
        .context("cannot create a temporary folder")?;
    let config = configuration(folder.path())?;
    let app = App::build(config.clone()).start().await?;
    begin(&app, &config, arguments.seed)?;

    let ended = {
        let (signal, failed) = (pin!(ending.signal()), pin!(app.failed()));
        let simulation = pin!(simulate(&app, &config, &arguments));
        match select(select(signal, failed), simulation).await {
            Either::Left((Either::Left(_), _)) | Either::Right((Ok(()), _)) => Ok(()),
            Either::Left((Either::Right((failed, _)), _)) => Err(anyhow::Error::new(failed)),
            Either::Right((Err(error), _)) => Err(error),
        }
    };
    info!(target: TARGET, "the demo ends");
    let drained = app.drain().await.map_err(anyhow::Error::new);
    remove(folder);
    ended.and(drained)?;
    Ok(ExitCode::SUCCESS)
}

/// Logs where to look, and what there is to be seen.
fn begin(app: &App, config: &Config, seed: u64) -> io::Result<()> {
    if let Some(address) = app.http_address() {
        info!(target: TARGET, "open http://{address}/ to watch; Ctrl-C ends the demo");
    }
    let plan = plan();
    info!(
        target: TARGET, seed;
        "{} devices in three halls send a heartbeat every {}; one that is silent for {} is \
         offline", plan.devices, duration::human(PERIOD), duration::human(TIMEOUT)
    );
    info!(
        target: TARGET,
        "to ask on the command line, copy the next line into another terminal; then try \
         `heartbeatd device list` and `heartbeatd device show hall-1-valve-1`"
    );
    writeln!(io::stdout(), "{}", settings(app, config))?;
    greet(app, config);
    Ok(())
}

/// The line for a shell by which the commands know what the demo's service knows.
fn settings(app: &App, config: &Config) -> String {
    let duration = |duration| duration::format(duration);
    let mut line = format!(
        "export HEARTBEATD_DATABASE__URL='{}' HEARTBEATD_HEARTBEAT__TIMEOUT={} \
         HEARTBEATD_HEARTBEAT__CHECK_INTERVAL={} HEARTBEATD_MQTT__ECHO_INTERVAL={}",
        config.database.url,
        duration(TIMEOUT),
        duration(CHECK_INTERVAL),
        duration(ECHO_INTERVAL),
    );
    if let Some(address) = app.http_address() {
        line.push_str(&format!(" HEARTBEATD_HTTP__LISTEN={address}"));
    }
    line
}

async fn simulate(app: &App, config: &Config, arguments: &Arguments) -> anyhow::Result<()> {
    let address = app.broker_address().context("the demo has its own broker")?;
    let broker = Broker {
        uri: format!("mqtt://{}", reachable(address)),
        credentials: None,
        setting: "mqtt.embedded.listen",
    };
    let publisher = Publisher::new(&config.mqtt, &broker, "heartbeatd-demo", 1)?;
    publisher.connect().await?;
    let mut drive = Drive {
        fleet: Fleet::new(plan(), arguments.seed)?,
        publisher,
        topic: TopicPattern::clone(&config.mqtt.topic),
        clock: system_clock,
        totals: Default::default(),
    };
    let mut story = Story::default();
    let mut said = Instant::now();
    drive
        .run(arguments.lasts, |drive, told| match told {
            Told::Step(step) => story.tell(&drive.fleet, step),
            Told::Look if said.elapsed() >= SENTENCE_INTERVAL => {
                said = Instant::now();
                info!(target: TARGET, "status: {}", app.sentence());
            }
            Told::Look => (),
        })
        .await;
    drive.publisher.disconnect().await;
    Ok(())
}

/// The things that really happen, to be compared with what the service finds out.
#[derive(Default)]
struct Story {
    dark: bool,
}

impl Story {
    fn tell(&mut self, fleet: &Fleet, Step { device, what }: Step) {
        let id = fleet.id(device);
        let (dark, device) = (id.starts_with(DARK), id);
        match what {
            What::Beats => (),
            What::Falls if dark && !std::mem::replace(&mut self.dark, true) => {
                warn!(target: TARGET, "the power of {DARK} fails: its devices fall silent together");
            }
            What::Returns if dark && std::mem::replace(&mut self.dark, false) => {
                info!(target: TARGET, "{DARK} has power again");
            }
            What::Falls | What::Returns if dark => (),
            What::Falls => warn!(target: TARGET, device; "a device dies; nobody tells the service"),
            What::Returns => info!(target: TARGET, device; "the device works again"),
        }
    }
}

fn remove(folder: TempDir) {
    let path = folder.path().to_owned();
    if let Err(error) = folder.close() {
        warn!(target: TARGET, "cannot remove {}: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The seconds at which the devices of the demo do something, without their heartbeats.
    fn story(seed: u64, until: f64) -> Vec<(f64, String, What)> {
        let mut fleet = Fleet::new(plan(), seed).expect("there are enough devices");
        let mut story = Vec::new();
        while let Some(due) = fleet.next_due().filter(|due| due.as_secs_f64() < until) {
            let Step { device, what } = fleet.step(due).expect("it is due");
            story.push((due.as_secs_f64(), fleet.id(device), what));
        }
        story.retain(|(_, _, what)| *what != What::Beats);
        story
    }

    #[test]
    fn within_half_a_minute_the_demo_shows_a_death_that_is_found_a_return_and_a_burst() {
        let story = story(16, 30.0);
        let falls = |dark: bool| {
            let falls = story
                .iter()
                .filter(move |(_, id, what)| *what == What::Falls && id.starts_with(DARK) == dark);
            falls.collect::<Vec<_>>()
        };
        assert_eq!(falls(true).len(), MACHINES.len(), "{story:?}");
        // Long enough to be found by the check after its timeout, whatever was proven by then.
        let found = (TIMEOUT + CHECK_INTERVAL + ECHO_INTERVAL).as_secs_f64();
        let found_and_back = falls(false).into_iter().any(|(fell, id, _)| {
            let back = |(at, who, what): &(f64, String, What)| {
                who == id && *what == What::Returns && at - fell > found
            };
            story.iter().any(back)
        });
        assert!(found_and_back, "{story:?}");
    }

    #[test]
    fn no_death_of_the_demo_is_too_short_to_be_found() {
        let story = story(16, 600.0);
        let found = (TIMEOUT + CHECK_INTERVAL + ECHO_INTERVAL).as_secs_f64();
        for (at, id, _) in story.iter().filter(|(_, _, what)| *what == What::Returns) {
            let fell = |(when, who, what): &&(f64, String, What)| {
                who == id && *what == What::Falls && when < at
            };
            let (fell, ..) = story.iter().rev().find(fell).expect("it fell before");
            assert!(at - fell > found, "{id} is dead for {} s", at - fell);
        }
    }

    #[test]
    fn the_demo_takes_the_usual_ports_or_any() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = taken.local_addr().expect("it is bound");
        assert_eq!(free(address), "127.0.0.1:0".parse().expect("an address"));
        drop(taken);
        assert_eq!(free(address), address);
    }
}
