//! Rounds: the time that one connection may claim to have listened.
//!
//! A round is a stretch of listening that nothing has interrupted. A reconnect, messages
//! thrown away, a stop of the process and a clock that is set each begin a new one. An echo
//! belongs to the round in which it was sent, and proves something only if it comes back in the
//! same round.
//!
//! After a stop of the process the first echo of the new round proves nothing yet: it tells that
//! everything has arrived that had waited, and the listening begins with it.
//!
//! An echo is a random token that proves something once. Its time and its round are
//! remembered here and never read from the message. So another client that publishes to
//! the echo topic can neither prove nor hide anything.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use super::stops::Stop;
use super::{GapCause, Reading};

/// The number of intervals without an echo after which something must be wrong. They are
/// counted across reconnects, because some brokers close the connection over a forbidden
/// message.
const INTERVALS_UNANSWERED: u32 = 4;

/// The least time that counts as too long without an echo. With an interval of a few
/// milliseconds a busy machine is late by more than four of them.
const PATIENCE_AT_LEAST: Duration = Duration::from_secs(2);

/// The number of echoes that are remembered. It is more than are ever on their way, so
/// that even a very late one is recognised.
const ECHOES_KEPT: usize = 64;

/// Names one echo: 128 random bits, used once. Its text is 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EchoToken(u128);

impl EchoToken {
    /// Makes a token of these bits, which no other client may be able to guess.
    pub const fn new(bits: u128) -> Self {
        Self(bits)
    }
}

impl fmt::Display for EchoToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The error of a text that is not an [`EchoToken`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an echo is 32 hexadecimal digits")]
pub struct InvalidEchoToken;

impl FromStr for EchoToken {
    type Err = InvalidEchoToken;

    fn from_str(text: &str) -> Result<Self, InvalidEchoToken> {
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(InvalidEchoToken);
        }
        u128::from_str_radix(text, 16).map(Self).map_err(|_| InvalidEchoToken)
    }
}

/// The rounds of one service, the newest of which may be going on.
#[derive(Clone, Debug)]
pub struct Rounds {
    /// The longest time for which echoes may be missing.
    patience: Duration,
    interval: Duration,
    /// The number of rounds that have begun or ended.
    number: u64,
    /// The beginning of the uninterrupted listening. `None` if the service is not
    /// listening.
    since: Option<DateTime<Utc>>,
    /// The cause that ended the previous round.
    after: GapCause,
    /// Both clocks when the round began, or when the last echo was sent.
    clocks: Option<Reading>,
    /// The newest echoes, oldest first.
    echoes: VecDeque<Echo>,
    missing: Missing,
    /// The stop of the process after which not everything that waited has arrived yet.
    stop: Option<Stop>,
}

/// An echo that was sent.
#[derive(Clone, Copy, Debug)]
struct Echo {
    token: EchoToken,
    sent: Reading,
    fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It has not come back yet, and will prove something when it does.
    Outstanding,
    /// It has come back.
    Used,
    /// Its round is over, or a newer echo has come back before it.
    Overtaken,
}

/// The time for which no echo has come back.
#[derive(Clone, Copy, Debug, Default)]
struct Missing {
    /// The time at which the last of the missing echoes was sent.
    sent: Option<Instant>,
    /// The whole time.
    total: Duration,
    /// The time since the last report.
    unsaid: Duration,
}

/// The meaning of an echo that has come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Echoed {
    /// It proves that the service has listened.
    Proves(Proof),
    /// Everything has arrived that had waited for the end of a stop of the process. Whoever dates
    /// messages has to know it, and then [`Rounds::caught_up`].
    CaughtUp {
        /// The stop.
        stop: Stop,
        /// The time for which the echo was on its way.
        latency: Duration,
    },
}

/// The proof that an echo gives when it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The beginning of the uninterrupted listening.
    pub since: DateTime<Utc>,
    /// Everything published before this instant has been received.
    pub until: DateTime<Utc>,
    /// The cause of the interruption before `since`.
    pub after: GapCause,
    /// The time for which the echo was on its way.
    pub latency: Duration,
}

