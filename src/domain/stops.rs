//! Stops: stretches in which the process did not run, and the date of what is read after one.
//!
//! While a process is stopped by a signal, frozen or held by a debugger, or its machine sleeps,
//! messages wait for it in the broker and in sockets. What is read afterwards may have been
//! published at any moment since. Dated by the time at which it is read, it would say that a
//! device lived which had died long before. So it is dated at the beginning of the stop, and
//! nothing between that and the moment at which everything has arrived counts as listened: no
//! device is silent for longer by it, and nothing old revives one.
//!
//! A stop shows in readings that are taken again and again while the process runs: two of them
//! are further apart than they can be otherwise, by either clock. The wall clock runs on while the
//! machine sleeps, so that shows as well. A clock that is set forward looks the same, and the same
//! is right. A thread that waits for a disk stops none of the others, and is no stop.

use chrono::{DateTime, TimeDelta, Utc};

use super::Reading;

/// The time between two readings after which the process must have been stopped. Readings are
/// taken ten times as often, so that a busy machine is not taken for one that stood still.
const STOPPED: TimeDelta = TimeDelta::seconds(1);

/// A stop of the process, by its number among all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop(u64);

/// The date of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dated {
    /// It was published just before it was read at this instant.
    When(DateTime<Utc>),
    /// It may have waited for the process. It counts as received at this instant, the beginning
    /// of the stop.
    AtStop(DateTime<Utc>),
}

/// The stops of one process.
#[derive(Clone, Debug, Default)]
pub struct Stops {
    /// The newest reading. `None` until the first one, without which there is no stop.
    newest: Option<Reading>,
    /// The beginning of the stop from which not everything has arrived that waited for its end.
    began: Option<DateTime<Utc>>,
    count: u64,
}

impl Stops {
    /// Takes a reading, as is done again and again while the process runs. Returns the stop that
    /// it shows.
    pub fn tick(&mut self, now: Reading) -> Option<Stop> {
        let Some(last) = self.newest else {
            self.newest = Some(now);
            return None;
        };
        // Readings of several threads may come out of order.
        if now.monotonic < last.monotonic {
            return None;
        }
        self.newest = Some(now);
        let ran = now.monotonic.saturating_duration_since(last.monotonic);
        let ran = TimeDelta::from_std(ran).unwrap_or(TimeDelta::MAX);
        if ran.max(now.wall - last.wall) < STOPPED {
            return None;
        }
        // What waited during an earlier stop may still wait.
        self.began = Some(self.began.map_or(last.wall, |earlier| earlier.min(last.wall)));
        self.count += 1;
        Some(Stop(self.count))
    }

    /// Takes the reading at which a message was read. Returns the stop that it shows, unless
    /// nobody takes readings again and again.
    pub fn read(&mut self, now: Reading) -> Option<Stop> {
        self.newest.and_then(|_| self.tick(now))
    }

    /// The date of a message that was read at `now`.
    pub fn date(&self, now: Reading) -> Dated {
        match self.began {
            None => Dated::When(now.wall),
            // The clock may have been set back since.
            Some(began) => Dated::AtStop(began.min(now.wall)),
        }
    }

