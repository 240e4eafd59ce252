//! Limits how often a password may be guessed from one address.
//!
//! Many devices may share an address, and one of them may have a wrong password and try again
//! for ever. So there are two limits. A name that keeps failing from an address waits longer
//! and longer, alone. An address from which many names fail may fail only now and then; the
//! others there have a share of checks, so that wrong passwords without end do not keep right
//! ones out.
//!
//! Time is passed in. Memory is bounded: if a table is full, what would be forgotten first is
//! forgotten.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// The number of failures of a name from an address that delay nothing: a person may mistype.
const FREE_FAILURES: u32 = 3;

/// The delay after the next failure. It doubles with each one.
const FIRST_DELAY: Duration = Duration::from_secs(1);

/// The longest delay. A device whose password has been corrected waits no longer than that.
const MAX_DELAY: Duration = Duration::from_secs(60);

/// The time after its last failure for which a name's failures are remembered.
const MEMORY: Duration = Duration::from_secs(10 * 60);

/// The number of failures from an address that delay nothing.
const BURST: u32 = 30;

/// The time in which an address may fail once more.
const INTERVAL: Duration = Duration::from_secs(2);

/// The time in which an address that has failed too often has one more check: 300 devices
/// behind it have theirs within 75 s, and these checks take a tenth of a server's core.
const SHARE_INTERVAL: Duration = Duration::from_millis(250);

/// The number of these checks that it may have at once.
const SHARE_BURST: u32 = 20;

/// The time in which a name has one of these checks: as seldom as if it had failed for long.
const SHARE_OF_NAME: Duration = MAX_DELAY;

/// The maximum number of addresses, and of names with their addresses, that are remembered.
/// All tables together take a few megabytes at most.
const MAX_ENTRIES: usize = 10_000;

/// An address for which one client may well have several: with IPv6 that is a /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    V4([u8; 4]),
    V6Network([u8; 8]),
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Self::V6Network([a, b, c, d, e, f, g, h])
            }
        }
    }
}

/// A name and the line of the file that it was compared with, as a keyed hash. So the failures
/// of a user are forgotten when its line changes.
pub(crate) type NameKey = u64;

/// The answer to an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Allowed {
    /// The password may be checked.
    Yes,
    /// The address has failed too often: until this time has passed, only a user who was let in
    /// from there before may be looked at, and others only have a [share](Throttle::share).
    KnownHere(Duration),
    /// The name has failed too often from this address, and has to wait for this time.
    No(Duration),
}

/// The failures that are remembered.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    names: HashMap<(Source, NameKey), Failures>,
    /// The instants until which the failures of an address last, [`INTERVAL`] for each.
    addresses: HashMap<Source, Instant>,
    /// The instants until which the shares of an address last, [`SHARE_INTERVAL`] for each, and
    /// the next share of a name there.
    shares: HashMap<Source, Instant>,
    shares_of_names: HashMap<(Source, NameKey), Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Failures {
    /// The instant from which on the name may be tried again.
    fn retry_at(self) -> Instant {
        let doublings = self.count.saturating_sub(FREE_FAILURES);
        let delay = match doublings.checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => FIRST_DELAY.saturating_mul(1 << doublings.min(16)).min(MAX_DELAY),
        };
        self.last + delay
    }

    fn forgotten_at(self) -> Instant {
        self.last + MEMORY
    }
}

impl Throttle {
    /// Answers an attempt at `now`.
    pub(crate) fn ask(&self, from: Source, name: NameKey, now: Instant) -> Allowed {
        if let Some(failures) = self.names.get(&(from, name)).filter(|f| f.forgotten_at() > now)
            && let wait = failures.retry_at().saturating_duration_since(now)
            && !wait.is_zero()
        {
            return Allowed::No(wait);
        }
        let lasts = self.addresses.get(&from).map(|until| until.saturating_duration_since(now));
        match lasts.unwrap_or_default().checked_sub(INTERVAL * (BURST - 1)) {
            Some(wait) if !wait.is_zero() => Allowed::KnownHere(wait),
            _ => Allowed::Yes,
        }
    }

