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
        _ if names_files(url) && text.contains("No such file") => {
            "; a file that sslrootcert, sslcert or sslkey in database.url names is not there: \
             `heartbeatd check-config` says which"
        }
        // With TLS 1.3 the alert may be lost with the connection.
        _ if url.contains("sslcert=") && text.contains("reset by peer") => UNKNOWN_CLIENT,
        _ if url.starts_with("postgres") => on_postgresql(&text),
        _ => "",
    }
}

/// The remedy for a server that only reads.
const STANDBY: &str = "; the server is a standby, which only reads: database.url has to lead to \
                       the primary";

/// The remedy for a server that refuses the certificate of this service.
const UNKNOWN_CLIENT: &str = "; the server may not know the authority that has signed the \
                              certificate in sslcert, which ssl_ca_file in postgresql.conf names";

/// The remedy for a server that speaks something else.
const NOT_POSTGRESQL: &str = "; what answers there is not PostgreSQL: database.url has to name its \
                              host and port (5432 by default)";

/// The remedy for a server that answers too late or not at all.
const NOBODY_ANSWERS: &str = "; nothing has answered within database.connect_timeout, or all connections \
                              were taken: are host and port of database.url right, does a firewall let \
                              it through, is the server overloaded or full (max_connections), and is \
                              PgBouncer's default_pool_size large enough?";

/// The remedy for a database whose tables are gone while the service runs.
const NO_TABLES: &str = "; heartbeatd's tables are not there any more: if the database is being restored, \
                         this service goes on once they are back; to have them created anew, restart it";

/// True if a URL names files for TLS.
fn names_files(url: &str) -> bool {
    use crate::secrets::{SSL_CERT, SSL_KEY, SSL_ROOT_CERT};
    let mut names = SSL_ROOT_CERT.iter().chain(&SSL_CERT).chain(&SSL_KEY);
    names.any(|name| url.contains(&format!("{name}=")))
}

/// The symptoms in the words of PostgreSQL and OpenSSL, each with its remedy.
const POSTGRESQL: [(&str, &str); 18] = [
    (
        "unexpected null",
        "; no schema of the search_path exists: create one, such as CREATE SCHEMA heartbeatd \
         AUTHORIZATION heartbeatd, or change the search_path of the role or in database.url",
    ),
    (
        "permission denied for schema",
        "; the service creates its tables: GRANT CREATE ON SCHEMA public TO this role, or give it a \
         schema of its own",
    ),
    ("response from SSLRequest", NOT_POSTGRESQL),
    ("unexpected or invalid data", NOT_POSTGRESQL),
    ("pool timed out", NOBODY_ANSWERS),
    (
        "server does not support TLS",
        "; sslmode asks for it: set ssl = on, ssl_cert_file and ssl_key_file in postgresql.conf",
    ),
    (
        "local issuer certificate",
        "; no authority that is trusted has signed the server's certificate: \
         sslrootcert=FILE in database.url names the one that has (PEM, one certificate)",
    ),
    (
        "self-signed certificate",
        "; no authority that is trusted has signed the server's certificate: \
         sslrootcert=FILE in database.url names the one that has (PEM, one certificate)",
    ),
    (
        " mismatch)",
        "; the server's certificate is for other names: connect by one of its subject alternative \
         names, or give the server a certificate with this one",
    ),
    ("has expired)", "; renew the server's certificate, or that of its authority"),
    (
        "requires a valid client certificate",
        "; give it one: sslcert=FILE&sslkey=FILE in database.url",
    ),
    (
        "certificate authentication failed",
        "; the common name of the certificate in sslcert has to be the user in database.url, or \
         pg_ident.conf has to map it",
    ),
    ("alert unknown ca", UNKNOWN_CLIENT),
    ("alert certificate expired", "; the certificate in sslcert has expired: renew it"),
    ("read-only transaction", STANDBY),
    ("during recovery", STANDBY),
    (
        "too many clients",
        "; raise max_connections in postgresql.conf, or lower database.max_connections",
    ),
    (
        "remaining connection slots",
        "; raise max_connections in postgresql.conf, or lower database.max_connections",
    ),
];

fn on_postgresql(text: &str) -> &'static str {
    let known = POSTGRESQL.iter().find(|(symptom, _)| text.contains(symptom));
    known.map_or(
        "; is PostgreSQL running there, and may this user use that database?",
        |(_, hint)| hint,
    )
}

/// The hint for a failed statement; empty if there is none.
pub(super) fn on_statement(error: &DbErr) -> &'static str {
    let text = error.to_string();
    match () {
        () if text.contains("attempt to write a readonly database") => NOT_WRITABLE,
        () if text.contains("in a read-only transaction") => STANDBY,
        () if text.contains("pool timed out") => NOBODY_ANSWERS,
        () if text.contains("relation \"") && text.contains("\" does not exist") => NO_TABLES,
        () => "",
    }
}

#[cfg(test)]
mod tests {
    use sea_orm::RuntimeErr;

    use super::*;

    #[test]
    fn what_postgresql_and_openssl_say_gets_the_hint_that_fits() {
        for (why, remedy) in [
            ("unexpected response from SSLRequest: 0x00", "is not PostgreSQL"),
            ("encountered unexpected or invalid data: unknown message", "is not PostgreSQL"),
            ("pool timed out while waiting for an open connection", "a firewall"),
            ("server does not support TLS", "ssl = on"),
            ("verify failed: (unable to get local issuer certificate)", "sslrootcert=FILE"),
            ("verify failed: (self-signed certificate in certificate chain)", "sslrootcert=FILE"),
            ("verify failed: (hostname mismatch)", "subject alternative names"),
            ("verify failed: (IP address mismatch)", "subject alternative names"),
            ("verify failed: (certificate has expired)", "renew the server's"),
            ("connection requires a valid client certificate", "sslcert=FILE&sslkey=FILE"),
            ("SSL routines::tlsv1 alert unknown ca", "ssl_ca_file"),
            ("cannot execute INSERT in a read-only transaction", "a standby"),
            ("sorry, too many clients already", "database.max_connections"),
            ("password authentication failed for user", "may this user"),
            ("error occurred while decoding column 0: unexpected null", "CREATE SCHEMA"),
            ("permission denied for schema public", "GRANT CREATE"),
        ] {
            let error = DbErr::Conn(RuntimeErr::Internal(why.to_owned()));
            let hint = on_opening("postgres://h/d", OpenMode::Migrate, &error);
            assert!(hint.contains(remedy), "{why}: {hint}");
        }
        let late = DbErr::Conn(RuntimeErr::Internal("pool timed out while waiting".to_owned()));
        assert_eq!(on_statement(&late), NOBODY_ANSWERS);
    }

    #[test]
    fn a_file_for_tls_that_is_missing_is_told_from_a_socket_that_is() {
        let missing = "No such file or directory (os error 2)".to_owned();
        let error = DbErr::Conn(RuntimeErr::Internal(missing));
        let hint = |url| on_opening(url, OpenMode::Existing, &error);
        assert!(hint("postgres://h/d?sslrootcert=/a").contains("check-config"));
        assert!(hint("postgres:///d?host=/run/postgresql").contains("is PostgreSQL running"));
    }

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
