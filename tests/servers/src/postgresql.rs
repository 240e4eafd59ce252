//! PostgreSQL.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use super::eventually;
use super::process::{as_user, free_port, output, program};

/// A running server. It ends with the program that started it, however that ends, because
/// a shell holds it and waits for the end of its own input.
pub struct PostgreSql {
    port: u16,
    psql: PathBuf,
    /// The shell that holds the server as long as the shell's input is open.
    shell: Child,
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
    /// The server that all tests of a program share.
    pub fn shared() -> &'static Self {
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
        let shell = hold.spawn().expect("sh starts");
        let server = Self { port, psql: bin.join("psql"), shell };
        eventually("PostgreSQL answers", || {
            let answer = server.command("postgres", "SELECT 1").output().ok()?;
            answer.status.success().then_some(())
        });
        server
    }

    /// The port on which it listens, on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The id of the process whose descendants are the server.
    pub fn process(&self) -> u32 {
        self.shell.id()
    }

    /// Creates a database and returns its URL.
    pub fn new_database(&self) -> String {
        self.new_database_with("")
    }

    /// Creates a database with these options of `CREATE DATABASE` and returns its URL.
    pub fn new_database_with(&self, options: &str) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        self.psql("postgres", &format!("CREATE DATABASE {name} {options}"));
        format!("postgres://postgres@127.0.0.1:{}/{name}", self.port)
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

/// The folder of the server's programs, which Debian keeps out of the PATH, by version.
fn bin_folder() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<String> =
        versions.map(|version| version.path().join("bin").display().to_string()).collect();
    folders.sort();
    let folders: Vec<&str> = folders.iter().rev().map(String::as_str).collect();
    let initdb = program("initdb", "postgresql", &folders);
    // The one in the PATH may be a link; the other programs are beside its target.
    let initdb = initdb.canonicalize().expect("it exists");
    initdb.parent().map(Path::to_owned).expect("a program is in a folder")
}
