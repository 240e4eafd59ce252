//! Several instances on one database: one of them writes, the others stand by.
//!
//! Each looks at the rows of all of them every echo interval. A row that does not change is
//! judged by the monotonic clock of whoever looks, and only by looks that succeeded: so no
//! clock of another machine is believed, and a database that is away judges nobody.
//!
//! Being wrong harms nobody. Whoever takes over takes the right to write with it, so the other
//! one cannot write any more, and what it had written is there.

mod members;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};

pub use self::members::{Out, Stuck};
use super::{ClockOffset, Configured, DatabaseTimeline, Happening, Interval, Intervals};

/// The number of intervals, and of looks, for which the row of the active instance must not
/// have changed before another one takes over.
const STILL: u32 = 4;

/// The number of times as long after which a standby counts as gone. Nothing depends on it but
/// how its row looks, and the width of the clocks.
const GONE: u32 = 4;

/// The time that a standby keeps besides twice the width of the clocks.
const MARGIN: TimeDelta = TimeDelta::milliseconds(100);

/// The longest time for which an instance that was taken over from waits before it does so
/// itself.
const LONGEST_WAIT: Duration = Duration::from_secs(5 * 60);

/// The listener that has or had the right to write, or another one that has not left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The number of the listener. The lower of two is the older.
    pub id: i64,
    /// The instance, by its `mqtt.client_id`.
    pub instance: String,
    /// The number of its process.
    pub incarnation: i64,
    /// The group of which it is a member, while it may be given heartbeats.
    pub share_group: Option<String>,
    /// The timeline of the database when it joined.
    pub timeline: DatabaseTimeline,
    /// True if it has left, or was taken for gone.
    pub has_left: bool,
    /// The number that grows with everything that it does.
    pub saves: i64,
    /// The newest instant that it has proven; of the active one, in the database.
    pub proven_until: Option<DateTime<Utc>>,
    /// The beginning of what it has proven without a gap until then, in the database.
    pub proven_since: Option<DateTime<Utc>>,
    /// Its clock.
    pub clock: ClockOffset,
    /// Its configuration; `None` if it is of an earlier version, which does not say.
    pub configured: Option<Box<Configured>>,
}

impl Peer {
    /// True if what one of both proves says nothing for the other, because it listens to something
    /// else.
    fn listens_elsewhere(&self, other: &Self) -> bool {
        let both = self.configured.as_ref().zip(other.configured.as_ref());
        both.is_some_and(|(one, other)| {
            one.subscription.differs_from(&other.subscription).is_some()
        })
    }
}

/// The heartbeats that a standby has heard and still keeps.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The active listener by whose proofs it has forgotten what was before.
    pub beside: i64,
    /// The instant before which it has forgotten everything.
    pub since: DateTime<Utc>,
    /// The time in which it has listened, until now if it still does.
    pub heard: Intervals,
    /// The part of a gap that is not worth a take-over, if the whole of it was not heard.
    pub too_little: TimeDelta,
}

/// The result of a look at the rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// The listener that looks.
    pub me: i64,
    /// The listener that has the right to write, or had it last.
    pub active: Option<i64>,
    /// That one, and all that have not left, oldest first.
    pub peers: Vec<Peer>,
}

