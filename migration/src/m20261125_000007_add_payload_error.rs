use sea_orm_migration::prelude::*;

use crate::column::add_missing_column;

/// The reason why a device's last payload, or a part of it, could not be read.
#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut payload_error = ColumnDef::new(Device::PayloadError);
        add_missing_column(manager, Device::Table, payload_error.text()).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut table = Table::alter();
        table.table(Device::Table).drop_column(Device::PayloadError);
        manager.alter_table(table).await
    }
}

#[derive(DeriveIden)]
enum Device {
    Table,
    PayloadError,
}
