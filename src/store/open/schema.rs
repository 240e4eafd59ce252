//! The schema of a database, and bringing it to this version.
//!
//! One process at a time changes it, and its changes are there as a whole or not at all.

use std::time::Duration;

use log::info;
use migration::{Migrator, MigratorTrait};
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, IsolationLevel,
    SqliteTransactionMode, Statement, TransactionOptions, TransactionTrait,
};
use tokio::time::{Instant, sleep};

use super::OpenMode;
use super::retry::{RETRY, while_busy};

/// The time for which a command that only reads waits for a database without tables. The
/// service may be creating it, which takes milliseconds.
const CREATION_PATIENCE: Duration = Duration::from_secs(2);

/// The key of the advisory lock that a migrator holds on PostgreSQL: "heartbea" in ASCII.
const MIGRATION_LOCK: i64 = i64::from_be_bytes(*b"heartbea");

/// The state of a schema, as its applied migrations show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Schema {
    /// There are no tables, or no migration was applied.
    Nothing,
    /// There are tables, but not heartbeatd's.
    Foreign {
        /// The newest migration, if there are any.
        found: Option<String>,
    },
    /// Migrations are missing.
    Older { found: String },
    /// It is the schema of this version.
    Current,
    /// It has migrations that this version does not know.
    Newer { found: String },
}

impl Schema {
    async fn read(db: &impl ConnectionTrait) -> Result<Self, DbErr> {
        let backend = db.get_database_backend();
        // Raw, because the catalogs have no entities.
        let sql = match backend {
            DbBackend::Postgres => {
                "SELECT count(*) AS tables, count(*) AS migrated FROM pg_tables \
                 WHERE schemaname = current_schema() AND tablename = 'seaql_migrations'"
            }
            _ => {
                "SELECT count(*) AS tables, \
                        coalesce(sum(name = 'seaql_migrations'), 0) AS migrated \
                 FROM sqlite_master WHERE type = 'table'"
            }
        };
        let row = db.query_one_raw(Statement::from_string(backend, sql)).await?;
        let row = row.ok_or_else(|| DbErr::RecordNotFound("a count".to_owned()))?;
        if row.try_get::<i64>("", "migrated")? == 0 {
            let empty = row.try_get::<i64>("", "tables")? == 0;
            return Ok(if empty { Self::Nothing } else { Self::Foreign { found: None } });
        }
        let sql = "SELECT version FROM seaql_migrations ORDER BY version";
        let rows = db.query_all_raw(Statement::from_string(backend, sql)).await?;
        let applied = rows.iter().map(|row| row.try_get("", "version"));
        Ok(Self::after(&applied.collect::<Result<Vec<_>, _>>()?))
    }

    fn after(applied: &[String]) -> Self {
        let known = known_migrations();
        let Some(newest) = applied.iter().max() else { return Self::Nothing };
        let is_known = |name: &&String| known.contains(name);
        match applied.iter().filter(|name| !is_known(name)).max() {
            Some(found) if applied.iter().any(|name| is_known(&name)) => {
                Self::Newer { found: found.clone() }
            }
            Some(found) => Self::Foreign { found: Some(found.clone()) },
            None if known.iter().all(|name| applied.contains(name)) => Self::Current,
            None => Self::Older { found: newest.clone() },
        }
    }

    /// True if opening in this mode changes the schema.
    fn is_due(&self, mode: OpenMode) -> bool {
        match self {
            Self::Nothing => matches!(mode, OpenMode::Migrate | OpenMode::Create),
            Self::Older { .. } | Self::Foreign { found: None } => mode == OpenMode::Migrate,
            Self::Foreign { found: Some(_) } | Self::Current | Self::Newer { .. } => false,
        }
    }
}

fn known_migrations() -> Vec<String> {
    Migrator::migrations().iter().map(|migration| migration.name().to_owned()).collect()
}

pub(super) fn newest_known() -> String {
    known_migrations().into_iter().max().unwrap_or_default()
}

/// Reads the schema, after waiting for one that may be just being created.
pub(super) async fn await_schema(db: &DatabaseConnection) -> Result<Schema, DbErr> {
    let deadline = Instant::now() + CREATION_PATIENCE;
    loop {
        let schema = while_busy(async || Schema::read(db).await).await?;
        if schema != Schema::Nothing || Instant::now() >= deadline {
            return Ok(schema);
        }
        sleep(RETRY).await;
    }
}

/// Applies the missing migrations that this mode allows. Returns true if that created the
/// schema.
pub(super) async fn migrate(db: &DatabaseConnection, mode: OpenMode) -> Result<bool, DbErr> {
    let mut created = false;
    while let Some(changed) = while_busy(async || migrate_once(db, mode).await).await? {
        created |= !matches!(changed, Schema::Older { .. });
    }
    Ok(created)
}

/// Applies the next migration in a transaction, or all of them if there are no tables yet.
/// Returns the schema as it was before.
async fn migrate_once(db: &DatabaseConnection, mode: OpenMode) -> Result<Option<Schema>, DbErr> {
    if !Schema::read(db).await?.is_due(mode) {
        return Ok(None);
    }
    let transaction = begin_alone(db).await?;
    // Another process may have been first.
    let schema = Schema::read(&transaction).await?;
    if !schema.is_due(mode) {
        transaction.rollback().await?;
        return Ok(None);
    }
    let steps = match &schema {
        Schema::Older { found } => {
            info!(target: "heartbeatd", newest = found.as_str(); "migrating the database");
            Some(1)
        }
        _ => None,
    };
    Migrator::up(&transaction, steps).await?;
    transaction.commit().await?;
    Ok(Some(schema))
}

/// Begins a transaction during which no other process migrates.
async fn begin_alone(db: &DatabaseConnection) -> Result<DatabaseTransaction, DbErr> {
    let sqlite = db.get_database_backend() == DbBackend::Sqlite;
    let transaction = db
        .begin_with_options(TransactionOptions {
            // Each statement sees what was committed while this waited for the lock.
            isolation_level: (!sqlite).then_some(IsolationLevel::ReadCommitted),
            sqlite_transaction_mode: sqlite.then_some(SqliteTransactionMode::Immediate),
            ..Default::default()
        })
        .await?;
    if !sqlite {
        // Migrating a large table takes longer than other statements may take.
        let unbounded = "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0";
        transaction.execute_unprepared(unbounded).await?;
        let lock = format!("SELECT pg_advisory_xact_lock({MIGRATION_LOCK})");
        transaction.execute_unprepared(&lock).await?;
    }
    Ok(transaction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(applied: &[&str], expected: &Schema) {
        let applied: Vec<String> = applied.iter().map(ToString::to_string).collect();
        assert_eq!(Schema::after(&applied), *expected);
    }

    #[test]
    fn migrations_tell_older_newer_and_foreign_schemas_apart() {
        let known = known_migrations();
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let newest = known[known.len() - 1];
        check(&[], &Schema::Nothing);
        check(&known, &Schema::Current);
        check(&known[..2], &Schema::Older { found: known[1].to_owned() });
        // One that is missing between others counts, too.
        check(&[&known[..1], &known[2..]].concat(), &Schema::Older { found: newest.to_owned() });
        let future = "m29991231_000001_future";
        check(&[&known, &[future][..]].concat(), &Schema::Newer { found: future.to_owned() });
        check(
            &["m2022_create_cake"],
            &Schema::Foreign { found: Some("m2022_create_cake".to_owned()) },
        );
    }
}
