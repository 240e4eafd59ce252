//! Members of a group: each may be given a part of the heartbeats by the broker, so that one that
//! has stopped makes a hole in what all of them have listened to.
//!
//! Whoever sees that a member does nothing, or proves nothing, ends its session at the broker, and
//! then its stay. Being wrong harms nobody: the other one finds its stay ended, and joins again.

use std::time::{Duration, Instant};

use super::{LONGEST_WAIT, Peer, Sight, Vigil};

/// The shortest time for which a member that was taken out of its group stays out of it. Each time
/// in quick succession doubles it.
const STAYS_OUT: Duration = Duration::from_secs(1);

impl Peer {
    /// True if the broker may give it heartbeats.
    pub fn is_member(&self) -> bool {
        self.share_group.is_some() && !self.has_left
    }

    /// True if both are members of the same group at the broker, of which the timeline of the
    /// database is a part.
    fn is_beside(&self, other: &Self) -> bool {
        self.is_member() && self.share_group == other.share_group && self.timeline == other.timeline
    }
}

/// A member that has to be taken out of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// The member.
    pub peer: Peer,
    /// True if its session at the broker has to be ended first. One of another timeline of the
    /// database is in another group there, of which nobody can save a proof any more.
    pub has_session: bool,
}

/// The state of an instance that was taken out of its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Out {
    /// The number of times in quick succession.
    pub times: u32,
    /// The time for which it still has to stay out.
    pub left: Duration,
}

impl Vigil {
    /// Notes that this instance is a member of its group from now on.
    pub fn joined(&mut self, now: Instant) {
        self.writes_since.get_or_insert(now);
    }

    /// Notes that the database has lost the stay of this instance, or may have lost that of another
    /// one. However often that happens, it is nobody's fault here.
    pub fn was_forgotten(&mut self, now: Instant) {
        self.writes_since = None;
        self.was_fenced(now);
    }

    /// The time for which this instance has to stay out of its group after it was taken out of it.
    /// One that proves nothing whenever it joins would make the others blind again and again.
    pub fn stays_out(&self) -> Duration {
        let doubled = STAYS_OUT.saturating_mul(1 << self.fenced.saturating_sub(1).min(10));
        doubled.min(LONGEST_WAIT)
    }

    /// The rest of that time, if it is not over.
    pub fn stays_out_until_after(&self, now: Instant) -> Option<Out> {
        let passed = now.saturating_duration_since(self.fenced_at?);
        let left = self.stays_out().checked_sub(passed).filter(|left| !left.is_zero())?;
        Some(Out { times: self.fenced, left })
    }

    /// The same vigil, of a member of a group.
    #[must_use]
    pub fn in_a_group(mut self) -> Self {
        self.in_group = true;
        self
    }

