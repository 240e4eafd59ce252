//! `/devices/{id}`: one device, with the evidence for its status; and what changes it.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Number;

use super::devices::{is_late, late_cutoffs};
use super::parameters::Query;
use super::window::instant;
use super::{Answer, Answered, Context, Kind, Problem, invalid_id};
use crate::config::MAX_TIMEOUT;
use crate::domain::{DeviceId, Evidence, Heard, Past, Verdict};
use crate::logging::escape::in_quotes;
use crate::store::{Device, Found, Selection, TransitionQuery};
use crate::views::api::DeviceDetail;
use crate::views::{Explanation, gather_evidence, text, weigh_silence};

/// The body of a PUT or a PATCH.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    /// The device's own timeout; null for the default. The outer `None`: it is not in the body,
    /// and stays as it is.
    #[serde(default, deserialize_with = "given")]
    timeout_seconds: Option<Option<Number>>,
}

/// Reads a field that is in the body, perhaps as null.
fn given<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Option<Number>>, D::Error> {
    Option::deserialize(from).map(Some)
}

#[derive(Serialize)]
struct Removed {
    /// True if the device has been heard within its timeout, so that its next heartbeat
    /// registers it again.
    still_sending: bool,
}

pub(super) async fn show(context: &Context, id: &str, query: &Query) -> Answered {
    let now = (context.clock)().wall;
    match instant(context, query, now)? {
        None => Ok(Answer::ok(&detail(context, id).await?)),
        Some(at) => Ok(Answer::ok(&detail_at(context, id, at).await?)),
    }
}

/// Registers a device, or changes the timeout of one that is registered.
pub(super) async fn register(context: &Context, id: &str, change: Change) -> Answered {
    let device = DeviceId::of_device(id).map_err(|why| invalid_id(why.to_string()))?;
    let timeout = change.timeout()?;
    let now = (context.clock)().wall;
    let is_new = context.store.register(&device, timeout.flatten(), now).await?;
    if is_new {
        context.metrics.registered(1);
        context.board.change(|facts| facts.registered(1));
        context.board.wake();
    }
    if let Some(timeout) = timeout.filter(|_| !is_new) {
        context.store.set_timeout(&device, timeout).await?;
    }
    let status = if is_new { 201 } else { 200 };
    Ok(Answer::json(status, &detail(context, id).await?))
}

/// Changes the timeout of a device.
pub(super) async fn change(context: &Context, id: &str, change: Change) -> Answered {
    let Ok(device) = id.parse::<DeviceId>() else { return Err(unknown(context, id).await) };
    if let Some(timeout) = change.timeout()?
        && !context.store.set_timeout(&device, timeout).await?
    {
        return Err(unknown(context, id).await);
    }
    Ok(Answer::ok(&detail(context, id).await?))
}

/// Removes a device; its history stays.
pub(super) async fn remove(context: &Context, id: &str) -> Answered {
    let now = (context.clock)().wall;
    let selection = Selection { ids: Some(vec![id.to_owned()]), ..Selection::default() };
    let removed = context.store.remove(&selection, None, now).await?.pop();
    let Some(removed) = removed else { return Err(unknown(context, id).await) };
    if let Some(status) = removed.status {
        context.metrics.removed(status);
        context.board.change(|facts| facts.removed(status, removed.last_seen_at));
    }
    context.board.wake();
    let timeout = removed.timeout.unwrap_or(context.settings.timeout());
    let timeout = TimeDelta::from_std(timeout).unwrap_or(TimeDelta::MAX);
    let heard = |seen: DateTime<Utc>| now - seen <= timeout;
    let still_sending = context.auto_register && removed.last_seen_at.is_some_and(heard);
    Ok(Answer::ok(&Removed { still_sending }))
}

impl Change {
    /// The timeout that the device gets, if it gets another one.
    fn timeout(&self) -> Result<Option<Option<Duration>>, Problem> {
        let Some(given) = &self.timeout_seconds else { return Ok(None) };
        let Some(seconds) = given else { return Ok(Some(None)) };
        let most = MAX_TIMEOUT.as_secs();
        // JSON has only one kind of numbers, and 300.0 is a whole one.
        let whole = |seconds: f64| (seconds.fract() == 0.0).then_some(seconds as u64);
        let seconds = seconds.as_u64().or_else(|| seconds.as_f64().and_then(whole));
        if let Some(seconds) = seconds.filter(|seconds| (1..=most).contains(seconds)) {
            return Ok(Some(Some(Duration::from_secs(seconds))));
        }
        let detail = format!("a whole number from 1 to {most} is expected, or null");
        Err(Problem::new(Kind::InvalidBody, format!("timeout_seconds: {detail}"))
            .flaw("/timeout_seconds", detail))
    }
}

async fn detail(context: &Context, id: &str) -> Result<DeviceDetail, Problem> {
    let device = find(context, id).await?;
    let now = (context.clock)().wall;
    let newest = context.reader.reads().history(Some(&device.id), None, 1).await?.pop();
    let evidence = gather_evidence(&context.settings, context.reader.reads(), &device, now).await?;
    let late = late_cutoffs(context).await?;
    let late = late.as_ref().map(|cutoffs| is_late(&device, cutoffs));
    let explanation = Explanation::of(device.status, evidence.as_ref(), &context.settings);
    Ok(DeviceDetail::new(device, context.settings.timeout(), late, evidence, explanation, newest))
}

