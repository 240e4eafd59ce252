//! The rules that must hold at every moment.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use heartbeatd::domain::{
    Coverage, DeviceId, EventKind, EventPlace, Evidence, Happening, Recovery, Status, Transition,
    Verdict,
};
use heartbeatd::store;

use super::super::sink::Delivery;
use super::super::truth::Stretch;
use super::{
    ACKNOWLEDGE, CHECK_INTERVAL, Device, GIVE_UP, LAG, MARK, Mood, PRUNE, RECORD, SECOND, World,
    clocks, name, number,
};
use crate::support::database::patient_reader;
use crate::support::fleet::start;
use heartbeatd::actors::alert_sink::AlertError;

/// An offline transition or a recovery, and what the sink did with it.
#[derive(Clone, Debug, Default)]
pub(super) struct Alert {
    pub device: usize,
    /// The recovery, if it is one.
    pub recovery: Option<Recovery>,
    /// True if the sink was handed it.
    handed: bool,
    /// True if the sink has accepted it and the living service was told so.
    taken: bool,
    /// True if it may come again.
    excused: bool,
    /// True if it has left the outbox.
    struck: bool,
    /// True if another one was accepted while this one was at the head and had been refused:
    /// another alert, if this is one.
    passed: bool,
    refusals: u32,
}

impl World {
    /// Checks everything after a transaction of the service was committed.
    pub(super) async fn is_committed(&mut self, action: &str) {
        match action {
            RECORD => {
                self.new_transitions().await;
                self.assert_removed_stay_away().await;
            }
            MARK => self.new_transitions().await,
            ACKNOWLEDGE | GIVE_UP => self.is_struck(action).await,
            PRUNE => self.is_pruned().await,
            _ => (),
        }
    }

    async fn new_transitions(&mut self) {
        let known = self.written.last_key_value().map(|(sequence, _)| *sequence);
        let (mut before, mut new) = (None, Vec::new());
        loop {
            let page = self.commands.history(None, before, 20).await.expect("it reads");
            before = page.last().map(|t| t.sequence);
            new.extend(page.into_iter().take_while(|t| Some(t.sequence) > known));
            if before.is_none_or(|oldest| Some(oldest) <= known) {
                break;
            }
        }
        for transition in new.into_iter().rev() {
            let at = millis(transition.at);
            self.written.insert(transition.sequence, (self.now - ago(transition.at), at));
            if transition.to == Status::Offline {
                self.went_offline(&transition);
            }
            if transition.from == Status::Offline {
                self.came_back(&transition).await;
            } else {
                self.assert(
                    transition.ends.is_none(),
                    format_args!("{transition:?} ends an outage"),
                );
            }
        }
    }

    /// Checks that the outage of the device has ended in the same transaction.
    async fn came_back(&mut self, transition: &Transition) {
        let device = number(transition.device_id.as_str());
        let outage = self.open.remove(&device);
        let ends = transition.ends.map(|ended| ended.key.sequence);
        self.assert(
            outage.is_some() && ends == outage,
            format_args!("{transition:?} does not end {outage:?}"),
        );
        let ended_at = self.ended_at(&transition.device_id, outage).await;
        self.assert(
            ended_at == Some(transition.at),
            format_args!("{transition:?}, but its outage ended at {ended_at:?}"),
        );
        self.ended.extend(outage.map(|outage| (outage, transition.at)));
        self.note(format_args!("{} is back ({})", name(device), transition.sequence));
        let alert = Alert { device, recovery: transition.recovery(), ..Alert::default() };
        self.alerts.insert(transition.sequence, alert);
    }

    /// The end of an outage, as the database has it.
    async fn ended_at(&self, device: &DeviceId, outage: Option<i64>) -> Option<DateTime<Utc>> {
        let before = outage.map(|sequence| sequence + 1);
        let history = self.commands.history(Some(device), before, 1).await.expect("it reads");
        let row = history.into_iter().find(|row| Some(row.sequence) == outage);
        row.expect("an outage that lasts is kept").ended_at
    }

