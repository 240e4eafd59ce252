//! The timeline of the database, read by the statement or in the transaction that writes on it.
//!
//! PostgreSQL begins a new timeline with each failover. What a server that lagged behind had not
//! received is lost then, and the numbers that were given to it are given again. So whatever has
//! to be told apart from what a lost timeline said has the timeline beside its number.
//!
//! Not every engine that speaks PostgreSQL's protocol has timelines (CockroachDB has none), and a
//! role may lack the right to ask (`EXECUTE` on `pg_walfile_name`). That must not stop the
//! service, so each new connection asks once, outside any transaction. A database that does not
//! tell has [`DatabaseTimeline::NONE`], as SQLite has.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sea_orm::{ConnectionTrait, DbBackend, DbErr, QueryResult, sqlx};

use super::driver_error::is_transient;
use super::{DeviceStore, OpenMode, Result};
use crate::domain::DatabaseTimeline;

/// The current timeline, evaluated once in a statement: a transaction cannot begin on one timeline
/// and commit on another. Any role may ask, unless that was revoked.
const TOLD: &str = "(SELECT left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))";

/// The constant where no timeline is told.
const NOT_TOLD: &str = "CAST('' AS text)";

/// Asks whether the timeline is told. Null if the server is in recovery: it writes nothing then,
/// and will tell when it does.
const PROBE: &str = "SELECT CASE WHEN NOT pg_is_in_recovery() \
                     THEN left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) END";

/// The finding of a store's connections: whether the database tells its timeline.
#[derive(Clone, Debug)]
pub(super) struct Timelines {
    are_told: Arc<AtomicBool>,
    /// The level at which it is logged that they are not. Commands say nothing.
    level: log::Level,
}

impl Timelines {
    /// Those of a database of which nothing is known yet.
    pub(super) fn unknown(mode: OpenMode) -> Self {
        let level = match mode {
            OpenMode::Migrate | OpenMode::Beside => log::Level::Info,
            OpenMode::Create | OpenMode::Existing => log::Level::Debug,
        };
        Self { are_told: Arc::new(AtomicBool::new(true)), level }
    }

    /// Asks on a new connection to PostgreSQL, or to an engine like it.
    pub(super) async fn ask(&self, connection: &mut sqlx::PgConnection) -> Result<(), sqlx::Error> {
        let told = sqlx::raw_sql(PROBE).fetch_one(connection).await;
        let told = told.and_then(|row| sqlx::Row::try_get::<Option<String>, _>(&row, 0));
        match told {
            Ok(None) => (),
            Ok(Some(timeline)) => match timeline.parse::<DatabaseTimeline>() {
                Ok(_) => self.are_told.store(true, Ordering::Relaxed),
                Err(why) => self.are_not_told(&why),
            },
            Err(error) if is_transient(&error) => return Err(error),
            Err(error) => self.are_not_told(&error),
        }
        Ok(())
    }

    fn are_not_told(&self, why: &dyn std::error::Error) {
        if self.are_told.swap(false, Ordering::Relaxed) {
            let why = why.to_string();
            log::log!(
                target: "heartbeatd", self.level, why;
                "the database does not tell its timeline, so the keys of alerts are their \
                 sequence numbers alone; if a failover can lose commits, that takes EXECUTE on \
                 pg_walfile_name(pg_lsn) and pg_current_wal_insert_lsn()"
            );
        }
    }

    fn sql(&self, backend: DbBackend) -> &'static str {
        match backend {
            DbBackend::Postgres if self.are_told.load(Ordering::Relaxed) => TOLD,
            _ => NOT_TOLD,
        }
    }
}

impl DeviceStore {
    /// The timeline that the database is on.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn timeline(&self) -> Result<DatabaseTimeline> {
        self.read("read the timeline", async |db| self.timeline_of(db).await).await
    }

    /// The timeline on which a statement runs, as an expression of that statement. It is the text
    /// of a column; [`read`] reads it.
    pub(super) fn timeline_sql(&self) -> &'static str {
        self.timeline.unwrap_or_else(|| self.pool.origin().timelines().sql(self.backend()))
    }

    /// The mark of the history that a place in the events belongs to, as an expression: the
    /// timeline, or where none is told the second in which the database was made.
    pub(super) fn history_sql(&self) -> &'static str {
        match (self.timeline_sql(), self.backend()) {
            (NOT_TOLD, DbBackend::Postgres) => {
                "(SELECT upper(lpad(to_hex(applied_at), 8, '0')) \
                 FROM seaql_migrations ORDER BY version LIMIT 1)"
            }
            (NOT_TOLD, _) => {
                "(SELECT printf('%08X', applied_at) \
                 FROM seaql_migrations ORDER BY version LIMIT 1)"
            }
            (told, _) => told,
        }
    }

    /// A number of the database that a standby server shares and another database hardly does, as an
    /// expression: of its place in the server, and of the second in which its schema was made.
    pub(super) fn mark_sql(&self) -> &'static str {
        match self.backend() {
            DbBackend::Postgres => {
                "hashtext(concat_ws(':', current_schema(), \
                 (SELECT oid FROM pg_database WHERE datname = current_database()), \
                 (SELECT min(applied_at) FROM seaql_migrations)))"
            }
            // Several instances need PostgreSQL.
            _ => "CAST(0 AS integer)",
        }
    }

    /// The same store, whose database tells its timeline by this expression. For tests, whose
    /// database has none.
    #[doc(hidden)]
    #[must_use]
    pub fn telling_timelines_by(self, expression: &'static str) -> Self {
        Self { timeline: Some(expression), ..self }
    }

    /// The timeline on which a transaction will commit, or that of this moment.
    pub(super) async fn timeline_of(
        &self,
        db: &impl ConnectionTrait,
    ) -> Result<DatabaseTimeline, DbErr> {
        self.evaluate(db, self.timeline_sql()).await
    }

    /// The mark of the history of this moment, see [`history_sql`](Self::history_sql).
    pub(super) async fn history_of(
        &self,
        db: &impl ConnectionTrait,
    ) -> Result<DatabaseTimeline, DbErr> {
        self.evaluate(db, self.history_sql()).await
    }

    async fn evaluate(
        &self,
        db: &impl ConnectionTrait,
        expression: &str,
    ) -> Result<DatabaseTimeline, DbErr> {
        let sql = format!("SELECT {expression} AS timeline");
        let row = self.select(db, &sql, []).await?.pop();
        row.map_or(Ok(DatabaseTimeline::NONE), |row| of_column("timeline", &row))
    }
}

/// The timeline in a column. An empty text, or null, is none.
pub(super) fn of_column(column: &str, row: &QueryResult) -> Result<DatabaseTimeline, DbErr> {
    let text: Option<String> = row.try_get("", column)?;
    read(text.as_deref().unwrap_or_default())
}

/// The timeline that a column's text names. An empty text is none.
pub(super) fn read(text: &str) -> Result<DatabaseTimeline, DbErr> {
    match text {
        "" => Ok(DatabaseTimeline::NONE),
        text => text.parse().map_err(|why| DbErr::Type(format!("the database holds {why}"))),
    }
}

/// The text of a column.
pub(super) fn text(timeline: DatabaseTimeline) -> String {
    if timeline.is_none() { String::new() } else { timeline.to_string() }
}