    /// Notes that everything has arrived that had waited for the end of this stop, so messages
    /// are dated as they come again. False if there was a later stop.
    pub fn all_arrived(&mut self, stop: Stop) -> bool {
        let is_newest = stop.0 == self.count;
        if is_newest {
            self.began = None;
        }
        is_newest
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;
    use crate::domain::rounds::Echoed;
    use crate::domain::{Coverage, EchoToken, Rounds};

    fn at(millis: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(millis).expect("small")
    }

    /// A machine whose readings name the time that has passed and the time that its clock shows,
    /// in milliseconds.
    struct Machine(Instant);

    impl Machine {
        fn reading(&self, passed: u64, shows: i64) -> Reading {
            Reading { wall: at(shows), monotonic: self.0 + Duration::from_millis(passed) }
        }
    }

    fn machine() -> Machine {
        Machine(Instant::now())
    }

    #[test]
    fn what_is_read_after_a_stop_is_dated_at_its_beginning_until_all_has_arrived() {
        let (machine, mut stops) = (machine(), Stops::default());
        let now = |passed: u64| machine.reading(passed, passed as i64);
        assert_eq!(stops.tick(now(100)), None);
        assert_eq!(stops.read(now(150)), None);
        assert_eq!(stops.date(now(150)), Dated::When(at(150)));
        let stop = stops.read(now(9_000)).expect("nothing has run for nine seconds");
        assert_eq!(stops.date(now(9_000)), Dated::AtStop(at(150)));
        assert_eq!(stops.tick(now(9_010)), None, "it is noticed once");
        assert_eq!(stops.date(now(9_500)), Dated::AtStop(at(150)));
        assert!(stops.all_arrived(stop));
        assert_eq!(stops.date(now(9_600)), Dated::When(at(9_600)));
    }

    #[test]
    fn what_waited_during_two_stops_is_dated_at_the_first_until_the_second_is_over() {
        let (machine, mut stops) = (machine(), Stops::default());
        let now = |passed: u64| machine.reading(passed, passed as i64);
        stops.tick(now(0));
        let first = stops.tick(now(5_000)).expect("a stop");
        let second = stops.tick(now(9_000)).expect("another one");
        assert!(!stops.all_arrived(first));
        assert_eq!(stops.date(now(9_000)), Dated::AtStop(at(0)));
        assert!(stops.all_arrived(second));
        assert_eq!(stops.date(now(9_000)), Dated::When(at(9_000)));
    }

    #[test]
    fn a_machine_that_sleeps_shows_by_its_wall_clock_and_a_clock_set_back_is_no_stop() {
        for (passed, shows, stopped) in [
            (1_100, 1_999, false),
            (1_100, 2_001, true),
            (1_100, 3_600_000, true),
            (1_100, -3_600_000, false),
            (2_001, -3_600_000, true),
            (900, 1_100, false),
        ] {
            let (machine, mut stops) = (machine(), Stops::default());
            stops.tick(machine.reading(1_000, 1_000));
            let now = machine.reading(passed, shows);
            assert_eq!(stops.tick(now).is_some(), stopped, "{passed} {shows}");
            let Dated::AtStop(date) = stops.date(now) else {
                assert!(!stopped, "{passed} {shows}");
                continue;
            };
            assert_eq!(date, at(shows.min(1_000)), "never in the future");
        }
    }

    #[test]
    fn without_ticks_nothing_is_taken_for_a_stop() {
        let (machine, mut stops) = (machine(), Stops::default());
        assert_eq!(stops.read(machine.reading(0, 0)), None);
        assert_eq!(stops.read(machine.reading(60_000, 60_000)), None);
    }

    /// The process, the broker, and one connection between them, which keeps the order.
    struct Process {
        machine: Machine,
        now: u64,
        stops: Stops,
        rounds: Rounds,
        coverage: Coverage,
        /// The messages that the broker has for it: the time of publication, and an echo's token.
        waiting: std::collections::VecDeque<(u64, Option<EchoToken>)>,
        tokens: u128,
        /// The time at which each heartbeat was published, and its date.
        heard: Vec<(u64, DateTime<Utc>)>,
    }

    impl Process {
        fn new() -> Self {
            let machine = machine();
            let mut rounds = Rounds::new(Duration::from_millis(500));
            rounds.begin(machine.reading(0, 0));
            let mut stops = Stops::default();
            stops.tick(machine.reading(0, 0));
            let coverage = Coverage::new(Duration::from_millis(500));
            let (waiting, heard) = Default::default();
            Self { machine, now: 0, stops, rounds, coverage, waiting, tokens: 0, heard }
        }

        fn clock(&self) -> Reading {
            self.machine.reading(self.now, self.now as i64)
        }

        fn is_stopped(&mut self, stop: Option<Stop>) {
            if let Some(stop) = stop {
                self.rounds.stopped(stop, self.clock());
                self.send();
            }
        }

        fn tick(&mut self) {
            let stop = self.stops.tick(self.clock());
            self.is_stopped(stop);
        }

        fn send(&mut self) {
            self.tokens += 1;
            let token = EchoToken::new(self.tokens);
            self.rounds.send(token, self.clock());
            self.waiting.push_back((self.now, Some(token)));
        }

        fn read(&mut self, count: usize) {
            for _ in 0..count {
                let Some((published, echo)) = self.waiting.pop_front() else { return };
                let stop = self.stops.read(self.clock());
                self.is_stopped(stop);
                let Some(token) = echo else {
                    let (Dated::When(date) | Dated::AtStop(date)) = self.stops.date(self.clock());
                    self.heard.push((published, date));
                    continue;
                };
                match self.rounds.take(token, self.clock()) {
                    Ok(Echoed::Proves(proof)) => {
                        self.coverage.confirm(proof.since, proof.until, proof.after);
                    }
                    Ok(Echoed::CaughtUp { stop, .. }) => {
                        if self.stops.all_arrived(stop) {
                            self.rounds.caught_up(self.clock());
                        }
                    }
                    Err(_) => (),
                }
            }
        }
    }

    proptest! {
        /// Whatever waits for a process however often stopped, nothing that it has listened to lies
        /// between a heartbeat's publication and its date if that is earlier, and no date goes
        /// back.
        #[test]
        fn no_silence_is_counted_before_a_heartbeat_was_published(
            steps in proptest::collection::vec((0_u8..8, 1_u64..900, 1_usize..6), 1..120),
        ) {
            let mut process = Process::new();
            for (what, takes, count) in steps {
                match what {
                    0 | 1 => process.waiting.push_back((process.now, None)),
                    2 => process.send(),
                    3 | 4 => process.read(count),
                    5 => process.tick(),
                    // It stands still, and devices publish meanwhile.
                    6 => {
                        process.now += takes * 5;
                        process.waiting.push_back((process.now, None));
                        process.now += takes * 5;
                    }
                    _ => {
                        process.now += takes / 3;
                        process.tick();
                    }
                }
            }
            process.read(usize::MAX);
            process.tick();
            process.send();
            process.read(usize::MAX);
            let dates: Vec<_> = process.heard.iter().map(|(_, date)| *date).collect();
            prop_assert!(dates.is_sorted(), "{dates:?}");
            for (published, date) in process.heard {
                let published = at(published as i64);
                let counted = process.coverage.intervals().covered(date, published);
                prop_assert_eq!(counted, TimeDelta::zero(), "{} for {}", date, published);
            }
        }
    }
}