/// The reason why an echo proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EchoIgnored {
    /// This process did not send it, or sent it so long ago that it is forgotten.
    Unknown,
    /// It has come back before.
    Used,
    /// Its round is over, or a newer echo has come back before it.
    Late,
    /// The broker sent it as a retained message.
    Retained,
}

impl EchoIgnored {
    /// All reasons.
    pub const ALL: [Self; 4] = [Self::Unknown, Self::Used, Self::Late, Self::Retained];

    /// The reason's name in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Used => "used",
            Self::Late => "late",
            Self::Retained => "retained",
        }
    }

    /// True if another client must have published it.
    pub fn is_foreign(self) -> bool {
        self != Self::Late
    }
}

impl Rounds {
    /// Creates rounds in which an echo is sent every `interval`.
    pub fn new(interval: Duration) -> Self {
        Self {
            patience: interval.saturating_mul(INTERVALS_UNANSWERED).max(PATIENCE_AT_LEAST),
            interval,
            number: 0,
            since: None,
            after: GapCause::NotRunning,
            clocks: None,
            echoes: VecDeque::with_capacity(ECHOES_KEPT),
            missing: Missing::default(),
            stop: None,
        }
    }

    /// Ends the round: the service no longer listens.
    pub fn interrupt(&mut self, cause: GapCause) {
        self.number += 1;
        if self.since.take().is_some() {
            self.after = cause;
        }
        overtake(&mut self.echoes);
    }

    /// Begins a round as [`begin`](Self::begin) does, after a subscription before which nothing can
    /// have been missed since an earlier instant, because nothing was for this service then.
    pub fn begin_since(&mut self, since: DateTime<Utc>, now: Reading) {
        self.begin(now);
        if let Some(begun) = &mut self.since {
            *begun = since.min(*begun);
        }
    }

    /// Begins a round: the service listens from now on.
    pub fn begin(&mut self, now: Reading) {
        self.number += 1;
        overtake(&mut self.echoes);
        self.since = Some(now.wall);
        self.clocks = Some(now);
    }

    /// Begins a new round because something was missed just now, while the listening goes
    /// on.
    pub fn restart(&mut self, now: Reading, cause: GapCause) {
        if self.since.is_some() {
            self.after = cause;
            self.begin(now);
        }
    }

    /// Begins a new round because the process was stopped. What waited for it still arrives.
    pub fn stopped(&mut self, stop: Stop, now: Reading) {
        // A sleeping machine shows as a clock that was set.
        if !self.watch_the_clock(now) {
            self.restart(now, GapCause::Stopped);
        }
        overtake(&mut self.echoes);
        self.stop = Some(stop);
    }

    /// Begins a new round because everything has arrived that had waited for the end of a stop,
    /// and messages are dated as they come again.
    pub fn caught_up(&mut self, now: Reading) {
        self.stop = None;
        if self.since.is_some() {
            self.begin(now);
        }
    }

    /// Remembers an echo that is about to be sent. If none has come back for too long,
    /// returns that time. It returns it again only after the same patience has passed once
    /// more.
    ///
    /// A stopped process does not wait for echoes, so at most one interval of the time
    /// between two echoes counts.
    pub fn send(&mut self, token: EchoToken, now: Reading) -> Option<Duration> {
        self.watch_the_clock(now);
        self.clocks = Some(now);
        if self.echoes.len() == ECHOES_KEPT {
            self.echoes.pop_front();
        }
        self.echoes.push_back(Echo { token, sent: now, fate: Fate::Outstanding });
        let missing = &mut self.missing;
        if let Some(last) = missing.sent.replace(now.monotonic) {
            let passed = now.monotonic.saturating_duration_since(last).min(self.interval);
            missing.total += passed;
            missing.unsaid += passed;
        }
        (missing.unsaid >= self.patience).then(|| {
            missing.unsaid = Duration::ZERO;
            missing.total
        })
    }

