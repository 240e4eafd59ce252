use sea_orm_migration::prelude::*;

/// Why a device's last payload could not be read, or a part of it.
#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut table = Table::alter();
        table.table(Device::Table).add_column(ColumnDef::new(Device::PayloadError).text());
        manager.alter_table(table).await
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
