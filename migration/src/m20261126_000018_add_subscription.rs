use sea_orm_migration::prelude::*;

use crate::column::add_missing_column;

/// The subscription of a listener and two intervals of its configuration, so that instances on one
/// database which differ in them are noticed. Null in rows of earlier versions.
#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for text in [Listener::Topic, Listener::Broker, Listener::EntryUrls] {
            add_missing_column(manager, Listener::Table, ColumnDef::new(text).text()).await?;
        }
        for millis in [Listener::TimeoutMs, Listener::CheckIntervalMs] {
            let mut column = ColumnDef::new(millis);
            add_missing_column(manager, Listener::Table, column.big_integer()).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for column in [
            Listener::CheckIntervalMs,
            Listener::TimeoutMs,
            Listener::EntryUrls,
            Listener::Broker,
            Listener::Topic,
        ] {
            let mut table = Table::alter();
            table.table(Listener::Table).drop_column(column);
            manager.alter_table(table).await?;
        }
        Ok(())
    }
}

#[derive(DeriveIden)]
enum Listener {
    Table,
    Topic,
    Broker,
    EntryUrls,
    TimeoutMs,
    CheckIntervalMs,
}
