//! The properties that a PostgreSQL server must have, and those of the connection to it.

use std::str::FromStr;

use sea_orm::sqlx::postgres::PgConnectOptions;
use sea_orm::{DatabaseConnection, DbErr, sqlx};

use crate::secrets::{DatabaseUrl, SSL_MODE, is_local_host};
use crate::store::Unusable;
use crate::store::driver_error::connection_error;

/// The reason why a server cannot be used; `None` if it can. The pool keeps `connections`
/// open, some of which may still be on their way.
pub(super) async fn unusable(
    db: &DatabaseConnection,
    url: &DatabaseUrl,
    connections: u32,
) -> Result<Option<Unusable>, DbErr> {
    let pool = db.get_postgres_connection_pool();
    let encoding = encoding(pool).await.map_err(connection_error)?;
    if encoding != "UTF8" {
        return Ok(Some(Unusable::Encoding { url: url.clone(), encoding }));
    }
    let pooled = shares_sessions(pool, connections).await.map_err(connection_error)?;
    Ok(pooled.then(|| Unusable::TransactionPooling { url: url.clone() }))
}

/// Warns if the connection crosses a network unencrypted although nobody has asked for that: by
/// default the driver goes on without TLS if the server has none.
pub(super) async fn warn_of_plain_text(
    db: &DatabaseConnection,
    url: &DatabaseUrl,
) -> Result<(), DbErr> {
    let options = PgConnectOptions::from_str(url.reveal()).map_err(connection_error)?;
    let is_local = options.get_socket().is_some() || is_local_host(options.get_host());
    if is_local || url.parameter(&SSL_MODE).is_some_and(|mode| asks_for_plain_text(&mode)) {
        return Ok(());
    }
    // Each role may read the row of its own session.
    let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let row = sqlx::raw_sql(sql).fetch_optional(db.get_postgres_connection_pool()).await;
    let row = row.map_err(connection_error)?;
    let encrypted = row.map(|row| sqlx::Row::try_get::<bool, _>(&row, 0)).transpose();
    if !encrypted.map_err(connection_error)?.unwrap_or(true) {
        let database = url.to_string();
        log::warn!(
            target: "heartbeatd", database;
            "the connection to the database is not encrypted, because the server has no TLS: \
             everything crosses the network in plain text; set ssl = on there, and \
             sslmode=verify-full in database.url"
        );
    }
    Ok(())
}

/// True for a mode without TLS, of which the configuration has warned.
fn asks_for_plain_text(mode: &str) -> bool {
    ["disable", "allow"].iter().any(|plain| mode.eq_ignore_ascii_case(plain))
}

async fn encoding(pool: &sqlx::PgPool) -> Result<String, sqlx::Error> {
    let row = sqlx::raw_sql("SHOW server_encoding").fetch_one(pool).await?;
    sqlx::Row::try_get(&row, 0)
}

/// True if a pooler in transaction mode is in between: it gives the session of an idle
/// client to another one, which then has its locks and prepared statements.
///
/// A second connection begins a transaction, which takes a session out of the pooler. The
/// sessions are shared if that session was the first connection's, or if the first
/// connection has another one from then on.
///
/// Other clients can hide it at that moment. So this pool opens no connection
/// meanwhile, and the question is asked more than once.
async fn shares_sessions(pool: &sqlx::PgPool, connections: u32) -> Result<bool, sqlx::Error> {
    const ROUNDS: u32 = 3;
    let mut held = Vec::new();
    for _ in 0..connections.max(2) {
        held.push(pool.acquire().await?);
    }
    let [one, other, ..] = &mut *held else { return Ok(false) };
    for _ in 0..ROUNDS {
        let before = session(one).await?;
        let mut transaction = sqlx::Connection::begin(&mut **other).await?;
        let taken = session(&mut transaction).await?;
        let after = session(one).await?;
        transaction.rollback().await?;
        if taken == before || after != before {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The server's process behind a connection.
async fn session(connection: &mut sqlx::PgConnection) -> Result<i32, sqlx::Error> {
    // As plain text, because such a pooler does not support prepared statements.
    let row = sqlx::raw_sql("SELECT pg_backend_pid()").fetch_one(connection).await?;
    sqlx::Row::try_get(&row, 0)
}
