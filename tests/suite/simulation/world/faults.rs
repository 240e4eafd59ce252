//! The faults, and the other events that can happen at any moment.

use std::time::Duration;

use heartbeatd::store::{Outcome, Point, Selection};

use super::super::truth::Stretch;
use super::{Mood, SECOND, World, clocks, device_id, name, shown};

impl World {
    /// Chooses the outcome of a step of the database.
    pub(super) fn outcome(&mut self, point: &Point, faults: bool) -> Outcome {
        let fails = match self.outage {
            (until, percent) if self.now < until => self.rng.u8(0..100) < percent,
            _ => faults && self.rng.u16(0..250) == 0,
        };
        if !fails {
            return Outcome::GoOn;
        }
        let outcomes = match point {
            Point::AfterCommit(_) | Point::End(_) => return Outcome::GoOn,
            Point::Commit(_) => [Outcome::Fail, Outcome::CommitThenFail, Outcome::CommitThenFail],
            _ => [Outcome::Fail, Outcome::Fail, Outcome::Hang],
        };
        outcomes[self.rng.usize(0..3)]
    }

    /// True if nothing is wrong that affects a device or a check.
    pub(super) fn is_calm(&self) -> bool {
        self.is_proving() && self.frozen.is_empty() && self.now >= self.outage.0
    }

    /// True if the service can prove what it hears.
    pub(super) fn is_proving(&self) -> bool {
        let subscribed = self.link.as_ref().is_some_and(|link| link.subscribed);
        self.process.is_some()
            && !self.draining
            && subscribed
            && !self.cut
            && self.jam.is_none()
            && self.subscriptions.is_empty()
            && self.now >= self.paused_until
            && self.now >= self.slow_until
    }

    /// Notes that something disturbs the proof, or did until now.
    pub(super) fn is_disturbed(&mut self) {
        self.calm_since = self.now;
        self.proof_breaks();
    }

    pub(super) fn proof_breaks(&mut self) {
        let proven = Stretch { from: self.proving_since, until: self.now };
        if proven.until > proven.from {
            self.proven.push(proven);
        }
        self.proving_since = self.now;
    }

    fn somewhen(&mut self, at_most: i64) -> i64 {
        self.now + self.rng.i64(1..=at_most)
    }

    pub(super) async fn something_happens(&mut self) {
        if self.rng.bool() {
            self.something_at_this_very_moment().await;
            return;
        }
        if self.delivery.is_some() && !self.draining && self.rng.u8(0..3) == 0 {
            self.note(format_args!("drains in a delivery"));
            self.drain();
            return;
        }
        let until = self.somewhen(40 * SECOND);
        let running = self.process.is_some() && self.now >= self.paused_until;
        match self.rng.u8(0..24) {
            0 if running && !self.draining => {
                self.note(format_args!("drains"));
                self.drain();
            }
            1 => {
                self.note(format_args!("broker down until {until}"));
                self.broker_down_until = until;
                self.lose_link(true);
            }
            2 | 3 if self.kind.echo && !self.kind.receives() => {
                if let Some(link) = &mut self.link {
                    link.subscribed = false;
                    self.note(format_args!("subscription lost"));
                }
            }
            4 if self.kind.echo && self.link.is_some() => {
                self.note(format_args!("cut without a word"));
                self.cut();
            }
            5 | 6 if running && self.kind.echo => {
                self.asleep = self.rng.bool();
                self.paused_until = until;
                let how = if self.asleep { "asleep" } else { "paused" };
                self.note(format_args!("{how} until {until}"));
            }
            7..=9 => {
                let percent = [30, 60, 100][self.rng.usize(0..3)];
                self.outage = (until, percent);
                self.note(format_args!("database fails {percent} % until {until}"));
            }
            10 | 11 if !self.held.is_empty() => self.freeze(15 * SECOND),
            12..=15 => {
                let moods = [Mood::Fails, Mood::Deadly, Mood::Slow(100), Mood::Slow(4 * SECOND)];
                let mood = moods[self.rng.usize(0..4)];
                (self.mood, self.mood_until) = (mood, until);
                self.note(format_args!("sink is {mood:?} until {until}"));
            }
            16 if running && self.kind.receives() && self.jam.is_none() => {
                let until = self.somewhen(20 * SECOND);
                self.note(format_args!("inbox full until {until}"));
                self.jam(until);
            }
            16 | 17 => {
                self.slow_until = until;
                self.note(format_args!("slow network until {until}"));
            }
            18..=21 => {
                let device = self.rng.usize(0..self.kind.devices);
                let device = &mut self.devices[device];
                device.alive = !device.alive;
            }
            22 => {
                let device = self.rng.usize(0..self.kind.devices);
                self.devices[device].broken ^= true;
            }
            _ => (),
        }
    }

