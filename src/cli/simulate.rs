//! `heartbeatd simulate`: virtual devices that publish to any broker.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use futures::future::{Either, select};
use log::{info, warn};

use super::ending::Ending;
use super::exit::{self, wrong_usage};
use crate::Config;
use crate::address::reachable;
use crate::clock::system_clock;
use crate::config::{BrokerUrl, Listen, MqttConfig, read_secret};
use crate::logging::escape::Escaped;
use crate::mqtt::{Broker, Publisher};
use crate::simulate::{Amount, Burst, Drive, Fleet, FleetError, Names, Plan, Told, Totals};
use crate::views::text;

/// The most devices, so that a mistyped number does not fill the memory.
const MAX_DEVICES: u32 = 10_000_000;

const EXAMPLES: &str = "\
An AMOUNT is a share such as 5%, or a number of devices. All devices share one connection, so
with a users file of the embedded broker the user needs the right for them: `heartbeatd user add
simulator --devices 'sim-*'`. Ctrl-C ends the simulation; its devices then fall silent. The exit
code is 1 if the broker has refused all heartbeats, which only MQTT 5 tells, and not for --qos 0.

Examples:
  heartbeatd simulate
  heartbeatd simulate --devices 10000 --period 60s --burst 20% --burst-every 15m
  heartbeatd simulate --url mqtts://broker:8883 --username sim --password-file secret --for 1h";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Broker, mqtt://HOST:PORT or mqtts://HOST:PORT [default: mqtt.url, or else the embedded
    /// broker of the running service]
    #[arg(long, value_parser = broker_url)]
    url: Option<BrokerUrl>,
    /// User name for the broker [default: mqtt.username, for the broker of mqtt.url only]
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// File that holds its password
    #[arg(long, value_name = "PATH", requires = "username")]
    password_file: Option<PathBuf>,
    /// Certificate authority of the broker [default: mqtt.ca_file]
    #[arg(long, value_name = "PATH")]
    ca_file: Option<PathBuf>,
    /// Client certificate [default: mqtt.cert_file, for the broker of mqtt.url only]
    #[arg(long, value_name = "PATH", requires = "key_file")]
    cert_file: Option<PathBuf>,
    /// Key of the client certificate [default: mqtt.key_file, likewise]
    #[arg(long, value_name = "PATH", requires = "cert_file")]
    key_file: Option<PathBuf>,
    /// Quality of service: 0, 1 or 2
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// Number of devices
    #[arg(long, default_value_t = 100, value_name = "COUNT",
          allow_hyphen_values = true, value_parser = number_of_devices)]
    devices: u32,
    /// Beginning of the devices' ids, before their numbers
    #[arg(long, default_value = "sim-", value_parser = prefix)]
    prefix: String,
    /// Time between two heartbeats of a device
    #[arg(long, default_value = "60s", value_name = "DURATION", allow_hyphen_values = true, value_parser = period)]
    period: Duration,
    /// Part of the period by which heartbeats vary
    #[arg(long, default_value = "10%", value_name = "PERCENT", allow_hyphen_values = true, value_parser = percent)]
    jitter: f64,
    /// Devices that die and return
    #[arg(long, default_value = "5%", value_name = "AMOUNT", allow_hyphen_values = true, value_parser = amount)]
    dying: Amount,
    /// Time that such a device lives, on average [default: 20 periods]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = period)]
    up: Option<Duration>,
    /// Time that it is dead, on average, and that a burst lasts [default: 6 periods]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = period)]
    down: Option<Duration>,
    /// Devices that fall silent together
    #[arg(long, default_value = "10%", value_name = "AMOUNT", allow_hyphen_values = true, value_parser = amount)]
    burst: Amount,
    /// Time between two such falls [default: 20 periods]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = period)]
    burst_every: Option<Duration>,
    /// Devices that report an error now and then
    #[arg(long, default_value = "2%", value_name = "AMOUNT", allow_hyphen_values = true, value_parser = amount)]
    errors: Amount,
    /// Devices whose clock is wrong
    #[arg(long, default_value = "1%", value_name = "AMOUNT", allow_hyphen_values = true, value_parser = amount)]
    skewed: Amount,
    /// Devices whose payload cannot be read
    #[arg(long, default_value = "1%", value_name = "AMOUNT", allow_hyphen_values = true, value_parser = amount)]
    malformed: Amount,
    /// End after this time [default: at Ctrl-C]
    #[arg(long = "for", value_name = "DURATION", allow_hyphen_values = true, value_parser = period)]
    lasts: Option<Duration>,
    /// Seed of the random choices; the same seed is the same fleet [default: random]
    #[arg(long, allow_hyphen_values = true, value_parser = super::count)]
    seed: Option<u64>,
}

