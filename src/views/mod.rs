//! Views: what devices, transitions, evidence, users and the summary look like to people and
//! to programs.
//!
//! The types of [`domain`](crate::domain) and [`store`](crate::store) do not say how they
//! are shown. A view does: its fields in their order are the JSON, and people read the same
//! fields. Lists are read in pages by a key, never by an offset, so that the last page costs
//! as much as the first.
//!
//! Nothing here prints and nothing here knows who asks.

pub(crate) mod api;
mod device;
mod evidence;
mod listener;
mod paging;
mod summary;
pub(crate) mod text;
mod token;
mod transition;
mod user;

pub(crate) use device::{DeviceDetail, Devices, FoundDevices, Frame, late_cutoffs};
pub(crate) use evidence::{
    EvidenceSettings, Explanation, gap_in_words, gap_of, gather_evidence, weigh_silence,
};
pub(crate) use listener::ListenerView;
pub(crate) use summary::{About, Summary, SummaryView, sentence};
pub(crate) use token::{NewTokenView, TokenView};
pub(crate) use transition::{TransitionView, Transitions};
pub(crate) use user::{UserView, devices_in_words};

use std::fmt::Display;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serializer;

/// Serializes a value as the text that it displays.
fn as_text<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// Serializes a time as RFC 3339 in UTC, always with milliseconds.
fn as_millis<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// Serializes an optional time like [`as_millis`], or as null.
fn as_optional_millis<S: Serializer>(
    time: &Option<DateTime<Utc>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => as_millis(time, serializer),
        None => serializer.serialize_none(),
    }
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
