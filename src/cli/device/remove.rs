//! `heartbeatd device remove`: removes devices by id, by pattern or by age.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use clap::{ArgGroup, Args};

use super::super::{exit, open};
use super::duration;
use crate::Config;
use crate::clock::system_clock;
use crate::domain::DeviceId;
use crate::logging::escape::{Escaped, in_quotes};
use crate::store::{DeviceStore, OpenMode, REMOVED_AT_ONCE, RawId, Selected, Selection};

const EXAMPLES: &str = "\
Examples:
  heartbeatd device remove pump-17
  heartbeatd device remove --matching 'noisy-*' --silent-for 30d --dry-run";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, group(
    ArgGroup::new("selectors")
        .args(["ids", "matching", "silent_for", "registered_since"])
        .required(true)
        .multiple(true)
))]
pub(in crate::cli) struct Arguments {
    /// Device ids; any text, even if it is not a valid id
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// Only devices whose id matches, such as 'noisy-*'; * is any text, ? any character
    #[arg(long, value_name = "PATTERN")]
    matching: Option<String>,
    /// Only devices last heard longer ago than this, such as 30d; for devices that were
    /// never heard, the time of registration counts
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = duration)]
    silent_for: Option<Duration>,
    /// Only devices registered within this time, such as 1h
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = duration)]
    registered_since: Option<Duration>,
    /// List the devices that would be removed, but do not remove them
    #[arg(long)]
    dry_run: bool,
}

impl Arguments {
    fn selection(&self, now: DateTime<Utc>) -> Selection {
        Selection {
            ids: (!self.ids.is_empty()).then(|| self.ids.clone()),
            matching: self.matching.clone(),
            silent_since: self.silent_for.map(|ago| before(now, ago)),
            registered_since: self.registered_since.map(|ago| before(now, ago)),
        }
    }

    /// True if devices are selected by their ids alone.
    fn names_devices(&self) -> bool {
        let Self { matching, silent_for, registered_since, .. } = self;
        matching.is_none() && silent_for.is_none() && registered_since.is_none()
    }
}

fn before(now: DateTime<Utc>, ago: Duration) -> DateTime<Utc> {
    let earlier = TimeDelta::from_std(ago).ok().and_then(|ago| now.checked_sub_signed(ago));
    earlier.unwrap_or(DateTime::<Utc>::MIN_UTC)
}

pub(super) async fn run(config: &Config, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let store = open(config, OpenMode::Existing).await?;
    let now = system_clock().wall;
    let selection = arguments.selection(now);
    let mut missing: BTreeSet<&str> = BTreeSet::new();
    if arguments.names_devices() {
        missing.extend(arguments.ids.iter().map(String::as_str));
    }
    let (mut count, mut still_heard) = (0, 0);
    let mut after: Option<RawId> = None;
    loop {
        let page = next(&store, &selection, after.as_ref(), arguments.dry_run).await;
        let page = page.inspect_err(|_| {
            if count > 0 && !arguments.dry_run {
                log::error!(target: "heartbeatd", "{count} devices were removed before this error:");
            }
        })?;
        count += page.len();
        still_heard +=
            page.iter().filter(|device| heard_ago(config, device, now).is_some()).count();
        print(config, &arguments, &page, now)?;
        for device in &page {
            missing.remove(&*device.id.to_string());
        }
        match page.last() {
            Some(last) if page.len() == REMOVED_AT_ONCE => after = Some(last.id.clone()),
            _ => break,
        }
    }
    if arguments.dry_run {
        writeln!(io::stdout(), "{} would be removed", devices(count))?;
    } else if !arguments.names_devices() {
        let return_of =
            if still_heard > 0 { return_of_some(config, still_heard) } else { String::new() };
        writeln!(io::stdout(), "removed {}{return_of}", devices(count))?;
    }
    for id in &missing {
        log::error!(target: "heartbeatd", "{}", super::unknown(&store, id).await);
    }
    Ok(if missing.is_empty() { ExitCode::SUCCESS } else { exit::NEGATIVE.into() })
}

/// Selects the next devices, and removes them unless it is a dry run.
async fn next(
    store: &DeviceStore,
    selection: &Selection,
    after: Option<&RawId>,
    dry_run: bool,
) -> anyhow::Result<Vec<Selected>> {
    if dry_run {
        return Ok(store.selected(selection, after).await?);
    }
    let began = Instant::now();
    let removed = store.remove(selection, after, system_clock().wall).await?;
    if removed.len() == REMOVED_AT_ONCE {
        // SQLite's lock has no queue, so this gives the service a chance to write.
        actix_rt::time::sleep(began.elapsed()).await;
    }
    Ok(removed)
}

fn print(
    config: &Config,
    arguments: &Arguments,
    page: &[Selected],
    now: DateTime<Utc>,
) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    for device in page {
        let id = shown_raw(&device.id);
        if arguments.dry_run {
            writeln!(out, "{id}")?;
        } else if arguments.names_devices() {
            let heard = heard_ago(config, device, now);
            let return_of = heard.map(|ago| return_of_one(config, ago)).unwrap_or_default();
            writeln!(out, "removed {id}{return_of}")?;
        }
    }
    out.flush()
}

/// The time since the device was heard, if that is within its timeout. Then it probably
/// still sends.
fn heard_ago(config: &Config, device: &Selected, now: DateTime<Utc>) -> Option<Duration> {
    let ago = (now - device.last_seen_at?).to_std().unwrap_or_default();
    let timeout = device.timeout.unwrap_or(config.heartbeat.timeout.get());
    (ago <= timeout).then_some(Duration::from_secs(ago.as_secs()))
}

fn return_of_one(config: &Config, ago: Duration) -> String {
    let ago = crate::duration::human(ago);
    if config.devices.auto_register {
        format!(
            "; it was heard {ago} ago and will be registered again by its next heartbeat, with \
             the default timeout; stop it, or set devices.auto_register = false"
        )
    } else {
        format!("; it was heard {ago} ago, and its heartbeats will be rejected from now on")
    }
}

fn return_of_some(config: &Config, count: usize) -> String {
    if config.devices.auto_register {
        format!(
            "; {count} of them were heard within their timeouts and will be registered again by \
             their next heartbeats, with the default timeout; stop them, or set \
             devices.auto_register = false"
        )
    } else {
        format!(
            "; {count} of them were heard within their timeouts, and their heartbeats will be \
             rejected from now on"
        )
    }
}

fn devices(count: usize) -> String {
    format!("{count} {}", if count == 1 { "device" } else { "devices" })
}

/// An id as it may be written to a terminal: a valid one as in the other commands, one that
/// is not valid any more in quotes.
pub(super) fn shown(id: &str) -> String {
    if id.parse::<DeviceId>().is_ok() { Escaped(id).to_string() } else { in_quotes(id) }
}

fn shown_raw(id: &RawId) -> String {
    id.text().map_or_else(|| id.to_string(), shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_ids_cannot_drive_the_terminal_or_hide() {
        for (id, expected) in [
            ("Köln-3", "Köln-3"),
            ("a\u{a0}b", r"a\u{a0}b"),
            ("a\u{e000}", r#""a\u{e000}""#),
            ("a\u{ffff}", r#""a\u{ffff}""#),
            ("a/b", r#""a/b""#),
            ("a\u{1b}b", r#""a\u{1b}b""#),
        ] {
            assert_eq!(shown(id), expected);
        }
    }
}
