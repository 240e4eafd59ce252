//! Other programs: found, or asked for, and stopped by their process id.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc;
use std::thread;

use crate::PATIENCE;

/// The path of a program, from the PATH or from one of `places`, where Debian puts
/// servers.
#[track_caller]
pub fn program(name: &str, package: &str, places: &[&str]) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(places.iter().map(PathBuf::from));
    folders
        .into_iter()
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("{name} is not installed: apt-get install {package}"))
}

/// A free port that will not be given away twice, neither by this function nor by the
/// system, whose own choices begin at 32768.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        // Two test programs that run at once begin at different places.
        let number = u32::from(NEXT.fetch_add(1, Ordering::Relaxed)) + std::process::id() * 64;
        let port = 10_000 + (number % 20_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A program that is killed when this is dropped.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A program's log, shown if the test fails.
pub struct Log(PathBuf);

impl Log {
    /// The log in that file.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Opens the file for a program to write to.
    pub fn file(&self) -> File {
        File::create(&self.0).expect("a file")
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.0).unwrap_or_else(|error| error.to_string());
            println!("{}:\n{log}", self.0.display());
        }
    }
}

/// Runs a server that refuses to run as root as its own user, which its package has
/// created.
pub fn as_user(command: &mut Command, user: &str, folder: &Path) {
    let Some((uid, gid)) = user_ids(user) else { return };
    chown(folder, Some(uid), Some(gid)).expect("root may give a folder away");
    command.uid(uid).gid(gid);
}

/// The ids of a user and its group. `None` if this program does not run as root, and can give
/// nothing away.
pub fn user_ids(user: &str) -> Option<(u32, u32)> {
    (id("-u", None) == 0).then(|| (id("-u", Some(user)), id("-g", Some(user))))
}

/// Sends a signal to a process that this program started.
#[track_caller]
pub fn signal(process: u32, name: &str) {
    output(Command::new("kill").args(["-s", name, &process.to_string()]));
}

fn id(what: &str, user: Option<&str>) -> u32 {
    let out = Command::new("id").arg(what).args(user).output().expect("id is part of coreutils");
    let text = String::from_utf8_lossy(&out.stdout);
    text.trim().parse().unwrap_or_else(|_| panic!("there is no user {user:?}"))
}

/// Runs a program that reads nothing to its end, which has to come: after [`PATIENCE`] it is
/// killed.
#[track_caller]
pub fn run_to_end(command: &mut Command) -> Output {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("it starts");
    let id = child.id().to_string();
    let (ended, end) = mpsc::channel::<()>();
    let watch = thread::spawn(move || {
        let is_late = end.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout);
        is_late && Command::new("kill").args(["-s", "KILL", &id]).status().is_ok()
    });
    let out = child.wait_with_output().expect("it ends");
    drop(ended);
    let was_killed = watch.join().expect("the watch does not panic");
    assert!(!was_killed, "{command:?} does not end: {}", String::from_utf8_lossy(&out.stderr));
    out
}

/// Runs a program to its end and returns what it printed.
#[track_caller]
pub fn output(command: &mut Command) -> String {
    let out = command.stdin(Stdio::null()).output().expect("it starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(out.status.success(), "{command:?}: {}\n{}", text(&out.stdout), text(&out.stderr));
    text(&out.stdout)
}