    /// Checks that the device was not heard within its timeout of listened time.
    fn went_offline(&mut self, transition: &Transition) {
        let device = number(transition.device_id.as_str());
        let timeout = self.devices[device].timeout;
        self.note(format_args!("{} is offline ({})", name(device), transition.sequence));
        // `None` if its heartbeats may have been lost.
        let heard = self.truth.heard(device).unwrap_or(0);
        let until = self.truth.heard_again(device).unwrap_or(self.now);
        let listened = self.truth.listened(heard, until);
        let unnoticed = self.truth.unnoticed(heard);
        self.assert(
            listened + unnoticed > timeout,
            format_args!("{} was heard at {heard}, {listened} of listening ago", name(device)),
        );
        // The same, without regard to listening.
        self.assert(
            until - heard + unnoticed > timeout,
            format_args!("{} was heard at {heard}", name(device)),
        );
        let claimed = transition.listened.map_or(i64::MAX, |listened| listened.num_milliseconds());
        let used = transition.timeout.map(|timeout| timeout.num_milliseconds());
        self.assert(
            claimed <= self.truth.listened(heard, self.now) + unnoticed && used == Some(timeout),
            format_args!("{transition:?} claims too much: {listened}, heard at {heard}"),
        );
        let alert = Alert { device, ..Alert::default() };
        self.alerts.insert(transition.sequence, alert);
        let last = self.open.insert(device, transition.sequence);
        self.assert(last.is_none(), format_args!("its outage {last:?} lasts"));
    }

    /// Checks that a buffered heartbeat does not bring a removed device back.
    async fn assert_removed_stay_away(&mut self) {
        for device in 0..self.devices.len() {
            let Some((at, heard)) = self.devices[device].removed else { continue };
            let heard_again = self.devices[device].handed_at > heard;
            if heard_again || self.truth.last_step() >= Some(heard) {
                self.devices[device].removed = None;
                continue;
            }
            let found = self.commands.device(&super::device_id(device)).await.expect("it reads");
            self.assert(
                found.is_none(),
                format_args!("{} was removed at {at} and is back: {found:?}", name(device)),
            );
        }
    }

    async fn fleet(&self) -> Vec<store::Device> {
        self.commands.devices(None, None, 10_000).await.expect("it reads")
    }

    /// Checks that each device that was silent for long enough while nothing was wrong is
    /// offline, even if something was wrong in between.
    pub(super) async fn assert_dead_are_found(&mut self, began: i64) {
        for row in self.fleet().await {
            let device = number(row.id.as_str());
            let Some(heard) = self.truth.dead_since(device) else { continue };
            if ![Status::Online, Status::Error].contains(&row.status) {
                continue;
            }
            let Self { devices, calm_since, .. } = &*self;
            let Device { changed_at, timeout, .. } = devices[device];
            let since = heard.max(*calm_since).max(changed_at);
            self.assert(
                began - since <= timeout + CHECK_INTERVAL + LAG || began - calm_since < 20 * SECOND,
                format_args!("{row:?} is dead since {heard}, calm since {calm_since}"),
            );
            // When the clock is set, the silence begins again at the first successful
            // check.
            let step = self.truth.last_step().unwrap_or(0);
            let seen = row.last_seen_at.map_or(0, |at| self.now - ago(at));
            let restarted = if step >= heard { seen.max(step) } else { 0 };
            let since = heard.max(changed_at).max(restarted);
            let proven = self.proven_between(since, began);
            self.assert(
                proven <= timeout || self.kind.forgets_coverage(),
                format_args!("{row:?} is dead since {heard}, {proven} are proven since {since}"),
            );
        }
    }

    /// The part of this time that is surely proven, whatever happened in between.
    fn proven_between(&self, from: i64, until: i64) -> i64 {
        let last = Stretch { from: self.proving_since, until };
        let all = self.proven.iter().chain([&last]);
        let proven = |stretch: &Stretch| {
            // Nothing is proven before its first echo or after its last, which may have
            // been late.
            (stretch.until - LAG).min(until) - (stretch.from + LAG).max(from)
        };
        all.map(|stretch| proven(stretch).max(0)).sum()
    }

