//! A database of a test's own: a SQLite file, or one in the PostgreSQL server
//! that all tests share.

use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use heartbeatd::store::{DeviceStore, OpenMode};
use tempfile::TempDir;

use super::eventually;
use super::process::{as_user, free_port, output, program};

/// Where a test keeps its devices.
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

    pub fn postgres() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let server = PostgreSql::shared();
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        server.psql("postgres", &format!("CREATE DATABASE {name}"));
        let url = format!("postgres://postgres@127.0.0.1:{}/{name}", server.port);
        Self { url, _folder: None }
    }

    pub async fn open(&self) -> DeviceStore {
        DeviceStore::open(&self.url, OpenMode::Create).await.expect("the database opens")
    }

    /// Runs SQL past the service.
    pub async fn execute(&self, sql: &str) {
        use sea_orm::ConnectionTrait;
        let db = sea_orm::Database::connect(&self.url).await.expect("the database opens");
        db.execute_unprepared(sql).await.expect(sql);
        db.close().await.expect("it closes");
    }
}

/// The server that all tests share. It ends with the test program, however that
/// ends: a shell holds it and waits for the end of its own input.
struct PostgreSql {
    port: u16,
    psql: PathBuf,
    _lifeline: ChildStdin,
}

const HOLD: &str = r#"
"$1/postgres" -D "$2/data" -p "$3" -k "$2" -c listen_addresses=127.0.0.1 \
    -c fsync=off -c full_page_writes=off -c max_connections=200 >"$2/log" 2>&1 &
server=$!
cat >/dev/null
kill -INT $server
wait $server
rm -rf "$2"
"#;

impl PostgreSql {
    fn shared() -> &'static Self {
        static SERVER: OnceLock<PostgreSql> = OnceLock::new();
        SERVER.get_or_init(Self::start)
    }

    fn start() -> Self {
        let bin = bin_folder();
        let folder = tempfile::tempdir().expect("a temporary folder").keep();
        let data = folder.join("data");
        let mut initdb = Command::new(bin.join("initdb"));
        initdb.args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-sync", "-D"]);
        initdb.arg(&data).current_dir(&folder);
        as_user(&mut initdb, "postgres", &folder);
        output(&mut initdb);

        let port = free_port();
        let mut hold = Command::new("sh");
        hold.args(["-c", HOLD, "sh"]).arg(&bin).arg(&folder).arg(port.to_string());
        hold.current_dir(&folder).stdin(Stdio::piped()).stdout(Stdio::null());
        as_user(&mut hold, "postgres", &folder);
        let lifeline = hold.spawn().expect("sh starts").stdin.take().expect("a pipe");
        let server = Self { port, psql: bin.join("psql"), _lifeline: lifeline };
        eventually("PostgreSQL answers", || {
            let answer = server.command("postgres", "SELECT 1").output().ok()?;
            answer.status.success().then_some(())
        });
        server
    }

    fn command(&self, database: &str, sql: &str) -> Command {
        let mut psql = Command::new(&self.psql);
        psql.args(["-X", "-q", "-h", "127.0.0.1", "-U", "postgres", "-d", database, "-c", sql]);
        psql.args(["-p", &self.port.to_string()]);
        psql
    }

    fn psql(&self, database: &str, sql: &str) {
        output(&mut self.command(database, sql));
    }
}

/// Debian keeps the server's programs out of the PATH, by version.
fn bin_folder() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<String> =
        versions.map(|version| version.path().join("bin").display().to_string()).collect();
    folders.sort();
    let folders: Vec<&str> = folders.iter().rev().map(String::as_str).collect();
    let initdb = program("initdb", "postgresql", &folders);
    // It may be linked from the PATH; its siblings are where it really is.
    let initdb = initdb.canonicalize().expect("it exists");
    initdb.parent().map(Path::to_owned).expect("a program is in a folder")
}