impl Sight {
    /// The listener with this number.
    fn peer(&self, id: i64) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.id == id)
    }

    /// The listener that looks, if it has not been taken for gone.
    pub fn own(&self) -> Option<&Peer> {
        self.peer(self.me).filter(|peer| !peer.has_left)
    }

    /// The listener that has the right to write, or had it last.
    pub fn active(&self) -> Option<&Peer> {
        self.active.and_then(|active| self.peer(active))
    }

    /// The entry of the journal once the listener that looks has taken the right to write from
    /// another one. Nothing if that was an earlier process of the same instance, or nobody.
    pub fn take_over_from(&self, from: Option<&Peer>) -> Option<Happening> {
        let (own, from) = (self.own()?, from?);
        (own.instance != from.instance)
            .then(|| Happening::TookOver { from: from.instance.clone(), by: own.instance.clone() })
    }

    /// The other listeners that have not left.
    pub fn others(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().filter(|peer| peer.id != self.me && !peer.has_left)
    }

    /// The instant before which everything that the listener that looks has received, by its
    /// clock, is certain to be in the database. It need not keep that.
    ///
    /// Twice the width of the clocks is kept as well, and a little more: a third instance counts
    /// both sides of the seam less by the width, and the width may have grown by the time of a
    /// take-over. `None` if nothing is certain, as when the clock of the active one shows a time
    /// that has not come yet, or it listens to something else.
    pub fn vouched_for(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let (own, active) = (self.own()?, self.active()?);
        let width = self.width()?;
        let until = active.proven_until.filter(|until| *until <= now + width)?;
        let vouches = active.id != own.id && !active.listens_elsewhere(own);
        vouches.then(|| until - width * 2 - MARGIN)
    }

    /// The most by which the clocks of any two listeners differ.
    fn width(&self) -> Option<TimeDelta> {
        let clocks = || self.peers.iter().map(|peer| peer.clock);
        clocks().flat_map(|one| clocks().map(move |other| one.width(other))).max()
    }

    /// True if there is a gap in what the active one has proven since the listener that looks has
    /// last forgotten something, and that one has `kept` what was heard in it. It has to keep that,
    /// and to write it.
    pub fn has_a_gap_within(&self, kept: &Kept, now: DateTime<Utc>) -> bool {
        let active = self.active().filter(|active| active.id == kept.beside);
        let began = active.and_then(|active| active.proven_since);
        let (Some(began), Some(width)) = (began, self.width()) else { return false };
        // What it had proven when the rest was forgotten.
        let gap = Interval { from: kept.since + width * 2 + MARGIN, until: began.min(now) };
        if gap.until <= gap.from {
            return false;
        }
        let heard = kept.heard.covered(gap.from, gap.until);
        heard >= gap.length() || heard > kept.too_little
    }
}

/// The duty of an instance after a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Another one writes.
    StandBy,
    /// Nobody writes: take the right from this one, or for the first time.
    TakeOver(Option<Peer>),
    /// It has the right itself.
    Write,
    /// Its own row is closed, or not there. It has to join again.
    Join,
    /// Another process of the same name was there first and lives.
    End,
}

/// The looks of one instance so far.
#[derive(Clone, Debug)]
pub struct Vigil {
    incarnation: i64,
    interval: Duration,
    /// The time between an echo that has come back and its proof in the database.
    proving_after: Duration,
    /// True if the instances are members of a group, of which the active one is fenced as a member
    /// before another one takes over.
    in_group: bool,
    seen: BTreeMap<i64, Seen>,
    /// The time since which nobody has the right.
    free_since: Option<Instant>,
    /// The number of times that others took over from this one in quick succession, or took it out
    /// of their group.
    fenced: u32,
    /// The last of these times.
    fenced_at: Option<Instant>,
    /// The time since which this one writes.
    writes_since: Option<Instant>,
}

/// The last sight of one row.
#[derive(Clone, Copy, Debug)]
struct Seen {
    saves: Tip<i64>,
    proven: Tip<Option<DateTime<Utc>>>,
    /// True once it has changed.
    has_moved: bool,
}

/// A value, and since when it is the same.
#[derive(Clone, Copy, Debug)]
struct Tip<T> {
    value: T,
    since: Instant,
    looks: u32,
}

impl<T: PartialEq> Tip<T> {
    fn new(value: T, now: Instant) -> Self {
        Self { value, since: now, looks: 1 }
    }

    fn note(&mut self, value: T, now: Instant) -> bool {
        let changed = self.value != value;
        if changed {
            *self = Self::new(value, now);
        } else {
            self.looks = self.looks.saturating_add(1);
        }
        changed
    }

    fn is_still_for(&self, time: Duration, now: Instant) -> bool {
        self.looks > STILL && now.saturating_duration_since(self.since) >= time
    }
}

