//! The check of a name and a password.
//!
//! A password that was right before is recognised in microseconds, on the caller's thread. Any
//! other is hashed on a blocking thread: at most one per core at a time, with a bounded number
//! of others waiting for their turn, first come, first served.
//!
//! An unknown name takes the same way as a wrong password, through the same hash function with
//! the costs of a line of the file.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use log::warn;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::hash::MAX_MEMORY_KIB;
use super::memory::{MemoryKey, Seal};
use super::reload::Seen;
use super::set::{Candidate, Set};
use super::throttle::{Allowed, NameKey, Source, Throttle};
use super::{Changes, User, UsersError, file};
use crate::clock::Clock;
use crate::logging::line_budget::LineBudget;
use crate::process::panics;

/// The number of checks that may wait for each one that runs: as many as are done at 25 ms each
/// within `mqtt.embedded.connect_timeout`, so that a few hundred devices can log in at once after
/// a start. On a slower machine those that have waited for that time give up their places.
const WAITING: usize = 384;

/// The memory that all checks may take together, in KiB: twice the most that one may take. On
/// a machine with many cores fewer run at a time than there are cores.
const MEMORY_KIB: usize = 2 * MAX_MEMORY_KIB as usize;

/// The reason why somebody is not let in.
///
/// A client must not learn whether a user exists: tell it the same for
/// [`UnknownUser`](Self::UnknownUser) and [`WrongPassword`](Self::WrongPassword).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// There is no user of that name.
    #[error("there is no such user: `heartbeatd user add NAME` adds one")]
    UnknownUser,
    /// The password is wrong.
    #[error("the password is wrong: `heartbeatd user set-password NAME` sets another one")]
    WrongPassword,
    /// The name or the address has failed too often; nothing was checked.
    #[error(
        "it has failed too often, and may try again in {}",
        crate::duration::format(Duration::from_secs(retry_after.as_secs() + 1))
    )]
    Throttled {
        /// The time after which another attempt is checked.
        retry_after: Duration,
    },
    /// Too many passwords are being checked, or the user's line has just changed. Another
    /// attempt may succeed at once.
    #[error("too many passwords are being checked; it may try again")]
    Busy,
}

impl Denied {
    /// A word for a metric's label: `credentials`, `throttled` or `busy`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::UnknownUser | Self::WrongPassword => "credentials",
            Self::Throttled { .. } => "throttled",
            Self::Busy => "busy",
        }
    }
}

/// The users that may connect. Clones share one state.
#[derive(Clone)]
pub struct Users(Arc<Shared>);

pub(super) struct Shared {
    pub(super) path: PathBuf,
    clock: Clock,
    set: RwLock<Arc<Set>>,
    /// The state of the file that was read last.
    pub(super) seen: Mutex<Seen>,
    throttle: Mutex<Throttle>,
    key: MemoryKey,
    /// The key for hashes of names.
    names: RandomState,
    /// Places for all checks, those that run and those that wait.
    places: Arc<Semaphore>,
    /// Turns for the checks that run, and the memory that they may take, in KiB.
    turns: Arc<Semaphore>,
    memory_kib: Arc<Semaphore>,
    failures: LineBudget,
    /// The functions that were computed, in their order.
    #[cfg(test)]
    computed: Mutex<Vec<super::hash::Function>>,
}

impl Users {
    /// Reads a users file. `clock` decides about the delays after failures.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or one of its lines cannot be used.
    pub fn open(path: &Path, clock: Clock) -> Result<Self, UsersError> {
        let parallel = available_parallelism().map_or(1, NonZeroUsize::get);
        Self::with_parallel(path, clock, parallel)
    }

