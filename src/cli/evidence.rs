//! The part of `heartbeatd device show` that says why a device is offline, or why
//! it is not.

use std::io::{self, Write};
use std::time::Duration;

use chrono::TimeDelta;

use super::output;
use crate::Config;
use crate::clock::system_clock;
use crate::domain::{Coverage, Evidence, Gap, Status, Verdict};
use crate::store::{Device, DeviceStore, StoreError};

/// How many gaps are shown; the newest.
const SHOWN: usize = 20;

pub(super) async fn gather(
    config: &Config,
    store: &DeviceStore,
    device: &Device,
) -> Result<Option<Evidence>, StoreError> {
    let Some(last_seen_at) = device.last_seen_at else { return Ok(None) };
    let now = system_clock().wall;
    let newest = store.history(Some(&device.id), None, 1).await?;
    // Whoever took it offline; else whoever listens now.
    let instance = newest.first().and_then(|newest| newest.instance.as_ref());
    let instance = instance.unwrap_or(&config.mqtt.client_id);
    let listened = store.listened(instance, last_seen_at, now).await?;
    let coverage = Coverage::new(config.mqtt.confirm_interval()).with(listened);
    let timeout = device.timeout().unwrap_or(config.heartbeat.timeout);
    let (seen, newest) = (device.last_seen_at, newest.first());
    Ok(Evidence::weigh(device.status, seen, timeout, newest, &coverage, now))
}

pub(super) fn explain(
    config: &Config,
    status: Status,
    evidence: Option<&Evidence>,
) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let Some(evidence) = evidence else {
        return writeln!(out, "why          {status}: never heard, so it cannot fall silent");
    };
    let silence = duration(evidence.until - evidence.silent_since);
    let (listened, timeout) = (duration(evidence.listened), duration(evidence.timeout));
    let until = output::time(Some(evidence.until));
    let why = match evidence.verdict {
        // From a version that kept nothing else.
        Verdict::Offline if evidence.listened <= evidence.timeout => {
            format!("found silent by the check at {until}; what it rested on was not kept")
        }
        Verdict::Offline => format!(
            "{listened} of its {silence} of silence until the check at {until} were listened to, \
             more than its timeout of {timeout}"
        ),
        Verdict::Silent => format!(
            "{listened} of its {silence} of silence were listened to, more than its timeout of \
             {timeout}: the next check takes it offline"
        ),
        Verdict::NotSilent => format!(
            "heard {silence} ago, of which {listened} were listened to; it is offline when that \
             is more than {timeout}"
        ),
    };
    writeln!(out, "why          {status}: {why}")?;
    // Between two echoes the newest seconds are never proven yet.
    let fresh = TimeDelta::from_std(3 * config.mqtt.confirm_interval()).unwrap_or(TimeDelta::MAX);
    let gaps: Vec<_> = evidence
        .gaps
        .iter()
        .filter(|gap| gap.cause.is_some() || gap.interval.length() > fresh)
        .collect();
    // One that rests on nothing has no gaps, and the line above says so.
    let forgotten = evidence.gaps.is_empty()
        && evidence.listened > evidence.timeout
        && evidence.listened < evidence.until - evidence.silent_since;
    if forgotten && evidence.verdict == Verdict::Offline {
        writeln!(out, "not counted  the rest; the gaps are not kept any more")?;
    }
    let hidden = gaps.len().saturating_sub(SHOWN);
    if hidden > 0 {
        writeln!(out, "not counted  {hidden} older gaps, and")?;
    }
    for Gap { interval, cause } in &gaps[hidden..] {
        let (from, until) = (output::time(Some(interval.from)), output::time(Some(interval.until)));
        let cause = cause.map_or_else(
            || "nothing proves that the service was listening".to_owned(),
            |cause| cause.to_string(),
        );
        let length = duration(interval.length());
        writeln!(out, "not counted  {length} from {from} to {until}: {cause}")?;
    }
    Ok(())
}

/// A length of time for people: to the second, a short one to the millisecond.
fn duration(time: TimeDelta) -> String {
    const SHORT: TimeDelta = TimeDelta::seconds(10);
    let exact = time.to_std().unwrap_or_default();
    let whole = Duration::from_secs(exact.as_secs());
    let millis = Duration::from_millis(u64::try_from(exact.as_millis()).unwrap_or(u64::MAX));
    crate::duration::format(if time < SHORT { millis } else { whole })
}
