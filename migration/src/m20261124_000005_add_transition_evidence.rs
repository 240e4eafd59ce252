use sea_orm_migration::prelude::*;

use crate::column::add_missing_column;

/// The evidence for an offline transition: how much of the silence was listened to, and by
/// which instance. It is stored because its intervals are not kept for ever.
#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // SQLite adds one column at a time.
        let mut listened = ColumnDef::new(StatusTransition::ListenedMs);
        let mut instance = ColumnDef::new(StatusTransition::Instance);
        for column in [listened.big_integer(), instance.text()] {
            add_missing_column(manager, StatusTransition::Table, column).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for column in [StatusTransition::Instance, StatusTransition::ListenedMs] {
            let mut table = Table::alter();
            table.table(StatusTransition::Table).drop_column(column);
            manager.alter_table(table).await?;
        }
        Ok(())
    }
}

#[derive(DeriveIden)]
enum StatusTransition {
    Table,
    ListenedMs,
    Instance,
}