    fn with_parallel(path: &Path, clock: Clock, parallel: usize) -> Result<Self, UsersError> {
        let (lines, stamp) = file::load(path)?;
        let (set, _) = Set::default().next(lines);
        let key = MemoryKey::random().map_err(|error| UsersError::other(path, &error))?;
        Ok(Self(Arc::new(Shared {
            path: path.to_owned(),
            clock,
            set: RwLock::new(Arc::new(set)),
            seen: Mutex::new(Seen::read(stamp)),
            throttle: Mutex::default(),
            key,
            names: RandomState::new(),
            places: Arc::new(Semaphore::new(parallel * (1 + WAITING))),
            turns: Arc::new(Semaphore::new(parallel)),
            memory_kib: Arc::new(Semaphore::new(MEMORY_KIB)),
            failures: LineBudget::new("heartbeatd", "passwords that could not be hashed"),
            #[cfg(test)]
            computed: Mutex::default(),
        })))
    }

    /// The number of users.
    pub fn count(&self) -> usize {
        self.0.set().len()
    }

    /// The user of that name: for one who has proven its name otherwise, such as by a
    /// certificate.
    pub fn get(&self, name: &str) -> Option<Arc<User>> {
        self.0.set().find(name).map(|entry| Arc::clone(&entry.user))
    }

    /// True if the user is in the file and its line is the one that let it in.
    ///
    /// Ask when a connection is entered into the list from which connections are closed after
    /// a [reload](Self::reload): the line may have changed since [`verify`](Self::verify).
    pub fn is_current(&self, user: &Arc<User>) -> bool {
        self.0.set().find(user.name()).is_some_and(|entry| Arc::ptr_eq(&entry.user, user))
    }

    /// Checks a name and a password that come from an address. Takes microseconds if the
    /// password was right before, else the time of its hash and of those before it.
    ///
    /// If it is dropped while it waits, its place is free at once; a hash that is being
    /// computed counts all the same.
    ///
    /// # Errors
    ///
    /// The reason why the user is not let in.
    pub async fn verify(
        &self,
        name: &str,
        password: &[u8],
        from: IpAddr,
    ) -> Result<Arc<User>, Denied> {
        let attempt = Attempt::new(&self.0, name, password, from)?;
        if let Some(decided) = attempt.decide_at_once() {
            if attempt.has_a_share(&decided) {
                tokio::spawn(attempt.check_aside(password.into()));
            }
            return decided;
        }
        let password: Box<[u8]> = password.into();
        let turn = self.0.turn(attempt.candidate.entry.hash.memory_kib()).await?;
        // Others from the same address may have failed meanwhile, or the same device may have
        // been let in.
        if let Some(decided) = attempt.decide_at_once() {
            return decided;
        }
        let now = self.0.now();
        blocking(turn, move || attempt.hash(&password, now)).await
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.0
    }
}

impl Shared {
    fn set(&self) -> Arc<Set> {
        Arc::clone(&self.set.read())
    }

    fn now(&self) -> Instant {
        (self.clock)().monotonic
    }

    /// Waits for a turn to compute a hash that takes this much memory.
    async fn turn(&self, memory_kib: u32) -> Result<[OwnedSemaphorePermit; 3], Denied> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| Denied::Busy)?;
        // These fail only if they were closed, which they never are.
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|_| Denied::Busy)?;
        let memory = Arc::clone(&self.memory_kib).acquire_many_owned(memory_kib).await;
        Ok([place, turn, memory.map_err(|_| Denied::Busy)?])
    }

    /// Puts the users of another reading in force.
    pub(super) fn replace(&self, lines: Vec<file::Line>) -> Changes {
        let (next, changes) = self.set().next(lines);
        *self.set.write() = Arc::new(next);
        changes
    }
}

/// Computes something for a client on a blocking thread, which has its turn until it is done.
async fn blocking(
    turn: [OwnedSemaphorePermit; 3],
    compute: impl FnOnce() -> Result<Arc<User>, Denied> + Send + 'static,
) -> Result<Arc<User>, Denied> {
    let client = panics::this_client();
    let computed = tokio::task::spawn_blocking(move || {
        let _until_done = turn;
        panics::on_behalf_of(client, compute)
    });
    // It fails if the process is ending, or if it has panicked.
    computed.await.unwrap_or(Err(Denied::Busy))
}

