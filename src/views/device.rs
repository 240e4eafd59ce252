//! Devices: one, a list, and one with the evidence for its status.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::api::DeviceItem;
use super::evidence::{EvidenceSettings, EvidenceView, read_coverage};
use super::paging::{PAGE, Progress};
use crate::domain::{Cutoffs, DeviceId, Evidence, Status};
use crate::store::{Budget, Device, DeviceQuery, DeviceStore, Reader, StoreError};

/// The context in which rows of devices are shown.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// `heartbeat.timeout`.
    pub(crate) timeout: Duration,
    /// The cutoffs by which a device is late; `None` if that is unknown.
    pub(crate) late: Option<Cutoffs>,
}

impl Frame {
    /// Shows a device.
    pub(crate) fn show(&self, device: Device) -> DeviceItem {
        let is_late = |cutoffs: &Cutoffs| {
            cutoffs.silences(device.status, device.last_seen_at, device.timeout())
        };
        let late = self.late.as_ref().map(is_late);
        DeviceItem::new(device, self.timeout, late)
    }
}

/// A device with the evidence for its status.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct DeviceDetail {
    #[serde(flatten)]
    device: DeviceItem,
    /// Null for a device that was never heard.
    evidence: Option<EvidenceView>,
}

impl DeviceDetail {
    /// Joins a device with what [`gather_evidence`](super::gather_evidence) has found.
    pub(crate) fn new(device: DeviceItem, evidence: Option<Evidence>) -> Self {
        Self { device, evidence: evidence.map(EvidenceView::from) }
    }
}

/// A list of devices in the order of their ids, read page by page.
pub(crate) struct Devices<'a> {
    store: &'a DeviceStore,
    progress: Progress<DeviceId>,
    status: Option<Status>,
    frame: Frame,
}

impl<'a> Devices<'a> {
    /// Begins the list of all devices, or of those with `status`.
    pub(crate) fn new(store: &'a DeviceStore, status: Option<Status>, frame: Frame) -> Self {
        Self { store, status, frame, progress: Progress::of_at_most(u64::MAX) }
    }

    /// Reads the next page; `None` after the last one. Devices whose rows cannot be read are
    /// left out and do not shorten a page.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub(crate) async fn next_page(&mut self) -> Result<Option<Vec<DeviceItem>>, StoreError> {
        let Some(limit) = self.progress.limit() else { return Ok(None) };
        let page = self.store.devices(self.status, self.progress.last(), limit).await?;
        self.progress.note(limit, &page, |last| last.id.clone());
        Ok(Some(page.into_iter().map(|device| self.frame.show(device)).collect()))
    }
}

/// The cutoffs by which devices are late at `now`, by what is saved of the coverage.
///
/// # Errors
///
/// If the database fails.
pub(crate) async fn late_cutoffs(
    settings: &EvidenceSettings,
    reader: &Reader,
    now: DateTime<Utc>,
) -> Result<Cutoffs, StoreError> {
    let own = reader.reads().own_timeouts().await?;
    let all = (DateTime::UNIX_EPOCH, now);
    let (instance, interval) = (settings.instance(), settings.confirm_interval());
    let coverage = read_coverage(reader.reads(), instance, interval, all).await?;
    // A timeout or an interval that cannot be used keeps no device out of a list.
    reader.reads().take_unreadable();
    Ok(coverage.late_cutoffs(now, settings.timeout(), &own))
}

/// A list of the devices that were searched for, in the order of the bytes of their ids.
pub(crate) struct FoundDevices {
    reader: Reader,
    query: DeviceQuery,
    frame: Frame,
    /// The beginning of the next page; `None` after the last one.
    next: Option<Start>,
}

/// The beginning of a page: the first of all, or after this id.
type Start = Option<String>;

impl FoundDevices {
    /// Begins the list of the devices that meet `query`.
    pub(crate) fn new(reader: Reader, query: DeviceQuery, frame: Frame) -> Self {
        Self { reader, query, frame, next: Some(None) }
    }

    /// Reads the next page, which may be empty; `None` after the last one.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub(crate) async fn next_page(&mut self) -> Result<Option<Vec<DeviceItem>>, StoreError> {
        // Below the time limit of a read.
        const PART: Duration = Duration::from_millis(500);
        let Some(after) = self.next.take() else { return Ok(None) };
        let budget = Budget::of(PART);
        let page = self.reader.devices(&self.query, after.as_deref(), PAGE, budget).await?;
        self.next = page.next.map(Some);
        Ok(Some(page.devices.into_iter().map(|device| self.frame.show(device)).collect()))
    }
}
