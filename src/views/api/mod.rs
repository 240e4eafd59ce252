//! The JSON of the API. Times are RFC 3339 in UTC with milliseconds, durations are seconds. A
//! field that has no value is null; it is always there.

mod device;
mod event;
mod fleet;
mod listening;
mod outage;
mod timeline;
mod transition;

pub(crate) use device::{DeviceDetail, DeviceItem, DevicePage, GapItem};
pub(crate) use event::{EventItem, EventPage, message, place_as_text, place_of_text};
pub(crate) use fleet::FleetView;
pub(crate) use listening::{EchoLatency, KnownListening, ListenerItem, ListeningView};
pub(crate) use outage::{OutageItem, OutagePage};
pub(crate) use timeline::{Life, Timeline, Window};
pub(crate) use transition::{TransitionItem, TransitionPage};

use chrono::TimeDelta;
use serde::{Serialize, Serializer};

/// The schemas of everything here, as JSON schema.
pub(crate) const SCHEMAS: &str = include_str!("schemas.json");

/// A list, of which `next` continues.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    /// The cursor of the next page; null after the last one.
    pub(crate) next: Option<String>,
}

/// Seconds with a fraction of milliseconds.
pub(crate) fn seconds(time: TimeDelta) -> f64 {
    time.num_milliseconds() as f64 / 1000.0
}

fn as_seconds<S: Serializer>(time: &TimeDelta, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(seconds(*time))
}

fn as_optional_seconds<S: Serializer>(time: &Option<TimeDelta>, to: S) -> Result<S::Ok, S::Error> {
    time.map(seconds).serialize(to)
}