/// One attempt to be let in.
struct Attempt {
    shared: Arc<Shared>,
    candidate: Candidate,
    from: Source,
    name: NameKey,
    seal: Seal,
}

impl Attempt {
    fn new(
        shared: &Arc<Shared>,
        name: &str,
        password: &[u8],
        from: IpAddr,
    ) -> Result<Self, Denied> {
        let candidate = shared.set().candidate(name, &shared.names).ok_or(Denied::UnknownUser)?;
        let line = candidate.entry.hash.to_string();
        let key = shared.names.hash_one((name, &line));
        let seal = shared.key.seal(name, &line, password).map_err(|_| Denied::Busy)?;
        Ok(Self { shared: Arc::clone(shared), candidate, from: from.into(), name: key, seal })
    }

    /// Decides if that needs no hash: the password is remembered, or it is not to be checked.
    fn decide_at_once(&self) -> Option<Result<Arc<User>, Denied>> {
        let now = self.shared.now();
        let allowed = self.shared.throttle.lock().ask(self.from, self.name, now);
        match allowed {
            Allowed::Yes => self.is_remembered().then(|| self.let_in()),
            Allowed::No(retry_after) | Allowed::KnownHere(retry_after) => {
                Some(self.look(now, retry_after))
            }
        }
    }

    /// Looks at a user who has to wait, or whose address has. One who was let in from there
    /// before is let in again, so that nobody at the same address can keep it out.
    fn look(&self, now: Instant, retry_after: Duration) -> Result<Arc<User>, Denied> {
        let Candidate { entry, exists } = &self.candidate;
        if *exists && entry.look(self.from, &self.seal, now) {
            return self.current();
        }
        Err(Denied::Throttled { retry_after })
    }

    /// True if the user is refused because its address has failed too often, and the password
    /// is to be checked all the same.
    ///
    /// Whoever sent it learns nothing of that, neither by the answer nor by its time: an unknown
    /// name, which is not checked, gets the same. A right password is remembered, and let in
    /// when it comes again.
    fn has_a_share(&self, decided: &Result<Arc<User>, Denied>) -> bool {
        let Candidate { entry, exists } = &self.candidate;
        let is_throttled = matches!(decided, Err(Denied::Throttled { .. }));
        if !is_throttled || !exists || entry.was_let_in_from(self.from) {
            return false;
        }
        let now = self.shared.now();
        let mut throttle = self.shared.throttle.lock();
        matches!(throttle.ask(self.from, self.name, now), Allowed::KnownHere(_))
            && throttle.share(self.from, self.name, now)
    }

    /// Checks a password whose sender has its answer already.
    async fn check_aside(self, password: Box<[u8]>) {
        let entry = &self.candidate.entry;
        let Ok(turn) = self.shared.turn(entry.hash.memory_kib()).await else { return };
        let checked = blocking(turn, move || {
            if self.is_remembered() || self.is_right(&password)? {
                return self.let_in();
            }
            Err(Denied::WrongPassword)
        });
        // It is let in when it comes again.
        let _ = checked.await;
    }

    /// True if the password was right before. The name is in the seal, so nobody else's is.
    fn is_remembered(&self) -> bool {
        self.candidate.entry.remembers(&self.seal)
    }

    /// Computes the hash. Called on a blocking thread.
    fn is_right(&self, password: &[u8]) -> Result<bool, Denied> {
        let entry = &self.candidate.entry;
        #[cfg(test)]
        self.shared.computed.lock().push(entry.hash.function());
        entry.hash.matches(password).map_err(|error| {
            self.shared.failures.spend(|| warn!(target: "heartbeatd", "{error}"));
            Denied::Busy
        })
    }

