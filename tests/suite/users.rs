//! `heartbeatd user …` with the real binary, and its file beside mosquitto's.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Output, Stdio};

use heartbeatd::clock::system_clock;
use heartbeatd::users::{Denied, Users};
use servers::eventually;
use servers::mosquitto::{Mosquitto, publish};
use servers::process::{output, program};

use crate::support::service::Place;

/// A place whose configuration names a users file that does not exist yet.
fn place() -> Place {
    Place::new().with("MQTT__EMBEDDED__USERS_FILE", "users")
}

/// Runs a command with a password on stdin.
fn with_password(place: &Place, arguments: &[&str], password: &str) -> Output {
    let mut command = place.command(arguments);
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().expect("heartbeatd starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    // A command that refuses does not read.
    let _ = stdin.write_all(password.as_bytes());
    drop(stdin);
    child.wait_with_output().expect("it ends")
}

#[track_caller]
fn succeeds(out: &Output, expected: &str) {
    let (said, log) = said(out);
    assert_eq!(out.status.code(), Some(0), "{log}");
    assert!(said.contains(expected), "no {expected:?} in {said}");
}

#[track_caller]
fn fails(out: &Output, code: i32, parts: &[&str]) {
    let (_, log) = said(out);
    assert_eq!(out.status.code(), Some(code), "{log}");
    for part in parts {
        assert!(log.contains(part), "no {part:?} in {log}");
    }
    for secret in ["hunter2", "$7$101", "$argon2id$v"] {
        assert!(!log.contains(secret), "{log}");
    }
}

fn said(out: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&out.stdout), text(&out.stderr))
}

fn text(place: &Place) -> String {
    fs::read_to_string(place.path().join("users")).expect("there is a users file")
}

#[track_caller]
fn verify(place: &Place, name: &str, password: &str) -> Result<Vec<String>, Denied> {
    let users = Users::open(&place.path().join("users"), system_clock).expect("it is valid");
    let here = [127, 0, 0, 1].into();
    let verified = actix_rt::System::new().block_on(users.verify(name, password.as_bytes(), here));
    verified.map(|user| user.rights().patterns())
}

#[test]
fn a_user_is_added_listed_changed_and_removed() {
    let place = place();
    let out = with_password(&place, &["user", "add", "pump-17"], "first\n");
    succeeds(&out, "added user pump-17; it may publish heartbeats of pump-17\n");
    assert!(said(&out).1.contains("created the users file users"));
    let mode = place.path().join("users").metadata().expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let arguments = ["user", "add", "hall 3", "--devices", "hall-3-*", "--devices", r"fan\ 1"];
    let out = with_password(&place, &arguments, "second");
    succeeds(&out, r"added user hall 3; it may publish heartbeats of hall-3-*, fan\ 1");
    assert!(said(&out).1.is_empty(), "{out:?}");
    let out = with_password(&place, &["user", "add", "gateway", "--devices", "*"], "third\r\n");
    succeeds(&out, "added user gateway; it may publish heartbeats of all devices");

    let listed = "USER     DEVICES          HASH\n\
                  pump-17  pump-17          argon2id\n\
                  hall 3   hall-3-* fan\\ 1  argon2id\n\
                  gateway  *                argon2id\n";
    assert_eq!(said(&place.run(&["user", "list"])).0, listed);
    let json = "[\n\
                {\"name\":\"pump-17\",\"devices\":[\"pump-17\"],\"hash\":\"argon2id\"},\n\
                {\"name\":\"hall 3\",\"devices\":[\"hall-3-*\",\"fan\\\\ 1\"],\"hash\":\"argon2id\"},\n\
                {\"name\":\"gateway\",\"devices\":[\"*\"],\"hash\":\"argon2id\"}\n\
                ]\n";
    assert_eq!(said(&place.run(&["user", "list", "--json"])).0, json);

    assert_eq!(verify(&place, "pump-17", "first"), Ok(vec!["pump-17".to_owned()]));
    assert_eq!(verify(&place, "gateway", "third"), Ok(vec!["*".to_owned()]));
    let out = with_password(&place, &["user", "set-password", "hall 3"], "fourth\n");
    succeeds(&out, "set the password of user hall 3\n");
    assert_eq!(verify(&place, "hall 3", "second"), Err(Denied::WrongPassword));
    let devices = vec!["hall-3-*".to_owned(), r"fan\ 1".to_owned()];
    assert_eq!(verify(&place, "hall 3", "fourth"), Ok(devices));

    succeeds(&place.run(&["user", "remove", "pump-17"]), "removed user pump-17\n");
    assert_eq!(verify(&place, "pump-17", "first"), Err(Denied::UnknownUser));
    assert_eq!(text(&place).lines().count(), 2);
    // Only the file is left: no lock, no file that is not in its place.
    assert_eq!(fs::read_dir(place.path()).expect("a folder").count(), 1);
}

