//! The users that are in force, all from one reading of the file.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::file::Line;
use super::memory::Seal;
use super::throttle::Source;
use super::{PasswordHash, User};

/// The users of one reading, in the order of their names.
#[derive(Default)]
pub(super) struct Set(Vec<Arc<Entry>>);

/// A user, and what is known about its password. A user whose line is the same in the next
/// reading keeps its entry.
pub(super) struct Entry {
    pub(super) user: Arc<User>,
    pub(super) hash: PasswordHash,
    let_in: Mutex<Option<LetIn>>,
}

/// The last time that the user was let in.
#[derive(Clone)]
struct LetIn {
    from: Source,
    seal: Seal,
    /// The last time that another password was looked at from there.
    other: Option<Instant>,
}

/// The time in which a user who has to wait is looked at again after another password: an
/// address may guess 86,400 times a day at those who were let in from there.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The line that a password is compared with.
#[derive(Clone)]
pub(super) struct Candidate {
    pub(super) entry: Arc<Entry>,
    /// False if the entry is another user's, because there is none of that name.
    pub(super) exists: bool,
}

/// The difference that another reading of the file makes.
#[derive(Debug, Default)]
pub struct Changes {
    /// The users who were not there before.
    pub added: Vec<Arc<User>>,
    /// The users who are not there any more: their connections have to be closed.
    pub removed: Vec<Arc<User>>,
    /// The users whose password or rights are others now, with their former rights: their
    /// connections have to be closed, too.
    pub changed: Vec<Arc<User>>,
}

impl Changes {
    /// True if the reading made no difference.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

impl Entry {
    /// Remembers that this was the right password.
    pub(super) fn remember(&self, from: Source, seal: Seal) {
        *self.let_in.lock() = Some(LetIn { from, seal, other: None });
    }

    /// True if this was the right password the last time.
    pub(super) fn remembers(&self, seal: &Seal) -> bool {
        self.let_in.lock().as_ref().is_some_and(|last| last.seal == *seal)
    }

    /// True if the user was let in from there the last time, with this password. Each other
    /// one is a guess: nothing is looked at for [`LOOK_INTERVAL`] after it.
    pub(super) fn look(&self, from: Source, seal: &Seal, now: Instant) -> bool {
        let mut let_in = self.let_in.lock();
        let Some(last) = let_in.as_mut().filter(|last| last.from == from) else { return false };
        if last.other.is_some_and(|other| now < other + LOOK_INTERVAL) {
            return false;
        }
        let is_right = last.seal == *seal;
        if !is_right {
            last.other = Some(now);
        }
        is_right
    }

    /// True if the user was let in from there the last time.
    pub(super) fn was_let_in_from(&self, from: Source) -> bool {
        self.let_in.lock().as_ref().is_some_and(|last| last.from == from)
    }
}

impl Set {
    /// Makes the users of a reading the next ones.
    pub(super) fn next(&self, lines: Vec<Line>) -> (Self, Changes) {
        let mut changes = Changes::default();
        let mut entries: Vec<_> =
            lines.into_iter().map(|line| self.next_entry(line, &mut changes)).collect();
        entries.sort_unstable_by(|a, b| a.user.name.cmp(&b.user.name));
        let next = Self(entries);
        let gone = self.0.iter().filter(|entry| next.find(entry.user.name()).is_none());
        changes.removed = gone.map(|entry| Arc::clone(&entry.user)).collect();
        (next, changes)
    }

