//! The fleet over time, as of checks.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::{GapItem, Window, as_seconds};
use crate::domain::{Gap, Listener, Status};
use crate::store::FleetSample;
use crate::views::as_millis;

/// The fleet in a window.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FleetView {
    #[serde(serialize_with = "as_millis")]
    from: DateTime<Utc>,
    #[serde(serialize_with = "as_millis")]
    to: DateTime<Utc>,
    #[serde(serialize_with = "as_seconds")]
    bucket_seconds: TimeDelta,
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
    /// The fleet in `window`, in which several instances may have listened.
    pub(crate) fn new(
        window: Window,
        samples: Vec<Option<FleetSample>>,
        gaps: &[Gap],
        listeners: &[Listener],
    ) -> Self {
        let sample = |sample: Option<FleetSample>| sample.as_ref().map(SampleItem::from);
        Self {
            from: window.from,
            to: window.to,
            bucket_seconds: window.bucket(),
            buckets: samples.into_iter().map(sample).collect(),
            gaps: gaps.iter().rev().take(1000).map(|gap| GapItem::new(gap, listeners)).collect(),
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
