//! PostgreSQL.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use super::eventually;
use super::process::{as_user, free_port, output, program};

/// A running server. It ends with the program that started it, however that ends, because
/// a shell holds it and waits for the end of its own input.
pub struct PostgreSql {
    port: u16,
    psql: PathBuf,
    /// The shell that holds the server as long as the shell's input is open.
    shell: Child,
    /// Its input, to which orders go, and its output, which says when one is carried out; `None`
    /// once the server is to end.
    orders: Mutex<Option<(ChildStdin, BufReader<ChildStdout>)>>,
}

/// Each order stops the server, does something with its data, and starts it again.
const HOLD: &str = r#"
serve() {
    "$1/postgres" -D "$2/data" -p "$3" -k "$2" -c listen_addresses=127.0.0.1 \
        -c fsync=off -c full_page_writes=off -c max_connections=200 >>"$2/log" 2>&1 &
    server=$!
}
stop() {
    kill -INT $server
    wait $server
}
serve "$@"
while read -r order; do
    stop
    case $order in
    keep_standby) cp -a "$2/data" "$2/standby" ;;
    fail_over) rm -rf "$2/data" && mv "$2/standby" "$2/data" && : >"$2/data/standby.signal" ;;
    promote) : >"$2/data/standby.signal" ;;
    esac
    serve "$@"
    echo done
done
stop
rm -rf "$2"
"#;

impl PostgreSql {
    /// The server that all tests of a program share.
    pub fn shared() -> &'static Self {
        static SERVER: OnceLock<PostgreSql> = OnceLock::new();
        SERVER.get_or_init(Self::start)
    }

    /// Starts a server of its own, for a test that stops or promotes it.
    pub fn start() -> Self {
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
        hold.current_dir(&folder).stdin(Stdio::piped()).stdout(Stdio::piped());
        as_user(&mut hold, "postgres", &folder);
        let mut shell = hold.spawn().expect("sh starts");
        let input = shell.stdin.take().expect("it is piped");
        let output = BufReader::new(shell.stdout.take().expect("it is piped"));
        let orders = Mutex::new(Some((input, output)));
        let server = Self { port, psql: bin.join("psql"), shell, orders };
        server.await_answer();
        server
    }

    fn await_answer(&self) {
        eventually("PostgreSQL answers", || {
            let answer = self.command("postgres", "SELECT 1").output().ok()?;
            answer.status.success().then_some(())
        });
    }

    /// Keeps a copy of the server as it is now, as a standby that receives nothing more has it.
    /// Connections are closed.
    pub fn keep_standby(&self) {
        self.order("keep_standby");
    }

    /// Ends the server for good and promotes the standby that was kept. What was committed since
    /// then is lost, and the timeline is the next one. Connections are closed.
    pub fn fail_over(&self) {
        self.order("fail_over");
        self.psql("postgres", "SELECT pg_promote()");
    }

    /// Promotes a standby that has received everything: nothing is lost, and the timeline is the
    /// next one. Connections are closed.
    pub fn promote(&self) {
        self.order("promote");
        self.psql("postgres", "SELECT pg_promote()");
    }

    fn order(&self, order: &str) {
        let mut orders = self.orders.lock().expect("no thread panics");
        let (input, output) = orders.as_mut().expect("it has not ended");
        writeln!(input, "{order}").expect("the shell lives");
        let mut done = String::new();
        output.read_line(&mut done).expect("it is text");
        assert_eq!(done, "done\n", "{order}");
        self.await_answer();
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

impl Drop for PostgreSql {
    fn drop(&mut self) {
        // The shell stops the server and removes its folder.
        if let Ok(mut orders) = self.orders.lock() {
            *orders = None;
        }
        let _ = self.shell.wait();
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
