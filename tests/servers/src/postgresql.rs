//! PostgreSQL: the server that all tests share, and servers of a test's own, which can be
//! stopped, killed and followed by a standby.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use super::eventually;
use super::process::{as_user, free_port, output, program, signal, user_ids};

/// The user of the operating system that a server runs as.
const USER: &str = "postgres";

/// Settings with which a server starts quickly. No test cuts the power.
const SETTINGS: &str = "fsync = off\nfull_page_writes = off\nmax_connections = 200\n";

/// Serves a folder until the server ends by itself or this input is closed. Then the folder goes
/// away, too.
const HOLD: &str = r#"
exec 3<&0
"$1/postgres" -D "$2/data" -p "$3" -k "$2" -c listen_addresses=127.0.0.1 \
    >>"$2/log" 2>&1 3<&- &
server=$!
{ cat >/dev/null; touch "$2/over"; kill -QUIT $server; } <&3 &
watch=$!
exec 3<&-
wait $server
kill $watch 2>/dev/null
[ -e "$2/over" ] && rm -rf "$2"
"#;

/// A running server. It ends with the program that started it, however that ends, because
/// a shell holds it and waits for the end of its own input.
pub struct PostgreSql {
    port: u16,
    bin: PathBuf,
    folder: PathBuf,
    /// The shell that holds the server as long as the shell's input is open.
    shell: Child,
}

/// A way to stop a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Connections are ended, and everything is written.
    Fast,
    /// At once, as after a crash of the server: it recovers when it is started again.
    Immediate,
}

/// A new cluster of databases that is not served yet.
pub struct Cluster {
    bin: PathBuf,
    folder: PathBuf,
}

impl Cluster {
    /// Creates a cluster in a temporary folder. Everyone on this machine may log in.
    pub fn create() -> Self {
        let (bin, folder) = (bin_folder(), new_folder());
        let mut initdb = Command::new(bin.join("initdb"));
        initdb.args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-sync", "-D"]);
        initdb.arg(folder.join("data")).current_dir(&folder);
        as_user(&mut initdb, USER, &folder);
        output(&mut initdb);
        let cluster = Self { bin, folder };
        cluster.configure(SETTINGS);
        cluster
    }

    /// Sets a setting of the server.
    #[must_use]
    pub fn set(self, name: &str, value: &str) -> Self {
        self.configure(&format!("{name} = '{value}'\n"));
        self
    }

    /// Replaces the rules of who may log in and how.
    #[must_use]
    pub fn admitting(self, rules: &str) -> Self {
        fs::write(self.folder.join("data/pg_hba.conf"), rules).expect("a file");
        self
    }

    /// Copies a file into the cluster's folder, which relative names in settings are of. Only
    /// the server can read it.
    #[must_use]
    pub fn with_file(self, name: &str, from: impl AsRef<Path>) -> Self {
        let file = self.folder.join("data").join(name);
        fs::copy(from, &file).expect("a file");
        fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("it is ours");
        if let Some((uid, gid)) = user_ids(USER) {
            chown(&file, Some(uid), Some(gid)).expect("root may give a file away");
        }
        self
    }

    /// Serves it on a free port.
    pub fn start(self) -> PostgreSql {
        let Self { bin, folder } = self;
        let port = free_port();
        let shell = hold(&bin, &folder, port);
        let server = PostgreSql { port, bin, folder, shell };
        server.await_ready();
        server
    }

    fn configure(&self, text: &str) {
        let file = self.folder.join("data/postgresql.conf");
        let file: std::io::Result<File> = OpenOptions::new().append(true).open(file);
        file.and_then(|mut file| file.write_all(text.as_bytes())).expect("a file");
    }
}

