//! Opening a database: connecting, and bringing its schema to this version.
//!
//! Any number of processes may open the same database at once.

mod connection;
mod limits;
mod retry;
mod schema;
mod server;

use std::sync::Arc;
use std::time::{Duration, Instant};

use sea_orm::{ConnectOptions, Database, DatabaseConnection, DbBackend, DbErr};

use self::connection::{connect_options, open_all_connections, reading_options};
pub(super) use self::connection::{postgres_options, within};
pub(crate) use self::limits::{Limits, open_files};
use self::retry::while_busy;
use self::schema::{Schema, await_schema, migrate, newest_known};
use super::driver_error::{is_pool_timeout, unopened};
use super::file::{self, DatabaseFile};
use super::reading::{ReadingLimits, Replacement};
use super::timeline::Timelines;
use super::{Result, StoreError, Unusable, hint};
use crate::config::DatabaseConfig;
use crate::secrets::DatabaseUrl;

/// The changes that opening may make to a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Creates a missing database and migrates an older schema. For the service, whose
    /// connections are all opened at once and kept.
    Migrate,
    /// Creates a missing database; an older schema is an error. A SQLite file is created
    /// only if the URL says `mode=rwc`, here and in [`OpenMode::Migrate`].
    Create,
    /// Changes nothing: the database must exist, with the schema of this version.
    Existing,
    /// Changes nothing, for a service that stands by while another one writes. Its connections
    /// are all opened at once and kept.
    Beside,
}

/// The origin of a store: everything that connecting to it again needs.
pub(super) struct Origin {
    url: DatabaseUrl,
    limits: Limits,
    mode: OpenMode,
    /// `None` if the database is not a file.
    file: Option<Arc<DatabaseFile>>,
    /// True if this opening created the schema.
    pub(super) created: bool,
    /// The limits of connections that may only read; `None` for others.
    reading: Option<ReadingLimits>,
    /// The last replacement of connections that only read.
    replacement: Replacement,
    timelines: Timelines,
}

impl std::fmt::Debug for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Origin").field("url", &self.url).field("mode", &self.mode).finish()
    }
}

impl Origin {
    /// Opens the database.
    pub(super) async fn open(
        database: DatabaseConfig,
        mode: OpenMode,
    ) -> Result<(DatabaseConnection, Self)> {
        let (limits, url) = (Limits::of(&database), database.url);
        // The driver's error for a URL that it cannot parse would quote it.
        url.check().map_err(StoreError::Url)?;
        let path = file::of_url(&url);
        let mut origin = Self {
            url,
            limits,
            mode,
            file: None,
            created: false,
            reading: None,
            replacement: Replacement::default(),
            timelines: Timelines::unknown(mode),
        };
        if let Some(path) = &path {
            let create = matches!(mode, OpenMode::Migrate | OpenMode::Create)
                && file::may_be_created(&origin.url);
            file::prepare(path, create).map_err(|error| origin.failed(unopened(path, &error)))?;
        }
        let db = origin.connect().await.map_err(|error| origin.failed(error))?;
        match origin.prepare(&db).await {
            Ok(created) => {
                origin.created = created;
                origin.file = path.map(DatabaseFile::identified).transpose()?.map(Arc::new);
                if let Some(file) = &origin.file
                    && mode != OpenMode::Migrate
                {
                    // A command opens and closes its connections as it needs them.
                    file.let_log_change();
                }
                Ok((db, origin))
            }
            Err(error) => {
                // An error of closing would say less than this one. It waits for connections that
                // are being made, of which a pooler without room gets none done.
                let _ = tokio::time::timeout(limits.connect, db.close()).await;
                Err(error)
            }
        }
    }

    /// The database as it may be shown: the absolute path of a file, or the URL without its
    /// password.
    pub(super) fn shown(&self) -> String {
        match &self.file {
            Some(file) => file.path().display().to_string(),
            None => self.url.to_string(),
        }
    }

    /// Fails if the file that was opened was deleted or replaced.
    pub(super) fn verify_file(&self) -> Result<()> {
        self.file.as_ref().map_or(Ok(()), |file| file.verify())
    }

    /// The origin of connections to the same database that only read.
    pub(super) fn for_reading(&self, reading: ReadingLimits) -> Self {
        let Self { url, mode, file, .. } = self;
        Self {
            url: url.clone(),
            limits: self.limits,
            mode: *mode,
            file: file.clone(),
            created: false,
            reading: Some(reading),
            replacement: Replacement::default(),
            timelines: self.timelines.clone(),
        }
    }

    /// The finding on whether the database tells its timeline.
    pub(super) fn timelines(&self) -> &Timelines {
        &self.timelines
    }

    /// Notes that the connections that were made before `at` are replaced.
    pub(super) fn replaced(&self, at: Instant) {
        self.replacement.note(at);
    }

    /// True if the connections may only read.
    pub(super) fn reads_only(&self) -> bool {
        self.reading.is_some()
    }

