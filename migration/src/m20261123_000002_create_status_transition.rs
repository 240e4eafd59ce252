use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // On SQLite `auto_increment` is AUTOINCREMENT: a sequence number is
        // never used again, not even after its row was pruned.
        manager
            .create_table(
                Table::create()
                    .table(StatusTransition::Table)
                    .if_not_exists()
                    .col(
                        ColumnDef::new(StatusTransition::Sequence)
                            .big_integer()
                            .not_null()
                            .auto_increment()
                            .primary_key(),
                    )
                    .col(ColumnDef::new(StatusTransition::DeviceId).text().not_null())
                    .col(ColumnDef::new(StatusTransition::FromStatus).string_len(16).not_null())
                    .col(ColumnDef::new(StatusTransition::ToStatus).string_len(16).not_null())
                    .col(ColumnDef::new(StatusTransition::At).big_integer().not_null())
                    .col(ColumnDef::new(StatusTransition::LastSeenAt).big_integer())
                    .col(ColumnDef::new(StatusTransition::Cutoff).big_integer())
                    .col(ColumnDef::new(StatusTransition::DeliveredAt).big_integer())
                    .to_owned(),
            )
            .await?;

        manager
            .create_index(
                Index::create()
                    .name("status_transition_device")
                    .if_not_exists()
                    .table(StatusTransition::Table)
                    .col(StatusTransition::DeviceId)
                    .col(StatusTransition::Sequence)
                    .to_owned(),
            )
            .await?;
        // The outbox has only what the sink has not acknowledged, which is nearly nothing.
        manager
            .create_index(
                Index::create()
                    .name("status_transition_outbox")
                    .if_not_exists()
                    .table(StatusTransition::Table)
                    .col(StatusTransition::Sequence)
                    .cond_where(
                        Cond::all()
                            .add(Expr::col(StatusTransition::ToStatus).eq("offline"))
                            .add(Expr::col(StatusTransition::DeliveredAt).is_null()),
                    )
                    .to_owned(),
            )
            .await?;
        // Pruning deletes by age.
        manager
            .create_index(
                Index::create()
                    .name("status_transition_at")
                    .if_not_exists()
                    .table(StatusTransition::Table)
                    .col(StatusTransition::At)
                    .to_owned(),
            )
            .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(StatusTransition::Table).to_owned()).await
    }
}

#[derive(DeriveIden)]
enum StatusTransition {
    Table,
    Sequence,
    DeviceId,
    FromStatus,
    ToStatus,
    At,
    LastSeenAt,
    Cutoff,
    DeliveredAt,
}
