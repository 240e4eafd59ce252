use sea_orm_migration::prelude::*;

use crate::column::add_missing_column;

/// The timeout that decided about an offline transition. The device's timeout may have
/// changed by the time somebody asks why it went offline.
#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut timeout = ColumnDef::new(StatusTransition::TimeoutMs);
        add_missing_column(manager, StatusTransition::Table, timeout.big_integer()).await
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
