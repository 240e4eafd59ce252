//! The users file, read again when it changes.
//!
//! A change is noticed by the file's state (its inode, size and times), which the caller asks
//! for every few seconds. `mosquitto_passwd` empties the file and writes it anew, so a file is
//! read only when it has stayed the same between two looks: a user is not removed because its
//! line is about to be written.

use std::io;
use std::pin::pin;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use log::{error, info};
use tokio::time::MissedTickBehavior;

use super::file::{self, Stamp, Unusable};
use super::{Changes, Users, UsersError};

/// The time between two looks at the file. A change is in force after two of them.
const INTERVAL: Duration = Duration::from_secs(2);

/// The reason to look at the file.
enum Wake {
    Hangup,
    Tick,
}

/// The state of a file, or the reason why it has none.
type State = Result<Stamp, io::ErrorKind>;

/// The states of the file that were seen.
#[derive(Debug)]
pub(super) struct Seen {
    /// The state in which it was read last, whether it could be used or not.
    read: State,
    /// Another state, seen at the last look.
    last: Option<State>,
}

impl Seen {
    /// The file was read in this state.
    pub(super) fn read(stamp: Stamp) -> Self {
        Self { read: Ok(stamp), last: None }
    }

    /// Notes a look at the file. True if it is time to read it: it has changed since it was
    /// read, and not since the last look.
    fn look(&mut self, now: State) -> bool {
        let is_settled = self.last == Some(now);
        self.last = (now != self.read).then_some(now);
        self.last.is_some() && is_settled
    }
}

impl Users {
    /// Reads the file again at once, as on SIGHUP. Blocks for as long as the file system takes.
    ///
    /// # Errors
    ///
    /// If the file cannot be used, or has lost all its users: an editor or a script may just have
    /// emptied it, and all devices would be disconnected. The users that were in force stay in
    /// force.
    pub fn reload(&self) -> Result<Changes, UsersError> {
        let shared = self.shared();
        // Two reloads take turns.
        let mut seen = shared.seen.lock();
        let state = Stamp::of_path(&shared.path).map_err(|error| error.kind());
        *seen = Seen { read: state, last: None };
        let (lines, stamp) = file::load(&shared.path)?;
        *seen = Seen::read(stamp);
        if lines.is_empty() && self.count() > 0 {
            return Err(UsersError::new(&shared.path, Unusable::Emptied));
        }
        Ok(shared.replace(lines))
    }

    /// Looks at the file, and reads it again if it has changed and stayed the same since the
    /// last look. Blocks for as long as the file system takes. `None` if there is nothing new.
    ///
    /// # Errors
    ///
    /// If the file has changed and cannot be used: once, until it changes again. The users that
    /// were in force stay in force.
    pub fn poll(&self) -> Result<Option<Changes>, UsersError> {
        let shared = self.shared();
        let state = Stamp::of_path(&shared.path).map_err(|error| error.kind());
        let is_due = shared.seen.lock().look(state);
        if is_due { self.reload().map(Some) } else { Ok(None) }
    }