#[test]
fn a_command_that_cannot_be_carried_out_says_what_would_be_right() {
    let place = place();
    let users = place.path().join("users");
    let many: Vec<&str> =
        ["user", "add", "a"].into_iter().chain([["--devices", "x"]; 65].concat()).collect();
    for (arguments, password, code, parts) in [
        (
            &["user", "list"][..],
            "",
            78,
            &["users file users: there is no such file", "user add"][..],
        ),
        (&["user", "remove", "a"], "", 78, &["there is no such file"]),
        (&["user", "set-password", "a"], "", 78, &["there is no such file"]),
        (&["user", "add", "a"], "", 64, &["a password is expected on stdin, as one line"]),
        (&["user", "add", "a"], "\nhunter2", 64, &["as one line; there is none"]),
        (&["user", "add", "a", "hunter"], "", 64, &["unexpected argument"]),
        (&["user", "add", "a", "--password", "x"], "", 64, &["unexpected argument '--password'"]),
        (&["user", "add", "a:b"], "x", 64, &["a user name must not contain ':'"]),
        (&["user", "add", "a\u{202e}"], "x", 64, &["U+202E"]),
        (&["user", "add", "a/b"], "x", 64, &["no device of the same name", "--devices PATTERN"]),
        (&["user", "add", "heartbeatd-echo-x"], "x", 64, &["reserved", "--devices PATTERN"]),
        (&["user", "add", "a", "--devices", "hall/#"], "x", 64, &["no device id contains"]),
        (&["user", "add", "a", "--devices", "hall-?"], "x", 64, &["'?' is not a wildcard"]),
        (&["user", "add", "a", "--devices", "x y"], "x", 64, &["a blank separates two patterns"]),
        (&many, "x", 64, &["1 to 64 patterns", "this one has 65"]),
        (&["user", "--file", "no/such/folder", "add", "a"], "x", 69, &["it cannot be created"]),
        (&["user", "list", "--file", "."], "", 78, &["it is not a file"]),
    ] {
        fails(&with_password(&place, arguments, password), code, parts);
        assert!(!users.exists(), "{arguments:?}");
    }

    with_password(&place, &["user", "add", "a"], "x");
    let before = text(&place);
    for (arguments, code, parts) in [
        (
            &["user", "add", "a"][..],
            1,
            &["user a exists already: `heartbeatd user set-password a`"][..],
        ),
        (&["user", "remove", "b"], 1, &["there is no user b; `heartbeatd user list` lists all"]),
        (&["user", "set-password", "b"], 1, &["there is no user b"]),
    ] {
        fails(&with_password(&place, arguments, "x"), code, parts);
        assert_eq!(text(&place), before);
    }

    let out = Place::new().run(&["user", "list"]);
    fails(&out, 78, &["mqtt.embedded.users_file is not set", "--file PATH"]);
}

#[test]
fn an_invalid_line_is_named_without_its_hash_and_can_be_corrected() {
    let place = place();
    let users = place.path().join("users");
    fs::write(&users, "# pumps\na:hunter2\n").expect("a file");
    for arguments in [&["user", "list"][..], &["user", "add", "b"], &["check-config"], &["run"]] {
        let out = with_password(&place, arguments, "x");
        fails(&out, 78, &["line 2: the text after the name is not a hash", "set-password"]);
    }
    succeeds(&with_password(&place, &["user", "set-password", "a"], "y"), "set the password");
    assert!(text(&place).starts_with("# pumps\na:$argon2id$v=19$m=19456,t=2,p=1$"));
    assert_eq!(place.run(&["check-config"]).status.code(), Some(0));
    let costly = text(&place).replace("m=19456", "m=1945600");
    fs::write(&users, costly).expect("a file");
    fails(&place.run(&["check-config"]), 78, &["line 2: the hash has m = 1945600", "131072 KiB"]);
}

#[test]
fn a_file_of_mosquitto_passwd_is_read_and_its_lines_stay_as_they_are() {
    let place = place();
    let users = place.path().join("users").display().to_string();
    let passwd = program("mosquitto_passwd", "mosquitto", &["/usr/bin"]);
    output(Command::new(&passwd).args(["-c", "-b", &users, "fleet", "s3cret"]));
    let before = text(&place);
    succeeds(&place.run(&["user", "list"]), "fleet  fleet    pbkdf2-sha512");
    assert_eq!(verify(&place, "fleet", "s3cret"), Ok(vec!["fleet".to_owned()]));
    assert_eq!(verify(&place, "fleet", "S3cret"), Err(Denied::WrongPassword));
    with_password(&place, &["user", "add", "pump"], "x");
    assert!(text(&place).starts_with(&before));
    // It edits our file as well.
    output(Command::new(&passwd).args(["-D", &users, "pump"]));
    assert_eq!(text(&place), before);
}

