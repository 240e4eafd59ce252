use sea_orm_migration::prelude::*;

/// The only service that may write, which is the one that started last. One row; each
/// transaction of the service checks that its token is unchanged.
#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut table = Table::create();
        table
            .table(Instance::Table)
            .if_not_exists()
            .col(ColumnDef::new(Instance::Id).integer().not_null().primary_key())
            .col(ColumnDef::new(Instance::Token).text().not_null())
            .col(ColumnDef::new(Instance::Host).text().not_null())
            .col(ColumnDef::new(Instance::Pid).big_integer().not_null())
            .col(ColumnDef::new(Instance::StartedAt).big_integer().not_null());
        manager.create_table(table).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(Instance::Table).to_owned()).await
    }
}

#[derive(DeriveIden)]
enum Instance {
    Table,
    Id,
    Token,
    Host,
    Pid,
    StartedAt,
}