    /// Lets something happen that can happen between any two steps of the database.
    pub(super) async fn something_at_this_very_moment(&mut self) {
        match self.rng.u8(0..25) {
            0..=2 if self.process.is_some() => {
                let until = self.somewhen(40 * SECOND);
                let held: Vec<_> = self.held.iter().map(|held| shown(&held.point)).collect();
                self.note(format_args!("crash until {until} at {held:?}"));
                self.crash(until).await;
            }
            3..=6 => {
                let by = match self.rng.u8(0..4) {
                    0 => self.rng.i64(-900..=900),
                    1 => self.rng.i64(-SECOND * 15..=SECOND * 15),
                    _ => self.rng.i64(-SECOND * 200..=SECOND * 200),
                };
                self.set_clock(by);
            }
            7 if self.link.is_some() => {
                self.note(format_args!("connection lost"));
                self.lose_link(true);
            }
            8 | 9 => self.replay_an_echo(),
            10 | 11 => self.flood(),
            12..=14 if self.writing.is_none() => self.command().await,
            15..=17 if !self.held.is_empty() => self.freeze(12 * SECOND),
            _ => {
                let millis = self.rng.i64(1..2 * SECOND).min(self.until_something_is_due());
                self.pass(millis).await;
            }
        }
    }

    /// Makes the next steps of the database take long; perhaps the clock is set
    /// meanwhile.
    fn freeze(&mut self, at_most: i64) {
        let until = self.somewhen(at_most);
        self.frozen.append(&mut self.held);
        self.frozen_until = until;
        let points: Vec<_> = self.frozen.iter().map(|held| shown(&held.point)).collect();
        self.note(format_args!("held until {until}: {points:?}"));
        if self.rng.u8(0..3) == 0 {
            let by = self.rng.i64(-SECOND * 200..0);
            self.set_clock(by);
        }
    }

    pub(super) fn set_clock(&mut self, by: i64) {
        if self.kind.gentle {
            return;
        }
        if let Some(check) = &mut self.check {
            check.clean = false;
            // It may have read the clock just now.
            check.wall = check.wall.max(clocks::wall());
        }
        clocks::set_by(by);
        self.truth.clock_steps(self.now, by);
        self.is_disturbed();
        self.note(format_args!("clock set by {by}"));
    }

    async fn command(&mut self) {
        let device = self.rng.usize(0..self.devices.len());
        match self.rng.u8(0..4) {
            0 => {
                let ids = Some(vec![name(device)]);
                let selection = Selection { ids, ..Default::default() };
                let at = clocks::wall();
                let removed = self.commands.remove(&selection, None, at).await;
                if !removed.expect("it writes").is_empty() {
                    if let Some(outage) = self.open.remove(&device) {
                        self.ended.insert(outage, at);
                    }
                    let (now, handed_at) = (self.now, self.devices[device].handed_at);
                    self.devices[device].removed = Some((now, handed_at));
                    self.devices[device].timeout = super::TIMEOUT;
                    self.note(format_args!("{} removed", name(device)));
                }
            }
            1 => {
                let added = self.commands.register(&device_id(device), None, clocks::wall()).await;
                if added.expect("it writes") {
                    self.devices[device].removed = None;
                    self.devices[device].timeout = super::TIMEOUT;
                    self.note(format_args!("{} added", name(device)));
                }
            }
            _ => {
                let timeouts = [None, Some(17), Some(23), Some(31), Some(53)];
                let timeout = timeouts[self.rng.usize(0..timeouts.len())];
                self.set_timeout(device, timeout).await;
            }
        }
        self.devices[device].changed_at = self.now;
    }

    /// Gives a device a timeout of so many seconds. Registers it if it is not registered
    /// and has not been removed.
    pub(super) async fn set_timeout(&mut self, device: usize, seconds: Option<u64>) {
        let (id, timeout) = (device_id(device), seconds.map(Duration::from_secs));
        if self.now == 0 {
            self.commands.register(&id, timeout, clocks::wall()).await.expect("it writes");
        }
        if self.commands.set_timeout(&id, timeout).await.expect("it writes") {
            let millis = seconds.map_or(super::TIMEOUT, |seconds| seconds as i64 * SECOND);
            self.devices[device].timeout = millis;
            self.note(format_args!("{} may be silent for {millis}", name(device)));
        }
    }

    /// Heals everything; only dead devices stay dead.
    pub(super) fn heal(&mut self) {
        self.note(format_args!("everything heals"));
        let now = self.now;
        self.is_healed = true;
        self.broker_down_until = now;
        self.down_until = self.down_until.min(now);
        self.paused_until = now;
        self.frozen_until = now;
        self.outage = (now, 0);
        self.slow_until = now;
        if let Some((until, _)) = &mut self.jam {
            *until = now;
        }
        self.mood_until = now;
        if self.broker_closes_at.is_some() {
            self.broker_closes_at = Some(now);
        }
    }
}