    fn next_entry(&self, line: Line, changes: &mut Changes) -> Arc<Entry> {
        let Line { user, hash } = line;
        let former = self.find(user.name());
        if let Some(former) = former {
            if *former.user == user && former.hash == hash {
                return Arc::clone(former);
            }
            changes.changed.push(Arc::clone(&former.user));
        }
        let user = Arc::new(user);
        // A password is right for as long as its hash is the same, whatever the rights are.
        let let_in = former.filter(|former| former.hash == hash);
        let let_in = let_in.and_then(|former| former.let_in.lock().clone());
        if former.is_none() {
            changes.added.push(Arc::clone(&user));
        }
        Arc::new(Entry { user, hash, let_in: Mutex::new(let_in) })
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn find(&self, name: &str) -> Option<&Arc<Entry>> {
        let at = self.0.binary_search_by(|entry| entry.user.name().cmp(name)).ok()?;
        Some(&self.0[at])
    }

    /// The line that a password is compared with if somebody calls itself `name`. If there is
    /// no such user it is the line of another one, always the same one for a name: so an
    /// unknown name costs what a known one costs, whatever hashes the file has. `None` if there
    /// is no user at all.
    pub(super) fn candidate(&self, name: &str, names: &RandomState) -> Option<Candidate> {
        if let Some(entry) = self.find(name) {
            return Some(Candidate { entry: Arc::clone(entry), exists: true });
        }
        let count = u64::try_from(self.0.len()).ok().filter(|&count| count > 0)?;
        let at = usize::try_from(names.hash_one(name) % count).ok()?;
        Some(Candidate { entry: Arc::clone(&self.0[at]), exists: false })
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::parse;
    use super::super::hash::Function;
    use super::super::hash::tests::{OF_MOSQUITTO, OF_MOSQUITTO_2_1};
    use super::*;

    fn lines(text: &str) -> Vec<Line> {
        parse(&text.replace("HASH", OF_MOSQUITTO).replace("OTHER", OF_MOSQUITTO_2_1)).expect(text)
    }

    fn names(users: &[Arc<User>]) -> Vec<&str> {
        users.iter().map(|user| user.name()).collect()
    }

    #[test]
    fn another_reading_tells_who_was_added_removed_and_changed() {
        let (first, changes) = Set::default().next(lines("c:HASH\na:HASH\nb:HASH\nd:HASH:x"));
        assert_eq!(names(&changes.added), ["c", "a", "b", "d"]);
        assert!(changes.removed.is_empty() && changes.changed.is_empty());
        let (second, changes) = first.next(lines("# moved\nd:HASH:y\nb:OTHER\na:HASH\ne:HASH"));
        assert_eq!(names(&changes.added), ["e"]);
        assert_eq!(names(&changes.removed), ["c"]);
        assert_eq!(names(&changes.changed), ["d", "b"]);
        assert!(changes.changed[0].rights().allows("x"), "with its former rights");
        let (same, changes) = second.next(lines("e:HASH\nd:HASH:y\nb:OTHER\na:HASH"));
        assert!(changes.is_empty());
        assert_eq!(same.len(), 4);
        let kept = |name| Arc::ptr_eq(first.find(name).expect(name), same.find(name).expect(name));
        assert!(kept("a") && !kept("b"));
    }

    #[test]
    fn an_unknown_name_is_compared_with_a_line_of_the_file_and_always_with_the_same() {
        let random = RandomState::new();
        assert!(Set::default().candidate("x", &random).is_none());
        let text: String = (0..50).map(|n| format!("h{n}:HASH\no{n}:OTHER\n")).collect();
        let (set, _) = Set::default().next(lines(&text));
        let function = |name: &str| {
            let candidate = set.candidate(name, &random).expect("there are users");
            assert!(!candidate.exists);
            candidate.entry.hash.function()
        };
        let names: Vec<String> = (0..200).map(|n| format!("unknown-{n}")).collect();
        let first: Vec<_> = names.iter().map(|name| function(name)).collect();
        let second: Vec<_> = names.iter().map(|name| function(name)).collect();
        assert_eq!(first, second);
        // As often with each kind as there are lines of it; ten deviations are far away.
        let quick = first.iter().filter(|f| matches!(f, Function::Pbkdf2 { .. })).count();
        assert!((30..=170).contains(&quick), "{quick} of 200");
        let known = set.candidate("o7", &random).expect("there are users");
        assert!(known.exists && known.entry.user.name() == "o7");
    }
}
