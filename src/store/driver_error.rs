//! The meaning of the driver's errors.

use std::borrow::Cow;
use std::path::Path;

use sea_orm::sqlx::sqlite::SqliteError;
use sea_orm::{ConnAcquireErr, DbErr, RuntimeErr, sqlx};

const CONTENDED: &str = "other transactions keep changing the same devices";

/// The error of a transaction that has to begin again, because another one changes, registers or
/// removes the same devices.
pub(super) fn contended() -> DbErr {
    DbErr::Custom(CONTENDED.to_owned())
}

/// True if a transaction is to be run again because of another one: it says so itself, or
/// PostgreSQL has aborted it for a serialization failure (40001), a deadlock (40P01), or a row
/// that another one has just inserted (23505).
pub(super) fn is_conflict(error: &DbErr) -> bool {
    matches!(error, DbErr::Custom(why) if why == CONTENDED)
        || code(error).is_some_and(|code| ["40001", "40P01", "23505"].contains(&&*code))
}

/// True if the database works but refuses the data: a text that its encoding does not
/// have, a value that is too large, a constraint that was added by hand.
pub(super) fn refuses_data(error: &DbErr) -> bool {
    let Some(code) = code(error) else { return false };
    match driver_error(error).and_then(sqlx::Error::as_database_error) {
        Some(error) if error.try_downcast_ref::<SqliteError>().is_some() => {
            // TOOBIG, CONSTRAINT and MISMATCH; the upper bits are more specific.
            code.parse().is_ok_and(|code: i32| [18, 19, 20].contains(&(code & 0xff)))
        }
        // Data exceptions, constraints and exceeded limits.
        _ => !is_conflict(error) && ["22", "23", "54"].iter().any(|class| code.starts_with(class)),
    }
}

/// True if a connection fails for a reason that passes: it was cut, or the server is starting,
/// stopping, full or out of order. The database has then not said what it can do.
pub(super) fn is_transient(error: &sqlx::Error) -> bool {
    // Connections, insufficient resources, operator intervention and system errors.
    const PASSING: [&str; 4] = ["08", "53", "57", "58"];
    let code = error.as_database_error().map(sqlx::error::DatabaseError::code);
    match code {
        Some(Some(code)) => PASSING.iter().any(|class| code.starts_with(class)),
        Some(None) => false,
        None => true,
    }
}

/// True if PostgreSQL has refused to wait for a lock.
pub(super) fn is_locked(error: &DbErr) -> bool {
    code(error).is_some_and(|code| code == "55P03")
}

/// The database's own code, if the error comes from the database.
fn code(error: &DbErr) -> Option<Cow<'_, str>> {
    driver_error(error)?.as_database_error()?.code()
}

/// True if the pool was closed.
pub(super) fn is_closed(error: &DbErr) -> bool {
    matches!(error, DbErr::ConnectionAcquire(ConnAcquireErr::ConnectionClosed))
}

/// True if no connection could be made or became free in time.
pub(super) fn is_pool_timeout(error: &DbErr) -> bool {
    matches!(driver_error(error), Some(sqlx::Error::PoolTimedOut))
}

/// True if the database answered with something that cannot be decoded.
pub(super) fn is_unreadable(error: &DbErr) -> bool {
    use sqlx::Error::{ColumnDecode, ColumnIndexOutOfBounds, ColumnNotFound, Decode};
    match driver_error(error) {
        Some(error) => matches!(
            error,
            ColumnDecode { .. } | ColumnIndexOutOfBounds { .. } | ColumnNotFound(_) | Decode(_)
        ),
        None => matches!(error, DbErr::Type(_) | DbErr::RecordNotFound(_) | DbErr::Json(_)),
    }
}

/// The driver's own error.
pub(super) fn driver_error(error: &DbErr) -> Option<&sqlx::Error> {
    match error {
        DbErr::Exec(RuntimeErr::SqlxError(error))
        | DbErr::Query(RuntimeErr::SqlxError(error))
        | DbErr::Conn(RuntimeErr::SqlxError(error)) => Some(error),
        _ => None,
    }
}

/// True if another process holds a lock that SQLite needs.
pub(super) fn is_busy(error: &DbErr) -> bool {
    // BUSY, LOCKED and PROTOCOL; the upper bits are more specific.
    const IN_THE_WAY: [i32; 3] = [5, 6, 15];
    let code = driver_error(error)
        .and_then(sqlx::Error::as_database_error)
        .and_then(|error| error.try_downcast_ref::<SqliteError>())
        .and_then(|error| sqlx::error::DatabaseError::code(error)?.parse::<i32>().ok());
    code.is_some_and(|code| IN_THE_WAY.contains(&(code & 0xff)))
}

/// The innermost cause, which every layer above repeats. Of a failed TLS handshake it is the
/// reason, which OpenSSL's own error lacks; of PostgreSQL it is the message without the line of the
/// server's source.
pub(super) fn root(error: &DbErr) -> String {
    match driver_error(error) {
        Some(sqlx::Error::Tls(why)) => return format!("TLS: {}", tls_reason(&why.to_string())),
        Some(sqlx::Error::Database(why))
            if why.try_downcast_ref::<sqlx::postgres::PgDatabaseError>().is_some() =>
        {
            return why.message().to_owned();
        }
        _ => (),
    }
    let mut root: &dyn std::error::Error = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root.to_string()
}

/// The result of the verification at the end of an error, in brackets; without one the whole.
fn tls_reason(text: &str) -> &str {
    let verified = text.strip_suffix(')').and_then(|text| text.rsplit_once('('));
    verified.map_or(text, |(_, reason)| reason)
}

/// An error of a connection.
pub(super) fn connection_error(error: sqlx::Error) -> DbErr {
    DbErr::Conn(RuntimeErr::SqlxError(error.into()))
}

/// An error of opening a file.
pub(super) fn unopened(path: &Path, error: &std::io::Error) -> DbErr {
    DbErr::Conn(RuntimeErr::Internal(format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_handshake_is_told_by_its_reason() {
        for (why, told) in [
            (
                "error:0A000086:SSL routines::verify failed: (certificate has expired)",
                "certificate has expired",
            ),
            ("server does not support TLS", "server does not support TLS"),
        ] {
            let error = connection_error(sqlx::Error::Tls(why.into()));
            assert_eq!(root(&error), format!("TLS: {told}"));
        }
        let error = connection_error(sqlx::Error::Protocol("cut off".to_owned()));
        assert!(root(&error).contains("cut off"));
    }
}
