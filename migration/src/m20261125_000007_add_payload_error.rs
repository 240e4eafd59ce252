use sea_orm_migration::prelude::*;

use crate::column::add_missing_column;

/// Why a device's last payload could not be read, or a part of it.
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