fn broker_url(text: &str) -> Result<BrokerUrl, String> {
    text.parse().map_err(|error: crate::config::InvalidUrl| Escaped(error).to_string())
}

fn number_of_devices(text: &str) -> Result<u32, String> {
    let devices = text.parse::<u32>().ok().filter(|devices| (1..=MAX_DEVICES).contains(devices));
    devices.ok_or_else(|| format!("a whole number from 1 to {MAX_DEVICES} is expected"))
}

fn period(text: &str) -> Result<Duration, String> {
    let period = super::device::duration(text)?;
    if period < Duration::from_millis(1) { Err("at least 1ms".to_owned()) } else { Ok(period) }
}

fn amount(text: &str) -> Result<Amount, &'static str> {
    text.parse()
}

fn percent(text: &str) -> Result<f64, &'static str> {
    match text.parse() {
        Ok(Amount::Share(share)) => Ok(share),
        _ => Err("a percentage such as 10%"),
    }
}

fn prefix(text: &str) -> Result<String, String> {
    // With the longest number it must still be an id.
    let longest = format!("{text}{MAX_DEVICES}");
    crate::domain::DeviceId::of_device(&longest).map_err(|error| Escaped(error).to_string())?;
    Ok(text.to_owned())
}

impl Arguments {
    fn plan(&self) -> Plan {
        let periods = |count: u32| self.period.saturating_mul(count);
        let every = self.burst_every.unwrap_or(periods(20));
        Plan {
            devices: self.devices,
            names: Names::Numbered(self.prefix.clone()),
            period: self.period,
            jitter: self.jitter,
            dying: self.dying,
            up: self.up.unwrap_or(periods(20)),
            down: self.down.unwrap_or(periods(6)),
            burst: Some(Burst { devices: self.burst, first: every, every }),
            failing: self.errors,
            skewed: self.skewed,
            malformed: self.malformed,
        }
    }

    /// The broker, and the configuration of a client for it.
    fn broker(&self, config: &MqttConfig) -> anyhow::Result<Result<(Broker, MqttConfig), String>> {
        let mut mqtt = config.clone();
        let is_configured = self.url.is_none() || self.url == mqtt.url;
        let setting = if self.url.is_none() && mqtt.url.is_some() { "mqtt.url" } else { "--url" };
        let url = match self.url.clone().or_else(|| mqtt.url.clone()) {
            Some(url) => url.to_string(),
            None => match mqtt.embedded.listen {
                Listen::At(address) if address.port() != 0 => {
                    format!("mqtt://{}", reachable(address))
                }
                _ => {
                    return Ok(Err("the address of the broker is not configured: give --url \
                                    mqtt://HOST:PORT"
                        .to_owned()));
                }
            },
        };
        if !is_configured {
            // Credentials of one broker are not for another.
            (mqtt.username, mqtt.password) = (None, None);
            (mqtt.cert_file, mqtt.key_file) = (None, None);
        }
        if let Some(name) = &self.username {
            mqtt.username = Some(name.clone());
            mqtt.password = read_secret("--password-file", &self.password_file)?;
        }
        mqtt.ca_file = self.ca_file.clone().or(mqtt.ca_file);
        if self.cert_file.is_some() {
            (mqtt.cert_file, mqtt.key_file) = (self.cert_file.clone(), self.key_file.clone());
        }
        let password = mqtt.password.as_ref().map_or("", |password| password.reveal());
        let credentials = mqtt.username.clone().map(|name| (name, password.to_owned()));
        Ok(Ok((Broker { uri: url, credentials, setting }, mqtt)))
    }
}

pub(super) async fn run(config: &Config, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut ending = Ending::new()?;
    let plan = arguments.plan();
    if plan.burst.is_some_and(|burst| burst.every <= plan.down + plan.period) {
        return wrong_usage("--burst-every must be longer than --down and --period together");
    }
    let seed = arguments.seed.map_or_else(random_seed, Ok)?;
    let fleet = match Fleet::new(plan, seed) {
        Ok(fleet) => fleet,
        Err(error) => return wrong_usage(&too_few(&arguments, &error)),
    };
    let (broker, mqtt) = match arguments.broker(&config.mqtt)? {
        Ok(broker) => broker,
        Err(why) => return wrong_usage(&why),
    };
    let client_id = format!("heartbeatd-simulate-{seed:016x}");
    let publisher = Publisher::new(&mqtt, &broker, &client_id, arguments.qos)?;
    let mut ended = pin!(ending.signal());
    match select(ended.as_mut(), pin!(publisher.connect())).await {
        Either::Left(_) => return Ok(ExitCode::SUCCESS),
        Either::Right((connected, _)) => connected?,
    }
    begin(&arguments, &broker, seed);
    let topic = config.mqtt.topic.clone();
    let mut drive =
        Drive { fleet, publisher, topic, clock: system_clock, totals: Default::default() };
    let mut progress = Progress::new(io::stderr().is_terminal(), &arguments.prefix);
    let lasts = arguments.lasts;
    {
        let driving = pin!(drive.run(lasts, |drive, told| if let Told::Look = told {
            progress.look(drive, Instant::now());
        }));
        select(ended, driving).await;
    }
    drive.settle().await;
    progress.end(&drive);
    let Totals { sent, refused, .. } = drive.totals;
    drive.publisher.disconnect().await;
    let all_refused = refused > 0 && refused == sent;
    Ok(if all_refused { exit::NEGATIVE.into() } else { ExitCode::SUCCESS })
}