    /// Checks that the listened time that `device show` claims is true.
    pub(super) async fn weigh_evidence(&mut self) {
        if self.kind.is_crowd() || self.rng.u8(0..3) > 0 {
            return;
        }
        let (now, config) = (clocks::wall(), self.config.clone());
        for row in self.fleet().await {
            let device = number(row.id.as_str());
            let (Some(seen), Some(heard)) = (row.last_seen_at, self.truth.heard(device)) else {
                continue;
            };
            let newest = self.commands.history(Some(&row.id), None, 1).await.expect("it reads");
            let instance = &config.mqtt.client_id;
            let listened = self.commands.listened(instance, seen, now).await.expect("it reads");
            let coverage = Coverage::new(config.mqtt.confirm_interval()).with(listened);
            let timeout = row.timeout().unwrap_or(config.heartbeat.timeout.get());
            let newest = newest.first();
            let evidence = Evidence::weigh(row.status, Some(seen), timeout, newest, &coverage, now);
            let Some(evidence) = evidence.filter(|e| e.verdict != Verdict::Offline) else {
                continue;
            };
            let listened = self.truth.listened(heard, self.now) + self.truth.unnoticed(heard);
            let own: Vec<_> = row.timeout().into_iter().collect();
            let default = config.heartbeat.timeout.get();
            let is_late = coverage.late_cutoffs(now, default, &own).silences(
                row.status,
                row.last_seen_at,
                row.timeout(),
            );
            self.assert(
                !is_late || 3 * listened > 2 * self.devices[device].timeout,
                format_args!("{row:?} is late, but heard at {heard}, listened {listened}"),
            );
            self.assert(
                evidence.listened <= TimeDelta::milliseconds(listened),
                format_args!("{row:?}: {evidence:?}, but heard at {heard}, listened {listened}"),
            );
        }
    }

    // --- Alerts ---

    /// Takes what the sink was handed. Returns true if there was anything.
    pub(super) fn take_delivery(&mut self) -> bool {
        let deliveries = self.process.as_ref().map(|process| process.deliveries.take());
        let deliveries = deliveries.unwrap_or_default();
        let anything = !deliveries.is_empty();
        for delivery in deliveries {
            self.assert(
                self.delivery.is_none(),
                format_args!("the sink still handles the last delivery"),
            );
            self.is_delivered(delivery);
        }
        anything
    }

    fn is_delivered(&mut self, delivery: Delivery) {
        let sequences = delivery.sequences.clone();
        let what = if delivery.recoveries.is_some() { "recoveries" } else { "alerts" };
        self.note(format_args!("delivers {what} {sequences:?}"));
        let outbox = self.alerts.iter().filter(|(_, alert)| !alert.struck);
        let outbox: Vec<_> = outbox.map(|(sequence, _)| *sequence).collect();
        let beside = outbox.first().is_some_and(|head| {
            sequences == self.probe_beside(*head)
                || self.alerts[head].refusals > 0
                    && self.recoveries_past(*head).starts_with(&sequences)
        });
        self.assert(
            outbox.starts_with(&sequences) || beside,
            format_args!("{sequences:?} is delivered of {outbox:?}"),
        );
        let recoveries = sequences.iter().filter_map(|s| self.alerts[s].recovery.clone());
        let recoveries: Vec<_> = recoveries.collect();
        self.assert(
            delivery.recoveries.as_deref().unwrap_or_default() == recoveries,
            format_args!("{:?} is delivered, not {recoveries:?}", delivery.recoveries),
        );
        for recovery in &recoveries {
            let offline = &self.alerts[&recovery.offline_key.sequence];
            self.assert(
                offline.struck,
                format_args!("{recovery:?} comes before its alert: {offline:?}"),
            );
        }
        for sequence in &sequences {
            let alert = &self.alerts[sequence];
            self.assert(
                !alert.taken || alert.excused,
                format_args!("{sequence} is delivered again: {alert:?}"),
            );
        }
        let takes = match self.mood() {
            Mood::Slow(each) => each * sequences.len() as i64,
            _ => self.rng.i64(0..100),
        };
        for sequence in &sequences {
            self.alerts.get_mut(sequence).expect("it is known").handed = true;
        }
        self.delivery = Some((self.now + takes, delivery));
        if self.kind.impatient {
            // The courier's patience ends in real time.
            #[expect(clippy::disallowed_methods, reason = "real threads of the driver get on")]
            std::thread::sleep(std::time::Duration::from_millis(3));
        }
    }

    /// The one that is delivered to find out whether the sink refuses all or only `head`.
    fn probe_beside(&self, head: i64) -> Vec<i64> {
        let is_struck = |sequence: i64| self.alerts[&sequence].struck;
        let (of_head, later) = (&self.alerts[&head], self.alerts.range(head + 1..));
        let may_precede = |alert: &Alert| match (&of_head.recovery, &alert.recovery) {
            (None, other) => other.is_none(),
            (Some(_), None) => alert.device != of_head.device,
            (Some(_), Some(other)) => {
                alert.device != of_head.device && is_struck(other.offline_key.sequence)
            }
        };
        let beside: Vec<_> =
            later.filter(|(_, alert)| !alert.struck && may_precede(alert)).collect();
        let other = beside.iter().find(|(_, alert)| alert.device != of_head.device);
        other.or(beside.first()).map(|(sequence, _)| **sequence).into_iter().collect()
    }

