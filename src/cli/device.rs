//! `heartbeatd device …`: works directly on the database, whether the service is running or
//! not.

mod remove;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::Subcommand;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use log::warn;

use super::output::{self, Table};
use super::{open, refuse, succeed};
use crate::Config;
use crate::clock::system_clock;
use crate::config::MAX_TIMEOUT;
use crate::domain::{Cutoffs, DeviceId, OwnTimeout, Status, UnusableTimeout};
use crate::logging::escape::Escaped;
use crate::store::{Damage, DeviceQuery, DeviceStore, Found, Ids, OpenMode};
use crate::views::api::DeviceItem;
use crate::views::{
    DeviceDetail, Devices, EvidenceSettings, Explanation, FoundDevices, Frame, gather_evidence,
    late_cutoffs, text,
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Register a device before its first heartbeat
    Add {
        /// Device id, as in the topic devices/ID/heartbeat
        #[arg(value_parser = DeviceId::of_device)]
        id: DeviceId,
        /// Silence after which the device is offline, such as 90s or 5m [default: heartbeat.timeout]
        #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = timeout)]
        timeout: Option<Duration>,
    },
    /// List devices
    List {
        /// Only devices with this status
        #[arg(long, value_parser = status())]
        status: Option<Status>,
        /// Only devices whose id begins with this text
        #[arg(long, value_name = "TEXT")]
        prefix: Option<String>,
        /// Only late devices: more than two thirds of the timeout were listened to since the
        /// last heartbeat
        #[arg(long)]
        late: bool,
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Show one device, and why it is offline or why not
    Show {
        /// Device id
        id: String,
        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Remove the devices that meet all given conditions; their history stays
    Remove(remove::Arguments),
    /// Set a device's own timeout, or reset it to the default
    SetTimeout {
        /// Device id
        id: DeviceId,
        /// Silence after which the device is offline, such as 90s or 5m; "default" for
        /// heartbeat.timeout
        #[arg(allow_hyphen_values = true, value_parser = timeout_or_default)]
        timeout: TimeoutChoice,
    },
}

/// A device's own timeout, or `None` for the default.
#[derive(Clone, Copy, Debug)]
pub(super) struct TimeoutChoice(Option<Duration>);

/// Parses a status by its name.
pub(super) fn status() -> impl TypedValueParser<Value = Status> {
    let names = Status::ALL.map(|status| PossibleValue::new(status.as_str()).help(meaning(status)));
    PossibleValuesParser::new(names)
        .try_map(|name| Status::named(&name).ok_or("it is not the name of a status"))
}

fn meaning(status: Status) -> &'static str {
    match status {
        Status::Provisioning => "Registered, never heard",
        Status::Online => "Heard within its timeout",
        Status::Offline => "Silent for longer than its timeout",
        Status::Error => "Heard within its timeout, and its last heartbeat reported an error",
    }
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    // The error quotes the unit, which may consist of invisible letters.
    crate::duration::parse(text).map_err(|error| Escaped(error).to_string())
}

fn timeout(text: &str) -> Result<Duration, String> {
    let timeout = duration(text)?;
    if timeout.subsec_nanos() != 0 || timeout.is_zero() {
        return Err("a timeout is in whole seconds, at least 1s".to_owned());
    }
    if timeout > MAX_TIMEOUT {
        return Err(format!("a timeout is at most {}", crate::duration::format(MAX_TIMEOUT)));
    }
    Ok(timeout)
}

fn timeout_or_default(text: &str) -> Result<TimeoutChoice, String> {
    match text {
        "default" => Ok(TimeoutChoice(None)),
        duration => timeout(duration).map(|timeout| TimeoutChoice(Some(timeout))),
    }
}

pub(super) async fn run(config: &Config, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Add { id, timeout } => add(config, &id, timeout).await,
        Command::List { status, prefix, late, json } => {
            list(config, status, prefix, late, json).await
        }
        Command::Show { id, json } => show(config, &id, json).await,
        Command::Remove(arguments) => remove::run(config, arguments).await,
        Command::SetTimeout { id, timeout: TimeoutChoice(timeout) } => {
            set_timeout(config, &id, timeout).await
        }
    }
}