/// Says which arguments ask for more devices than there are.
fn too_few(arguments: &Arguments, error: &FleetError) -> String {
    let Arguments { dying, burst, errors, skewed, malformed, .. } = arguments;
    format!(
        "--dying {dying}, --burst {burst}, --errors {errors}, --skewed {skewed} and --malformed \
         {malformed}: {error}; lower some of them, or raise --devices"
    )
}

/// A seed, short enough to be typed.
pub(super) fn random_seed() -> io::Result<u64> {
    let mut bits = [0; 4];
    openssl::rand::rand_bytes(&mut bits)?;
    Ok(u32::from_ne_bytes(bits).into())
}

fn begin(arguments: &Arguments, broker: &Broker, seed: u64) {
    let Arguments { devices, period, dying, burst, errors, skewed, malformed, .. } = arguments;
    info!(
        target: "heartbeatd", broker = broker.uri, seed, dying:%, burst:%, errors:%, skewed:%, malformed:%;
        "{} devices send a heartbeat every {}; Ctrl-C ends it",
        text::number((*devices).into()), crate::duration::human(*period)
    );
}

/// The numbers of a simulation, shown while it runs: on a terminal one line that changes,
/// otherwise a line every 10 s.
struct Progress {
    terminal: bool,
    /// The ids of the devices, as a pattern.
    ids: String,
    connected: bool,
    /// True once it was said that heartbeats are refused.
    told_refusal: bool,
    began: Instant,
    /// The time of the last measurement of the rate, and the heartbeats sent until then.
    measured: (Instant, u64),
    rate: f64,
    logged: Instant,
}

impl Progress {
    const LOG_INTERVAL: Duration = Duration::from_secs(10);

    fn new(terminal: bool, prefix: &str) -> Self {
        let now = Instant::now();
        Self {
            terminal,
            ids: format!("{prefix}*"),
            connected: true,
            told_refusal: false,
            began: now,
            measured: (now, 0),
            rate: 0.0,
            logged: now,
        }
    }

    fn look(&mut self, drive: &Drive, now: Instant) {
        self.tell_connection(drive.publisher.is_connected());
        self.tell_refusal(drive);
        let (since, sent) = self.measured;
        let passed = now.saturating_duration_since(since);
        if passed >= Duration::from_secs(1) {
            self.rate = (drive.totals.sent - sent) as f64 / passed.as_secs_f64();
            self.measured = (now, drive.totals.sent);
        }
        if self.terminal {
            let line = self.line(drive, now);
            // If stderr is closed, nobody wants to see it.
            let _ = write!(io::stderr(), "\r\x1b[K{line}");
        } else if now.saturating_duration_since(self.logged) >= Self::LOG_INTERVAL {
            self.logged = now;
            let (alive, down) = (drive.fleet.devices() - drive.fleet.down(), drive.fleet.down());
            let (errors, rate) = (drive.fleet.failing(), (self.rate * 10.0).round() / 10.0);
            let Totals { sent, refused, lost } = drive.totals;
            info!(
                target: "heartbeatd", alive, down, errors, rate, sent, refused, lost;
                "simulating"
            );
        }
    }

    fn line(&self, drive: &Drive, now: Instant) -> String {
        let Drive { fleet, totals, .. } = drive;
        let number = |count: u32| text::number(count.into());
        let mut line = format!(
            "{}  {} alive  {} down  {} with an error  {:.1} heartbeats/s  {} sent",
            crate::duration::human(whole_seconds(now.saturating_duration_since(self.began))),
            number(fleet.devices() - fleet.down()),
            number(fleet.down()),
            number(fleet.failing()),
            self.rate,
            text::number(totals.sent),
        );
        if totals.refused > 0 {
            line += &format!("  {} refused", text::number(totals.refused));
        }
        if totals.lost > 0 {
            line += &format!("  {} lost", text::number(totals.lost));
        }
        if !self.connected {
            line += "  not connected";
        }
        line
    }

