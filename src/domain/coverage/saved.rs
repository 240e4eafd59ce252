//! The coverage that the database holds.

use super::{Change, Coverage};

/// The saved coverage, as far as it is known.
#[derive(Clone, Debug)]
pub struct Saved {
    /// The part that is in the database for certain, with its heartbeats.
    coverage: Coverage,
    /// True if the database holds nothing else. False after a transaction whose outcome
    /// is unknown.
    exact: bool,
}

/// The changes that save a coverage together with heartbeats that may take several
/// transactions.
///
/// Proofs that are taken back go with the first one. Otherwise, after a crash, the new
/// heartbeats of a clock that was set back would stand beside its old proofs and take
/// devices offline. New proofs go with the last one, when all heartbeats that they vouch
/// for are there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saving {
    /// The change that goes with the first of several transactions.
    pub first: Option<Change>,
    /// The change that goes with the last of several transactions.
    pub last: Option<Change>,
    /// The change that goes with a single transaction.
    pub only: Option<Change>,
}

impl Saved {
    /// Takes a coverage that was read from the database.
    pub fn new(coverage: Coverage) -> Self {
        Self { coverage, exact: true }
    }

    /// The part that is in the database for certain.
    pub fn coverage(&self) -> &Coverage {
        &self.coverage
    }

    /// The changes that are needed to save `target`. What it has pruned stays in the database.
    pub fn plan(&self, target: &Coverage) -> Saving {
        let kept = target.kept_of(&self.coverage);
        let last = target.since(&kept);
        if self.exact {
            let saved = target.unpruned_of(&self.coverage);
            return Saving { first: kept.since(&saved), last, only: target.since(&saved) };
        }
        let only = target.whole();
        let first = only.as_ref().map(|whole| Change {
            from: kept.own_since().map_or(whole.from, |since| whole.from.min(since)),
            intervals: kept.listened().collect(),
            ..*whole
        });
        Saving { first, last, only }
    }

    /// Records that `target` was saved.
    pub fn is_now(&mut self, target: Coverage) {
        *self = Self::new(target);
    }

    /// Records that `target` may have been saved, as a whole, in part or not at all.
    pub fn may_be(&mut self, target: &Coverage) {
        self.coverage = target.kept_of(&self.coverage);
        self.exact = false;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::intervals::tests::{at, interval};
    use super::*;
    use crate::domain::{GapCause, Listened};

    #[test]
    fn time_proven_again_by_a_clock_set_back_does_not_count_as_kept() {
        let saved = Saved::new(coverage(&[(0, 10)]));
        let mut target = saved.coverage().clone();
        target.step_back(at(4));
        target.confirm(at(4), at(8), GapCause::ClockStep);
        let first = saved.plan(&target).first.expect("it shrinks");
        assert_eq!(first.intervals[0].interval, interval(0, 4));
        let mut live = target.clone();
        live.is_saved(&target);
        assert_eq!(live.kept_of(&target).intervals(), target.intervals());
    }

    fn coverage(proofs: &[(i64, i64)]) -> Coverage {
        let mut coverage = Coverage::new(Duration::from_secs(5));
        for &(since, until) in proofs {
            coverage.confirm(at(since), at(until), GapCause::Disconnected);
        }
        coverage
    }

    fn change(from: i64, intervals: &[Listened]) -> Option<Change> {
        Some(Change { from: at(from), is_set_back: false, intervals: intervals.to_vec() })
    }

    fn set_back(from: i64, intervals: &[Listened]) -> Option<Change> {
        change(from, intervals).map(|change| Change { is_set_back: true, ..change })
    }

    fn first(from: i64, until: i64) -> Listened {
        Listened { interval: interval(from, until), after: None }
    }

    #[test]
    fn a_coverage_that_only_grows_is_saved_with_the_last_transaction() {
        let saved = Saved::new(coverage(&[(0, 10)]));
        let grown = change(0, &[first(0, 15)]);
        let saving = saved.plan(&coverage(&[(0, 10), (0, 15)]));
        assert_eq!(saving, Saving { first: None, last: grown.clone(), only: grown });
    }

    #[test]
    fn time_taken_away_by_a_clock_set_back_is_saved_first() {
        let saved = Saved::new(coverage(&[(0, 10), (20, 30)]));
        let mut target = saved.coverage().clone();
        target.confirm(at(0), at(7), GapCause::ClockStep);
        target.confirm(at(0), at(9), GapCause::ClockStep);
        let saving = saved.plan(&target);
        assert_eq!(saving.first, set_back(0, &[first(0, 7)]));
        assert_eq!(saving.last, set_back(0, &[first(0, 9)]));
        assert_eq!(saving.only, saving.last);
    }

    #[test]
    fn what_is_pruned_from_memory_stays_saved() {
        let saved = Saved::new(coverage(&[(0, 10), (20, 30), (40, 50)]));
        let mut target = saved.coverage().clone();
        target.prune(Duration::from_secs(5), 10);
        assert_eq!(saved.plan(&target), Saving::default());
        target.confirm(at(40), at(55), GapCause::Disconnected);
        let after = Some(GapCause::Disconnected);
        let grown = change(40, &[Listened { interval: interval(40, 55), after }]);
        assert_eq!(saved.plan(&target), Saving { first: None, last: grown.clone(), only: grown });
    }

    #[test]
    fn what_a_clock_was_set_back_over_does_not_stay_saved_because_it_is_not_in_memory() {
        let saved = Saved::new(coverage(&[(40, 50)]));
        let mut target = saved.coverage().clone();
        target.step_back(at(5));
        let begun = Listened { interval: interval(5, 5), after: Some(GapCause::ClockStep) };
        let saving = saved.plan(&target);
        assert_eq!(saving.first, set_back(5, &[]));
        assert_eq!(saving.only, set_back(5, &[begun]));
        // Also if the beginning was pruned before anything could be saved.
        target.confirm(at(7), at(17), GapCause::Disconnected);
        target.prune(Duration::from_secs(5), 10);
        assert_eq!(target.proven_since(), Some(at(7)));
        let saving = saved.plan(&target);
        assert_eq!(saving.first, set_back(5, &[]));
        assert_eq!(saving.only.expect("a change").from, at(5));
        let mut doubted = saved.clone();
        doubted.may_be(&target);
        assert_eq!(doubted.plan(&target).only.expect("a change").from, at(5));
    }

    #[test]
    fn an_unknown_saved_coverage_is_replaced_as_a_whole() {
        let mut saved = Saved::new(coverage(&[(0, 10)]));
        let attempted = coverage(&[(0, 10), (0, 15), (20, 25)]);
        saved.may_be(&attempted);
        let now = coverage(&[(0, 10), (0, 12)]);
        let saving = saved.plan(&now);
        assert_eq!(saving.first, change(0, &[first(0, 10)]));
        assert_eq!(saving.last, change(0, &[first(0, 12)]));
        assert_eq!(saving.only, change(0, &[first(0, 12)]));
        saved.is_now(now.clone());
        assert_eq!(saved.plan(&now), Saving::default());
    }
}
