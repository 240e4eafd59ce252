use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

/// The number of devices in each status over time, one row for a check.
#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut table = Table::create();
        table
            .table(FleetSample::Table)
            .if_not_exists()
            .col(ColumnDef::new(FleetSample::At).big_integer().not_null().primary_key())
            .col(ColumnDef::new(FleetSample::Provisioning).big_integer().not_null())
            .col(ColumnDef::new(FleetSample::Online).big_integer().not_null())
            .col(ColumnDef::new(FleetSample::Offline).big_integer().not_null())
            .col(ColumnDef::new(FleetSample::Error).big_integer().not_null())
            .col(ColumnDef::new(FleetSample::Late).big_integer());
        if manager.get_database_backend() == DbBackend::Sqlite {
            table.extra("WITHOUT ROWID");
        }
        manager.create_table(table).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(FleetSample::Table).to_owned()).await
    }
}

#[derive(DeriveIden)]
enum FleetSample {
    Table,
    At,
    Provisioning,
    Online,
    Offline,
    Error,
    Late,
}
