use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut table = Table::create();
        table
            .table(Device::Table)
            .if_not_exists()
            .col(ColumnDef::new(Device::Id).text().not_null().primary_key())
            .col(ColumnDef::new(Device::Status).string_len(16).not_null())
            .col(ColumnDef::new(Device::LastSeenAt).big_integer())
            .col(ColumnDef::new(Device::TimeoutSeconds).big_integer())
            .col(ColumnDef::new(Device::UptimeSeconds).big_integer())
            .col(ColumnDef::new(Device::FreeMemory).big_integer())
            .col(ColumnDef::new(Device::ClockSkewMs).big_integer())
            .col(ColumnDef::new(Device::Error).text())
            .col(ColumnDef::new(Device::RegisteredAt).big_integer().not_null());
        match manager.get_database_backend() {
            // Rows are stored in the order of their ids. A flush sorts by id, so it touches
            // each page once, and there is no second tree to maintain.
            DbBackend::Sqlite => table.extra("WITHOUT ROWID"),
            // Each page has room for the next version of its rows, because an update that
            // stays on its page touches no index.
            DbBackend::Postgres => table.extra("WITH (fillfactor = 50)"),
            _ => &mut table,
        };
        manager.create_table(table).await?;

        // Few devices have their own timeout, and each check reads the distinct ones.
        // `last_seen_at` is not indexed, because every heartbeat would pay for it, and
        // scanning a million rows takes less than 0.1 s.
        manager
            .create_index(
                Index::create()
                    .name("device_timeout_seconds")
                    .if_not_exists()
                    .table(Device::Table)
                    .col(Device::TimeoutSeconds)
                    .cond_where(Expr::col(Device::TimeoutSeconds).is_not_null())
                    .to_owned(),
            )
            .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(Device::Table).to_owned()).await
    }
}

#[derive(DeriveIden)]
enum Device {
    Table,
    Id,
    Status,
    LastSeenAt,
    TimeoutSeconds,
    UptimeSeconds,
    FreeMemory,
    ClockSkewMs,
    Error,
    RegisteredAt,
}