    /// Decides by the hash. Called on a blocking thread.
    fn hash(&self, password: &[u8], now: Instant) -> Result<Arc<User>, Denied> {
        let exists = &self.candidate.exists;
        if self.is_right(password)? && *exists {
            return self.let_in();
        }
        self.shared.throttle.lock().failed(self.from, self.name, now);
        Err(if *exists { Denied::WrongPassword } else { Denied::UnknownUser })
    }

    /// Lets the user in, and remembers that its password was right.
    fn let_in(&self) -> Result<Arc<User>, Denied> {
        self.shared.throttle.lock().succeeded(self.from, self.name);
        self.candidate.entry.remember(self.from, self.seal.clone());
        self.current()
    }

    /// The user, unless its line has changed meanwhile.
    fn current(&self) -> Result<Arc<User>, Denied> {
        let entry = &self.candidate.entry;
        let set = self.shared.set();
        let current = set.find(entry.user.name()).is_some_and(|now| Arc::ptr_eq(now, entry));
        if current { Ok(Arc::clone(&entry.user)) } else { Err(Denied::Busy) }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::Cell;
    use std::future::Future;
    use std::task::Poll;

    use futures::future::{join_all, poll_fn};
    use tempfile::TempDir;

    use super::super::PasswordHash;
    use super::super::hash::Function;
    use super::super::hash::tests::{OF_MOSQUITTO, QUICK};
    use super::*;
    use crate::clock::system_clock;
    use crate::domain::Reading;

    /// Runs a future on a runtime of its own.
    pub(in super::super) fn run<T>(future: impl Future<Output = T>) -> T {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().build().expect("a runtime").block_on(future)
    }

    thread_local! {
        static NOW: Cell<Reading> = Cell::new(system_clock());
    }

    /// A clock that the test sets.
    fn clock() -> Reading {
        NOW.get()
    }

    fn wait(time: Duration) {
        let Reading { wall, monotonic } = NOW.get();
        NOW.set(Reading { wall, monotonic: monotonic + time });
    }

    const HERE: &str = "192.0.2.1";
    const THERE: &str = "192.0.2.2";
    const SECOND: Duration = Duration::from_secs(1);

    /// Users in a file.
    struct Door {
        folder: TempDir,
        users: Users,
    }

    impl Door {
        /// A file with these lines, in which `HASH` is that of the password "secret".
        fn new(lines: &str) -> Self {
            Self::with_parallel(lines, 1)
        }

        fn with_parallel(lines: &str, parallel: usize) -> Self {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let path = folder.path().join("users");
            std::fs::write(&path, text(lines)).expect("a file");
            let users = Users::with_parallel(&path, clock, parallel).expect("it is valid");
            Self { folder, users }
        }

        fn rewrite(&self, lines: &str) {
            std::fs::write(self.folder.path().join("users"), text(lines)).expect("a file");
            self.users.reload().expect("it is valid");
        }

        async fn verify_from(
            &self,
            from: &str,
            name: &str,
            password: &str,
        ) -> Result<Arc<User>, Denied> {
            let from = from.parse().expect("an address");
            self.users.verify(name, password.as_bytes(), from).await
        }

        async fn verify(&self, name: &str, password: &str) -> Result<(), Denied> {
            self.verify_from(HERE, name, password).await.map(drop)
        }

        /// Waits until no check is computed that nobody waits for.
        async fn settle(&self) {
            tokio::task::yield_now().await;
            drop(self.users.0.turns.acquire().await.expect("it is open"));
        }

        /// The functions computed since the last call.
        fn computed(&self) -> Vec<Function> {
            std::mem::take(&mut self.users.0.computed.lock())
        }
    }

    /// Replaces `HASH` by a hash of "secret" that costs nothing.
    fn text(lines: &str) -> String {
        let hash = PasswordHash::with(QUICK, b"secret").expect("it is computed");
        lines.replace("HASH", &hash.to_string())
    }

    fn throttled(seconds: u64) -> Result<(), Denied> {
        Err(Denied::Throttled { retry_after: Duration::from_secs(seconds) })
    }

    /// Polls a future once.
    async fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
        poll_fn(|context| Poll::Ready(std::pin::Pin::new(&mut *future).poll(context))).await
    }

