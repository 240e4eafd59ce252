//! Members of a group: each may be given a part of the heartbeats by the broker, so that one that
//! has stopped makes a hole in what all of them have listened to.
//!
//! Whoever sees that a member does nothing, or proves nothing, ends its session at the broker, and
//! then its stay. Being wrong harms nobody: the other one finds its stay ended, and joins again.

use std::time::Instant;

use super::{Peer, Sight, Vigil};

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

impl Vigil {
    /// The same vigil, of a member of a group.
    #[must_use]
    pub fn in_a_group(mut self) -> Self {
        self.in_group = true;
        self
    }

    /// The members that have to be taken out of the group. `proves` is true if this instance
    /// proves at this time that it hears its part.
    ///
    /// The oldest member goes first; each other one lets those before it have an interval.
    pub fn stuck(&self, sight: &Sight, proves: bool, now: Instant) -> Vec<Stuck> {
        let Some(own) = sight.own().filter(|own| own.is_member()) else { return Vec::new() };
        let lives = |peer: &&Peer| !self.is_still(peer, self.patience(), now);
        let members = || sight.others().filter(|peer| peer.is_member());
        let older = members().filter(|peer| peer.id < own.id && peer.is_beside(own));
        let turn = self.interval * u32::try_from(older.filter(lives).count()).unwrap_or(u32::MAX);
        let of_ours = members().filter(|peer| peer.share_group == own.share_group);
        let stuck = of_ours.filter(|peer| self.stands_still(peer, proves, turn, now));
        stuck.map(|peer| Stuck { peer: peer.clone(), has_session: peer.is_beside(own) }).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
            clock: ClockOffset::default(),
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
