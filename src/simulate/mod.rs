//! Virtual devices: a fleet that a person can watch, and that publishes like a real one.
//!
//! `fleet` decides which device does what, and when; it has no clock and no connection, so the
//! same seed is the same fleet. `payload` is what the devices say. `drive` publishes it, for
//! all devices through one connection: ten thousand connections would measure the machine
//! that simulates.

mod device;
mod drive;
mod fleet;
mod payload;

pub(crate) use drive::{Drive, Told, Totals};
pub(crate) use fleet::{Amount, Burst, Fleet, FleetError, Names, Plan, Step, What};