    /// Polls a future once, which has to wait.
    async fn begin<F: Future + Unpin>(future: &mut F) {
        assert!(poll_once(future).await.is_pending());
    }

    #[test]
    fn a_user_gets_in_with_its_password_and_its_rights() {
        run(async {
            let door = Door::new(&format!("pump-17:HASH\nhall:{OF_MOSQUITTO}:hall-*\n"));
            let pump = door.verify_from(HERE, "pump-17", "secret").await.expect("it is let in");
            assert!(pump.rights().allows("pump-17") && !pump.rights().allows("hall-3"));
            let hall = door.verify_from(HERE, "hall", "secret").await.expect("it is let in");
            assert!(hall.rights().allows("hall-3") && hall.name() == "hall");
            assert_eq!(door.verify("pump-17", "Secret").await, Err(Denied::WrongPassword));
            assert_eq!(door.verify("pump-17", "").await, Err(Denied::WrongPassword));
            assert_eq!(door.verify("pump-18", "secret").await, Err(Denied::UnknownUser));
            let nobody = Door::new("");
            assert_eq!(nobody.verify("pump-17", "secret").await, Err(Denied::UnknownUser));
        });
    }

    /// Asserted by what is computed, because times differ on a busy machine.
    #[test]
    fn an_unknown_name_costs_what_a_wrong_password_costs() {
        run(async {
            let door = Door::new("a:HASH\nb:HASH\nc:HASH\n");
            for (name, denied) in [("a", Denied::WrongPassword), ("x", Denied::UnknownUser)] {
                assert_eq!(door.verify(name, "wrong").await, Err(denied));
                assert_eq!(door.computed(), [QUICK], "{name}");
            }
            // Also after the name has failed, after the users were let in, and from an address
            // that has failed too often.
            for name in ["a", "b", "c"] {
                door.verify(name, "secret").await.expect("it is let in");
            }
            door.computed();
            for _ in 0..12 {
                for name in ["a", "y"] {
                    door.verify(name, "wrong").await.expect_err("it is wrong");
                }
                let computed = door.computed();
                assert!(computed.is_empty() || computed == [QUICK, QUICK], "{computed:?}");
            }
            for name in 0..40 {
                let _ = door.verify_from(HERE, &format!("x{name}"), "wrong").await;
            }
            door.computed();
            for name in ["b", "z"] {
                assert_eq!(door.verify(name, "wrong").await, throttled(2));
                assert_eq!(door.computed(), []);
            }
        });
    }

    #[test]
    fn a_right_password_is_remembered_until_its_line_changes() {
        run(async {
            let door = Door::new("a:HASH\nb:HASH\n");
            for computed in [&[QUICK][..], &[], &[]] {
                door.verify("a", "secret").await.expect("it is let in");
                assert_eq!(door.computed(), computed);
            }
            // Another address, another name and another password are others.
            door.verify_from(THERE, "a", "secret").await.expect("it is let in");
            assert_eq!(door.computed(), []);
            door.verify("b", "secret").await.expect("it is let in");
            assert_eq!(door.verify("a", "wrong").await, Err(Denied::WrongPassword));
            assert_eq!(door.computed(), [QUICK, QUICK]);
            door.verify("a", "secret").await.expect("it is let in");
            assert_eq!(door.computed(), []);
            // The same password in another line, and other rights.
            door.rewrite("a:HASH\nb:HASH:x\n");
            for name in ["a", "b"] {
                door.verify(name, "secret").await.expect("it is let in");
                assert_eq!(door.computed(), [QUICK]);
            }
            door.rewrite("b:HASH\n");
            assert_eq!(door.verify("a", "secret").await, Err(Denied::UnknownUser));
        });
    }

