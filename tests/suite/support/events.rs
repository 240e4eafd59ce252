//! Events in heartbeatd's log that several tests look for, written as
//! [`servers::log::Line::is`] says.

pub use servers::log::LISTENING;

/// The service has connected to its broker.
pub const CONNECTED: &str = "INFO mqtt_ingest broker=";

/// The service has lost its connection, which lasted for so many seconds.
pub const DISCONNECTED: &str = "WARN mqtt_ingest broker= seconds=";

/// An attempt to connect has failed. The message explains it.
pub const CANNOT_CONNECT: &str = "ERROR mqtt_ingest broker=";

/// The broker does not answer a subscription, so the service connects again.
pub const UNANSWERED: &str = "WARN mqtt_ingest broker= topic=";

/// No echo comes back.
pub const NO_ECHO: &str = "ERROR mqtt_ingest topic= seconds=";

/// Echoes come back again.
pub const ECHOES_AGAIN: &str = "INFO mqtt_ingest seconds=";

/// No echo comes back through another node of the broker's cluster.
pub const ENTRY_MISSING: &str = "ERROR mqtt_ingest entry=";

/// Another node of the cluster could not be reached for so long that it is left out.
pub const ENTRY_LEFT_OUT: &str = "WARN mqtt_ingest entry= seconds=";

/// Echoes come back through another node of the cluster again.
pub const ENTRY_BACK: &str = "INFO mqtt_ingest entry= seconds=";

/// The service did not listen, so no device's silence counts in this time.
pub const GAP: &str = "WARN device_registry seconds= from= until= cause=";

/// Echoes come back, but no device is heard any more.
pub const FLEET_SILENT: &str = "ERROR device_registry topic=devices/+/heartbeat devices= seconds=";

/// Devices are heard again.
pub const FLEET_HEARD: &str = "INFO device_registry topic=devices/+/heartbeat seconds=";

/// Heartbeats cannot be written, and are kept.
pub const NOT_WRITTEN: &str = "ERROR device_registry pending=";

/// Heartbeats are written again.
pub const WRITTEN_AGAIN: &str = "INFO device_registry seconds= heartbeats=";

/// A check has failed.
pub const CHECK_FAILED: &str = "ERROR ticker duration_ms=";

/// Everything was written before the process ended.
pub const DRAINED: &str = "INFO heartbeatd duration_ms=";
