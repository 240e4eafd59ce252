use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

/// The indexes for lists of devices. Neither has a column that a steady heartbeat changes.
///
/// The status is indexed as an expression, so that only queries that name it use the index.
/// Without statistics SQLite would search the devices of one status for every statement that
/// mentions the status, also if these are a million.
///
/// On PostgreSQL ids are ordered by their bytes, as on SQLite, because a prefix is not a range
/// in the order of a language.
#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let indexes = match manager.get_database_backend() {
            DbBackend::Postgres => {
                "CREATE INDEX IF NOT EXISTS device_status \
                     ON device ((status || ''), id COLLATE \"C\"); \
                 CREATE INDEX IF NOT EXISTS device_id_bytes ON device (id COLLATE \"C\")"
            }
            _ => "CREATE INDEX IF NOT EXISTS device_status ON device (status || '', id)",
        };
        // Raw, because the builder has no expressions with a collation.
        manager.get_connection().execute_unprepared(indexes).await.map(drop)
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let indexes = "DROP INDEX IF EXISTS device_status; DROP INDEX IF EXISTS device_id_bytes";
        manager.get_connection().execute_unprepared(indexes).await.map(drop)
    }
}
