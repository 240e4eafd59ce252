//! A test's own database: a SQLite file, or one in the PostgreSQL server that all tests
//! share.

use std::time::Duration;

use heartbeatd::store::{DeviceStore, OpenMode, Reader, ReadingLimits};
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, SqliteTransactionMode,
    Statement, TransactionOptions, TransactionTrait,
};
use servers::postgresql::PostgreSql;
use tempfile::TempDir;

/// The database of a test.
pub struct TestDatabase {
    pub url: String,
    _folder: Option<TempDir>,
}

impl TestDatabase {
    pub fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let url = format!("sqlite://{}?mode=rwc", folder.path().join("test.db").display());
        Self { url, _folder: Some(folder) }
    }

    /// A SQLite file that belongs to something else.
    pub fn at(path: &std::path::Path) -> Self {
        Self { url: format!("sqlite://{}", path.display()), _folder: None }
    }

    pub fn postgres() -> Self {
        Self { url: PostgreSql::shared().new_database(), _folder: None }
    }

    /// A database in a server of the test's own.
    pub fn on(server: &PostgreSql) -> Self {
        Self { url: server.new_database(), _folder: None }
    }

    /// The database with this URL.
    pub fn with_url(url: String) -> Self {
        Self { url, _folder: None }
    }

    /// The database of the same name in another server, which has it from this one.
    pub fn moved_to(&self, server: &PostgreSql) -> Self {
        let mut url: url::Url = self.url.parse().expect("a URL");
        url.set_port(Some(server.port())).expect("it has a host");
        Self::with_url(url.into())
    }

    /// The name of a database in PostgreSQL.
    pub fn name(&self) -> &str {
        self.url.rsplit_once('/').map(|(_, name)| name).expect("it is the last part of the URL")
    }

    /// A database in PostgreSQL with these options of `CREATE DATABASE`.
    pub fn of_language(options: &str) -> Self {
        Self { url: PostgreSql::shared().new_database_with(options), _folder: None }
    }

    pub async fn open(&self) -> DeviceStore {
        DeviceStore::open(&self.url, OpenMode::Create).await.expect("the database opens")
    }

    /// The deadlocks that PostgreSQL has found in it.
    pub async fn deadlocks(&self) -> i64 {
        let db = sea_orm::Database::connect(&self.url).await.expect("the database opens");
        let count = deadlocks(&db).await;
        db.close().await.expect("it closes");
        count
    }

    /// Runs SQL without the service.
    pub async fn execute(&self, sql: &str) {
        let db = sea_orm::Database::connect(&self.url).await.expect("the database opens");
        db.execute_unprepared(sql).await.expect(sql);
        db.close().await.expect("it closes");
    }
}

/// The deadlocks that PostgreSQL has found in the database of a connection.
pub async fn deadlocks(db: &DatabaseConnection) -> i64 {
    let sql = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    let row = db.query_one_raw(Statement::from_string(DbBackend::Postgres, sql)).await;
    row.expect(sql).expect("a row").try_get("", "deadlocks").expect("a number")
}

/// A reader for a test that is not about the time that reads may take.
pub async fn patient_reader(store: &DeviceStore) -> Reader {
    let limits =
        ReadingLimits { bound: Duration::from_secs(120), patience: Duration::from_secs(120) };
    store.reader_within(limits).await.expect("it opens")
}

/// Takes the lock of a SQLite database for writing, until the transaction ends.
pub async fn lock_sqlite(url: &str) -> DatabaseTransaction {
    let db = sea_orm::Database::connect(url).await.expect("the database opens");
    let immediate = TransactionOptions {
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        ..Default::default()
    };
    db.begin_with_options(immediate).await.expect("it becomes free")
}
