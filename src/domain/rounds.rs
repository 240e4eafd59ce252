//! Rounds: what one connection may claim to have listened to.
//!
//! A round is a stretch of listening that nothing has interrupted. An echo belongs
//! to the round in which it was sent, and proves something only if it comes back in
//! the same one: a reconnect, messages thrown away or a clock that was set in
//! between have each begun another.

use chrono::{DateTime, TimeDelta, Utc};

use super::{GapCause, Reading};

/// How far the clock may run from the monotonic one between two echoes before it
/// counts as having been set. NTP slews by 0.5 ms a second at most; what it does
/// not slew it steps.
const CLOCK_TOLERANCE: TimeDelta = TimeDelta::milliseconds(500);

/// How many echoes may be on their way before something must be wrong. Counted
/// across reconnects: some brokers close the connection over a forbidden message.
const ECHOES_UNANSWERED: u32 = 4;

/// The rounds of one connection, the newest of which may be going on.
#[derive(Clone, Debug)]
pub struct Rounds {
    number: u64,
    /// Since when nothing has interrupted the listening; `None`: nobody listens.
    since: Option<DateTime<Utc>>,
    /// What ended the round before this one.
    after: GapCause,
    /// How many echoes were sent since one came back.
    unanswered: u32,
    /// Both clocks as the round began, or later as the last echo was sent.
    clocks: Option<Reading>,
}

/// What an echo that came back says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// When the uninterrupted listening began.
    pub since: DateTime<Utc>,
    /// Everything published before has been received.
    pub until: DateTime<Utc>,
    /// What had interrupted it before `since`.
    pub after: GapCause,
}

/// An echo that is to be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The round it belongs to.
    pub round: u64,
    /// How many are on their way, this one included, if that is too many.
    pub missing: Option<u32>,
}

impl Default for Rounds {
    fn default() -> Self {
        Self { number: 0, since: None, after: GapCause::NotRunning, unanswered: 0, clocks: None }
    }
}

impl Rounds {
    /// Nobody listens any more.
    pub fn interrupt(&mut self, cause: GapCause) {
        if self.since.take().is_some() {
            self.after = cause;
        }
    }

    /// Somebody listens, since now.
    pub fn begin(&mut self, now: Reading) {
        self.number += 1;
        self.since = Some(now.wall);
        self.clocks = Some(now);
    }

    /// Something was missed just now, but the listening goes on.
    pub fn restart(&mut self, now: Reading, cause: GapCause) {
        if self.since.is_some() {
            self.after = cause;
            self.begin(now);
        }
    }

    /// An echo is about to be sent. The two clocks, read together, tell whether the
    /// first was set since the last echo.
    pub fn send(&mut self, now: Reading) -> Outgoing {
        if let Some(last) = self.clocks {
            let passed = now.monotonic.saturating_duration_since(last.monotonic);
            let passed = TimeDelta::from_std(passed).unwrap_or(TimeDelta::MAX);
            if ((now.wall - last.wall) - passed).abs() > CLOCK_TOLERANCE {
                self.restart(now, GapCause::ClockStep);
            }
        }
        self.clocks = Some(now);
        self.unanswered = self.unanswered.saturating_add(1);
        let too_many = self.unanswered.is_multiple_of(ECHOES_UNANSWERED);
        Outgoing { round: self.number, missing: too_many.then_some(self.unanswered) }
    }

    /// An echo came back. `None`: something has interrupted the listening since it
    /// was sent.
    pub fn take(&mut self, round: u64, sent_at: DateTime<Utc>) -> Option<Proof> {
        if round != self.number {
            return None;
        }
        // The clock may have been turned back by less than is noticed.
        let since = self.since?.min(sent_at);
        self.since = Some(since);
        self.unanswered = 0;
        Some(Proof { since, until: sent_at, after: self.after })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).expect("small")
    }

    /// Rounds whose clocks run together until one is set.
    struct Clocks {
        rounds: Rounds,
        monotonic: Instant,
    }

    impl Clocks {
        fn listening_since(seconds: i64) -> Self {
            let mut rounds = Rounds::default();
            let monotonic = Instant::now();
            rounds.begin(Reading { wall: at(seconds), monotonic });
            Self { rounds, monotonic }
        }

        fn send_after(&mut self, passed: u64, reading: i64) -> u64 {
            self.monotonic += Duration::from_secs(passed);
            self.rounds.send(Reading { wall: at(reading), monotonic: self.monotonic }).round
        }

        fn proof(&mut self, round: u64, sent_at: i64) -> Option<(i64, i64, GapCause)> {
            let proof = self.rounds.take(round, at(sent_at))?;
            Some((proof.since.timestamp(), proof.until.timestamp(), proof.after))
        }
    }

    #[test]
    fn an_echo_proves_the_listening_since_the_round_began() {
        let mut clocks = Clocks::listening_since(10);
        let round = clocks.send_after(2, 12);
        assert_eq!(clocks.proof(round, 12), Some((10, 12, GapCause::NotRunning)));
    }

    #[test]
    fn an_echo_from_before_an_interruption_proves_nothing() {
        for cause in [GapCause::Disconnected, GapCause::Shed] {
            let mut clocks = Clocks::listening_since(10);
            let round = clocks.send_after(2, 12);
            clocks.rounds.interrupt(cause);
            assert_eq!(clocks.proof(round, 12), None);
            clocks.rounds.begin(Reading { wall: at(14), monotonic: clocks.monotonic });
            assert_eq!(clocks.proof(round, 12), None);
            let round = clocks.send_after(1, 15);
            assert_eq!(clocks.proof(round, 15), Some((14, 15, cause)));
        }
    }

    #[test]
    fn a_clock_that_is_set_begins_a_round_and_one_that_is_slewed_does_not() {
        for (reading, since, after) in [
            (20, 10, GapCause::NotRunning),
            (3600, 3600, GapCause::ClockStep),
            (5, 5, GapCause::ClockStep),
        ] {
            let mut clocks = Clocks::listening_since(10);
            clocks.send_after(5, 15);
            let round = clocks.send_after(5, reading);
            assert_eq!(clocks.proof(round, reading), Some((since, reading, after)));
        }
    }

    #[test]
    fn a_clock_turned_back_by_less_than_is_noticed_delays_no_proof() {
        let mut rounds = Rounds::default();
        let monotonic = Instant::now();
        rounds.begin(Reading { wall: at(10), monotonic });
        let millis = TimeDelta::milliseconds;
        let mut proof = |reading, passed| {
            let round = rounds.send(Reading { wall: reading, monotonic: monotonic + passed }).round;
            let proof = rounds.take(round, reading).expect("it is of this round");
            proof.until - proof.since
        };
        assert_eq!(proof(at(10) - millis(400), Duration::ZERO), millis(0));
        assert_eq!(proof(at(11) - millis(400), Duration::from_secs(1)), millis(1000));
    }

    #[test]
    fn missing_echoes_are_told_again_and_again_until_one_comes_back() {
        let mut clocks = Clocks::listening_since(0);
        let now = Reading { wall: at(0), monotonic: clocks.monotonic };
        let told: Vec<_> = (0..9).map(|_| clocks.rounds.send(now).missing).collect();
        let expected = [None, None, None, Some(4), None, None, None, Some(8), None];
        assert_eq!(told, expected);
        clocks.rounds.take(clocks.rounds.number, at(0)).expect("it is of this round");
        assert_eq!(clocks.rounds.send(now).missing, None);
    }
}
