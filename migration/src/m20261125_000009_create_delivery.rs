use sea_orm_migration::prelude::*;

/// The delivery that is under way, so that an alert at which the process dies can be told
/// from the others, and the alerts that were given up.
#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .create_table(
                Table::create()
                    .table(Delivery::Table)
                    .if_not_exists()
                    .col(ColumnDef::new(Delivery::Id).integer().not_null().primary_key())
                    .col(ColumnDef::new(Delivery::Head).big_integer().not_null())
                    .col(ColumnDef::new(Delivery::Size).big_integer().not_null())
                    .col(ColumnDef::new(Delivery::Tries).big_integer().not_null())
                    .col(ColumnDef::new(Delivery::Probe).string_len(16).not_null())
                    .to_owned(),
            )
            .await?;
        // SQLite adds one column at a time.
        let mut at = ColumnDef::new(StatusTransition::GivenUpAt);
        let mut why = ColumnDef::new(StatusTransition::GivenUpWhy);
        for (name, column) in [("given_up_at", at.big_integer()), ("given_up_why", why.text())] {
            if manager.has_column("status_transition", name).await? {
                continue;
            }
            let mut table = Table::alter();
            table.table(StatusTransition::Table).add_column(column);
            manager.alter_table(table).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(Delivery::Table).to_owned()).await?;
        for column in [StatusTransition::GivenUpWhy, StatusTransition::GivenUpAt] {
            let mut table = Table::alter();
            table.table(StatusTransition::Table).drop_column(column);
            manager.alter_table(table).await?;
        }
        Ok(())
    }
}

#[derive(DeriveIden)]
enum Delivery {
    Table,
    Id,
    Head,
    Size,
    Tries,
    Probe,
}

#[derive(DeriveIden)]
enum StatusTransition {
    Table,
    GivenUpAt,
    GivenUpWhy,
}
