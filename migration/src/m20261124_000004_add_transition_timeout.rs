use sea_orm_migration::prelude::*;

/// The timeout that decided about an offline transition: a device's timeout may
/// be another one by the time somebody asks why it went offline.
#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut table = Table::alter();
        table
            .table(StatusTransition::Table)
            .add_column(ColumnDef::new(StatusTransition::TimeoutMs).big_integer());
        manager.alter_table(table).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut table = Table::alter();
        table.table(StatusTransition::Table).drop_column(StatusTransition::TimeoutMs);
        manager.alter_table(table).await
    }
}

#[derive(DeriveIden)]
enum StatusTransition {
    Table,
    TimeoutMs,
}