    /// Keeps the users as the file has them until it is dropped, and logs what it finds.
    /// Reads the file at once for each item of `hangups`, which stands for a SIGHUP, and within
    /// a few seconds of a change. Calls `tell` with each difference that this makes.
    pub async fn watch(self, hangups: impl Stream<Item = ()>, mut tell: impl FnMut(Changes)) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ticks = stream::unfold(ticks, |mut ticks| async {
            ticks.tick().await;
            Some((Wake::Tick, ticks))
        });
        let mut wakes = pin!(stream::select(hangups.map(|()| Wake::Hangup), ticks));
        while let Some(wake) = wakes.next().await {
            let users = self.clone();
            let read = tokio::task::spawn_blocking(move || match wake {
                Wake::Hangup => users.reload().map(Some),
                Wake::Tick => users.poll(),
            });
            // It fails only if the process is ending.
            let Ok(read) = read.await else { return };
            if let Some(changes) = self.logged(read) {
                tell(changes);
            }
        }
    }

    /// Logs what a reading has found. Returns the difference, if there is one.
    fn logged(&self, read: Result<Option<Changes>, UsersError>) -> Option<Changes> {
        match read {
            Ok(changes) => {
                let changes = changes?;
                self.log(&changes);
                (!changes.is_empty()).then_some(changes)
            }
            Err(error) => {
                error!(
                    target: "heartbeatd",
                    "mqtt.embedded.users_file = {error}; the users that were read before stay in \
                     force"
                );
                None
            }
        }
    }

    fn log(&self, changes: &Changes) {
        let Changes { added, removed, changed } = changes;
        info!(
            target: "heartbeatd",
            users = self.count(), added = added.len(), removed = removed.len(),
            changed = changed.len();
            "read the users file again"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use futures::SinkExt;
    use futures::channel::mpsc;
    use tempfile::TempDir;

    use super::super::check::tests::run;
    use super::super::hash::tests::OF_MOSQUITTO;
    use super::*;
    use crate::clock::system_clock;

    /// A users file that can be written to, and the users in it.
    struct Written {
        folder: TempDir,
        users: Users,
    }

    impl Written {
        fn new(lines: &str) -> Self {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let path = folder.path().join("users");
            fs::write(&path, text(lines)).expect("a file");
            let users = Users::open(&path, system_clock).expect("it is valid");
            Self { folder, users }
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join("users")
        }

        /// Writes into the file, as mosquitto_passwd does.
        fn write(&self, lines: &str) {
            fs::write(self.path(), text(lines)).expect("a file");
        }

        /// Replaces the file, as `heartbeatd user` does.
        fn replace(&self, lines: &str) {
            let other = self.folder.path().join("other");
            fs::write(&other, text(lines)).expect("a file");
            fs::rename(other, self.path()).expect("the same folder");
        }

        /// The changes that a look finds, in words.
        fn poll(&self) -> Option<Result<String, String>> {
            match self.users.poll() {
                Ok(None) => None,
                Ok(Some(changes)) => Some(Ok(words(&changes))),
                Err(error) => Some(Err(error.to_string())),
            }
        }
    }

    fn text(lines: &str) -> String {
        lines.replace("HASH", OF_MOSQUITTO)
    }

    fn words(changes: &Changes) -> String {
        let Changes { added, removed, changed } = changes;
        let signed = [("+", added), ("-", removed), ("~", changed)];
        let words = signed.iter().flat_map(|(sign, users)| {
            users.iter().map(move |user| format!("{sign}{}", user.name()))
        });
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_changed_file_is_read_once_it_has_stayed_the_same_for_one_look() {
        let file = Written::new("a:HASH\nb:HASH\n");
        assert_eq!(file.poll(), None);
        file.write("");
        assert_eq!(file.poll(), None, "it is about to be written");
        file.write("a:HASH\nc:HASH:x\n");
        assert_eq!(file.poll(), None);
        assert_eq!(file.poll(), Some(Ok("+c -b".to_owned())));
        assert_eq!(file.poll(), None);
        file.replace("a:HASH:y\nc:HASH:x\n");
        assert_eq!(file.poll(), None);
        assert_eq!(file.poll(), Some(Ok("~a".to_owned())));
        assert_eq!(file.users.count(), 2);
    }

    #[test]
    fn a_file_that_has_lost_all_its_users_changes_nothing_and_is_an_error() {
        let file = Written::new("a:HASH\nb:HASH\n");
        let a = file.users.get("a").expect("it is there");
        for emptied in ["", "# nobody\n"] {
            file.write(emptied);
            let error = file.users.reload().expect_err("all devices would be disconnected");
            assert!(error.to_string().contains("users: it has no users now"), "{error}");
            file.replace(emptied);
            assert_eq!(file.poll(), None);
            let error = file.poll().expect("it is read").expect_err("by a look, too");
            assert!(error.contains("restart the service"), "{error}");
            assert_eq!(file.poll(), None, "it is reported once");
            assert!(file.users.is_current(&a) && file.users.count() == 2);
        }
        file.write("a:HASH\n");
        assert_eq!(words(&file.users.reload().expect("it is valid")), "-b");
        assert!(file.users.is_current(&a));
    }

    #[test]
    fn a_file_that_had_no_users_may_stay_without_any() {
        let file = Written::new("# nobody yet\n");
        file.replace("# nobody\n");
        assert!(file.users.reload().expect("it is valid").is_empty());
        file.replace("a:HASH\n");
        assert_eq!(words(&file.users.reload().expect("it is valid")), "+a");
    }

    #[test]
    fn a_file_that_cannot_be_used_keeps_the_users_in_force_and_is_reported_once() {
        let file = Written::new("a:HASH\n");
        let user = file.users.get("a").expect("it is there");
        let error_after = |change: &dyn Fn(), part: &str| {
            change();
            assert_eq!(file.poll(), None);
            let error = file.poll().expect("it has changed").expect_err("it cannot be used");
            assert!(error.contains(part) && error.starts_with('/'), "{error}");
            for _ in 0..3 {
                assert_eq!(file.poll(), None);
            }
            assert!(file.users.is_current(&user));
        };
        error_after(&|| file.write("a:HASH\na:HASH\n"), "users: line 2: user \"a\" is on line 1");
        error_after(&|| file.write("hunter2\n"), "users: line 1: it is not NAME:HASH");
        error_after(&|| fs::remove_file(file.path()).expect("it is there"), "no such file");
        error_after(&|| fs::create_dir(file.path()).expect("it is gone"), "it is not a file");
        fs::remove_dir(file.path()).expect("it is empty");
        file.write("a:HASH\nb:HASH\n");
        assert_eq!((file.poll(), file.poll()), (None, Some(Ok("+b".to_owned()))));
        assert!(file.users.is_current(&user));
        file.write("hunter2\n");
        assert!(file.users.reload().is_err());
        assert!(file.users.reload().is_err(), "a reload that was asked for always answers");
        assert_eq!((file.poll(), file.poll()), (None, None));
    }

    #[test]
    fn a_user_is_current_as_long_as_its_line_is_the_same() {
        let file = Written::new("a:HASH\nb:HASH\n");
        let [a, b] = ["a", "b"].map(|name| file.users.get(name).expect("it is there"));
        file.replace("# moved\nb:HASH:b\na:HASH\n");
        assert_eq!(words(&file.users.reload().expect("it is valid")), "~b");
        assert!(file.users.is_current(&a) && !file.users.is_current(&b));
        file.replace("b:HASH:b\n");
        assert_eq!(words(&file.users.reload().expect("it is valid")), "-a");
        assert!(!file.users.is_current(&a) && file.users.get("a").is_none());
    }

    #[test]
    fn a_watch_tells_of_a_change_within_two_looks_and_of_a_hangup_at_once() {
        run(async {
            tokio::time::pause();
            let file = Written::new("a:HASH\n");
            let (mut hangups, received) = mpsc::channel(0);
            let (told, mut changes) = mpsc::unbounded();
            let tell = move |changes: Changes| {
                let _ = told.unbounded_send(words(&changes));
            };
            let watch = tokio::spawn(file.users.clone().watch(received, tell));
            let began = tokio::time::Instant::now();
            file.replace("b:HASH\n");
            assert_eq!(changes.next().await.as_deref(), Some("+b -a"));
            assert!(began.elapsed() <= 3 * INTERVAL, "{:?}", began.elapsed());

            let began = tokio::time::Instant::now();
            file.replace("b:HASH\nc:HASH\n");
            hangups.send(()).await.expect("it is received");
            assert_eq!(changes.next().await.as_deref(), Some("+c"));
            assert!(began.elapsed() < INTERVAL, "{:?}", began.elapsed());

            drop(hangups);
            file.replace("c:HASH\n");
            assert_eq!(changes.next().await.as_deref(), Some("-b"));
            watch.abort();
        });
    }
}