impl Vigil {
    /// The vigil of a process, which looks every `interval`.
    pub fn new(incarnation: i64, interval: Duration) -> Self {
        Self {
            incarnation,
            interval,
            proving_after: Duration::ZERO,
            in_group: false,
            seen: BTreeMap::new(),
            free_since: None,
            fenced: 0,
            fenced_at: None,
            writes_since: None,
        }
    }

    /// The same vigil, of instances whose proofs are in the database this long after their echoes.
    #[must_use]
    pub fn proving_after(mut self, time: Duration) -> Self {
        self.proving_after = time;
        self
    }

    /// The time for which the row of the active instance has to stand still.
    pub fn patience(&self) -> Duration {
        self.interval * STILL
    }

    /// Notes that a look failed. What was seen before it judges nobody.
    pub fn missed(&mut self) {
        self.seen.clear();
        self.free_since = None;
    }

    /// Notes that this instance has the right to write from now on.
    pub fn took_over(&mut self, now: Instant) {
        self.writes_since.get_or_insert(now);
        self.free_since = None;
    }

    /// Notes that another one has taken over, or taken this one out of the group. Two that take over
    /// from each other in turn wait longer and longer before they do so again.
    pub fn was_fenced(&mut self, now: Instant) {
        let wrote = self.writes_since.take().map(|since| now.saturating_duration_since(since));
        let was_long = wrote.is_none_or(|wrote| wrote >= LONGEST_WAIT);
        self.fenced = if was_long { 1 } else { self.fenced.saturating_add(1) };
        self.fenced_at = Some(now);
        self.missed();
    }

    /// The time for which the active instance has to stand still for this one to take over.
    fn wait(&self, now: Instant) -> Duration {
        let times = if self.is_calm(now) { 0 } else { self.fenced };
        let doubled = self.patience().saturating_mul(1 << times.min(10));
        doubled.min(LONGEST_WAIT.max(self.patience()))
    }

    /// True if this one may take over from an active one that works, because nobody has taken over
    /// from it for a long time. So two that are both busy do not do it in turn.
    pub fn is_calm(&self, now: Instant) -> bool {
        let long = LONGEST_WAIT.max(self.patience());
        self.fenced_at.is_none_or(|at| now.saturating_duration_since(at) >= long)
    }

    /// Notes what a look has shown. `proves` is true if this instance proves at this time that
    /// it hears everything.
    pub fn look(&mut self, sight: &Sight, proves: bool, now: Instant) -> Duty {
        self.note(sight, now);
        let Some(own) = sight.own() else { return Duty::Join };
        let namesake = |peer: &&Peer| {
            peer.instance == own.instance
                && peer.incarnation != self.incarnation
                && peer.id < own.id
                && self.seen.get(&peer.id).is_some_and(|seen| seen.has_moved)
        };
        if sight.others().any(|peer| namesake(&peer)) {
            return Duty::End;
        }
        let is_over = match sight.active() {
            Some(active) if active.id == own.id => return Duty::Write,
            Some(active) if !active.has_left => {
                self.free_since = None;
                !(self.in_group && active.is_member())
                    && self.stands_still(
                        active,
                        proves,
                        self.wait(now) + self.others_turn(sight, active, proves, now),
                        now,
                    )
            }
            _ => {
                let since = *self.free_since.get_or_insert(now);
                now.saturating_duration_since(since) >= self.turn(sight, now)
            }
        };
        if is_over { Duty::TakeOver(sight.active().cloned()) } else { Duty::StandBy }
    }

    /// True if another one does nothing for `wait`, or proves nothing although this one does.
    fn stands_still(&self, other: &Peer, proves: bool, wait: Duration, now: Instant) -> bool {
        let Some(seen) = self.seen.get(&other.id) else { return false };
        // One that begins to prove, for the first time or again, needs as long as this for it.
        let silence = wait + self.proving_after;
        seen.saves.is_still_for(wait, now) || proves && seen.proven.is_still_for(silence, now)
    }

    /// The time that this instance lets others go first. One that hears nothing lets the active one
    /// be away from the database for longer, because that may hear everything and keeps it.
    fn others_turn(&self, sight: &Sight, active: &Peer, proves: bool, now: Instant) -> Duration {
        let turn = self.turn(sight, now);
        let succeeds = sight.own().is_some_and(|own| own.instance == active.instance);
        if proves || succeeds { turn } else { turn + self.patience() * (GONE - 1) }
    }

