//! Status changes.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::{Page, as_optional_seconds};
use crate::domain::{DeviceId, GivenUp, IdempotencyKey, Status, Transition};
use crate::views::{as_millis, as_optional_millis, as_text};

/// A page of transitions.
pub(crate) type TransitionPage = Page<TransitionItem>;

/// A status change.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct TransitionItem {
    pub(crate) sequence: i64,
    /// The key by which it can be recognised.
    #[serde(serialize_with = "as_text")]
    key: IdempotencyKey,
    #[serde(serialize_with = "as_text")]
    device_id: DeviceId,
    #[serde(serialize_with = "as_text")]
    from: Status,
    #[serde(serialize_with = "as_text")]
    to: Status,
    /// The time of the heartbeat, or of the check that found the silence.
    #[serde(serialize_with = "as_millis")]
    at: DateTime<Utc>,
    /// The device's last heartbeat as of then.
    #[serde(serialize_with = "as_optional_millis")]
    last_seen_at: Option<DateTime<Utc>>,
    /// For `offline`: the time at which the outage ended; null while it lasts.
    #[serde(serialize_with = "as_optional_millis")]
    ended_at: Option<DateTime<Utc>>,
    /// For `offline`: the timeout that decided.
    #[serde(serialize_with = "as_optional_seconds")]
    timeout_seconds: Option<TimeDelta>,
    /// For `offline`: the part of the silence that was listened to.
    #[serde(serialize_with = "as_optional_seconds")]
    listened_seconds: Option<TimeDelta>,
    /// For `offline`: the instance that listened.
    instance: Option<String>,
    /// The time at which the alert sink acknowledged it.
    #[serde(serialize_with = "as_optional_millis")]
    delivered_at: Option<DateTime<Utc>>,
    given_up: Option<GivenUpItem>,
}

/// An alert that the alert sink will never get.
#[derive(Clone, Debug, Serialize)]
struct GivenUpItem {
    #[serde(serialize_with = "as_millis")]
    at: DateTime<Utc>,
    why: String,
}

impl From<Transition> for TransitionItem {
    fn from(transition: Transition) -> Self {
        Self {
            sequence: transition.sequence,
            key: transition.key(),
            device_id: transition.device_id,
            from: transition.from,
            to: transition.to,
            at: transition.at,
            last_seen_at: transition.last_seen_at,
            ended_at: transition.ended_at,
            timeout_seconds: transition.timeout,
            listened_seconds: transition.listened,
            instance: transition.instance,
            delivered_at: transition.delivered_at,
            given_up: transition.given_up.map(|GivenUp { at, why }| GivenUpItem { at, why }),
        }
    }
}
