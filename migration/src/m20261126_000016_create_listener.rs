use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

use crate::column::add_missing_column;

/// The stays of listeners, and the intervals that each of them has proven. An instance had
/// intervals before; all of them become those of one stay, which has ended.
#[derive(DeriveMigrationName)]
pub struct Migration;

const STAYS_BEFORE: &str = "\
    INSERT INTO listener (instance, incarnation, joined_at, left_at, left_how, proven_until) \
    SELECT instance, 0, min(started_at), max(ended_at), 'left', max(ended_at) \
    FROM listening_interval_before GROUP BY instance ORDER BY min(started_at)";

const INTERVALS_BEFORE: &str = "\
    INSERT INTO listening_interval (listener, started_at, ended_at, gap_cause) \
    SELECT listener.id, started_at, ended_at, gap_cause FROM listening_interval_before \
    JOIN listener ON listener.instance = listening_interval_before.instance";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let sqlite = manager.get_database_backend() == DbBackend::Sqlite;
        let mut table = Table::create();
        // On SQLite `auto_increment` is AUTOINCREMENT: a number is never used again.
        table
            .table(Listener::Table)
            .if_not_exists()
            .col(
                ColumnDef::new(Listener::Id)
                    .big_integer()
                    .not_null()
                    .auto_increment()
                    .primary_key(),
            )
            .col(ColumnDef::new(Listener::Instance).text().not_null())
            .col(ColumnDef::new(Listener::Incarnation).big_integer().not_null())
            .col(ColumnDef::new(Listener::ShareGroup).text())
            .col(ColumnDef::new(Listener::Timeline).text().not_null().default(""))
            .col(ColumnDef::new(Listener::JoinedAt).big_integer().not_null())
            .col(ColumnDef::new(Listener::LeftAt).big_integer())
            .col(ColumnDef::new(Listener::LeftHow).string_len(16))
            .col(ColumnDef::new(Listener::FencedBy).text())
            .col(ColumnDef::new(Listener::Saves).big_integer().not_null().default(0))
            .col(ColumnDef::new(Listener::ProvenUntil).big_integer())
            .col(ColumnDef::new(Listener::ClockOffsetMs).big_integer().not_null().default(0))
            .col(ColumnDef::new(Listener::ClockSpreadMs).big_integer().not_null().default(0));
        if !sqlite {
            // A row is updated with each flush. With room on its page that touches no index.
            table.extra("WITH (fillfactor = 50)");
        }
        manager.create_table(table).await?;
        let raw = manager.get_connection();
        raw.execute_unprepared(
            "CREATE INDEX IF NOT EXISTS listener_open ON listener (instance) \
             WHERE left_at IS NULL",
        )
        .await?;
        if !manager.has_column("listening_interval", "listener").await? {
            rebuild_intervals(manager, sqlite).await?;
        }
        // The listener that may write. None yet, for it is set with the next token.
        let mut listener = ColumnDef::new(Instance::Listener);
        add_missing_column(manager, Instance::Table, listener.big_integer()).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let sqlite = manager.get_database_backend() == DbBackend::Sqlite;
        let raw = manager.get_connection();
        raw.execute_unprepared(
            "ALTER TABLE instance DROP COLUMN listener; \
             ALTER TABLE listening_interval RENAME TO listening_interval_after",
        )
        .await?;
        let mut table = Table::create();
        table
            .table(ListeningInterval::Table)
            .col(ColumnDef::new(ListeningInterval::Instance).text().not_null())
            .col(ColumnDef::new(ListeningInterval::StartedAt).big_integer().not_null())
            .col(ColumnDef::new(ListeningInterval::EndedAt).big_integer().not_null())
            .col(ColumnDef::new(ListeningInterval::GapCause).string_len(16))
            .primary_key(
                Index::create()
                    .name("listening_interval_of_instance")
                    .col(ListeningInterval::Instance)
                    .col(ListeningInterval::StartedAt),
            );
        if sqlite {
            table.extra("WITHOUT ROWID");
        }
        manager.create_table(table).await?;
        raw.execute_unprepared(
            "INSERT INTO listening_interval (instance, started_at, ended_at, gap_cause) \
             SELECT instance, started_at, max(ended_at), max(gap_cause) \
             FROM listening_interval_after \
             JOIN listener ON listener.id = listening_interval_after.listener \
             GROUP BY instance, started_at; \
             DROP TABLE listening_interval_after; DROP TABLE listener",
        )
        .await
        .map(drop)
    }
}

/// Makes the table of intervals anew, with the listener as its key instead of the instance.
async fn rebuild_intervals(manager: &SchemaManager<'_>, sqlite: bool) -> Result<(), DbErr> {
    let raw = manager.get_connection();
    raw.execute_unprepared("ALTER TABLE listening_interval RENAME TO listening_interval_before")
        .await?;
    let mut table = Table::create();
    table
        .table(ListeningInterval::Table)
        .col(ColumnDef::new(ListeningInterval::Listener).big_integer().not_null())
        .col(ColumnDef::new(ListeningInterval::StartedAt).big_integer().not_null())
        .col(ColumnDef::new(ListeningInterval::EndedAt).big_integer().not_null())
        .col(ColumnDef::new(ListeningInterval::GapCause).string_len(16))
        .primary_key(
            Index::create()
                .name("listening_interval_of_listener")
                .col(ListeningInterval::Listener)
                .col(ListeningInterval::StartedAt),
        );
    if sqlite {
        // The newest row is written every few seconds: one tree, not two.
        table.extra("WITHOUT ROWID");
    }
    manager.create_table(table).await?;
    raw.execute_unprepared(STAYS_BEFORE).await?;
    raw.execute_unprepared(INTERVALS_BEFORE).await?;
    raw.execute_unprepared("DROP TABLE listening_interval_before").await?;
    Ok(())
}

#[derive(DeriveIden)]
enum Listener {
    Table,
    Id,
    Instance,
    Incarnation,
    ShareGroup,
    Timeline,
    JoinedAt,
    LeftAt,
    LeftHow,
    FencedBy,
    Saves,
    ProvenUntil,
    ClockOffsetMs,
    ClockSpreadMs,
}

#[derive(DeriveIden)]
enum ListeningInterval {
    Table,
    Listener,
    Instance,
    StartedAt,
    EndedAt,
    GapCause,
}

#[derive(DeriveIden)]
enum Instance {
    Table,
    Listener,
}
