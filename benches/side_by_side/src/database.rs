//! The database of a heartbeatd, which can be filled beforehand and queried.

use anyhow::Context;
use heartbeatd::store::{DeviceStore, OpenMode};
use sea_orm::{ConnectOptions, ConnectionTrait, DatabaseConnection, Statement};
use servers::postgresql::PostgreSql;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// The kind of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Server {
    Sqlite,
    Postgresql,
}

impl Server {
    pub fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Postgresql => "PostgreSQL",
        }
    }
}

/// An empty database with heartbeatd's schema.
pub struct Database {
    pub folder: TempDir,
    pub url: String,
    pub server: Server,
    runtime: Runtime,
    connection: DatabaseConnection,
}

impl Database {
    pub fn new(server: Server) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let url = match server {
            Server::Sqlite => {
                format!("sqlite://{}?mode=rwc", folder.path().join("heartbeatd.db").display())
            }
            Server::Postgresql => PostgreSql::shared().new_database(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let connection = runtime.block_on(async {
            DeviceStore::open(&url, OpenMode::Create).await?.close().await?;
            let mut options = ConnectOptions::new(&url);
            options.max_connections(1).sqlx_logging(false);
            Ok::<_, anyhow::Error>(sea_orm::Database::connect(options).await?)
        })?;
        Ok(Self { folder, url, server, runtime, connection })
    }

    /// The only number that a query returns.
    pub fn number(&self, sql: &str) -> anyhow::Result<Option<i64>> {
        Ok(self.numbers(sql)?.first().copied())
    }

    /// The numbers in the first column; rows without one are left out.
    pub fn numbers(&self, sql: &str) -> anyhow::Result<Vec<i64>> {
        let statement = Statement::from_string(self.connection.get_database_backend(), sql);
        let rows = self.runtime.block_on(self.connection.query_all_raw(statement))?;
        let numbers = rows.iter().map(|row| row.try_get_by_index::<Option<i64>>(0));
        Ok(numbers.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    }

    pub fn execute(&self, sql: &str) -> anyhow::Result<()> {
        self.runtime.block_on(self.connection.execute_unprepared(sql)).context("a statement")?;
        Ok(())
    }

    /// Registers `device-0000000` and so on, all online and last seen now. The first of
    /// every hundred gets its own timeout, in seconds, if there is one.
    pub fn register(&self, devices: u64, own_timeout: Option<u64>) -> anyhow::Result<()> {
        let now = chrono::Utc::now().timestamp_millis();
        let own = own_timeout.map_or("NULL".to_owned(), |seconds| seconds.to_string());
        // PostgreSQL would take a bare NULL for a text.
        let own = format!("CAST({own} AS bigint)");
        let columns = "id, status, last_seen_at, timeout_seconds, registered_at";
        let values = format!("'online', {now}, CASE WHEN i % 100 = 0 THEN {own} END, {now}");
        let last = devices.saturating_sub(1);
        self.execute(&match self.server {
            Server::Sqlite => format!(
                "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {last}) \
                 INSERT INTO device ({columns}) SELECT printf('device-%07d', i), {values} FROM n"
            ),
            Server::Postgresql => format!(
                "INSERT INTO device ({columns}) \
                 SELECT 'device-' || lpad(i::text, greatest(7, length(i::text)), '0'), {values} \
                 FROM generate_series(0, {last}) AS i"
            ),
        })?;
        self.settle()
    }

    /// Does what a database that has been running for a while would have done by itself.
    pub fn settle(&self) -> anyhow::Result<()> {
        self.execute(match self.server {
            Server::Sqlite => "PRAGMA wal_checkpoint(TRUNCATE)",
            Server::Postgresql => "VACUUM ANALYZE",
        })
    }
}