#[test]
fn mosquitto_reads_a_line_with_devices() {
    let place = place();
    let users = place.path().join("users");
    let passwd = program("mosquitto_passwd", "mosquitto", &["/usr/bin"]);
    let path = users.display().to_string();
    output(Command::new(passwd).args(["-c", "-b", &path, "hall", "s3cret"]));
    fs::write(&users, text(&place).trim_end().to_owned() + ":hall-3-* site:x\n").expect("a file");
    succeeds(&place.run(&["user", "list"]), "hall  hall-3-* site:x");
    let rules = format!("allow_anonymous false\npassword_file {path}");
    let broker = Mosquitto::start_with(&rules);
    publish(broker.port, "devices/x/heartbeat", b"", &["-u", "hall", "-P", "s3cret"]);
}

#[test]
fn commands_at_once_lose_no_user() {
    let place = place();
    let names: Vec<String> = (0..8).map(|n| format!("pump-{n}")).collect();
    std::thread::scope(|scope| {
        for name in &names {
            let place = &place;
            scope.spawn(move || {
                succeeds(&with_password(place, &["user", "add", name], "x"), "added user");
            });
        }
    });
    assert_eq!(text(&place).lines().count(), names.len());
}

/// A command on a terminal of its own.
struct OnTerminal {
    child: Child,
    terminal: fs::File,
    shown: String,
}

impl OnTerminal {
    fn start(place: &Place, arguments: &[&str]) -> Self {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&terminal).expect("it is ours");
        unlockpt(&terminal).expect("it is ours");
        let name = ptsname(&terminal, Vec::new()).expect("it has a name");
        let name = name.to_str().expect("it is a path");
        let inside = fs::OpenOptions::new().read(true).write(true).open(name).expect("it is ours");
        let end = || Stdio::from(inside.try_clone().expect("a free descriptor"));
        let mut command = place.command(arguments);
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().expect("it starts");
        Self { child, terminal: terminal.into(), shown: String::new() }
    }

    /// Reads what is shown until it ends with this text.
    fn await_shown(&mut self, text: &str) {
        let mut byte = [0];
        while !self.shown.ends_with(text) {
            let read = self.terminal.read(&mut byte);
            assert!(matches!(read, Ok(1)), "{read:?} after {:?}", self.shown);
            self.shown.push(byte[0].into());
        }
    }

    fn type_in(&mut self, text: &str) {
        self.terminal.write_all(text.as_bytes()).expect("it is read");
    }

    fn echoes(&self) -> bool {
        let modes = rustix::termios::tcgetattr(&self.terminal).expect("it is a terminal");
        modes.local_modes.contains(rustix::termios::LocalModes::ECHO)
    }

    fn await_exit(&mut self) -> Option<i32> {
        let ended = || self.child.try_wait().expect("it is our child");
        eventually("it ends", ended).code()
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn on_a_terminal_a_password_is_typed_twice_and_not_shown() {
    let place = place();
    let mut command = OnTerminal::start(&place, &["user", "add", "pump"]);
    command.await_shown("Password: ");
    assert!(!command.echoes());
    command.type_in("hunter2\n");
    command.await_shown("Again: ");
    command.type_in("hunter2\n");
    command.await_shown("added user pump; it may publish heartbeats of pump\r\n");
    assert_eq!(command.await_exit(), Some(0));
    assert!(!command.shown.contains("hunter2"), "{}", command.shown);
    assert!(command.echoes());
    assert_eq!(verify(&place, "pump", "hunter2"), Ok(vec!["pump".to_owned()]));
    let before = text(&place);

    let mut command = OnTerminal::start(&place, &["user", "set-password", "pump"]);
    command.await_shown("Password: ");
    command.type_in("hunter2\n");
    command.await_shown("Again: ");
    command.type_in("hunter3\n");
    command.await_shown("the two passwords differ; nothing was changed\r\n");
    assert_eq!(command.await_exit(), Some(64));
    assert_eq!(text(&place), before);
}

#[test]
fn a_terminal_shows_again_what_is_typed_after_a_signal() {
    let place = place();
    for signal in ["INT", "TERM"] {
        let mut command = OnTerminal::start(&place, &["user", "add", "pump"]);
        command.await_shown("Password: ");
        assert!(!command.echoes());
        let id = command.child.id().to_string();
        output(Command::new("kill").args(["-s", signal, &id]));
        command.await_shown("interrupted; nothing was changed\r\n");
        assert_eq!(command.await_exit(), Some(130));
        assert!(command.echoes());
        assert!(!place.path().join("users").exists());
    }
}
