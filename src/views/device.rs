//! Devices: one, a list, and one with the evidence for its status.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::evidence::{EvidenceSettings, EvidenceView, read_coverage};
use super::paging::{PAGE, Progress};
use super::{as_optional_text, as_text};
use crate::domain::{Cutoffs, DeviceId, Evidence, OwnTimeout, Status, UnusableTimeout};
use crate::store::{Budget, Device, DeviceQuery, DeviceStore, Reader, StoreError};

/// A device.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct DeviceView {
    #[serde(serialize_with = "as_text")]
    pub(crate) id: DeviceId,
    #[serde(serialize_with = "as_text")]
    pub(crate) status: Status,
    /// The time of its last heartbeat.
    pub(crate) last_seen_at: Option<DateTime<Utc>>,
    /// Its own timeout, as its row has it; null for the default.
    pub(crate) timeout_seconds: Option<i64>,
    /// The reason why its own timeout cannot be used, and what is in effect instead.
    #[serde(serialize_with = "as_optional_text")]
    pub(crate) timeout_error: Option<UnusableTimeout>,
    /// Seconds since it booted, as it last told.
    pub(crate) uptime_seconds: Option<i64>,
    /// Bytes of free memory, as it last told.
    pub(crate) free_memory: Option<i64>,
    /// Its clock minus the service's.
    pub(crate) clock_skew_ms: Option<i64>,
    /// The error that its last heartbeat reported.
    pub(crate) error: Option<String>,
    /// The reason why its last payload, or a part of it, could not be read.
    pub(crate) payload_error: Option<String>,
    /// The time at which the device was registered.
    pub(crate) registered_at: DateTime<Utc>,
}

impl From<Device> for DeviceView {
    fn from(device: Device) -> Self {
        let timeout = device.timeout_seconds.map(OwnTimeout::of);
        Self {
            id: device.id,
            status: device.status,
            last_seen_at: device.last_seen_at,
            timeout_seconds: device.timeout_seconds,
            timeout_error: timeout.and_then(|timeout| timeout.usable().err()),
            uptime_seconds: device.uptime_seconds,
            free_memory: device.free_memory,
            clock_skew_ms: device.clock_skew_ms,
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
    pub(crate) device: DeviceView,
    /// Null for a device that was never heard.
    evidence: Option<EvidenceView>,
}

impl DeviceDetail {
    /// Joins a device with what [`gather_evidence`](super::gather_evidence) has found.
    pub(crate) fn new(device: Device, evidence: Option<Evidence>) -> Self {
        Self { device: device.into(), evidence: evidence.map(EvidenceView::from) }
    }
}

/// A list of devices in the order of their ids, read page by page.
pub(crate) struct Devices<'a> {
    store: &'a DeviceStore,
    progress: Progress<DeviceId>,
    status: Option<Status>,
}

impl<'a> Devices<'a> {
    /// Begins the list of all devices, or of those with `status`.
    pub(crate) fn new(store: &'a DeviceStore, status: Option<Status>) -> Self {
        Self { store, status, progress: Progress::of_at_most(u64::MAX) }
    }

    /// Reads the next page; `None` after the last one. Devices whose rows cannot be read are
    /// left out and do not shorten a page.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub(crate) async fn next_page(&mut self) -> Result<Option<Vec<DeviceView>>, StoreError> {
        let Some(limit) = self.progress.limit() else { return Ok(None) };
        let page = self.store.devices(self.status, self.progress.last(), limit).await?;
        self.progress.note(limit, &page, |last| last.id.clone());
        Ok(Some(page.into_iter().map(DeviceView::from).collect()))
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
    // A timeout that cannot be used keeps no device out of a list.
    reader.reads().take_unreadable();
    let all = (DateTime::UNIX_EPOCH, now);
    let (instance, interval) = (settings.instance(), settings.confirm_interval());
    let coverage = read_coverage(reader.reads(), instance, interval, all).await?;
    Ok(coverage.late_cutoffs(now, settings.timeout(), &own))
}

/// A list of the devices that were searched for, in the order of the bytes of their ids.
pub(crate) struct FoundDevices {
    reader: Reader,
    query: DeviceQuery,
    /// Where the next page begins; `None` after the last one.
    next: Option<Start>,
}

/// The beginning of a page: the first of all, or after this id.
type Start = Option<String>;

impl FoundDevices {
    /// Begins the list of the devices that meet `query`.
    pub(crate) fn new(reader: Reader, query: DeviceQuery) -> Self {
        Self { reader, query, next: Some(None) }
    }

    /// Reads the next page, which may be empty; `None` after the last one.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub(crate) async fn next_page(&mut self) -> Result<Option<Vec<DeviceView>>, StoreError> {
        // Below the time limit of a read.
        const PART: Duration = Duration::from_millis(500);
        let Some(after) = self.next.take() else { return Ok(None) };
        let budget = Budget::of(PART);
        let page = self.reader.devices(&self.query, after.as_deref(), PAGE, budget).await?;
        self.next = page.next.map(Some);
        Ok(Some(page.devices.into_iter().map(DeviceView::from).collect()))
    }
}