impl PostgreSql {
    /// The server that all tests of a program share.
    pub fn shared() -> &'static Self {
        static SERVER: OnceLock<PostgreSql> = OnceLock::new();
        SERVER.get_or_init(|| Cluster::create().start())
    }

    /// Starts a server of a test's own.
    pub fn start() -> Self {
        Cluster::create().start()
    }

    /// Keeps a copy of the server as it is now, as a standby that receives nothing more has it.
    /// Connections are closed.
    pub fn keep_standby(&mut self) {
        self.stop(Shutdown::Fast);
        let mut copy = Command::new("cp");
        output(copy.arg("-a").arg(self.folder.join("data")).arg(self.folder.join("standby")));
        self.start_again();
    }

    /// Ends the server for good and promotes the standby that was kept. What was committed since
    /// then is lost, and the timeline is the next one. Connections are closed.
    pub fn fail_over(&mut self) {
        self.stop(Shutdown::Fast);
        let data = self.folder.join("data");
        fs::remove_dir_all(&data).expect("it is stopped");
        fs::rename(self.folder.join("standby"), &data).expect("it was kept");
        self.start_as_standby();
        self.promote();
    }

    /// Goes on as a standby that has received everything and is promoted: nothing is lost, and the
    /// timeline is the next one. Connections are closed.
    pub fn switch_over(&mut self) {
        self.stop(Shutdown::Fast);
        self.start_as_standby();
        self.promote();
    }

    fn start_as_standby(&mut self) {
        fs::write(self.folder.join("data/standby.signal"), "").expect("a file");
        self.start_again();
    }

    /// Starts a standby of this server, which follows it asynchronously.
    pub fn standby(&self) -> Self {
        let (bin, folder) = (self.bin.clone(), new_folder());
        let mut backup = Command::new(bin.join("pg_basebackup"));
        backup.args(["-h", "127.0.0.1", "-U", "postgres", "-p", &self.port.to_string()]);
        backup.args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "-D"]);
        backup.arg(folder.join("data")).current_dir(&folder);
        as_user(&mut backup, USER, &folder);
        output(&mut backup);
        let standby = Cluster { bin, folder }.start();
        standby.await_query("SELECT count(*) FROM pg_stat_wal_receiver", "1");
        standby
    }

    /// Waits until this standby has everything that `primary` has committed by now.
    pub fn await_caught_up(&self, primary: &Self) {
        let position = primary.query("SELECT pg_current_wal_lsn()");
        self.await_query(&format!("SELECT pg_last_wal_replay_lsn() >= '{position}'"), "t");
    }

    /// Makes this standby receive nothing more from its primary, which notices nothing.
    pub fn stop_receiving(&self) {
        self.query("ALTER SYSTEM SET primary_conninfo = ''");
        self.query("SELECT pg_reload_conf()");
        self.await_query("SELECT count(*) FROM pg_stat_wal_receiver", "0");
    }

    /// Makes this standby a primary, with what it has received. A new timeline begins.
    pub fn promote(&self) {
        assert_eq!(self.query("SELECT pg_promote(true, 120)"), "t");
    }

    /// Stops the server and starts it again on the same port.
    pub fn restart(&mut self, shutdown: Shutdown) {
        self.stop(shutdown);
        self.start_again();
    }

    /// Stops the server.
    pub fn stop(&mut self, shutdown: Shutdown) {
        let name = match shutdown {
            Shutdown::Fast => "INT",
            Shutdown::Immediate => "QUIT",
        };
        signal(self.postmaster(), name);
        self.await_end();
    }

    /// Starts a stopped server again on the same port.
    pub fn start_again(&mut self) {
        self.shell = hold(&self.bin, &self.folder, self.port);
        self.await_ready();
    }

    /// Kills all processes of the server, as the loss of its machine would.
    pub fn kill(&mut self) {
        let server = self.postmaster();
        let children = fs::read_to_string(format!("/proc/{server}/task/{server}/children"));
        signal(server, "KILL");
        for child in children.unwrap_or_default().split_whitespace() {
            // It may have ended with the server.
            let _ = Command::new("kill").args(["-s", "KILL", child]).stderr(Stdio::null()).status();
        }
        self.await_end();
    }

    /// The id of the server's first process.
    fn postmaster(&self) -> u32 {
        let file = self.folder.join("data/postmaster.pid");
        let text = fs::read_to_string(file).expect("the server runs");
        text.lines().next().and_then(|id| id.trim().parse().ok()).expect("it begins with the id")
    }

    fn await_end(&mut self) {
        let shell = &mut self.shell;
        eventually("PostgreSQL ends", || shell.try_wait().expect("it is ours"));
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
        self.query(&format!("CREATE DATABASE {name} {options}"));
        format!("postgres://postgres@127.0.0.1:{}/{name}", self.port)
    }

    /// Runs a statement in the database `postgres` and returns its result as text.
    pub fn query(&self, sql: &str) -> String {
        output(&mut self.command(sql)).trim_end().to_owned()
    }

    /// Waits until a query has this result.
    pub fn await_query(&self, sql: &str, result: &str) {
        eventually(&format!("{sql} is {result}"), || (self.query(sql) == result).then_some(()));
    }

    fn await_ready(&self) {
        eventually("PostgreSQL answers", || {
            let answer = self.command("SELECT 1").output().ok()?;
            answer.status.success().then_some(())
        });
    }

    /// Connects through the socket in its folder, which needs no password and no TLS.
    fn command(&self, sql: &str) -> Command {
        let mut psql = Command::new(self.bin.join("psql"));
        psql.args(["-X", "-q", "-A", "-t", "-U", "postgres", "-d", "postgres", "-c", sql]);
        psql.args(["-p", &self.port.to_string(), "-h"]).arg(&self.folder);
        psql
    }
}

impl Drop for PostgreSql {
    fn drop(&mut self) {
        // The shell then ends the server and removes the folder.
        drop(self.shell.stdin.take());
        if matches!(self.shell.try_wait(), Ok(Some(_))) {
            // The server was stopped before.
            let _ = fs::remove_dir_all(&self.folder);
        }
        let _ = self.shell.wait();
    }
}

/// A temporary folder that the server's shell removes.
fn new_folder() -> PathBuf {
    tempfile::tempdir().expect("a temporary folder").keep()
}

/// Starts the shell that holds a server.
fn hold(bin: &Path, folder: &Path, port: u16) -> Child {
    let mut hold = Command::new("sh");
    hold.args(["-c", HOLD, "sh"]).arg(bin).arg(folder).arg(port.to_string());
    // It would tell of each server that is killed.
    hold.current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    as_user(&mut hold, USER, folder);
    hold.spawn().expect("sh starts")
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
