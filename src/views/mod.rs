//! Views: what devices, transitions, evidence and users look like to people and to programs.
//!
//! The types of [`domain`](crate::domain) and [`store`](crate::store) do not say how they
//! are shown. A view does: its fields in their order are the JSON, and people read the same
//! fields. Lists are read in pages by a key, never by an offset, so that the last page costs
//! as much as the first.
//!
//! Nothing here prints and nothing here knows who asks.

mod device;
mod evidence;
mod paging;
pub(crate) mod text;
mod transition;
mod user;

pub(crate) use device::{DeviceDetail, DeviceView, Devices};
pub(crate) use evidence::{EvidenceSettings, Explanation, gather_evidence};
pub(crate) use transition::{TransitionView, Transitions};
pub(crate) use user::{UserView, devices_in_words};

use std::fmt::Display;

use serde::Serializer;

/// Serializes a value as the text that it displays.
fn as_text<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// Serializes an optional value as the text that it displays, or as null.
fn as_optional_text<T: Display, S: Serializer>(
    value: &Option<T>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}