    /// The members that have to be taken out of the group. `proves` is true if this instance
    /// proves at this time that it hears its part.
    ///
    /// The oldest member goes first; each other one lets those before it have an interval. However
    /// often this one was taken out itself, it waits no longer: until then nothing counts.
    pub fn stuck(&self, sight: &Sight, proves: bool, now: Instant) -> Vec<Stuck> {
        let Some(own) = sight.own().filter(|own| own.is_member()) else { return Vec::new() };
        let lives = |peer: &&Peer| !self.is_still(peer, self.patience(), now);
        let members = || sight.others().filter(|peer| peer.is_member());
        let older = members().filter(|peer| peer.id < own.id && peer.is_beside(own));
        let wait = self.patience()
            + self.interval * u32::try_from(older.filter(lives).count()).unwrap_or(u32::MAX);
        let of_ours = members().filter(|peer| peer.share_group == own.share_group);
        let stuck = of_ours.filter(|peer| self.stands_still(peer, proves, wait, now));
        stuck.map(|peer| Stuck { peer: peer.clone(), has_session: peer.is_beside(own) }).collect()
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::domain::{ClockOffset, DatabaseTimeline};

    const INTERVAL: Duration = Duration::from_secs(5);

    fn timeline(text: &str) -> DatabaseTimeline {
        text.parse().expect("a timeline")
    }

    fn member(id: i64, saves: i64) -> Peer {
        Peer {
            id,
            instance: format!("hall-{id}"),
            incarnation: id,
            share_group: Some("fleet".to_owned()),
            timeline: timeline("00000001"),
            has_left: false,
            saves,
            proven_until: DateTime::from_timestamp(saves, 0),
            proven_since: None,
            clock: ClockOffset::default(),
            configured: None,
        }
    }

    /// The second of the first look at which `me` takes somebody out of the group, and whom.
    fn fences(
        me: i64,
        proves: bool,
        peers: impl Fn(u64) -> Vec<Peer>,
    ) -> Option<(u64, Vec<(i64, bool)>)> {
        let (mut vigil, began) = (Vigil::new(me, INTERVAL).in_a_group(), Instant::now());
        (0..300).step_by(5).find_map(|second| {
            let sight = Sight { me, active: Some(1), peers: peers(second) };
            let now = began + Duration::from_secs(second);
            vigil.look(&sight, proves, now);
            let stuck = vigil.stuck(&sight, proves, now);
            let stuck: Vec<_> = stuck.iter().map(|s| (s.peer.id, s.has_session)).collect();
            (!stuck.is_empty()).then_some((second, stuck))
        })
    }

    #[test]
    fn a_member_that_saves_nothing_for_four_intervals_is_fenced_by_the_oldest_first() {
        let peers = |second: u64| {
            let saves = second as i64;
            vec![member(1, saves), member(2, 7), member(3, saves)]
        };
        assert_eq!(fences(1, true, peers), Some((20, vec![(2, true)])));
        assert_eq!(fences(3, true, peers), Some((25, vec![(2, true)])));
        assert_eq!(fences(1, true, |second| vec![member(1, 0), member(2, second as i64)]), None);
    }

    #[test]
    fn whoever_was_taken_out_itself_fences_others_no_later() {
        let (mut vigil, began) = (Vigil::new(1, INTERVAL).in_a_group(), Instant::now());
        vigil.was_fenced(began);
        let found = (0..100).step_by(5).find(|second| {
            let now = began + Duration::from_secs(*second);
            let peers = vec![member(1, *second as i64), member(2, 7)];
            let sight = Sight { me: 1, active: Some(1), peers };
            vigil.look(&sight, true, now);
            !vigil.stuck(&sight, true, now).is_empty()
        });
        assert_eq!(found, Some(20));
    }

    #[test]
    fn whoever_is_taken_out_again_and_again_stays_out_longer_each_time() {
        let (mut vigil, mut now) = (Vigil::new(1, INTERVAL).in_a_group(), Instant::now());
        assert_eq!(vigil.stays_out_until_after(now), None);
        let mut is_member_for = |seconds: u64| {
            vigil.joined(now);
            now += Duration::from_secs(seconds);
            vigil.was_fenced(now);
            let out = vigil.stays_out_until_after(now).expect("it was taken out just now");
            assert_eq!(out.left, vigil.stays_out());
            now += out.left;
            assert_eq!(vigil.stays_out_until_after(now), None);
            (out.times, out.left.as_secs())
        };
        let quickly: Vec<_> = (0..10).map(|_| is_member_for(20)).collect();
        let (times, seconds): (Vec<_>, Vec<_>) = quickly.into_iter().unzip();
        assert_eq!(times, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
        assert_eq!(is_member_for(300), (1, 1));
        vigil.joined(now);
        vigil.was_forgotten(now);
        assert_eq!(vigil.stays_out(), STAYS_OUT, "not by the others");
    }

    #[test]
    fn the_active_one_is_fenced_as_any_other_and_only_then_taken_over_from() {
        let peers = |second: u64| vec![member(1, 7), member(2, second as i64)];
        assert_eq!(fences(2, true, peers), Some((20, vec![(1, true)])));
    }

    #[test]
    fn a_member_that_proves_nothing_is_fenced_by_one_that_proves() {
        let peers = |second: u64| {
            let saves = second as i64;
            let deaf = Peer { proven_until: DateTime::from_timestamp(3, 0), ..member(2, saves) };
            vec![member(1, saves), deaf]
        };
        assert_eq!(fences(1, true, peers), Some((20, vec![(2, true)])));
        assert_eq!(fences(1, false, peers), None, "the broker is away for both");
    }

    #[test]
    fn a_member_of_an_earlier_timeline_has_no_session_in_this_group() {
        let peers = |second: u64| {
            let old = Peer { timeline: timeline("00000002"), ..member(1, 7) };
            vec![old, member(2, second as i64)]
        };
        assert_eq!(fences(2, true, peers), Some((20, vec![(1, false)])));
    }

    #[test]
    fn whoever_is_no_member_fences_nobody_and_is_fenced_by_nobody() {
        let waiting = |id, saves| Peer { share_group: None, ..member(id, saves) };
        let peers = |second: u64| vec![waiting(1, second as i64), member(2, 7)];
        assert_eq!(fences(1, true, peers), None);
        let peers = |second: u64| vec![waiting(1, 7), member(2, second as i64)];
        assert_eq!(fences(2, true, peers), None);
    }
}
