use sea_orm_migration::prelude::*;

use crate::column::add_missing_column;

/// The outage that a transition ends, so that the recovery is delivered through the outbox.
/// Transitions of earlier versions have none and are never delivered as recoveries.
#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // SQLite adds one column at a time.
        let mut sequence = ColumnDef::new(StatusTransition::OutageSequence);
        let mut silent_since = ColumnDef::new(StatusTransition::OutageSilentSince);
        let mut found_at = ColumnDef::new(StatusTransition::OutageFoundAt);
        for column in [&mut sequence, &mut silent_since, &mut found_at] {
            add_missing_column(manager, StatusTransition::Table, column.big_integer()).await?;
        }
        // What was given up is no longer in the index, either.
        let index = "\
            CREATE INDEX IF NOT EXISTS status_transition_undelivered \
                ON status_transition (sequence) \
                WHERE (to_status = 'offline' OR outage_sequence IS NOT NULL) \
                AND delivered_at IS NULL AND given_up_at IS NULL; \
            DROP INDEX IF EXISTS status_transition_outbox";
        manager.get_connection().execute_unprepared(index).await.map(drop)
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let index = "\
            DROP INDEX IF EXISTS status_transition_undelivered; \
            CREATE INDEX IF NOT EXISTS status_transition_outbox \
                ON status_transition (sequence) \
                WHERE to_status = 'offline' AND delivered_at IS NULL";
        manager.get_connection().execute_unprepared(index).await?;
        for column in [
            StatusTransition::OutageFoundAt,
            StatusTransition::OutageSilentSince,
            StatusTransition::OutageSequence,
        ] {
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
    OutageSequence,
    OutageSilentSince,
    OutageFoundAt,
}
