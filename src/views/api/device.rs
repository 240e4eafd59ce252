//! Devices: in a list, and one with the evidence for its status.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::{ListenerItem, as_seconds};
use crate::domain::{
    DeviceId, Evidence, Gap, GapCause, IdempotencyKey, Listener, OwnTimeout, Status, Transition,
    UnusableTimeout,
};
use crate::store::Device;
use crate::views::{Explanation, as_millis, as_optional_millis, as_optional_text, as_text};

/// A page of devices.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct DevicePage {
    pub(crate) items: Vec<DeviceItem>,
    /// The cursor of the next page; null after the last one.
    pub(crate) next: Option<String>,
    /// True if the search ran out of time: there may be more than `next` leads to.
    pub(crate) partial: bool,
}

/// A device.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct DeviceItem {
    #[serde(serialize_with = "as_text")]
    pub(crate) id: DeviceId,
    #[serde(serialize_with = "as_text")]
    pub(crate) status: Status,
    /// The time of its last heartbeat.
    #[serde(serialize_with = "as_optional_millis")]
    pub(crate) last_seen_at: Option<DateTime<Utc>>,
    /// Its own timeout as its row has it; null for the default.
    pub(crate) timeout_seconds: Option<i64>,
    /// The timeout in effect; null if it never goes offline.
    effective_timeout_seconds: Option<f64>,
    /// The reason why its own timeout cannot be used.
    #[serde(serialize_with = "as_optional_text")]
    pub(crate) timeout_error: Option<UnusableTimeout>,
    /// True if more than two thirds of its timeout have been listened to since its last
    /// heartbeat; null while that is unknown.
    late: Option<bool>,
    pub(crate) uptime_seconds: Option<i64>,
    pub(crate) free_memory: Option<i64>,
    /// Its clock minus the service's.
    pub(crate) clock_skew_seconds: Option<f64>,
    /// The error that its last heartbeat reported.
    pub(crate) error: Option<String>,
    /// The reason why its last payload, or a part of it, could not be read.
    pub(crate) payload_error: Option<String>,
    #[serde(serialize_with = "as_millis")]
    pub(crate) registered_at: DateTime<Utc>,
}

impl DeviceItem {
    /// Shows a device, with `heartbeat.timeout` as `default`.
    pub(crate) fn new(device: Device, default: Duration, late: Option<bool>) -> Self {
        let own = device.timeout_seconds.map(OwnTimeout::of);
        let effective = match own {
            Some(OwnTimeout::Endless(_)) => None,
            own => Some(own.and_then(OwnTimeout::in_effect).unwrap_or(default).as_secs_f64()),
        };
        Self {
            id: device.id,
            status: device.status,
            last_seen_at: device.last_seen_at,
            timeout_seconds: device.timeout_seconds,
            effective_timeout_seconds: effective,
            timeout_error: own.and_then(|own| own.usable().err()),
            late,
            uptime_seconds: device.uptime_seconds,
            free_memory: device.free_memory,
            clock_skew_seconds: device.clock_skew_ms.map(|ms| ms as f64 / 1000.0),
            error: device.error,
            payload_error: device.payload_error,
            registered_at: device.registered_at,
        }
    }
}

/// A device with the evidence for its status.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct DeviceDetail {
    #[serde(flatten)]
    device: DeviceItem,
    /// The evidence in words.
    sentence: String,
    /// The parts of the silence that do not count, in words, oldest first.
    not_counted: Vec<String>,
    /// Null for a device that was never heard.
    evidence: Option<EvidenceItem>,
    /// The outage that lasts, or lasted then.
    outage: Option<OutageOfDevice>,
    /// The number of its newest transition.
    sequence: Option<i64>,
    /// False if what it reported until `at` is not kept, because it has reported since.
    report_kept: bool,
    /// The time in the past as of which this is; null for now.
    #[serde(serialize_with = "as_optional_millis")]
    at: Option<DateTime<Utc>>,
}

