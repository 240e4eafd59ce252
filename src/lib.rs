//! heartbeatd
pub mod clock;
pub mod config;
pub mod domain;
mod line_budget;
pub mod metrics;
pub mod mqtt;
pub mod store;
