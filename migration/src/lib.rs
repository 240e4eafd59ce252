//! heartbeatd's schema and its history.
//!
//! A migration never imports `entity`, because it would change whenever the entity does, and
//! would then migrate an old database to something else than before. Each step can be
//! repeated, because an earlier version may have been killed after a step and before noting
//! it.

pub use sea_orm_migration::prelude::MigratorTrait;
use sea_orm_migration::prelude::*;

mod column;
mod m20261123_000001_create_device;
mod m20261123_000002_create_status_transition;
mod m20261124_000003_create_listening_interval;
mod m20261124_000004_add_transition_timeout;
mod m20261124_000005_add_transition_evidence;
mod m20261125_000006_index_newborn_devices;
mod m20261125_000007_add_payload_error;
mod m20261125_000008_create_device_removal;
mod m20261125_000009_create_delivery;
mod m20261125_000010_create_instance;
mod m20261126_000011_index_device_status;
mod m20261126_000012_end_outages;
mod m20261126_000013_add_recovery;
mod m20261126_000014_create_journal;
mod m20261126_000015_create_fleet_sample;
mod m20261126_000016_create_listener;
mod m20261126_000017_add_timeline;
mod m20261126_000018_add_subscription;

/// Brings a database to the schema of this version.
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m20261123_000001_create_device::Migration),
            Box::new(m20261123_000002_create_status_transition::Migration),
            Box::new(m20261124_000003_create_listening_interval::Migration),
            Box::new(m20261124_000004_add_transition_timeout::Migration),
            Box::new(m20261124_000005_add_transition_evidence::Migration),
            Box::new(m20261125_000006_index_newborn_devices::Migration),
            Box::new(m20261125_000007_add_payload_error::Migration),
            Box::new(m20261125_000008_create_device_removal::Migration),
            Box::new(m20261125_000009_create_delivery::Migration),
            Box::new(m20261125_000010_create_instance::Migration),
            Box::new(m20261126_000011_index_device_status::Migration),
            Box::new(m20261126_000012_end_outages::Migration),
            Box::new(m20261126_000013_add_recovery::Migration),
            Box::new(m20261126_000014_create_journal::Migration),
            Box::new(m20261126_000015_create_fleet_sample::Migration),
            Box::new(m20261126_000016_create_listener::Migration),
            Box::new(m20261126_000017_add_timeline::Migration),
            Box::new(m20261126_000018_add_subscription::Migration),
        ]
    }
}
