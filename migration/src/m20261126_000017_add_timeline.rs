use sea_orm_migration::prelude::*;

use crate::column::add_missing_column;

/// The timeline of the database on which a transition was written, which makes its number a key
/// that a failover does not repeat; also in what a recovery remembers of its outage, and in the
/// note of the delivery under way. Rows of earlier versions have none.
#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // With a constant default no row is written again, on either database.
        let mut timeline = ColumnDef::new(StatusTransition::Timeline);
        let timeline = timeline.text().not_null().default("");
        add_missing_column(manager, StatusTransition::Table, timeline).await?;
        // Null, as the other columns about an outage are, where there is none.
        let mut of_outage = ColumnDef::new(StatusTransition::OutageTimeline);
        add_missing_column(manager, StatusTransition::Table, of_outage.text()).await?;
        let mut of_head = ColumnDef::new(Delivery::HeadTimeline);
        let of_head = of_head.text().not_null().default("");
        add_missing_column(manager, Delivery::Table, of_head).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut delivery = Table::alter();
        delivery.table(Delivery::Table).drop_column(Delivery::HeadTimeline);
        manager.alter_table(delivery).await?;
        for column in [StatusTransition::OutageTimeline, StatusTransition::Timeline] {
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
    Timeline,
    OutageTimeline,
}

#[derive(DeriveIden)]
enum Delivery {
    Table,
    HeadTimeline,
}
