use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut table = Table::create();
        table
            .table(ListeningInterval::Table)
            .if_not_exists()
            .col(ColumnDef::new(ListeningInterval::Instance).text().not_null())
            .col(ColumnDef::new(ListeningInterval::StartedAt).big_integer().not_null())
            .col(ColumnDef::new(ListeningInterval::EndedAt).big_integer().not_null())
            .col(ColumnDef::new(ListeningInterval::GapCause).string_len(16))
            .primary_key(
                Index::create().col(ListeningInterval::Instance).col(ListeningInterval::StartedAt),
            );
        if manager.get_database_backend() == DbBackend::Sqlite {
            // The newest row is written every few seconds: one tree, not two.
            table.extra("WITHOUT ROWID");
        }
        manager.create_table(table).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(ListeningInterval::Table).to_owned()).await
    }
}

#[derive(DeriveIden)]
enum ListeningInterval {
    Table,
    Instance,
    StartedAt,
    EndedAt,
    GapCause,
}
