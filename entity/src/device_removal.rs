//! A device that was removed lately.

use sea_orm::entity::prelude::*;

/// One row per removed device, kept for a day or until a later heartbeat registers it again.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "device_removal")]
pub struct Model {
    /// Its id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub device_id: String,
    /// The time of the removal. A heartbeat received until then does not register the device.
    pub removed_at: ChronoUnixTimestampMillis,
}

impl ActiveModelBehavior for ActiveModel {}