    #[test]
    fn a_name_that_keeps_failing_waits_and_others_at_its_address_do_not() {
        run(async {
            let door = Door::new("a:HASH\nb:HASH\n");
            for _ in 0..4 {
                assert_eq!(door.verify("a", "wrong").await, Err(Denied::WrongPassword));
            }
            door.computed();
            // A right password would tell that it is one.
            for password in ["wrong", "secret"] {
                assert_eq!(door.verify("a", password).await, throttled(1));
            }
            assert_eq!(door.computed(), []);
            door.verify("b", "secret").await.expect("it is let in");
            door.verify_from(THERE, "a", "secret").await.expect("it is let in");
            assert_eq!(door.verify("a", "secret").await, throttled(1), "it was let in elsewhere");
            wait(SECOND);
            door.verify("a", "secret").await.expect("it is let in");
            assert_eq!(door.verify("a", "wrong").await, Err(Denied::WrongPassword));
            // A corrected line begins anew.
            for _ in 0..3 {
                assert_eq!(door.verify("a", "wrong").await, Err(Denied::WrongPassword));
            }
            assert_eq!(door.verify("a", "wrong").await, throttled(1));
            door.rewrite("a:HASH\nb:HASH\n");
            door.verify("a", "secret").await.expect("it is let in");
        });
    }

    #[test]
    fn a_user_who_was_let_in_is_let_in_although_its_name_has_to_wait() {
        run(async {
            let door = Door::new("a:HASH\n");
            door.verify("a", "secret").await.expect("it is let in");
            for _ in 0..40 {
                door.verify("a", "wrong").await.expect_err("it is wrong");
                wait(SECOND);
            }
            door.computed();
            for _ in 0..500 {
                door.verify("a", "wrong").await.expect_err("it is wrong");
            }
            // Each look is a guess, of which there is one a second.
            assert_eq!(door.verify("a", "secret").await, throttled(26));
            for _ in 0..3 {
                wait(SECOND);
                door.verify("a", "secret").await.expect("it was let in from here");
                door.verify("a", "secret").await.expect("a right password is not a guess");
                door.verify("a", "wrong").await.expect_err("it is wrong");
                door.verify("a", "secret").await.expect_err("another one was looked at");
            }
            assert_eq!(door.computed(), []);
            assert_eq!(door.verify_from(THERE, "a", "wrong").await, Err(Denied::WrongPassword));
        });
    }

    /// Unknown names without end come from the address at which 300 devices log in after a
    /// restart.
    #[test]
    fn right_passwords_get_in_although_wrong_ones_come_from_their_address_without_end() {
        run(async {
            const DEVICES: usize = 300;
            let lines: String = (0..DEVICES).map(|n| format!("d{n}:HASH\n")).collect();
            let door = Door::new(&lines);
            let mut outside: Vec<_> = (0..DEVICES).map(|n| format!("d{n}")).collect();
            let mut seconds = 0;
            while !outside.is_empty() {
                assert!(seconds < 100, "{} are outside after {seconds} s", outside.len());
                for guess in 0..50 {
                    let name = format!("x{seconds}-{guess}");
                    door.verify(&name, "wrong").await.expect_err("it is unknown");
                    // Each device tries once in 5 s.
                    let mut still = Vec::new();
                    for (n, device) in outside.into_iter().enumerate() {
                        let is_its_turn = (n + seconds * 50 + guess) % 250 == 0;
                        if !is_its_turn || door.verify(&device, "secret").await.is_err() {
                            still.push(device);
                        }
                    }
                    outside = still;
                    door.settle().await;
                    wait(SECOND / 50);
                }
                seconds += 1;
            }
        });
    }