async fn add(
    config: &Config,
    id: &DeviceId,
    timeout: Option<Duration>,
) -> anyhow::Result<ExitCode> {
    let store = open(config, OpenMode::Create).await?;
    if let Some(place) = store.created() {
        writeln!(io::stderr(), "created the database {place}")?;
    }
    if store.register(id, timeout, system_clock().wall).await? {
        succeed(&format!("added {id}"))
    } else {
        refuse(&format!("{id} is already registered"))
    }
}

async fn set_timeout(
    config: &Config,
    id: &DeviceId,
    timeout: Option<Duration>,
) -> anyhow::Result<ExitCode> {
    let store = open(config, OpenMode::Existing).await?;
    if !store.set_timeout(id, timeout).await? {
        return refuse_unknown(&store, id.as_str()).await;
    }
    let default = if timeout.is_none() { " (the default)" } else { "" };
    let timeout = timeout.unwrap_or(config.heartbeat.timeout.get());
    let timeout = crate::duration::exact(timeout);
    succeed(&format!("{id} goes offline after {timeout}{default} of silence"))
}

async fn list(
    config: &Config,
    status: Option<Status>,
    prefix: Option<String>,
    late: bool,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let store = open(config, OpenMode::Existing).await?;
    let reader = store.reader().await?;
    let cutoffs = late_cutoffs(&config.into(), &reader, system_clock().wall).await?;
    if late {
        tell_if_unknown(config, &cutoffs);
    }
    let frame = frame(config, &cutoffs);
    let mut list: Box<dyn output::List<DeviceItem>> = if json {
        Box::new(output::JsonArray::new())
    } else {
        Box::new(Table::new(&["DEVICE", "STATUS", "LAST SEEN", "TIMEOUT", "ERROR"], row))
    };
    if late || prefix.is_some() {
        let query = DeviceQuery {
            statuses: status.into_iter().collect(),
            ids: prefix.map_or(Ids::All, Ids::Prefix),
            silent: late.then_some(cutoffs),
            heard: None,
        };
        let mut devices = FoundDevices::new(reader, query, frame);
        while let Some(page) = devices.next_page().await? {
            list.write(&page)?;
        }
    } else {
        let mut devices = Devices::new(&store, status, frame);
        while let Some(page) = devices.next_page().await? {
            list.write(&page)?;
        }
    }
    list.end()?;
    output::tell_unreadable(
        &store,
        "`heartbeatd device remove --matching '*' --dry-run` lists the ids of all devices, and \
         `heartbeatd device remove ID` removes one",
    );
    Ok(ExitCode::SUCCESS)
}

/// The context of the rows. Without enough listening it is unknown which device is late.
fn frame(config: &Config, cutoffs: &Cutoffs) -> Frame {
    let late = cutoffs.latest().map(|_| cutoffs.clone());
    Frame { timeout: config.heartbeat.timeout.get(), late }
}

fn tell_if_unknown(config: &Config, cutoffs: &Cutoffs) {
    if cutoffs.latest().is_none() {
        warn!(
            target: "heartbeatd", instance = config.mqtt.client_id;
            "this instance has not listened for long enough to call any device late"
        );
    }
}

fn row(device: &DeviceItem) -> Vec<String> {
    vec![
        device.id.to_string(),
        device.status.to_string(),
        text::time(device.last_seen_at),
        own_timeout(device).unwrap_or_default(),
        device.error.clone().unwrap_or_default(),
    ]
}

/// The device's own timeout, or what is in effect instead; `None` for the default.
fn own_timeout(device: &DeviceItem) -> Option<String> {
    Some(match OwnTimeout::of(device.timeout_seconds?) {
        OwnTimeout::Usable(s) => crate::duration::exact(Duration::from_secs(s)),
        OwnTimeout::NotPositive(s) => format!("default ({s} s is unusable)"),
        OwnTimeout::Endless(s) => format!("none ({s} s is unusable)"),
    })
}