    /// The time that this instance lets others go first, if there is an older one that lives.
    fn turn(&self, sight: &Sight, now: Instant) -> Duration {
        let lives = |peer: &Peer| !self.is_still(peer, self.patience(), now);
        let active = sight.active;
        let older = |peer: &&Peer| Some(peer.id) != active && peer.id < sight.me && lives(peer);
        if sight.others().any(|peer| older(&peer)) { self.interval } else { Duration::ZERO }
    }

    fn is_still(&self, peer: &Peer, time: Duration, now: Instant) -> bool {
        self.seen.get(&peer.id).is_some_and(|seen| seen.saves.is_still_for(time, now))
    }

    /// The others that have not changed for so long that they count as gone. For the active
    /// instance, which notes it.
    pub fn gone(&self, sight: &Sight, now: Instant) -> Vec<Peer> {
        let time = self.patience() * GONE;
        sight.others().filter(|peer| self.is_still(peer, time, now)).cloned().collect()
    }

    /// The most by which the clock of another listener differs from one's own. Only those
    /// count that live.
    pub fn width(&self, sight: &Sight, now: Instant) -> TimeDelta {
        let Some(own) = sight.own() else { return TimeDelta::zero() };
        let living = sight.others().filter(|peer| !self.is_still(peer, self.patience(), now));
        let width = living.map(|peer| own.clock.width(peer.clock)).max();
        width.unwrap_or(TimeDelta::zero())
    }

    fn note(&mut self, sight: &Sight, now: Instant) {
        self.seen.retain(|id, _| sight.peer(*id).is_some());
        for peer in &sight.peers {
            let new = Seen {
                saves: Tip::new(peer.saves, now),
                proven: Tip::new(peer.proven_until, now),
                has_moved: false,
            };
            match self.seen.get_mut(&peer.id) {
                None => _ = self.seen.insert(peer.id, new),
                Some(seen) => {
                    seen.has_moved |= seen.saves.note(peer.saves, now);
                    seen.proven.note(peer.proven_until, now);
                }
            }
        }
    }
}

/// Measures the clock against the database's.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClockMeter {
    clock: ClockOffset,
    is_measured: bool,
}

/// The longest time between asking for the database's time and its answer, for it to tell
/// anything.
const LONGEST_ROUND_TRIP: TimeDelta = TimeDelta::milliseconds(100);

/// The least change of the offset that means that the clock was set.
const WAS_SET: TimeDelta = TimeDelta::milliseconds(100);

impl ClockMeter {
    /// The measured offset of the clock.
    pub fn clock(&self) -> ClockOffset {
        self.clock
    }

    /// True if it has ever been measured.
    pub fn is_measured(&self) -> bool {
        self.is_measured
    }

    /// Notes that the database's clock showed `theirs` at a moment between `asked` and
    /// `answered` by this one. An answer that took long tells nothing.
    pub fn note(&mut self, asked: DateTime<Utc>, theirs: DateTime<Utc>, answered: DateTime<Utc>) {
        let took = answered - asked;
        if took < TimeDelta::zero() || took > LONGEST_ROUND_TRIP {
            return;
        }
        self.is_now(asked + took / 2 - theirs);
    }

    /// Notes that the clock was set by that much.
    pub fn was_set(&mut self, by: TimeDelta) {
        if self.is_measured {
            self.is_now(self.clock.offset + by);
        }
    }

    fn is_now(&mut self, offset: TimeDelta) {
        let moved = (offset - self.clock.offset).abs();
        if self.is_measured && moved >= WAS_SET {
            self.clock.spread = self.clock.spread.max(moved);
        }
        (self.clock.offset, self.is_measured) = (offset, true);
    }

