//! Listeners: the instances on a database, and how each of them has left.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::store::Listener;

/// A stay of an instance.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ListenerView {
    /// The number of the listener.
    pub(crate) id: i64,
    /// The instance, by its `mqtt.client_id`.
    pub(crate) instance: String,
    /// The group of which it is a member, with the timeline of the database, as the broker knows it.
    pub(crate) group: Option<String>,
    /// `active`, `member`, `standby`, or the way it left: `left`, `fenced`, `restarted`,
    /// `reconnected`, `taken_over`, `refused`, `forgotten`, `removed`.
    pub(crate) state: String,
    /// The instance that took over from it.
    pub(crate) fenced_by: Option<String>,
    pub(crate) joined_at: Option<DateTime<Utc>>,
    pub(crate) left_at: Option<DateTime<Utc>>,
    /// The newest instant that it has proven.
    pub(crate) proven_until: Option<DateTime<Utc>>,
    /// The number of its flushes and looks at the others. It grows while the instance lives.
    pub(crate) saves: i64,
    /// Its clock minus the database's.
    pub(crate) clock_offset_ms: i64,
    /// The topic of heartbeats that it listens to; null if it is of an earlier version.
    pub(crate) topic: Option<String>,
    /// The nodes of a cluster at which devices connect.
    pub(crate) entry_urls: Vec<String>,
}

impl ListenerView {
    /// The state in words.
    pub(crate) fn state_in_words(&self) -> String {
        let words = match self.state.as_str() {
            "fenced" => "had stopped, ended",
            "restarted" => "ended by its next start",
            "reconnected" => "ended by its next connection",
            "taken_over" => "taken over by another service",
            "refused" => "subscription refused by the broker",
            "forgotten" => "lost by the database",
            "removed" => "removed by hand",
            state => state,
        };
        match &self.fenced_by {
            Some(by) => format!("{words} by {by}"),
            None => words.to_owned(),
        }
    }
}

impl From<Listener> for ListenerView {
    fn from(listener: Listener) -> Self {
        let Listener { peer, is_active, joined_at, left_at, left_how, fenced_by } = listener;
        let state = match left_how {
            Some(how) => how,
            None if peer.has_left => "left".to_owned(),
            None if is_active => "active".to_owned(),
            None if peer.share_group.is_some() => "member".to_owned(),
            None => "standby".to_owned(),
        };
        let group = peer.share_group.map(|name| match peer.timeline.is_none() {
            true => name,
            false => format!("{name}.{}", peer.timeline),
        });
        let subscription = peer.configured.map(|configured| configured.subscription);
        let (topic, entry_urls) = match subscription {
            Some(subscription) => (Some(subscription.topic), subscription.entry_urls),
            None => (None, Vec::new()),
        };
        Self {
            id: peer.id,
            instance: peer.instance,
            group,
            state,
            fenced_by,
            joined_at,
            left_at,
            proven_until: peer.proven_until,
            saves: peer.saves,
            clock_offset_ms: peer.clock.offset.num_milliseconds(),
            topic,
            entry_urls,
        }
    }
}