/// The timeout that is in effect, and the reason if it is not the device's own.
fn timeout_in_effect(config: &Config, device: &DeviceItem) -> String {
    let default = format!("{} (default)", crate::duration::exact(config.heartbeat.timeout.get()));
    match device.timeout_error {
        None => own_timeout(device).unwrap_or(default),
        Some(why @ UnusableTimeout::NotPositive(_)) => format!("{default}: {why}"),
        Some(why @ UnusableTimeout::Endless(_)) => format!("none: {why}"),
    }
}

async fn show(config: &Config, id: &str, json: bool) -> anyhow::Result<ExitCode> {
    let store = open(config, OpenMode::Existing).await?;
    let device = match store.look_up(id).await? {
        Some(Found::Device(device)) => *device,
        Some(Found::Damaged(columns)) => return refuse_damaged(id, &columns),
        None => return refuse_unknown(&store, id).await,
    };
    let settings = EvidenceSettings::from(config);
    let now = system_clock().wall;
    let evidence = gather_evidence(&settings, &store, &device, now).await?;
    let cutoffs = late_cutoffs(&settings, &store.reader().await?, now).await?;
    let explanation = Explanation::of(device.status, evidence.as_ref(), &settings);
    let skew = device.clock_skew_ms;
    let device = frame(config, &cutoffs).show(device);
    if json {
        output::json(&DeviceDetail::new(device, evidence))?;
    } else {
        print(config, &device, skew, now)?;
        explain(&explanation)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print(
    config: &Config,
    device: &DeviceItem,
    skew_ms: Option<i64>,
    now: DateTime<Utc>,
) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for (name, value) in [
        ("device", Some(device.id.to_string())),
        ("status", Some(device.status.to_string())),
        ("last seen", Some(text::time_and_age(device.last_seen_at, now))),
        ("timeout", Some(timeout_in_effect(config, device))),
        ("uptime", device.uptime_seconds.map(text::seconds)),
        ("free memory", device.free_memory.map(text::bytes)),
        ("clock skew", skew_ms.map(text::skew)),
        ("error", device.error.clone()),
        ("unreadable", device.payload_error.clone()),
        ("registered", Some(text::time_and_age(Some(device.registered_at), now))),
    ] {
        if let Some(value) = value {
            writeln!(out, "{name:<12} {}", Escaped(value))?;
        }
    }
    Ok(())
}

fn explain(explanation: &Explanation) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "why          {}", explanation.sentence)?;
    for part in &explanation.listeners {
        writeln!(out, "listened     {}", Escaped(part))?;
    }
    for part in &explanation.not_counted {
        writeln!(out, "not counted  {}", Escaped(part))?;
    }
    Ok(())
}

async fn refuse_unknown(store: &DeviceStore, id: &str) -> anyhow::Result<ExitCode> {
    refuse(&unknown(store, id).await)
}

/// Says that a device is not registered, and which ones may be meant.
pub(super) async fn unknown(store: &DeviceStore, id: &str) -> String {
    // A hint that cannot be found in time is left out.
    let similar = match store.reader().await {
        Ok(reader) => reader.similar(id, text::PROPOSED).await.unwrap_or_default(),
        Err(_away) => Vec::new(),
    };
    let hint = text::did_you_mean(&similar).map(|hint| format!("; {hint}")).unwrap_or(";".into());
    format!("there is no device {}{hint} `heartbeatd device list` lists all", remove::shown(id))
}

/// Refuses a row that exists but was damaged by another program.
fn refuse_damaged(id: &str, columns: &[Damage]) -> anyhow::Result<ExitCode> {
    let columns: Vec<_> = columns.iter().map(Damage::to_string).collect();
    refuse(&format!(
        "device {} cannot be read: {}; correct that in the table device, or remove the device \
         with `heartbeatd device remove`",
        remove::shown(id),
        columns.join("; "),
    ))
}