    /// The recoveries that may be delivered before `head`, if that is an alert which the sink
    /// refuses: those of other devices, up to the next alert of another one.
    fn recoveries_past(&self, head: i64) -> Vec<i64> {
        let of_head = &self.alerts[&head];
        let later = self.alerts.range(head + 1..);
        let others = later.filter(|(_, alert)| !alert.struck && alert.device != of_head.device);
        let recoveries = others.take_while(|(_, alert)| alert.recovery.is_some());
        let is_alert = of_head.recovery.is_none();
        recoveries.filter(|_| is_alert).map(|(sequence, _)| *sequence).collect()
    }

    /// The sink replies.
    pub(super) fn reply(&mut self) {
        let due = self.delivery.as_ref().is_some_and(|(at, _)| *at <= self.now);
        if !due {
            return;
        }
        if self.mood() == Mood::Deadly && !self.draining {
            self.dies = true;
            return;
        }
        let Some((_, delivery)) = self.delivery.take() else { return };
        let sequences = &delivery.sequences;
        let is_refused = |sequence: &i64| Some(self.alerts[sequence].device) == self.refused;
        let refuses = self.mood() == Mood::Fails || sequences.iter().any(is_refused);
        if refuses {
            self.excuse(sequences, false);
            let _gone = delivery.reply.send(Err(AlertError("out of paper".to_owned())));
            return;
        }
        let head = self.alerts.iter().find(|(_, alert)| !alert.struck).map(|(s, _)| *s);
        for sequence in sequences {
            let alert = self.alerts.get_mut(sequence).expect("it is known");
            (alert.taken, alert.excused) = (true, false);
        }
        let recovers = delivery.recoveries.is_some();
        if let Some(head) = head
            && !sequences.contains(&head)
        {
            let head = self.alerts.get_mut(&head).expect("it is known");
            // Recoveries prove nothing against an alert.
            head.passed |= !recovers || head.recovery.is_some();
        }
        let _gone = delivery.reply.send(Ok(()));
    }

    /// Lets these come again, because the sink refused them, or may have accepted them
    /// while the process `dies`.
    pub(super) fn excuse(&mut self, sequences: &[i64], dies: bool) {
        for sequence in sequences {
            let alert = self.alerts.get_mut(sequence).expect("it is known");
            alert.excused = true;
            alert.taken |= dies;
            alert.refusals += u32::from(sequences.len() == 1);
        }
    }

    /// Lets alerts come again that the ended process had not struck off.
    pub(super) fn excuse_unacknowledged(&mut self) {
        for alert in self.alerts.values_mut().filter(|alert| !alert.struck && alert.taken) {
            alert.excused = true;
        }
    }

    async fn is_struck(&mut self, action: &str) {
        let left = self.commands.undelivered(100_000).await.expect("it reads");
        let left: BTreeSet<_> = left.iter().map(|transition| transition.sequence).collect();
        let mut struck = Vec::new();
        for (sequence, alert) in &mut self.alerts {
            if !alert.struck && !left.contains(sequence) {
                alert.struck = true;
                struck.push((*sequence, alert.clone()));
            }
        }
        for (sequence, alert) in struck {
            if action == GIVE_UP {
                self.note(format_args!("{sequence} is given up"));
            }
            let untold = alert.recovery.is_some() && !self.kind.recovers;
            let right = if action == GIVE_UP { alert.passed } else { alert.taken || untold };
            self.assert(right, format_args!("{sequence} to {action}: {alert:?}"));
        }
    }