    /// Notes that a password was wrong at `now`, or that there is no such user.
    pub(crate) fn failed(&mut self, from: Source, name: NameKey, now: Instant) {
        make_room(&mut self.names, &(from, name), now, |failures| failures.forgotten_at());
        let failures = self.names.entry((from, name)).or_insert(Failures { count: 0, last: now });
        if failures.forgotten_at() <= now {
            failures.count = 0;
        }
        *failures = Failures { count: failures.count.saturating_add(1), last: now };

        make_room(&mut self.addresses, &from, now, |until| *until);
        let until = self.addresses.entry(from).or_insert(now);
        // More would keep an address away for longer than one interval.
        *until = ((*until).max(now) + INTERVAL).min(now + INTERVAL * BURST);
    }

    /// Takes the share of a name at `now`, from an address that has failed too often. True if
    /// its password may be checked, unless whoever sent it learns of the result. Ask only for a
    /// name that exists: others would take the shares away.
    pub(crate) fn share(&mut self, from: Source, name: NameKey, now: Instant) -> bool {
        let last = self.shares.get(&from).map_or(now, |until| (*until).max(now));
        let next_of_name = self.shares_of_names.get(&(from, name));
        if last > now + SHARE_INTERVAL * (SHARE_BURST - 1)
            || next_of_name.is_some_and(|at| *at > now)
        {
            return false;
        }
        make_room(&mut self.shares, &from, now, |until| *until);
        self.shares.insert(from, last + SHARE_INTERVAL);
        make_room(&mut self.shares_of_names, &(from, name), now, |next| *next);
        self.shares_of_names.insert((from, name), now + SHARE_OF_NAME);
        true
    }

    /// Notes that a password was right.
    pub(crate) fn succeeded(&mut self, from: Source, name: NameKey) {
        self.names.remove(&(from, name));
        self.shares_of_names.remove(&(from, name));
    }
}

