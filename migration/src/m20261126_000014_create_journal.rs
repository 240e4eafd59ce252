use sea_orm_migration::prelude::*;

/// The journal of what is no status change: registrations, removals, gaps, and states of the
/// service. Also the newest rows that were deleted as old, so that a reader who was away for
/// too long is told that something is missing.
#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // On SQLite `auto_increment` is AUTOINCREMENT: a number is never used again.
        manager
            .create_table(
                Table::create()
                    .table(Journal::Table)
                    .if_not_exists()
                    .col(
                        ColumnDef::new(Journal::Number)
                            .big_integer()
                            .not_null()
                            .auto_increment()
                            .primary_key(),
                    )
                    .col(ColumnDef::new(Journal::Kind).string_len(16).not_null())
                    .col(ColumnDef::new(Journal::At).big_integer().not_null())
                    .col(ColumnDef::new(Journal::DeviceId).text())
                    .col(ColumnDef::new(Journal::Since).big_integer())
                    .col(ColumnDef::new(Journal::Name).string_len(32))
                    .col(ColumnDef::new(Journal::Detail).text())
                    .to_owned(),
            )
            .await?;
        // Pruning deletes by age.
        manager
            .create_index(
                Index::create()
                    .name("journal_at")
                    .if_not_exists()
                    .table(Journal::Table)
                    .col(Journal::At)
                    .to_owned(),
            )
            .await?;
        // What the service notes is written again if the answer to a COMMIT was lost.
        manager
            .create_index(
                Index::create()
                    .name("journal_once")
                    .if_not_exists()
                    .unique()
                    .table(Journal::Table)
                    .col(Journal::Kind)
                    .col(Journal::At)
                    .cond_where(Expr::col(Journal::DeviceId).is_null())
                    .to_owned(),
            )
            .await?;
        manager
            .create_table(
                Table::create()
                    .table(Pruned::Table)
                    .if_not_exists()
                    .col(ColumnDef::new(Pruned::Id).integer().not_null().primary_key())
                    .col(ColumnDef::new(Pruned::Transitions).big_integer().not_null())
                    .col(ColumnDef::new(Pruned::Journal).big_integer().not_null())
                    .to_owned(),
            )
            .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(Pruned::Table).to_owned()).await?;
        manager.drop_table(Table::drop().table(Journal::Table).to_owned()).await
    }
}

#[derive(DeriveIden)]
enum Journal {
    Table,
    Number,
    Kind,
    At,
    DeviceId,
    Since,
    Name,
    Detail,
}

#[derive(DeriveIden)]
enum Pruned {
    Table,
    Id,
    Transitions,
    Journal,
}