    /// Takes an echo that has come back.
    ///
    /// # Errors
    ///
    /// The reason why it proves nothing. Then nothing changes.
    pub fn take(&mut self, token: EchoToken, now: Reading) -> Result<Echoed, EchoIgnored> {
        self.watch_the_clock(now);
        let known = self.echoes.iter().position(|echo| echo.token == token);
        let index = known.ok_or(EchoIgnored::Unknown)?;
        match self.echoes[index].fate {
            Fate::Outstanding => (),
            Fate::Used => return Err(EchoIgnored::Used),
            Fate::Overtaken => return Err(EchoIgnored::Late),
        }
        // The clock may have been set back by less than is noticed.
        let sent = self.echoes[index].sent;
        let since = self.since.ok_or(EchoIgnored::Late)?.min(sent.wall);
        self.since = Some(since);
        overtake(self.echoes.iter_mut().take(index));
        self.echoes[index].fate = Fate::Used;
        self.missing = Missing::default();
        let latency = now.monotonic.saturating_duration_since(sent.monotonic);
        Ok(match self.stop {
            Some(stop) => Echoed::CaughtUp { stop, latency },
            None => {
                let until = sent.wall;
                Echoed::Proves(Proof { since, until, after: self.after, latency })
            }
        })
    }

    /// The longest time for which echoes may be missing.
    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    /// The number of this round, or of this pause between two. What was sent under another number
    /// proves nothing.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Begins a new round if the wall clock was set since the last echo was sent. True if it was.
    pub(super) fn watch_the_clock(&mut self, now: Reading) -> bool {
        let was_set = self.clocks.is_some_and(|last| now.set_since(&last).is_some());
        if was_set {
            self.restart(now, GapCause::ClockStep);
        }
        was_set
    }
}

