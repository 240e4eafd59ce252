//! heartbeatd watches a fleet of devices.
//!
//! A device proves that it is alive by publishing a heartbeat on MQTT. The
//! service keeps each device's `last_seen_at` and status in a database, finds
//! those that fell silent, marks them offline and hands them to an alert sink.
//!
//! | module | contents |
//! |---|---|
//! | [`app`](App) | the composition root: builds, runs and drains everything |
//! | [`config`] | `config.toml` and the environment |
//! | [`domain`] | the rules: heartbeats, statuses, silence; no I/O, no clock |
//! | [`actors`] | `DeviceRegistry`, `MqttIngest`, `Ticker`, `Courier`, `AlertSink` |
//! | [`store`] | all SQL |
//! | [`mqtt`] | the MQTT client |
//! | `receiver` | receives heartbeats in this process: the embedded broker |
//! | [`inbox`] | what was received and not handled yet |
//! | [`users`] | the users of the embedded broker: their file, passwords and rights |
//! | `simulate` | virtual devices |
//! | `views` | devices, transitions and evidence as JSON and in words |
//! | [`metrics`] | counters and measurements for Prometheus |
//!
//! `docs/architecture.md` has the bird's-eye view and the invariants.

pub mod actors;
mod address;
mod app;
mod base64url;
pub mod board;
#[doc(hidden)]
pub mod cli;
pub mod clock;
pub mod config;
pub mod domain;
mod duration;
mod http;
#[doc(hidden)]
pub mod inbox;
mod logging;
pub mod metrics;
pub mod mqtt;
mod process;
mod receiver;
mod secrets;
mod simulate;
pub mod store;
pub mod users;
mod views;

#[doc(hidden)]
pub use app::drain::Draining;
pub use app::{App, AppBuilder, AppError};
pub use config::Config;
pub use process::open_files::TooFewFiles;
pub use process::panics;
pub use receiver::{Receiver, ReceiverError};