    async fn is_pruned(&mut self) {
        let kept = self.commands.history(None, None, 100_000).await.expect("it reads");
        let kept: BTreeSet<_> = kept.iter().map(|transition| transition.sequence).collect();
        let check = self.check.as_ref().expect("it prunes");
        let (began, now) = (check.began, self.now);
        let wall = millis(clocks::wall().max(check.wall));
        let (retention, bounds) = (self.kind.retention, self.kind.bounds);
        let steady = bounds.steady_before_pruning.as_millis() as i64;
        let pruned: Vec<_> =
            self.written.iter().filter(|(sequence, _)| !kept.contains(sequence)).collect();
        let pruned: Vec<_> = pruned.into_iter().map(|(s, times)| (*s, *times)).collect();
        for (sequence, (written, at)) in pruned {
            self.written.remove(&sequence);
            self.assert(
                !self.is_open(sequence)
                    && self.alerts.get(&sequence).is_none_or(|alert| alert.struck),
                format_args!("{sequence} still matters, and is deleted"),
            );
            self.assert(
                wall - at >= retention,
                format_args!("{sequence} of {at} is deleted at {wall}"),
            );
            let since = now - steady;
            self.assert(
                self.truth.is_steady(self.started_at, since, began),
                format_args!("{sequence} is deleted, but the clock was set after {since}"),
            );
            if self.truth.last_noticed(now) < Some(written) {
                let age = now - written + self.truth.set_by(written);
                self.assert(age >= retention, format_args!("{sequence} is {age} old and deleted"));
            }
        }
    }

    // --- In the end ---

    pub(super) async fn assert_in_the_end(&mut self) {
        for row in self.fleet().await {
            let device = number(row.id.as_str());
            let Some(heard) = self.truth.heard(device) else { continue };
            let expected = match (self.devices[device].alive, self.devices[device].broken) {
                (false, _) => [Status::Offline, Status::Provisioning],
                (true, broken) => [Status::Online.on_heartbeat(broken); 2],
            };
            self.assert(
                expected.contains(&row.status),
                format_args!("{row:?} was heard at {heard} and is not {expected:?}"),
            );
        }
        let kept = self.commands.history(None, None, 100_000).await.expect("it reads");
        for row in kept.into_iter().filter(|row| row.to == Status::Offline) {
            let ended = self.ended.get(&row.sequence);
            self.assert(
                row.ended_at.as_ref() == ended && ended.is_none() == self.is_open(row.sequence),
                format_args!("{row:?} ended at {ended:?}"),
            );
        }
        self.assert_events().await;
        let left: Vec<_> = self.alerts.iter().filter(|(_, alert)| !alert.struck).collect();
        // What the sink refuses keeps only what is of the same device.
        let is_refused = |alert: &Alert| Some(alert.device) == self.refused;
        let all_refused = left.iter().all(|(_, alert)| is_refused(alert));
        self.assert(all_refused, format_args!("not delivered: {left:?}"));
        for (sequence, alert) in &self.alerts {
            let passed = Some(alert.device) == self.refused;
            let untold = alert.recovery.is_some() && !self.kind.recovers;
            self.assert(
                alert.taken || passed || !alert.struck || alert.passed || untold,
                format_args!("{sequence} never reached the sink: {alert:?}"),
            );
        }
    }
}

impl World {
    /// Checks that the events tell every transition in order, each gap once, and the devices that
    /// are registered.
    async fn assert_events(&mut self) {
        let reader = patient_reader(&self.commands).await;
        let events = reader.events(EventPlace::default(), 1_000_000).await.expect("it reads");
        reader.close().await;
        let Some(events) = events else { return };
        let (mut sequences, mut gaps) = (Vec::new(), BTreeSet::new());
        let mut registered = BTreeSet::new();
        for event in events {
            let entry = match event.what {
                EventKind::Transition(transition) => {
                    sequences.push(transition.sequence);
                    continue;
                }
                EventKind::Entry(entry) => entry,
            };
            let is_new = match &entry.what {
                Happening::Registered { device } => registered.insert(device.clone()),
                Happening::Removed { device } => registered.remove(device),
                Happening::Gap { .. } => gaps.insert(entry.at),
                Happening::Listening | Happening::TookOver { .. } | Happening::State { .. } => true,
            };
            self.assert(is_new, format_args!("{entry:?} is told twice"));
        }
        let written: Vec<_> = self.written.keys().copied().collect();
        self.assert(sequences == written, format_args!("{sequences:?}, not {written:?}"));
        let fleet: BTreeSet<_> = self.fleet().await.iter().map(|row| row.id.to_string()).collect();
        self.assert(registered == fleet, format_args!("{registered:?}, not {fleet:?}"));
    }

    fn is_open(&self, outage: i64) -> bool {
        self.open.values().any(|open| *open == outage)
    }
}

/// The time that has passed since the clock would have shown `at`.
fn ago(at: DateTime<Utc>) -> i64 {
    (clocks::wall() - at).num_milliseconds().max(0)
}

fn millis(at: DateTime<Utc>) -> i64 {
    (at - start()).num_milliseconds()
}