/// Makes those of the echoes that are still on their way prove nothing.
fn overtake<'a>(echoes: impl IntoIterator<Item = &'a mut Echo>) {
    for echo in echoes {
        if echo.fate == Fate::Outstanding {
            echo.fate = Fate::Overtaken;
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::domain::stops::Stops;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).expect("small")
    }

    const SECOND: Duration = Duration::from_secs(1);
    const INTERVAL: Duration = Duration::from_secs(5);

    /// Rounds whose clocks run together until one is set.
    struct Clocks {
        rounds: Rounds,
        now: Reading,
        tokens: u128,
    }

    impl Clocks {
        fn listening_since(seconds: i64) -> Self {
            let now = Reading { wall: at(seconds), monotonic: Instant::now() };
            let mut rounds = Rounds::new(INTERVAL);
            rounds.begin(now);
            Self { rounds, now, tokens: 0 }
        }

        fn pass(&mut self, passed: Duration) {
            self.now.wall += passed;
            self.now.monotonic += passed;
        }

        fn send(&mut self) -> EchoToken {
            self.tokens += 1;
            let token = EchoToken::new(self.tokens);
            self.rounds.send(token, self.now);
            token
        }

        fn send_after(&mut self, passed: u32, reading: i64) -> EchoToken {
            self.pass(passed * SECOND);
            self.now.wall = at(reading);
            self.send()
        }

        fn take(&mut self, token: EchoToken) -> Result<(i64, i64, GapCause), EchoIgnored> {
            let Echoed::Proves(proof) = self.rounds.take(token, self.now)? else {
                panic!("nothing has waited");
            };
            Ok((proof.since.timestamp(), proof.until.timestamp(), proof.after))
        }
    }

    #[test]
    fn an_echo_proves_the_listening_since_the_round_began() {
        let mut clocks = Clocks::listening_since(10);
        let echo = clocks.send_after(2, 12);
        clocks.pass(3 * SECOND);
        assert_eq!(clocks.take(echo), Ok((10, 12, GapCause::NotRunning)));
    }

    #[test]
    fn an_echo_proves_something_once() {
        let mut clocks = Clocks::listening_since(10);
        let echo = clocks.send_after(2, 12);
        clocks.take(echo).expect("it is new");
        clocks.pass(5 * SECOND);
        assert_eq!(clocks.take(echo), Err(EchoIgnored::Used));
        assert_eq!(clocks.take(EchoToken::new(77)), Err(EchoIgnored::Unknown));
    }

    #[test]
    fn echoes_that_change_places_are_not_a_clock_step() {
        let mut clocks = Clocks::listening_since(10);
        let echoes = [12, 14, 16].map(|reading| clocks.send_after(2, reading));
        assert_eq!(clocks.take(echoes[1]), Ok((10, 14, GapCause::NotRunning)));
        assert_eq!(clocks.take(echoes[0]), Err(EchoIgnored::Late));
        assert_eq!(clocks.take(echoes[2]), Ok((10, 16, GapCause::NotRunning)));
    }

    #[test]
    fn an_echo_that_proves_nothing_changes_nothing() {
        let mut clocks = Clocks::listening_since(10);
        let used = clocks.send_after(5, 15);
        clocks.take(used).expect("it is new");
        let mut said = Vec::new();
        for _ in 0..5 {
            clocks.pass(INTERVAL);
            for token in [used, EchoToken::new(99)] {
                clocks.take(token).expect_err("it is a replay");
            }
            clocks.tokens += 1;
            said.push(clocks.rounds.send(EchoToken::new(clocks.tokens), clocks.now));
        }
        assert_eq!(said, [None, None, None, None, Some(4 * INTERVAL)], "none came back");
    }

    #[test]
    fn an_echo_from_before_an_interruption_proves_nothing() {
        for cause in [GapCause::Disconnected, GapCause::Shed] {
            let mut clocks = Clocks::listening_since(10);
            let echo = clocks.send_after(2, 12);
            clocks.rounds.interrupt(cause);
            assert_eq!(clocks.take(echo), Err(EchoIgnored::Late));
            clocks.pass(2 * SECOND);
            clocks.rounds.begin(clocks.now);
            assert_eq!(clocks.take(echo), Err(EchoIgnored::Late));
            let echo = clocks.send_after(1, 15);
            assert_eq!(clocks.take(echo), Ok((14, 15, cause)));
        }
    }

    #[test]
    fn after_a_stop_the_first_echo_tells_that_all_has_arrived_and_the_next_one_proves() {
        let (mut stops, mut clocks) = (Stops::default(), Clocks::listening_since(10));
        stops.tick(clocks.now);
        let before = clocks.send_after(2, 12);
        clocks.pass(8 * SECOND);
        let stop = stops.tick(clocks.now).expect("ten seconds without a reading");
        clocks.rounds.stopped(stop, clocks.now);
        assert_eq!(clocks.take(before), Err(EchoIgnored::Late));
        let first = clocks.send();
        clocks.pass(SECOND);
        let echoed = clocks.rounds.take(first, clocks.now);
        assert_eq!(echoed, Ok(Echoed::CaughtUp { stop, latency: SECOND }));
        clocks.rounds.caught_up(clocks.now);
        let next = clocks.send_after(4, 25);
        assert_eq!(clocks.take(next), Ok((21, 25, GapCause::Stopped)));
    }

    #[test]
    fn a_machine_that_slept_is_told_as_a_clock_that_was_set_and_a_reconnect_ends_no_doubt() {
        let (mut stops, mut clocks) = (Stops::default(), Clocks::listening_since(10));
        stops.tick(clocks.now);
        clocks.now.wall = at(3_600);
        let stop = stops.tick(clocks.now).expect("the wall clock ran on");
        clocks.rounds.stopped(stop, clocks.now);
        clocks.rounds.interrupt(GapCause::Disconnected);
        clocks.rounds.begin(clocks.now);
        let first = clocks.send();
        assert!(matches!(clocks.rounds.take(first, clocks.now), Ok(Echoed::CaughtUp { .. })));
        let mut clocks = Clocks::listening_since(10);
        clocks.now.wall = at(3_600);
        clocks.rounds.stopped(stop, clocks.now);
        clocks.rounds.caught_up(clocks.now);
        let next = clocks.send();
        assert_eq!(clocks.take(next), Ok((3_600, 3_600, GapCause::ClockStep)));
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
            let echo = clocks.send_after(5, reading);
            assert_eq!(clocks.take(echo), Ok((since, reading, after)));
        }
    }

    #[test]
    fn an_echo_that_was_on_its_way_when_the_clock_was_set_proves_nothing() {
        for reading in [5, 3600] {
            let mut clocks = Clocks::listening_since(10);
            let echo = clocks.send_after(5, 15);
            clocks.now.wall = at(reading);
            assert_eq!(clocks.take(echo), Err(EchoIgnored::Late));
            let echo = clocks.send();
            assert_eq!(clocks.take(echo), Ok((reading, reading, GapCause::ClockStep)));
        }
    }

    #[test]
    fn a_clock_set_back_by_less_than_is_noticed_delays_no_proof() {
        let mut clocks = Clocks::listening_since(10);
        clocks.now.wall -= TimeDelta::milliseconds(400);
        for passed in [0, 1_u32] {
            clocks.pass(passed * SECOND);
            let echo = clocks.send();
            let echoed = clocks.rounds.take(echo, clocks.now);
            let Ok(Echoed::Proves(proof)) = echoed else { panic!("it is of this round") };
            assert_eq!(proof.until - proof.since, TimeDelta::seconds(i64::from(passed)));
        }
    }

    #[test]
    fn missing_echoes_are_reported_again_and_again_until_one_comes_back() {
        let mut clocks = Clocks::listening_since(0);
        let mut told = Vec::new();
        let mut last = None;
        for token in 1..11 {
            let token = EchoToken::new(token);
            told.push(clocks.rounds.send(token, clocks.now).map(|missing| missing.as_secs()));
            last = Some(token);
            clocks.pass(INTERVAL);
        }
        let expected = [None, None, None, None, Some(20), None, None, None, Some(40), None];
        assert_eq!(told, expected);
        clocks.take(last.expect("some were sent")).expect("it is of this round");
        assert_eq!(clocks.rounds.send(EchoToken::new(11), clocks.now), None);
    }

    #[test]
    fn neither_a_pause_of_the_process_nor_a_burst_counts_as_missing_echoes() {
        let mut clocks = Clocks::listening_since(0);
        for token in 1..100 {
            assert_eq!(clocks.rounds.send(EchoToken::new(token), clocks.now), None, "a burst");
        }
        for hour in 1..4 {
            clocks.pass(3600 * SECOND);
            assert_eq!(clocks.rounds.send(EchoToken::new(200 + hour), clocks.now), None);
        }
    }

    #[test]
    fn the_number_of_remembered_echoes_is_bounded() {
        let mut clocks = Clocks::listening_since(0);
        let echoes: Vec<_> = (0..10 * ECHOES_KEPT).map(|_| clocks.send()).collect();
        assert_eq!(clocks.rounds.echoes.len(), ECHOES_KEPT);
        assert_eq!(clocks.take(echoes[0]), Err(EchoIgnored::Unknown));
        clocks.take(*echoes.last().expect("some")).expect("it is new");
    }

    #[test]
    fn a_token_is_32_hexadecimal_digits() {
        let token = EchoToken::new(0xab);
        let text = token.to_string();
        assert_eq!(text, "000000000000000000000000000000ab");
        assert_eq!(text.parse(), Ok(token));
        for other in ["", "ab", &text[1..], "+00000000000000000000000000000ab", &format!("{text}0")]
        {
            assert_eq!(other.parse::<EchoToken>(), Err(InvalidEchoToken), "{other:?}");
        }
    }
}
