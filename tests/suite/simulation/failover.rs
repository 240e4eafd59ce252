//! A database that fails over to a server which has not received the last commits: the contents of
//! an SQLite file become again what they were at a moment before, on another timeline.

use std::path::{Path, PathBuf};

use sea_orm::{ConnectionTrait, Database, DatabaseConnection};

/// All tables of which something can be lost.
const TABLES: [&str; 10] = [
    "device",
    "status_transition",
    "listening_interval",
    "listener",
    "instance",
    "journal",
    "delivery",
    "device_removal",
    "fleet_sample",
    "sqlite_sequence",
];

/// The timeline as an expression: the one of the file's `user_version`, which is changed by a
/// transaction as everything else is.
pub const TIMELINE: &str = "(SELECT printf('%08X', user_version) FROM pragma_user_version)";

/// The standby server.
pub struct Failover {
    admin: DatabaseConnection,
    /// The file that has what it has received.
    received: PathBuf,
    timeline: u32,
}

impl Failover {
    /// A standby server of the database with this URL, on its first timeline.
    pub async fn of(url: &str, folder: &Path) -> Self {
        let admin = Database::connect(url).await.expect("it opens");
        let failover = Self { admin, received: folder.join("received.db"), timeline: 1 };
        failover.run("PRAGMA user_version = 1").await;
        failover
    }

    async fn run(&self, sql: &str) {
        self.admin.execute_unprepared(sql).await.expect(sql);
    }

    /// Receives what is committed until now, and nothing that follows.
    pub async fn receive(&self) {
        let _none_yet = std::fs::remove_file(&self.received);
        self.run(&format!("VACUUM INTO '{}'", self.received.display())).await;
    }

    /// Puts what was received in the place of what was committed since.
    pub async fn promote(&mut self) {
        self.timeline += 1;
        self.run(&format!("ATTACH '{}' AS received", self.received.display())).await;
        let restore = TABLES.map(|table| {
            format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM received.{table};")
        });
        let (restore, timeline) = (restore.concat(), self.timeline);
        let sql = format!("BEGIN IMMEDIATE; {restore} PRAGMA user_version = {timeline}; COMMIT");
        self.run(&sql).await;
        self.run("DETACH received").await;
    }
}