    /// Notes that a new stay begins, which knows nothing of earlier settings of the clock.
    pub fn begins(&mut self) {
        self.clock.spread = TimeDelta::zero();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::Subscription;

    const INTERVAL: Duration = Duration::from_secs(5);

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).expect("small")
    }

    fn peer(id: i64, instance: &str, saves: i64) -> Peer {
        Peer {
            id,
            instance: instance.to_owned(),
            incarnation: id,
            share_group: None,
            timeline: DatabaseTimeline::NONE,
            has_left: false,
            saves,
            proven_until: Some(at(saves)),
            proven_since: Some(at(0)),
            clock: ClockOffset::default(),
            configured: None,
        }
    }

    fn sight(me: i64, active: Option<i64>, peers: &[Peer]) -> Sight {
        Sight { me, active, peers: peers.to_vec() }
    }

    /// A standby, with the time since it began.
    struct Standby {
        vigil: Vigil,
        began: Instant,
        me: i64,
    }

    impl Standby {
        fn of(me: i64) -> Self {
            Self { vigil: Vigil::new(me, INTERVAL), began: Instant::now(), me }
        }

        fn look(&mut self, seconds: u64, proves: bool, peers: &[Peer]) -> Duty {
            let sight = sight(self.me, Some(1), peers);
            self.vigil.look(&sight, proves, self.began + Duration::from_secs(seconds))
        }

        /// The second of the first look at which it takes over.
        fn takes_over(&mut self, proves: bool, peers: impl Fn(u64) -> Vec<Peer>) -> Option<u64> {
            (0..600).step_by(5).find(|&second| {
                matches!(self.look(second, proves, &peers(second)), Duty::TakeOver(_))
            })
        }
    }

    #[test]
    fn whoever_does_nothing_for_four_intervals_is_taken_over_from() {
        let still = |_| vec![peer(1, "a", 7), peer(2, "b", 1)];
        assert_eq!(Standby::of(2).takes_over(true, still), Some(20));
        let works = |second: u64| vec![peer(1, "a", second as i64), peer(2, "b", 1)];
        assert_eq!(Standby::of(2).takes_over(true, works), None);
    }

    #[test]
    fn whoever_hears_nothing_lets_the_active_one_be_away_for_four_times_as_long() {
        let still = |_| vec![peer(1, "a", 7), peer(2, "b", 1)];
        assert_eq!(Standby::of(2).takes_over(false, still), Some(80));
        let predecessor = |_| vec![peer(1, "b", 7), peer(2, "b", 1)];
        assert_eq!(Standby::of(2).takes_over(false, predecessor), Some(20));
    }

    #[test]
    fn whoever_begins_to_prove_has_the_time_that_a_proof_takes() {
        let deaf = |second: u64| {
            let active = Peer { proven_until: None, ..peer(1, "a", second as i64) };
            vec![active, peer(2, "b", 1)]
        };
        let mut standby = Standby::of(2);
        standby.vigil = standby.vigil.proving_after(Duration::from_secs(7));
        assert_eq!(standby.takes_over(true, deaf), Some(30), "20 s and 7 s");
    }

    #[test]
    fn whoever_writes_but_proves_nothing_is_taken_over_from_by_one_that_proves() {
        let deaf = |second: u64| {
            let active = Peer { proven_until: Some(at(3)), ..peer(1, "a", second as i64) };
            vec![active, peer(2, "b", 1)]
        };
        assert_eq!(Standby::of(2).takes_over(true, deaf), Some(20));
        assert_eq!(Standby::of(2).takes_over(false, deaf), None, "the broker is away for both");
    }

    #[test]
    fn a_database_that_is_away_judges_nobody() {
        let mut standby = Standby::of(2);
        let still = [peer(1, "a", 7), peer(2, "b", 1)];
        for second in [0, 5, 10] {
            assert_eq!(standby.look(second, true, &still), Duty::StandBy);
        }
        standby.vigil.missed();
        for second in [60, 65, 70, 75] {
            assert_eq!(standby.look(second, true, &still), Duty::StandBy);
        }
        assert!(matches!(standby.look(80, true, &still), Duty::TakeOver(_)));
    }

    #[test]
    fn an_instance_that_was_stopped_itself_looks_again_before_it_judges() {
        let mut standby = Standby::of(2);
        assert_eq!(standby.look(0, true, &[peer(1, "a", 7), peer(2, "b", 1)]), Duty::StandBy);
        let moved = [peer(1, "a", 8), peer(2, "b", 1)];
        assert_eq!(standby.look(100, true, &moved), Duty::StandBy);
        assert_eq!(standby.look(105, true, &moved), Duty::StandBy);
    }

    #[test]
    fn whoever_has_left_is_followed_at_once_by_the_oldest_and_later_by_another() {
        let left = Peer { has_left: true, ..peer(1, "a", 7) };
        let peers = |second: u64| {
            vec![left.clone(), peer(2, "b", second as i64), peer(3, "c", second as i64)]
        };
        assert_eq!(Standby::of(2).takes_over(false, peers), Some(0));
        assert_eq!(Standby::of(3).takes_over(false, peers), Some(5));
        let nobody = |second: u64| vec![peer(2, "b", second as i64)];
        assert_eq!(Standby::of(2).takes_over(false, nobody), Some(0), "an empty database");
    }

    #[test]
    fn a_younger_standby_does_not_wait_for_an_older_one_that_is_gone() {
        let peers = |second: u64| {
            let active = peer(1, "a", second.min(100) as i64);
            vec![active, peer(2, "b", 1), peer(3, "c", second as i64)]
        };
        assert_eq!(Standby::of(3).takes_over(true, peers), Some(120));
        let both = |second: u64| {
            let active = peer(1, "a", second.min(100) as i64);
            vec![active, peer(2, "b", second as i64), peer(3, "c", second as i64)]
        };
        assert_eq!(Standby::of(3).takes_over(true, both), Some(125));
    }

    #[test]
    fn whoever_was_taken_over_from_waits_longer_each_time() {
        let still = |_| vec![peer(1, "a", 7), peer(2, "b", 1)];
        let mut standby = Standby::of(2);
        let mut waits = Vec::new();
        for _ in 0..6 {
            let mut once = Standby { vigil: standby.vigil.clone(), ..Standby::of(2) };
            waits.push(once.takes_over(true, still));
            standby.vigil.took_over(standby.began);
            standby.vigil.was_fenced(standby.began + Duration::from_secs(30));
            let left = Peer { has_left: true, ..peer(1, "a", 7) };
            let mut once = Standby { vigil: standby.vigil.clone(), ..Standby::of(2) };
            let leaves = |_| vec![left.clone(), peer(2, "b", 1)];
            assert_eq!(once.takes_over(false, leaves), Some(0), "unless it has left");
        }
        assert_eq!(waits, [20, 40, 80, 160, 300, 300].map(Some));
        standby.vigil.took_over(standby.began);
        standby.vigil.was_fenced(standby.began + LONGEST_WAIT);
        assert_eq!(standby.takes_over(true, still), Some(40), "it had been well for long");
        let works_for = |second: u64| vec![peer(1, "a", second.min(300) as i64), peer(2, "b", 1)];
        let mut calm = Standby::of(2);
        calm.vigil.was_fenced(calm.began);
        assert_eq!(calm.takes_over(true, works_for), Some(320), "that is long ago");
    }

    #[test]
    fn the_younger_of_two_processes_of_one_name_ends_once_the_other_is_seen_to_live() {
        let peers = |saves| [peer(1, "a", saves), peer(2, "a", saves)];
        let mut younger = Standby::of(2);
        assert_eq!(younger.look(0, false, &peers(1)), Duty::StandBy);
        assert_eq!(younger.look(5, false, &peers(2)), Duty::End);
        let mut older = Standby::of(1);
        assert_eq!(older.look(0, false, &peers(1)), Duty::Write);
        assert_eq!(older.look(5, false, &peers(2)), Duty::Write);
        let own = [Peer { incarnation: 2, ..peer(1, "a", 9) }, peer(2, "a", 9)];
        assert_eq!(younger.look(10, false, &own), Duty::StandBy, "an earlier stay of its own");
    }

    #[test]
    fn a_take_over_is_one_from_another_instance() {
        let peers = [peer(1, "a", 7), peer(2, "a", 1), peer(3, "b", 1)];
        let told = |me| sight(me, Some(1), &peers).take_over_from(Some(&peers[0]));
        assert_eq!(told(2), None, "its own predecessor");
        let (from, by) = ("a".to_owned(), "b".to_owned());
        assert_eq!(told(3), Some(Happening::TookOver { from, by }));
        assert_eq!(sight(3, None, &peers).take_over_from(None), None, "nobody wrote");
    }

    #[test]
    fn whoever_was_taken_for_gone_joins_again() {
        let closed = Peer { has_left: true, ..peer(2, "b", 1) };
        assert_eq!(Standby::of(2).look(0, true, &[peer(1, "a", 7), closed]), Duty::Join);
        assert_eq!(Standby::of(2).look(0, true, &[peer(1, "a", 7)]), Duty::Join);
    }

    #[test]
    fn a_standby_counts_as_gone_after_four_times_as_long() {
        let mut active = Standby::of(1);
        let peers = |second: u64| [peer(1, "a", second as i64), peer(2, "b", 1)];
        for second in (0..=80).step_by(5) {
            let seen = sight(1, Some(1), &peers(second));
            let now = active.began + Duration::from_secs(second);
            active.vigil.look(&seen, true, now);
            assert_eq!(active.vigil.gone(&seen, now).len(), usize::from(second >= 80));
            let width = TimeDelta::milliseconds(if second < 20 { 100 } else { 0 });
            assert_eq!(active.vigil.width(&seen, now), width);
        }
    }

    #[test]
    fn what_the_active_one_has_proven_need_not_be_kept_but_for_twice_the_width() {
        let clock =
            |offset| ClockOffset { offset: TimeDelta::milliseconds(offset), ..Default::default() };
        let active = Peer { proven_until: Some(at(100)), clock: clock(900), ..peer(1, "a", 7) };
        let peers = [active, peer(2, "b", 1)];
        let seen = sight(2, Some(1), &peers);
        assert_eq!(seen.vouched_for(at(101)), Some(at(98) - MARGIN));
        assert_eq!(seen.vouched_for(at(98)), None, "its clock was set");
        let third = Peer { clock: clock(-1_000), ..peer(3, "c", 1) };
        let seen = sight(2, Some(1), &[peers[0].clone(), peers[1].clone(), third]);
        assert_eq!(seen.vouched_for(at(101)), Some(at(96) - MARGIN), "the third judges it, too");
        assert_eq!(sight(1, Some(1), &peers).vouched_for(at(101)), None, "it is itself");
    }

    #[test]
    fn what_the_active_one_has_proven_of_something_else_has_to_be_kept() {
        let listens_to = |topic: &str, peer| {
            let subscription =
                Subscription { topic: topic.to_owned(), broker: None, entry_urls: Vec::new() };
            let (timeout, check_interval) = (TimeDelta::seconds(30), TimeDelta::seconds(5));
            let configured = Configured { subscription, timeout, check_interval };
            Peer { configured: Some(Box::new(configured)), ..peer }
        };
        let vouched_for = |topic| {
            let active = listens_to(topic, peer(1, "a", 100));
            let own = listens_to("devices/+/heartbeat", peer(2, "b", 1));
            sight(2, Some(1), &[active, own]).vouched_for(at(101))
        };
        assert!(vouched_for("devices/+/heartbeat").is_some());
        assert_eq!(vouched_for("halls/+/heartbeat"), None);
    }

    #[test]
    fn a_gap_of_the_active_one_that_a_standby_has_heard_is_for_it_to_fill() {
        let milli = TimeDelta::milliseconds;
        let gap = |from: i64, until: i64, heard: &[(i64, i64)]| {
            // It had proven everything until `from`, when the standby forgot the rest.
            let active = Peer {
                proven_until: Some(at(until + 1)),
                proven_since: Some(at(until)),
                ..peer(1, "a", 7)
            };
            let heard =
                heard.iter().map(|&(from, until)| Interval { from: at(from), until: at(until) });
            let kept = Kept {
                beside: 1,
                since: at(from) - milli(200) - MARGIN,
                heard: heard.collect(),
                too_little: TimeDelta::seconds(5),
            };
            let seen = sight(2, Some(1), &[active.clone(), peer(2, "b", 1)]);
            let by_another = sight(2, Some(3), &[active, peer(2, "b", 1), peer(3, "c", 1)]);
            assert!(!by_another.has_a_gap_within(&kept, at(until)));
            seen.has_a_gap_within(&kept, at(until))
        };
        assert!(!gap(100, 90, &[(0, 100)]), "there is none");
        assert!(!gap(100, 100, &[(0, 100)]), "nor when it has just begun");
        assert!(gap(100, 101, &[(90, 101)]), "a short one");
        assert!(!gap(100, 108, &[(90, 104)]), "it has hardly heard more itself");
        assert!(gap(100, 108, &[(102, 108)]), "it was back before");
        assert!(!gap(100, 130, &[]));
    }

    #[test]
    fn whoever_was_taken_over_from_fills_no_gap_for_five_minutes() {
        let (mut standby, after) = (Standby::of(2), Duration::from_secs);
        assert!(standby.vigil.is_calm(standby.began));
        standby.vigil.took_over(standby.began);
        standby.vigil.was_fenced(standby.began + after(5));
        assert!(!standby.vigil.is_calm(standby.began + after(304)));
        assert!(standby.vigil.is_calm(standby.began + after(305)), "five minutes");
    }

    #[test]
    fn a_clock_is_measured_by_a_quick_answer() {
        let mut meter = ClockMeter::default();
        let milli = TimeDelta::milliseconds;
        meter.was_set(milli(5_000));
        meter.note(at(10), at(9), at(11));
        assert_eq!(meter.clock(), ClockOffset::default(), "it took a second");
        meter.note(at(10), at(8), at(10) + milli(40));
        assert_eq!(meter.clock().offset, milli(2_020));
        meter.note(at(10), at(8), at(10) + milli(60));
        assert_eq!(meter.clock(), ClockOffset { offset: milli(2_030), spread: milli(0) });
        meter.was_set(milli(-3_000));
        assert_eq!(meter.clock(), ClockOffset { offset: milli(-970), spread: milli(3_000) });
        meter.begins();
        assert_eq!(meter.clock().spread, milli(0));
    }

    proptest! {
        /// However the rows move and whatever is missed, nobody takes over from one that was
        /// seen to move within the patience.
        #[test]
        fn nobody_takes_over_from_one_that_moves(
            steps in proptest::collection::vec((1_u64..12, any::<bool>(), any::<bool>(), any::<bool>()), 1..80),
        ) {
            let mut standby = Standby::of(2);
            let (mut second, mut saves, mut moved_at) = (0, 0, 0);
            for (passed, moves, fails, proves) in steps {
                second += passed;
                if moves {
                    saves += 1;
                    moved_at = second;
                }
                if fails {
                    standby.vigil.missed();
                    continue;
                }
                let duty = standby.look(second, proves, &[peer(1, "a", saves), peer(2, "b", 1)]);
                if matches!(duty, Duty::TakeOver(_)) {
                    prop_assert!(second - moved_at >= 20, "after {} s", second - moved_at);
                }
            }
        }

        /// A standby forgets only what was received before the active one's proof, by true time.
        #[test]
        fn nothing_is_forgotten_that_the_active_one_has_not_proven(
            proven in 0_i64..1_000_000, own in -3_000_i64..3_000, other in -3_000_i64..3_000,
            error in -40_i64..40,
        ) {
            let milli = |millis: i64| TimeDelta::milliseconds(millis);
            let clock = |offset| ClockOffset { offset: milli(offset), ..Default::default() };
            let active = Peer {
                proven_until: Some(at(1_000) + milli(proven + other)),
                clock: clock(other + error),
                ..peer(1, "a", 7)
            };
            let me = Peer { clock: clock(own), ..peer(2, "b", 1) };
            let seen = sight(2, Some(1), &[active, me]);
            let now = at(1_000) + milli(proven + own + 100);
            if let Some(until) = seen.vouched_for(now) {
                prop_assert!(until - milli(own) < at(1_000) + milli(proven));
            }
        }
    }
}
