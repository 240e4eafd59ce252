//! PgBouncer in front of the PostgreSQL that all tests share.

use std::net::TcpStream;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::eventually;
use super::postgresql::PostgreSql;
use super::process::{Running, as_user, free_port, program};

/// A running PgBouncer.
pub struct PgBouncer {
    port: u16,
    _process: Running,
    _folder: TempDir,
}

impl PgBouncer {
    /// Starts a PgBouncer with this `pool_mode` and otherwise its defaults.
    pub fn start(pool_mode: &str) -> Self {
        Self::start_with(pool_mode, "")
    }

    /// The same with more lines in its configuration.
    pub fn start_with(pool_mode: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (port, server) = (free_port(), PostgreSql::shared().port());
        let config = folder.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={server} user=postgres\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = any\npool_mode = {pool_mode}\n{more}\n"
        );
        std::fs::write(&config, text).expect("a file");
        let pgbouncer = program("pgbouncer", "pgbouncer", &["/usr/sbin", "/usr/local/sbin"]);
        let mut command = Command::new(pgbouncer);
        command.arg("-q").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
        as_user(&mut command, "postgres", folder.path());
        let mut child = command.spawn().expect("pgbouncer starts");
        eventually("PgBouncer listens", || {
            assert!(matches!(child.try_wait(), Ok(None)), "pgbouncer ended at once");
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Self { port, _process: Running(child), _folder: folder }
    }

    /// The URL of a database through this PgBouncer.
    pub fn url(&self, database: &str) -> String {
        let direct = format!(":{}/", PostgreSql::shared().port());
        database.replace(&direct, &format!(":{}/", self.port))
    }
}
