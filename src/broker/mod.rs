//! The broker in this process, which is used when `mqtt.url` is unset.
//!
//! Without the feature `embedded-broker` a stub with the same names takes its place. So
//! only this file knows the feature.

#[cfg(not(feature = "embedded-broker"))]
#[path = "absent.rs"]
mod embedded;
#[cfg(feature = "embedded-broker")]
mod embedded;

pub(crate) use embedded::check_users_file;
pub use embedded::{EmbeddedBroker, EmbeddedError};

/// True if this binary contains the embedded broker.
pub(crate) const IS_BUILT_IN: bool = cfg!(feature = "embedded-broker");

/// The name of the broker's threads.
pub(crate) const THREAD_NAME: &str = "embedded_broker";

/// The number of files that the embedded broker has open for this service: its listener,
/// and its end of the client's connection.
pub(crate) const OPEN_FILES: u64 = 2;