    #[test]
    fn a_share_tells_nobody_whether_a_user_exists_or_a_password_is_right() {
        run(async {
            let door = Door::new("a:HASH\nb:HASH\n");
            for name in 0..40 {
                let _ = door.verify(&format!("x{name}"), "wrong").await;
            }
            door.settle().await;
            door.computed();
            let mut aside = Vec::new();
            for (name, password) in [("x", "wrong"), ("a", "wrong"), ("b", "secret")] {
                assert_eq!(door.verify(name, password).await, throttled(2), "{name}");
                assert_eq!(door.computed(), [], "nobody waits for a hash");
                door.settle().await;
                aside.extend(door.computed());
            }
            assert_eq!(aside, [QUICK, QUICK], "of those who exist");
            door.verify("b", "secret").await.expect("it is remembered now");
            // A name has one of these checks a minute.
            assert_eq!(door.verify("a", "secret").await, throttled(2));
            door.settle().await;
            assert_eq!(door.computed(), []);
        });
    }

    #[test]
    fn a_right_password_is_remembered_when_only_the_rights_of_its_line_change() {
        run(async {
            let door = Door::new(&format!("a:{OF_MOSQUITTO}\n"));
            let first = door.verify_from(HERE, "a", "secret").await.expect("it is let in");
            door.computed();
            door.rewrite(&format!("a:{OF_MOSQUITTO}:x\nb:HASH\n"));
            let second = door.verify_from(HERE, "a", "secret").await.expect("it is let in");
            assert_eq!(door.computed(), []);
            assert!(!Arc::ptr_eq(&first, &second) && second.rights().allows("x"));
        });
    }

    #[test]
    fn an_address_that_fails_too_often_keeps_in_only_those_who_were_let_in_from_there() {
        run(async {
            let door = Door::new("a:HASH\nb:HASH\nc:HASH\n");
            door.verify("a", "secret").await.expect("it is let in");
            door.verify_from(THERE, "b", "secret").await.expect("it is let in");
            for name in 0..30 {
                let denied = door.verify(&format!("x{name}"), "wrong").await;
                assert_eq!(denied, Err(Denied::UnknownUser));
            }
            door.computed();
            door.verify("a", "secret").await.expect("it was let in from here");
            for name in ["x", "b", "c"] {
                assert_eq!(door.verify(name, "secret").await, throttled(2), "{name}");
            }
            door.verify_from(THERE, "c", "secret").await.expect("nothing failed there");
            assert_eq!(door.computed(), [QUICK]);
            // A guess at a user who is known there is one a second.
            assert_eq!(door.verify("a", "wrong").await, throttled(2));
            assert_eq!(door.verify("a", "secret").await, throttled(2));
            wait(SECOND);
            door.verify("a", "secret").await.expect("it was let in from here");
            wait(SECOND);
            door.verify("b", "secret").await.expect("it is let in");
        });
    }

    #[test]
    fn checks_beyond_the_bound_are_refused_and_a_client_that_leaves_frees_its_place() {
        run(async {
            let door = Door::new("a:HASH\nb:HASH\n");
            door.verify("a", "secret").await.expect("it is let in");
            let turn = door.users.0.turns.acquire().await.expect("it is open");
            let check = || Box::pin(door.verify_from(THERE, "b", "secret"));
            let mut waiting: Vec<_> = (0..=WAITING).map(|_| check()).collect();
            for check in &mut waiting {
                begin(check).await;
            }
            assert_eq!(check().await.map(drop), Err(Denied::Busy));
            // A password that is remembered needs no turn.
            door.verify("a", "secret").await.expect("it is let in");
            waiting.pop();
            let mut next = check();
            begin(&mut next).await;
            waiting.push(next);
            door.computed();
            drop(turn);
            for user in join_all(waiting).await {
                user.expect("it is let in");
            }
            // All but the first found it remembered when their turn came.
            assert_eq!(door.computed(), [QUICK]);
        });
    }

