//! The time that rows claim to have been listened to, held against what devices published. All
//! times are by the clock of the instance that has marked a device by it.

use chrono::{DateTime, TimeDelta, Utc};
use heartbeatd::domain::Intervals;

/// A claim to have listened.
pub struct Claim<'a> {
    pub listened: &'a Intervals,
    pub timeout: TimeDelta,
    /// The time that a heartbeat or an echo takes.
    pub way: TimeDelta,
    /// The most by which two clocks differ. Any of them may have dated a heartbeat.
    pub apart: TimeDelta,
}

impl Claim<'_> {
    /// The newest of the times at which a device published, newest first, at which somebody claims
    /// to have listened although the device is known only from before, as last seen at `seen`.
    /// Of those that are older than the timeout it makes no difference.
    pub fn contradicted_by(
        &self,
        published: impl IntoIterator<Item = DateTime<Utc>>,
        seen: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Option<DateTime<Utc>> {
        let longest = self.timeout + (self.way + self.apart) * 2;
        let young = |at: &DateTime<Utc>| self.listened.covered(*at, now) <= longest;
        let is_known = |at| seen >= at - self.way - self.apart;
        published.into_iter().take_while(young).find(|at| self.counts(*at) && !is_known(*at))
    }

    /// The last time at which a device published, newest first, if that is the heartbeat that is
    /// known, dated at `seen` by whichever clock, and no older than its timeout.
    pub fn is_too_early(
        &self,
        published: impl IntoIterator<Item = DateTime<Utc>>,
        seen: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Option<DateTime<Utc>> {
        let is_known = |at: &DateTime<Utc>| (seen - at).abs() <= self.way + self.apart;
        let known = published.into_iter().find(is_known)?;
        (now - known <= self.timeout - self.way).then_some(known)
    }

    fn counts(&self, at: DateTime<Utc>) -> bool {
        let (from, until) = (at - self.way, at + self.way);
        self.listened.iter().any(|part| part.from <= from && until <= part.until)
    }
}

mod tests {
    use heartbeatd::domain::Interval;

    use super::*;
    use crate::support::fleet::at;

    #[test]
    fn a_claim_is_contradicted_by_a_heartbeat_within_it_that_is_not_known() {
        let part = |from, until| Interval { from: at(from), until: at(until) };
        let listened: Intervals = [part(0, 40), part(50, 100)].into_iter().collect();
        let second = TimeDelta::seconds(1);
        let claim =
            Claim { listened: &listened, timeout: second * 60, way: second, apart: second * 2 };
        let contradicted = |published: &[i64], seen| {
            claim.contradicted_by(published.iter().map(|second| at(*second)), at(seen), at(100))
        };
        assert_eq!(contradicted(&[70, 30], 30), Some(at(70)));
        assert_eq!(contradicted(&[70, 30], 67), None, "a clock that is behind has dated it");
        assert_eq!(contradicted(&[45, 30], 30), None, "nobody claims to have listened then");
        assert_eq!(contradicted(&[40, 30], 30), None, "nor just then");
        assert_eq!(contradicted(&[20, 10], 10), None, "it is silent for its timeout anyway");
        assert_eq!(contradicted(&[], 10), None);
    }

    #[test]
    fn a_heartbeat_that_is_known_is_as_old_as_the_timeout_whatever_clock_has_dated_it() {
        let listened = Intervals::default();
        let second = TimeDelta::seconds(1);
        let claim =
            Claim { listened: &listened, timeout: second * 60, way: second, apart: second * 2 };
        let too_early = |published: &[i64], seen, now| {
            let published = published.iter().map(|second| at(*second));
            claim.is_too_early(published, at(seen), at(now))
        };
        assert_eq!(too_early(&[30, 10], 28, 80), Some(at(30)), "a slow clock has dated it");
        assert_eq!(too_early(&[30, 10], 28, 90), None);
        assert_eq!(too_early(&[30, 10], 20, 80), None, "it is another one");
    }
}