pub(super) async fn find(context: &Context, id: &str) -> Result<Device, Problem> {
    match context.reader.reads().look_up(id).await? {
        Some(Found::Device(device)) => Ok(*device),
        Some(Found::Damaged(columns)) => {
            let columns: Vec<_> = columns.iter().map(ToString::to_string).collect();
            let detail = format!("{} cannot be read: {}", in_quotes(id), columns.join("; "));
            Err(Problem::new(Kind::Conflict, detail))
        }
        None => Err(unknown(context, id).await),
    }
}

/// The device as of an instant that has passed.
async fn detail_at(
    context: &Context,
    id: &str,
    at: DateTime<Utc>,
) -> Result<DeviceDetail, Problem> {
    let device = find(context, id).await?;
    if device.registered_at > at {
        return Err(not_then(context, &device, at).await);
    }
    let until = TransitionQuery {
        device: Some(device.id.clone()),
        until: at.checked_add_signed(TimeDelta::milliseconds(1)),
        ..TransitionQuery::default()
    };
    let before = context.reader.transitions(&until, None, 1).await?.transitions.pop();
    let sequence = before.as_ref().map(|before| before.sequence);
    let after = context.reader.next_transition(&device.id, sequence).await?;
    let now = (device.status, device.last_seen_at);
    let past = Past::of(now, before.as_ref(), after.as_ref(), at);
    let report_kept = match past.heard {
        Heard::Never => true,
        Heard::At(seen) => device.last_seen_at == Some(seen),
        Heard::NotKept => false,
    };
    let device = as_of(device, past);
    let (reads, settings) = (context.reader.reads(), &context.settings);
    let evidence = weigh_silence(settings, reads, &device, before.as_ref(), at).await?;
    let late = match past.heard {
        Heard::NotKept => None,
        Heard::Never | Heard::At(_) => Some(evidence.as_ref().is_some_and(was_late)),
    };
    let explanation = Explanation::as_of(at, past, evidence.as_ref(), settings);
    let timeout = settings.timeout();
    let detail = DeviceDetail::new(device, timeout, late, evidence, explanation, before);
    Ok(detail.of_then(at, report_kept))
}

/// The device as it was then, without what it reported since.
fn as_of(device: Device, Past { status, heard }: Past) -> Device {
    let last_seen_at = match heard {
        Heard::At(seen) => Some(seen),
        Heard::Never | Heard::NotKept => None,
    };
    let device = Device { status, ..device };
    if last_seen_at.is_some() && last_seen_at == device.last_seen_at {
        return device;
    }
    Device {
        last_seen_at,
        uptime_seconds: None,
        free_memory: None,
        clock_skew_ms: None,
        error: None,
        payload_error: None,
        ..device
    }
}

/// True if more than two thirds of the timeout were listened to.
fn was_late(evidence: &Evidence) -> bool {
    evidence.verdict != Verdict::Offline
        && evidence.listened > evidence.timeout - evidence.timeout / 3
}

/// The problem with an id that is not registered. It says when the device was removed, or proposes
/// those that may have been meant.
async fn unknown(context: &Context, id: &str) -> Problem {
    let quoted = in_quotes(id);
    // A hint that takes too long is left out.
    let detail = match context.reader.removed_at(id).await.unwrap_or_default() {
        Some(removed) => format!(
            "{quoted} is not registered any more: it was removed at {}; {}",
            text::time(Some(removed)),
            rest_of(id)
        ),
        None => {
            let similar = context.reader.similar(id, text::PROPOSED).await.unwrap_or_default();
            let hint = text::did_you_mean(&similar).map(|hint| format!("; {hint}"));
            format!("{quoted} is not registered{}", hint.unwrap_or_default())
        }
    };
    Problem::new(Kind::UnknownDevice, detail)
}

/// The problem with an instant at which a device of now was not registered, or that is before its
/// removal and its return.
async fn not_then(context: &Context, device: &Device, at: DateTime<Utc>) -> Problem {
    let id = device.id.as_str();
    let (quoted, since) = (in_quotes(id), text::time(Some(device.registered_at)));
    let removed = context.reader.removed_at(id).await.unwrap_or_default();
    let detail = match removed.filter(|removed| *removed >= at) {
        Some(removed) => format!(
            "{quoted} was removed at {} and is registered again since {since}; {}",
            text::time(Some(removed)),
            rest_of(id)
        ),
        None => format!("{quoted} was not registered then; it is since {since}"),
    };
    Problem::new(Kind::UnknownDevice, detail)
}

/// The way to the history of a device that was removed.
fn rest_of(id: &str) -> String {
    let id: String = url::form_urlencoded::byte_serialize(id.as_bytes()).collect();
    format!("what is kept of its changes is at /api/v1/transitions?device={id}")
}