    /// The time that is waited for a connection.
    pub(super) fn patience(&self) -> Duration {
        self.reading.map_or(self.limits.connect, |reading| reading.patience)
    }

    /// The time after which a transaction or a read on these connections counts as failed.
    pub(super) fn bound(&self) -> Duration {
        self.reading.map_or(self.limits.transaction(), |reading| reading.bound)
    }

    /// Connections that only read.
    pub(super) async fn connect_reading(&self) -> Result<DatabaseConnection, DbErr> {
        let connected = self.connect_lazily(self.limits.read_connections).await?;
        let deadline = Instant::now() + self.limits.connect;
        // They are being made beside this, which may take longer than a read waits for one.
        loop {
            match open_all_connections(&connected).await {
                Err(error) if is_pool_timeout(&error) && Instant::now() < deadline => (),
                done => return done.map(|()| connected),
            }
        }
    }

    /// New connections to the same database, which are made with the first query or in the
    /// background. A missing file is never created, because an empty one would hide that
    /// the devices are gone.
    pub(super) async fn connect_again(&self) -> Result<DatabaseConnection, DbErr> {
        let connected = self.connect_lazily(self.kept_connections()).await?;
        // Only now: a log that was replaced before is not this database's.
        if let Some(file) = &self.file {
            file.let_log_change();
        }
        Ok(connected)
    }

    /// Connections outside the pool, which are made with the first query.
    pub(super) async fn connect_beside(&self) -> Result<DatabaseConnection, DbErr> {
        self.connect_lazily(0).await
    }

    async fn connect_lazily(&self, kept: u32) -> Result<DatabaseConnection, DbErr> {
        self.verify_file().map_err(|error| DbErr::Custom(error.to_string()))?;
        let mut options = match self.reading {
            Some(reading) => self.reading_options(reading),
            None => self.connect_options(OpenMode::Existing),
        };
        Database::connect(options.connect_lazy(true).min_connections(kept).to_owned()).await
    }

    fn connect_options(&self, mode: OpenMode) -> ConnectOptions {
        connect_options(self.url.reveal(), self.limits, mode, &self.timelines)
    }

    fn reading_options(&self, reading: ReadingLimits) -> ConnectOptions {
        let (url, replacement, timelines) = (&self.url, &self.replacement, &self.timelines);
        reading_options(url.reveal(), self.limits, reading, replacement, timelines)
    }

    async fn connect(&self) -> Result<DatabaseConnection, DbErr> {
        while_busy(async || {
            let mut options = self.connect_options(self.mode);
            options.min_connections(self.kept_connections());
            Database::connect(options).await
        })
        .await
    }

    /// The number of connections that are opened at once and kept: all for the service. A
    /// command needs one at a time.
    fn kept_connections(&self) -> u32 {
        match self.mode {
            _ if self.reads_only() => self.limits.read_connections,
            OpenMode::Migrate | OpenMode::Beside => self.limits.connections,
            OpenMode::Create | OpenMode::Existing => 0,
        }
    }

    /// Checks the database and creates or migrates its schema. Returns true if that created
    /// the schema.
    async fn prepare(&self, db: &DatabaseConnection) -> Result<bool> {
        let failed = |error| self.failed(error);
        if db.get_database_backend() == DbBackend::Postgres {
            let kept = self.kept_connections();
            let unusable = server::unusable(db, &self.url, kept).await.map_err(failed)?;
            unusable.map_or(Ok(()), |why| Err(StoreError::Unusable(why)))?;
        }
        let created = match self.mode {
            OpenMode::Existing | OpenMode::Beside => false,
            mode => migrate(db, mode).await.map_err(failed)?,
        };
        self.accept(await_schema(db).await.map_err(failed)?)?;
        if matches!(self.mode, OpenMode::Migrate | OpenMode::Beside) {
            open_all_connections(db).await.map_err(failed)?;
            if db.get_database_backend() == DbBackend::Postgres {
                server::warn_of_plain_text(db, &self.url).await.map_err(failed)?;
            }
        }
        Ok(created)
    }

    fn accept(&self, schema: Schema) -> Result<()> {
        let (url, expected) = (self.url.clone(), newest_known());
        let unusable = match schema {
            Schema::Current => return Ok(()),
            Schema::Nothing | Schema::Foreign { found: None } => Unusable::NoSchema { url },
            Schema::Foreign { found: Some(found) } => Unusable::Foreign { url, found },
            Schema::Older { found } => Unusable::Older { url, found, expected },
            Schema::Newer { found } => Unusable::Newer { url, found, expected },
        };
        Err(StoreError::Unusable(unusable))
    }

    fn failed(&self, source: DbErr) -> StoreError {
        Self::failed_to_open(&self.url, self.mode, source)
    }

    pub(super) fn failed_to_open(url: &DatabaseUrl, mode: OpenMode, source: DbErr) -> StoreError {
        let hint = hint::on_opening(url.reveal(), mode, &source);
        StoreError::Open { url: url.clone(), hint, source }
    }
}
