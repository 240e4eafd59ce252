//! The fleet over time, as of checks.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::{GapItem, KnownListening, Window, as_seconds};
use crate::domain::Status;
use crate::store::FleetSample;
use crate::views::{as_millis, as_optional_millis};

/// The fleet in a window.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FleetView {
    #[serde(serialize_with = "as_millis")]
    from: DateTime<Utc>,
    #[serde(serialize_with = "as_millis")]
    to: DateTime<Utc>,
    #[serde(serialize_with = "as_seconds")]
    bucket_seconds: TimeDelta,
    /// As in [`ListeningView`](super::ListeningView).
    #[serde(serialize_with = "as_millis")]
    known_from: DateTime<Utc>,
    /// The beginning of all that is kept; null if the service never listened.
    #[serde(serialize_with = "as_optional_millis")]
    first_listened_at: Option<DateTime<Utc>>,
    /// The last sample of each part; null if there is none.
    buckets: Vec<Option<SampleItem>>,
    /// The times that were not listened to, newest first; at most 1,000.
    gaps: Vec<GapItem>,
}

/// The number of devices in each status, as of a check.
#[derive(Clone, Copy, Debug, Serialize)]
struct SampleItem {
    #[serde(serialize_with = "as_millis")]
    at: DateTime<Utc>,
    online: u64,
    offline: u64,
    error: u64,
    provisioning: u64,
    late: Option<u64>,
}

impl FleetView {
    /// The fleet in `window`, for which `known` was read, as of `now`.
    pub(crate) fn new(
        window: Window,
        samples: Vec<Option<FleetSample>>,
        known: &KnownListening,
        now: DateTime<Utc>,
    ) -> Self {
        // Nothing is known about the future.
        let until = window.to.min(now).max(window.from);
        let gaps = known.gaps(until);
        let gaps = gaps.iter().rev().take(1000);
        let sample = |sample: Option<FleetSample>| sample.as_ref().map(SampleItem::from);
        Self {
            from: window.from,
            to: window.to,
            bucket_seconds: window.bucket(),
            known_from: known.begins(until),
            first_listened_at: known.first,
            buckets: samples.into_iter().map(sample).collect(),
            gaps: gaps.map(|gap| GapItem::new(gap, &known.listeners)).collect(),
        }
    }
}

impl From<&FleetSample> for SampleItem {
    fn from(sample: &FleetSample) -> Self {
        let count = |status| sample.counts.get(&status).copied().unwrap_or_default();
        Self {
            at: sample.at,
            online: count(Status::Online),
            offline: count(Status::Offline),
            error: count(Status::Error),
            provisioning: count(Status::Provisioning),
            late: sample.late,
        }
    }
}