/// Makes room for one more entry: removes those that are forgotten at `now`, or else the one
/// that will be first.
fn make_room<K: Clone + Eq + Hash, V>(
    entries: &mut HashMap<K, V>,
    key: &K,
    now: Instant,
    forgotten_at: impl Fn(&V) -> Instant,
) {
    if entries.len() < MAX_ENTRIES || entries.contains_key(key) {
        return;
    }
    entries.retain(|_, entry| forgotten_at(entry) > now);
    if entries.len() == MAX_ENTRIES {
        let first = entries.iter().min_by_key(|(_, entry)| forgotten_at(entry));
        if let Some(key) = first.map(|(key, _)| key.clone()) {
            entries.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Source = Source::V4([192, 0, 2, 1]);
    const THERE: Source = Source::V4([192, 0, 2, 2]);
    const NAME: NameKey = 17;
    const SECOND: Duration = Duration::from_secs(1);

    /// Fails as soon as that is allowed, and returns the delays before each attempt in
    /// seconds.
    fn fail(throttle: &mut Throttle, now: &mut Instant, times: u32) -> Vec<u64> {
        let mut delays = Vec::new();
        for _ in 0..times {
            let delay = match throttle.ask(HERE, NAME, *now) {
                Allowed::Yes => Duration::ZERO,
                Allowed::No(delay) | Allowed::KnownHere(delay) => delay,
            };
            *now += delay;
            delays.push(delay.as_secs());
            throttle.failed(HERE, NAME, *now);
        }
        delays
    }

    #[test]
    fn a_name_that_keeps_failing_waits_longer_each_time_up_to_a_minute() {
        let (mut throttle, mut now) = (Throttle::default(), Instant::now());
        let delays = fail(&mut throttle, &mut now, 13);
        assert_eq!(delays, [0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60]);
        // Neither another name nor another address waits for it.
        assert_eq!(throttle.ask(HERE, NAME + 1, now), Allowed::Yes);
        assert_eq!(throttle.ask(THERE, NAME, now), Allowed::Yes);
        assert_eq!(throttle.ask(HERE, NAME, now + 59 * SECOND), Allowed::No(SECOND));
        assert_eq!(throttle.ask(HERE, NAME, now + 60 * SECOND), Allowed::Yes);
    }

    #[test]
    fn failures_are_forgotten_after_a_success_and_after_ten_minutes() {
        let (mut throttle, mut now) = (Throttle::default(), Instant::now());
        fail(&mut throttle, &mut now, 8);
        throttle.succeeded(HERE, NAME);
        assert_eq!(fail(&mut throttle, &mut now, 5), [0, 0, 0, 0, 1]);
        now += MEMORY;
        assert_eq!(fail(&mut throttle, &mut now, 5), [0, 0, 0, 0, 1]);
        now += MEMORY - SECOND;
        assert_eq!(fail(&mut throttle, &mut now, 2), [0, 4]);
    }

    #[test]
    fn an_address_from_which_many_names_fail_may_fail_once_in_two_seconds() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        for name in 0..30 {
            assert_eq!(throttle.ask(HERE, name, now), Allowed::Yes, "{name}");
            throttle.failed(HERE, name, now);
        }
        let mut spent = now;
        for name in 30..60 {
            assert_eq!(throttle.ask(HERE, name, spent), Allowed::KnownHere(INTERVAL));
            // A look at a user who is known there may fail without a check.
            throttle.failed(HERE, name, spent);
            spent += INTERVAL;
            assert_eq!(throttle.ask(HERE, 30 + name, spent), Allowed::Yes);
            throttle.failed(HERE, 30 + name, spent);
        }
        assert_eq!(throttle.ask(THERE, NAME, spent), Allowed::Yes);
        // A success takes nothing back, because an attacker may have one account.
        throttle.succeeded(HERE, NAME);
        assert_eq!(throttle.ask(HERE, 1000, spent), Allowed::KnownHere(INTERVAL));
        assert_eq!(throttle.ask(HERE, 1000, spent + 60 * SECOND), Allowed::Yes);
    }

    #[test]
    fn an_address_has_four_shares_a_second_and_a_name_there_one_a_minute() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        let mut granted = vec![0; 100];
        for tick in 0..6000 {
            let now = now + tick * Duration::from_millis(10);
            for name in [tick % 100, (tick * 7 + 3) % 100] {
                granted[name as usize] += u32::from(throttle.share(HERE, name.into(), now));
            }
        }
        assert!(granted.iter().all(|&shares| shares == 1), "{granted:?}");
        assert!(throttle.share(THERE, 0, now), "another address has its own");
        let later = now + 200 * SECOND;
        for name in 0..20 {
            assert!(throttle.share(HERE, name, later));
        }
        assert!(!throttle.share(HERE, 20, later + SHARE_INTERVAL / 2));
        assert!(throttle.share(HERE, 20, later + SHARE_INTERVAL));
        assert!(!throttle.share(HERE, 20, later + 2 * SHARE_INTERVAL), "in this minute");
        throttle.succeeded(HERE, 20);
        assert!(throttle.share(HERE, 20, later + 2 * SHARE_INTERVAL), "it was right");
    }

    #[test]
    fn an_ipv6_network_counts_as_one_address() {
        let source = |text: &str| Source::from(text.parse::<IpAddr>().expect("an address"));
        assert_eq!(source("2001:db8:0:1::1"), source("2001:db8:0:1:ffff::2"));
        assert_ne!(source("2001:db8:0:1::1"), source("2001:db8:0:2::1"));
        assert_eq!(source("::ffff:192.0.2.1"), HERE);
        assert_ne!(source("192.0.2.2"), HERE);
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_failure_is_forgotten_first() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        let source = |n: u32| Source::V4(n.to_be_bytes());
        for n in 0..MAX_ENTRIES as u32 {
            for _ in 0..BURST {
                throttle.failed(source(n), NAME, now + n * Duration::from_millis(1));
            }
            throttle.share(source(n), NAME, now + n * Duration::from_millis(1));
        }
        let then = now + MAX_ENTRIES as u32 * Duration::from_millis(1);
        throttle.failed(HERE, NAME, then);
        assert_eq!((throttle.names.len(), throttle.addresses.len()), (MAX_ENTRIES, MAX_ENTRIES));
        assert!(throttle.share(HERE, NAME, then));
        assert_eq!(throttle.shares_of_names.len(), MAX_ENTRIES);
        assert!(throttle.shares.len() <= MAX_ENTRIES);
        assert_eq!(throttle.ask(source(0), NAME, then), Allowed::Yes);
        assert!(matches!(throttle.ask(source(1), NAME, then), Allowed::No(_)));
        // What is forgotten anyway makes room for all that follows.
        throttle.failed(THERE, NAME, then + 2 * MEMORY);
        assert_eq!((throttle.names.len(), throttle.addresses.len()), (1, 1));
    }
}