    #[test]
    fn checks_take_a_bounded_amount_of_memory_together() {
        run(async {
            let door = Door::with_parallel("a:HASH\n", 64);
            let most = || door.users.0.turn(MAX_MEMORY_KIB);
            let [first, second] = [most().await.expect("room"), most().await.expect("room")];
            let mut third = Box::pin(most());
            begin(&mut third).await;
            drop(first);
            drop(third.await.expect("room"));
            drop(second);
        });
    }

    #[test]
    fn those_who_wait_behind_failures_from_their_address_are_not_hashed() {
        run(async {
            let door = Door::new("a:HASH\n");
            let names: Vec<String> = (0..100).map(|n| format!("x{n}")).collect();
            let checks = join_all(names.iter().map(|name| door.verify(name, "wrong"))).await;
            let denied = checks.iter().filter(|check| **check == Err(Denied::UnknownUser)).count();
            assert_eq!((denied, door.computed().len()), (30, 30));
            assert_eq!(checks.iter().filter(|check| **check == throttled(2)).count(), 70);
        });
    }

    #[test]
    fn a_hash_counts_although_its_client_has_left() {
        run(async {
            let door = Door::new("a:HASH\n");
            for _ in 0..4 {
                let mut check = Box::pin(door.verify("a", "wrong"));
                let _ = poll_once(&mut check).await;
                drop(check);
                // The hash has its turn until it is done.
                drop(door.users.0.turns.acquire().await.expect("it is open"));
            }
            assert_eq!(door.computed().len(), 4);
            assert_eq!(door.verify("a", "secret").await, throttled(1));
        });
    }

    #[test]
    fn a_user_that_is_removed_or_changed_during_the_check_is_not_let_in() {
        run(async {
            for rewritten in ["b:HASH\n", "a:HASH:x\n"] {
                let door = Door::new("a:HASH\n");
                let turn = door.users.0.turns.acquire().await.expect("it is open");
                let mut check = Box::pin(door.verify("a", "secret"));
                begin(&mut check).await;
                door.rewrite(rewritten);
                drop(turn);
                assert_eq!(check.await, Err(Denied::Busy));
            }
        });
    }

    #[test]
    fn several_checks_run_at_once_but_no_more_than_there_are_cores() {
        run(async {
            let door = Door::with_parallel("a:HASH\n", 3);
            assert_eq!(door.users.0.turns.available_permits(), 3);
            assert_eq!(door.users.0.places.available_permits(), 3 * (1 + WAITING));
            let cores = available_parallelism().map_or(1, NonZeroUsize::get);
            let users = Users::open(&door.folder.path().join("users"), clock).expect("valid");
            assert_eq!(users.0.turns.available_permits(), cores);
        });
    }

    /// With the costs of a new hash: 25 ms of a server's core, against 6 µs each.
    #[test]
    fn five_thousand_devices_that_reconnect_cost_less_than_ten_new_ones() {
        run(async {
            let lines: String = (0..5000).map(|n| format!("d{n}:HASH\n")).collect();
            let fresh = PasswordHash::of(b"secret").expect("it is computed");
            let door = Door::new(&format!("{lines}fresh:{fresh}\n"));
            let names: Vec<String> = (0..5000).map(|n| format!("d{n}")).collect();
            let all = || async {
                let began = Instant::now();
                for name in &names {
                    door.verify(name, "secret").await.expect("it is let in");
                }
                began.elapsed()
            };
            all().await;
            door.computed();
            let remembered = all().await.min(all().await);
            assert_eq!(door.computed(), []);
            let began = Instant::now();
            door.verify("fresh", "secret").await.expect("it is let in");
            let one = began.elapsed();
            assert_eq!(door.computed(), [Function::NEW]);
            assert!(remembered < 10 * one, "{remembered:?} for 5000, {one:?} for one");
        });
    }
}
