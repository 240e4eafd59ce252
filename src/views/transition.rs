//! Status changes: one, and the list of them.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::as_text;
use super::paging::PAGE;
use crate::domain::{DeviceId, GivenUp, IdempotencyKey, Status, Transition};
use crate::store::{Position, Reader, StoreError, TransitionQuery};

/// A status change.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct TransitionView {
    pub(crate) sequence: i64,
    /// The key by which a receiver recognises a transition that it already has.
    #[serde(serialize_with = "as_text")]
    key: IdempotencyKey,
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
            key: transition.key(),
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
pub(crate) struct Transitions {
    reader: Reader,
    query: TransitionQuery,
    /// The number of transitions that may still be read.
    left: u64,
    /// The beginning of the next page; `None` after the last one.
    next: Option<Start>,
}

/// The beginning of a page: the first of all, or after this place.
type Start = Option<Position>;

impl Transitions {
    /// Begins the list of at most `limit` transitions that meet `query`.
    pub(crate) fn new(reader: Reader, query: TransitionQuery, limit: u64) -> Self {
        Self { reader, query, left: limit, next: Some(None) }
    }

    /// Reads the next page, of which the first may be empty; `None` after the last one.
    /// Transitions whose rows cannot be read are left out and take no place of others.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub(crate) async fn next_page(&mut self) -> Result<Option<Vec<TransitionView>>, StoreError> {
        let Some(after) = self.next.take() else { return Ok(None) };
        let page = self.reader.transitions(&self.query, after, self.left.min(PAGE)).await?;
        self.left = self.left.saturating_sub(page.transitions.len() as u64);
        self.next = page.next.filter(|_| self.left > 0).map(Some);
        Ok(Some(page.transitions.into_iter().map(TransitionView::from).collect()))
    }
}
