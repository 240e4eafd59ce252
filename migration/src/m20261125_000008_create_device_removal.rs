use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

/// The devices that were removed lately, so that a heartbeat received before does not bring
/// one back.
#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut table = Table::create();
        table
            .table(DeviceRemoval::Table)
            .if_not_exists()
            .col(ColumnDef::new(DeviceRemoval::DeviceId).text().not_null().primary_key())
            .col(ColumnDef::new(DeviceRemoval::RemovedAt).big_integer().not_null());
        if manager.get_database_backend() == DbBackend::Sqlite {
            table.extra("WITHOUT ROWID");
        }
        manager.create_table(table).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(DeviceRemoval::Table).to_owned()).await
    }
}

#[derive(DeriveIden)]
enum DeviceRemoval {
    Table,
    DeviceId,
    RemovedAt,
}