/// The evidence for a status.
#[derive(Clone, Debug, Serialize)]
struct EvidenceItem {
    /// The last heartbeat, with which the silence began.
    #[serde(serialize_with = "as_millis")]
    since: DateTime<Utc>,
    /// For an offline device the check that found it, otherwise now.
    #[serde(serialize_with = "as_millis")]
    until: DateTime<Utc>,
    #[serde(serialize_with = "as_seconds")]
    silent_seconds: TimeDelta,
    /// The listened part of the silence.
    #[serde(serialize_with = "as_seconds")]
    listened_seconds: TimeDelta,
    #[serde(serialize_with = "as_seconds")]
    timeout_seconds: TimeDelta,
    /// The rest of the silence, oldest first; empty if it is not known any more.
    gaps: Vec<GapItem>,
    /// The instances that have listened, if there are several.
    listeners: Vec<ListenerItem>,
}

/// A time that was not listened to.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct GapItem {
    #[serde(serialize_with = "as_millis")]
    from: DateTime<Utc>,
    #[serde(serialize_with = "as_millis")]
    to: DateTime<Utc>,
    /// Null if it is not known.
    cause: Option<&'static str>,
    /// The instances whose gap it is; empty if there is only one, or it is not known.
    instances: Vec<String>,
}

/// The outage of the device that is shown.
#[derive(Clone, Debug, Serialize)]
struct OutageOfDevice {
    /// The number of its transition.
    sequence: i64,
    /// The key with which the alert sink got it.
    #[serde(serialize_with = "as_text")]
    key: IdempotencyKey,
    #[serde(serialize_with = "as_millis")]
    found_at: DateTime<Utc>,
    /// The last heartbeat before it.
    #[serde(serialize_with = "as_optional_millis")]
    silent_since: Option<DateTime<Utc>>,
    #[serde(serialize_with = "as_optional_millis")]
    ended_at: Option<DateTime<Utc>>,
}

impl DeviceDetail {
    /// Joins a device, its evidence in numbers and in words, and its newest transition.
    pub(crate) fn new(
        device: Device,
        default: Duration,
        late: Option<bool>,
        evidence: Option<Evidence>,
        explanation: Explanation,
        newest: Option<Transition>,
    ) -> Self {
        let Explanation { sentence, not_counted, .. } = explanation;
        let offline = device.status == Status::Offline;
        let outage = newest.as_ref().filter(|newest| offline && newest.to == Status::Offline);
        Self {
            sentence,
            not_counted,
            outage: outage.map(|outage| OutageOfDevice {
                sequence: outage.sequence,
                key: outage.key(),
                found_at: outage.at,
                silent_since: outage.last_seen_at,
                ended_at: outage.ended_at,
            }),
            evidence: evidence.map(EvidenceItem::from),
            sequence: newest.map(|newest| newest.sequence),
            device: DeviceItem::new(device, default, late),
            report_kept: true,
            at: None,
        }
    }

    /// The same, of a device as of an instant in the past, of which what it reported may be kept.
    pub(crate) fn of_then(self, at: DateTime<Utc>, report_kept: bool) -> Self {
        Self { at: Some(at), report_kept, ..self }
    }
}

impl From<Evidence> for EvidenceItem {
    fn from(evidence: Evidence) -> Self {
        Self {
            since: evidence.silent_since,
            until: evidence.until,
            silent_seconds: evidence.until - evidence.silent_since,
            listened_seconds: evidence.listened,
            timeout_seconds: evidence.timeout,
            gaps: evidence.gaps.iter().map(|gap| GapItem::new(gap, &evidence.listeners)).collect(),
            listeners: evidence.listeners.iter().map(ListenerItem::from).collect(),
        }
    }
}

impl GapItem {
    /// A gap, and whose it is if several instances have listened.
    pub(super) fn new(gap: &Gap, listeners: &[Listener]) -> Self {
        Self {
            from: gap.interval.from,
            to: gap.interval.until,
            cause: gap.cause.map(GapCause::as_str),
            instances: Listener::whose(listeners, gap),
        }
    }
}
