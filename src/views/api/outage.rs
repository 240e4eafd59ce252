//! Outages: the times for which devices were offline.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::{Page, as_optional_seconds};
use crate::domain::{DeviceId, IdempotencyKey, Transition};
use crate::views::{as_millis, as_optional_millis, as_text};

/// A page of outages.
pub(crate) type OutagePage = Page<OutageItem>;

/// An outage, by the transition that began it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct OutageItem {
    sequence: i64,
    /// The key with which the alert sink got it.
    #[serde(serialize_with = "as_text")]
    key: IdempotencyKey,
    #[serde(serialize_with = "as_text")]
    device_id: DeviceId,
    /// The time of the check that found it.
    #[serde(serialize_with = "as_millis")]
    found_at: DateTime<Utc>,
    /// The last heartbeat before it.
    #[serde(serialize_with = "as_optional_millis")]
    silent_since: Option<DateTime<Utc>>,
    /// The time of the first heartbeat after it, or of the device's removal.
    #[serde(serialize_with = "as_optional_millis")]
    ended_at: Option<DateTime<Utc>>,
    /// The instant that the last heartbeat was older than.
    #[serde(serialize_with = "as_optional_millis")]
    cutoff: Option<DateTime<Utc>>,
    /// The timeout that decided.
    #[serde(serialize_with = "as_optional_seconds")]
    timeout_seconds: Option<TimeDelta>,
    /// The part of the silence that was listened to.
    #[serde(serialize_with = "as_optional_seconds")]
    listened_seconds: Option<TimeDelta>,
    /// The instance that listened.
    instance: Option<String>,
}

impl From<Transition> for OutageItem {
    fn from(transition: Transition) -> Self {
        Self {
            sequence: transition.sequence,
            key: transition.key(),
            device_id: transition.device_id,
            found_at: transition.at,
            silent_since: transition.last_seen_at,
            ended_at: transition.ended_at,
            cutoff: transition.cutoff,
            timeout_seconds: transition.timeout,
            listened_seconds: transition.listened,
            instance: transition.instance,
        }
    }
}
