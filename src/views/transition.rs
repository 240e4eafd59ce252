//! Status changes: one, and the list of them.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::as_text;
use super::paging::Progress;
use crate::domain::{DeviceId, GivenUp, Status, Transition};
use crate::store::{DeviceStore, StoreError};

/// A status change.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct TransitionView {
    /// The key by which a receiver recognises a transition that it already has.
    pub(crate) sequence: i64,
    #[serde(serialize_with = "as_text")]
    pub(crate) device_id: DeviceId,
    #[serde(serialize_with = "as_text")]
    pub(crate) from: Status,
    #[serde(serialize_with = "as_text")]
    pub(crate) to: Status,
    /// The time of the heartbeat, or of the check that found the silence.
    pub(crate) at: DateTime<Utc>,
    /// The time of the device's last heartbeat as of then.
    pub(crate) last_seen_at: Option<DateTime<Utc>>,
    /// The time at which the alert sink acknowledged it.
    pub(crate) delivered_at: Option<DateTime<Utc>>,
    /// Set if the alert sink will never get it.
    pub(crate) given_up: Option<GivenUpView>,
}

/// An alert that was given up.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct GivenUpView {
    at: DateTime<Utc>,
    /// The reason that the alert sink gave last.
    pub(crate) why: String,
}

impl From<Transition> for TransitionView {
    fn from(transition: Transition) -> Self {
        Self {
            sequence: transition.sequence,
            device_id: transition.device_id,
            from: transition.from,
            to: transition.to,
            at: transition.at,
            last_seen_at: transition.last_seen_at,
            delivered_at: transition.delivered_at,
            given_up: transition.given_up.map(GivenUpView::from),
        }
    }
}

impl From<GivenUp> for GivenUpView {
    fn from(GivenUp { at, why }: GivenUp) -> Self {
        Self { at, why }
    }
}

/// A list of transitions, newest first, read page by page.
pub(crate) struct Transitions<'a> {
    store: &'a DeviceStore,
    device: Option<&'a DeviceId>,
    progress: Progress<i64>,
}

impl<'a> Transitions<'a> {
    /// Begins the list of at most `limit` transitions of all devices, or of `device`.
    pub(crate) fn new(store: &'a DeviceStore, device: Option<&'a DeviceId>, limit: u64) -> Self {
        Self { store, device, progress: Progress::of_at_most(limit) }
    }

    /// Reads the next page; `None` after the last one. Transitions whose rows cannot be read
    /// are left out and do not shorten a page.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub(crate) async fn next_page(&mut self) -> Result<Option<Vec<TransitionView>>, StoreError> {
        let Some(limit) = self.progress.limit() else { return Ok(None) };
        let page = self.store.history(self.device, self.progress.last().copied(), limit).await?;
        self.progress.note(limit, &page, |last| last.sequence);
        Ok(Some(page.into_iter().map(TransitionView::from).collect()))
    }
}