    fn tell_connection(&mut self, connected: bool) {
        if connected == std::mem::replace(&mut self.connected, connected) {
            return;
        }
        self.clear();
        if connected {
            info!(target: "heartbeatd", "connected again");
        } else {
            warn!(target: "heartbeatd", "the connection is lost, and what the devices send as well; reconnecting");
        }
    }

    fn tell_refusal(&mut self, drive: &Drive) {
        if self.told_refusal {
            return;
        }
        if let Some(why) = drive.publisher.refusal(&self.ids) {
            self.told_refusal = true;
            self.clear();
            warn!(target: "heartbeatd", "{why}");
        }
    }

    fn end(&mut self, drive: &Drive) {
        self.clear();
        self.tell_refusal(drive);
        let Totals { sent, refused, lost } = drive.totals;
        let seconds = self.began.elapsed().as_secs();
        info!(target: "heartbeatd", sent, refused, lost, seconds; "the simulation has ended");
    }

    fn clear(&self) {
        if self.terminal {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

fn whole_seconds(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn arguments(arguments: &[&str]) -> Arguments {
        let line = ["simulate"].iter().chain(arguments);
        Command::try_parse_from(line).expect("they are right").arguments
    }

    /// A configuration with credentials for its broker.
    fn mqtt() -> MqttConfig {
        let mut mqtt = Config::default().mqtt;
        mqtt.url = Some("mqtts://broker.example".parse().expect("a URL"));
        mqtt.username = Some("heartbeatd".to_owned());
        mqtt.password = Some("hunter2".to_owned().into());
        (mqtt.cert_file, mqtt.key_file) = (Some("cert.pem".into()), Some("key.pem".into()));
        mqtt.ca_file = Some("ca.pem".into());
        mqtt
    }

    #[test]
    fn credentials_of_the_configured_broker_are_for_no_other() {
        let password = ("heartbeatd".to_owned(), "hunter2".to_owned());
        for (url, expected) in [
            (None, Some(password.clone())),
            (Some("mqtts://broker.example:8883"), Some(password)),
            (Some("mqtts://broker.example:8884"), None),
            (Some("mqtt://broker.example"), None),
            (Some("mqtts://other.example"), None),
        ] {
            let given = url.map_or(vec![], |url| vec!["--url", url]);
            let broker = arguments(&given).broker(&mqtt()).expect("no file is read");
            let (broker, mqtt) = broker.expect("there is one");
            assert!(
                broker.uri.starts_with(url.unwrap_or("mqtts://broker.example:8883")),
                "{url:?}"
            );
            assert_eq!(broker.credentials, expected, "{url:?}");
            assert_eq!(mqtt.key_file.is_some(), expected.is_some(), "{url:?}");
            // Whom to trust is no secret.
            assert!(mqtt.ca_file.is_some(), "{url:?}");
        }
    }

    #[test]
    fn without_a_configured_broker_it_is_the_embedded_one() {
        let mut mqtt = MqttConfig { url: None, ..mqtt() };
        for (listen, expected) in [
            (Some("0.0.0.0:1884"), Ok("mqtt://127.0.0.1:1884")),
            (Some("[::1]:1883"), Ok("mqtt://[::1]:1883")),
            (Some("127.0.0.1:0"), Err(())),
            (None, Err(())),
        ] {
            let address = listen.map(|address| address.parse().expect("an address"));
            mqtt.embedded.listen = address.map_or(Listen::Off, Listen::At);
            let broker = arguments(&[]).broker(&mqtt).expect("no file is read");
            let uri = broker.map(|(broker, _)| broker.uri).map_err(|_| ());
            assert_eq!(uri, expected.map(str::to_owned), "{listen:?}");
        }
    }

    #[test]
    fn the_times_of_a_plan_follow_the_period_unless_they_are_given() {
        let plan = arguments(&["--period", "10s"]).plan();
        let burst = plan.burst.expect("there is one");
        let seconds = [plan.up, plan.down, burst.first, burst.every].map(|time| time.as_secs());
        assert_eq!(seconds, [200, 60, 200, 200]);
        let plan = arguments(&["--up", "1h", "--down", "5m", "--burst-every", "2h"]).plan();
        let burst = plan.burst.expect("there is one");
        let seconds = [plan.up, plan.down, burst.first, burst.every].map(|time| time.as_secs());
        assert_eq!(seconds, [3600, 300, 7200, 7200]);
    }
}
