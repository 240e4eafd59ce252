use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

use crate::column::add_missing_column;

/// The end of each outage, and the indexes that find outages and transitions by their time.
///
/// The status that was entered is indexed as an expression, for the reason given in
/// `m20261126_000011_index_device_status`. On SQLite each index ends with the sequence by itself.
#[derive(DeriveMigrationName)]
pub struct Migration;

/// Ends the outages that earlier versions left without an end: with the next transition of the
/// device, or with its removal.
const END_OLD_OUTAGES: &str = "\
    UPDATE status_transition SET ended_at = coalesce(\
        (SELECT later.at FROM status_transition AS later \
         WHERE later.device_id = status_transition.device_id \
         AND later.sequence > status_transition.sequence ORDER BY later.sequence LIMIT 1), \
        (SELECT removed_at FROM device_removal \
         WHERE device_removal.device_id = status_transition.device_id), \
        at) \
    WHERE to_status = 'offline' AND ended_at IS NULL AND (\
        EXISTS (SELECT 1 FROM status_transition AS later \
                WHERE later.device_id = status_transition.device_id \
                AND later.sequence > status_transition.sequence) \
        OR NOT EXISTS (SELECT 1 FROM device \
                       WHERE device.id = status_transition.device_id \
                       AND device.status = 'offline'))";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut ended_at = ColumnDef::new(StatusTransition::EndedAt);
        add_missing_column(manager, StatusTransition::Table, ended_at.big_integer()).await?;
        // Raw, because the builder has no expressions.
        let (sequence, by_time) = match manager.get_database_backend() {
            DbBackend::Postgres => (
                ", sequence",
                "DROP INDEX IF EXISTS status_transition_at; \
                 CREATE INDEX IF NOT EXISTS status_transition_time \
                     ON status_transition (at, sequence);",
            ),
            // status_transition_at is the same.
            _ => ("", ""),
        };
        let indexes = format!(
            "{END_OLD_OUTAGES}; {by_time} \
             CREATE INDEX IF NOT EXISTS status_transition_to \
                 ON status_transition ((to_status || ''), at{sequence}); \
             CREATE INDEX IF NOT EXISTS status_transition_open \
                 ON status_transition (at{sequence}) \
                 WHERE to_status = 'offline' AND ended_at IS NULL; \
             CREATE INDEX IF NOT EXISTS status_transition_open_device \
                 ON status_transition (device_id) \
                 WHERE to_status = 'offline' AND ended_at IS NULL"
        );
        manager.get_connection().execute_unprepared(&indexes).await.map(drop)
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let by_time = match manager.get_database_backend() {
            DbBackend::Postgres => {
                "DROP INDEX IF EXISTS status_transition_time; \
                 CREATE INDEX IF NOT EXISTS status_transition_at ON status_transition (at);"
            }
            _ => "",
        };
        let indexes = format!(
            "{by_time} DROP INDEX IF EXISTS status_transition_to; \
             DROP INDEX IF EXISTS status_transition_open; \
             DROP INDEX IF EXISTS status_transition_open_device"
        );
        manager.get_connection().execute_unprepared(&indexes).await?;
        let mut table = Table::alter();
        table.table(StatusTransition::Table).drop_column(StatusTransition::EndedAt);
        manager.alter_table(table).await
    }
}

#[derive(DeriveIden)]
enum StatusTransition {
    Table,
    EndedAt,
}
