//! The hints that errors end with.

use sea_orm::DbErr;

use super::OpenMode;

/// The remedy for a pooler in transaction mode.
pub(super) const POOLER: &str = "; heartbeatd needs its own sessions: connect to PostgreSQL \
                           directly, or set pool_mode = session in PgBouncer";

/// The remedy for a SQLite database that cannot be written.
const NOT_WRITABLE: &str = "; the user of heartbeatd must be allowed to write the file, the files beside it and their \
     folder, also to read: change their owner, or set database.url to a folder that can be written";

/// The hint for an error of opening; empty if there is none.
pub(super) fn on_opening(url: &str, mode: OpenMode, error: &DbErr) -> &'static str {
    let text = error.to_string();
    // PgBouncer's own words, and the symptoms of a session that changes hands.
    const OF_A_POOLER: [&str; 4] =
        ["pgbouncer", "unsupported startup parameter", "prepared statement", "pooling mode"];
    // NOTADB and CORRUPT.
    const DAMAGE: [&str; 2] = ["file is not a database", "disk image is malformed"];
    let sqlite = url.starts_with("sqlite");
    match mode {
        _ if sqlite && text.contains("Read-only file system") => {
            "; mount it writable, allow heartbeatd to write there (ReadWritePaths= of systemd, a \
             volume of a container), or set database.url to a folder that can be written"
        }
        _ if sqlite && text.contains("Permission denied") => NOT_WRITABLE,
        _ if sqlite && DAMAGE.iter().any(|symptom| text.contains(symptom)) => {
            "; it belongs to another program, is encrypted or is damaged: set database.url to the \
             file of heartbeatd, or move this one away and restore it from a backup"
        }
        OpenMode::Migrate | OpenMode::Create if sqlite && text.contains("No such file") => {
            "; its folder must exist, and so must the file unless the URL says mode=rwc"
        }
        OpenMode::Existing if sqlite => {
            "; if there is none yet, `heartbeatd run` and `heartbeatd device add` create one"
        }
        _ if OF_A_POOLER.iter().any(|symptom| text.contains(symptom)) => {
            "; this looks like PgBouncer: connect to PostgreSQL directly, or set \
             pool_mode = session in PgBouncer"
        }
        _ if url.starts_with("postgres") => {
            "; is PostgreSQL running there, and may this user use that database?"
        }
        _ => "",
    }
}

/// The hint for a failed statement; empty if there is none.
pub(super) fn on_statement(error: &DbErr) -> &'static str {
    let read_only = error.to_string().contains("attempt to write a readonly database");
    if read_only { NOT_WRITABLE } else { "" }
}

#[cfg(test)]
mod tests {
    use sea_orm::RuntimeErr;

    use super::*;

    #[test]
    fn a_file_that_cannot_be_opened_gets_the_hint_that_fits() {
        for (mode, why, remedy) in [
            (
                OpenMode::Migrate,
                "/x/h.db: Read-only file system (os error 30)",
                "mount it writable",
            ),
            (
                OpenMode::Create,
                "/x/h.db.lock: Permission denied (os error 13)",
                "be allowed to write",
            ),
            (OpenMode::Migrate, "/x/h.db: No such file or directory (os error 2)", "mode=rwc"),
            (OpenMode::Existing, "(14) unable to open database file", "create one"),
            (OpenMode::Existing, "(code: 26) file is not a database", "restore it"),
            (OpenMode::Migrate, "(code: 11) database disk image is malformed", "restore it"),
        ] {
            let error = DbErr::Conn(RuntimeErr::Internal(why.to_owned()));
            let hint = on_opening("sqlite:///x/h.db", mode, &error);
            assert!(hint.contains(remedy), "{why}: {hint}");
            assert!(!on_opening("postgres://h/d", mode, &error).contains("be allowed"));
        }
    }
}
