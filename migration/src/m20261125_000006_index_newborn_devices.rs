use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

/// The index of the devices that a flush on SQLite has just registered. Outside its
/// transaction the index is empty. On PostgreSQL it would not be used, and would keep
/// updates from staying on their page.
#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if manager.get_database_backend() != DbBackend::Sqlite {
            return Ok(());
        }
        manager
            .create_index(
                Index::create()
                    .name("device_newborn")
                    .if_not_exists()
                    .table(Device::Table)
                    .col(Device::Id)
                    .cond_where(
                        Cond::all()
                            .add(Expr::col(Device::Status).eq("provisioning"))
                            .add(Expr::col(Device::LastSeenAt).is_not_null()),
                    )
                    .to_owned(),
            )
            .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if manager.get_database_backend() != DbBackend::Sqlite {
            return Ok(());
        }
        manager
            .drop_index(Index::drop().name("device_newborn").table(Device::Table).to_owned())
            .await
    }
}

#[derive(DeriveIden)]
enum Device {
    Table,
    Id,
    Status,
    LastSeenAt,
}
