//! The echoes that prove that heartbeats arrive. Says when they do not come back, while that
//! lasts, and when it is over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use log::{debug, error, info};

use super::TARGET;
use super::entries::EntryLog;
use crate::actors::device_registry::ConfirmListening;
use crate::domain::{
    EchoIgnored, EchoToken, Echoed, Entries, GapCause, NodeState, Proof, Reading, Returned, Stop,
};
use crate::duration::human;
use crate::logging::line_budget::LineBudget;
use crate::logging::outage::Outage;
use crate::metrics::Metrics;
use crate::mqtt;

/// The meaning of an echo that has come back.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Came {
    /// It proves this; what comes after it may still take that back.
    Proves(ConfirmListening),
    /// Everything has arrived that had waited for the end of this stop of the process.
    CaughtUp(Stop),
    /// It proves nothing.
    Nothing,
}

/// The echoes on their way, and the time in which none comes back.
pub(super) struct Echoes {
    /// The topic on which they are published. `None` if being connected counts as the
    /// evidence.
    topic: Option<String>,
    entries: Entries,
    /// The log of the other nodes.
    nodes: EntryLog,
    /// The time after which a node that cannot be reached is left out.
    timeout: Duration,
    metrics: Arc<Metrics>,
    /// The time in which no echo comes back, once that was said.
    missing: Option<Outage>,
    /// True from the time at which not everybody was heard until everybody provably is.
    incomplete: bool,
    /// The longest time by which a heartbeat may come after an echo that was published after it.
    settle: TimeDelta,
    foreign: LineBudget,
}

impl Echoes {
    /// Echoes that are sent on `topic` every `interval`.
    pub(super) fn new(topic: Option<&str>, interval: Duration, metrics: Arc<Metrics>) -> Self {
        Self {
            topic: topic.map(str::to_owned),
            entries: Entries::new(interval),
            nodes: EntryLog::default(),
            timeout: Duration::MAX,
            metrics,
            missing: None,
            incomplete: false,
            settle: TimeDelta::zero(),
            foreign: mqtt::foreign_echoes("echoes that are not ours"),
        }
    }

    /// From now on nothing is proven without echoes through these nodes. One that cannot be reached
    /// for `timeout` is left out.
    pub(super) fn enter_at(&mut self, urls: &[String], timeout: Duration) {
        self.entries = self.entries.clone().with_nodes(urls.len(), timeout);
        self.nodes = EntryLog::of(urls);
        self.timeout = timeout;
        self.metrics.set_entries(self.entries.count());
    }

    /// The number of other nodes.
    pub(super) fn nodes(&self) -> usize {
        self.nodes.count()
    }

    /// From now on an echo proves less by as much: a heartbeat may come so much later than it.
    pub(super) fn settle_for(&mut self, settle: Duration) {
        self.settle = TimeDelta::from_std(settle).unwrap_or(TimeDelta::MAX);
    }

    /// The longest time by which a heartbeat may come after an echo that was published after it.
    pub(super) fn settles_for(&self) -> Duration {
        self.settle.to_std().unwrap_or_default()
    }

    /// Notes that the service listens from now on.
    pub(super) fn begin(&mut self, now: Reading) {
        self.entries.begin(now);
    }

    /// Notes that the service listens from now on, and has missed nothing since an earlier instant.
    pub(super) fn begin_since(&mut self, since: DateTime<Utc>, now: Reading) {
        self.entries.begin_since(since, now);
    }

    /// Notes that the service no longer listens. What is on its way proves nothing.
    pub(super) fn interrupt(&mut self, cause: GapCause) {
        self.entries.interrupt(cause);
    }

    /// Notes that not everybody was heard while the service listens, because messages were
    /// thrown away or devices shut out. What is on its way proves nothing.
    pub(super) fn missed(&mut self, now: Reading, cause: GapCause) {
        self.entries.restart(now, cause);
        self.incomplete = true;
        self.metrics.set_listening(false);
    }

    /// Notes that the process was stopped. What is on its way proves nothing, and messages that
    /// have waited still arrive.
    pub(super) fn stopped(&mut self, stop: Stop, now: Reading) {
        self.entries.stopped(stop, now);
    }

    /// Notes that nothing arrives any more that had waited for the end of a stop.
    pub(super) fn caught_up(&mut self, now: Reading) {
        self.entries.caught_up(now);
    }

    /// Notes a proof that nothing has come after which takes it back.
    pub(super) fn have_proven(&mut self, proof: &ConfirmListening) {
        self.metrics.set_proven(proof.until);
        if std::mem::take(&mut self.incomplete) {
            self.show();
        }
    }

    /// Notes an echo that is about to be sent. Returns true if none has come back for too
    /// long. The service then no longer listens and must subscribe again.
    pub(super) fn send(&mut self, token: EchoToken, now: Reading) -> bool {
        let Some(missing) = self.entries.send(token, now) else { return false };
        let Some(topic) = &self.topic else { return false };
        if self.missing.is_none() {
            self.missing = Some(Outage::begin(now.monotonic));
            self.metrics.set_listening(false);
            error!(
                target: TARGET, topic, seconds = missing.as_secs_f64();
                "no echo comes back, so nothing proves that heartbeats do, and no device goes \
                 offline; the broker must allow this client to write and to read this topic \
                 (or set mqtt.echo_interval = \"0s\")"
            );
        }
        // An echo that comes back before the broker has answered does not tell since when the
        // subscription is there again.
        self.entries.interrupt(GapCause::NoEcho);
        true
    }

    /// Notes an echo that was published through another node, or `None` if that cannot be reached.
    /// Returns true if it has to be diagnosed why.
    pub(super) fn sent_through(
        &mut self,
        node: usize,
        token: Option<EchoToken>,
        now: Reading,
    ) -> bool {
        let Some(state) = self.entries.send_through(node, token, now) else { return false };
        self.show();
        match state {
            NodeState::Answering => false,
            NodeState::Missing => self.nodes.is_missing(node, token.is_some(), now.monotonic),
            NodeState::Gone => {
                self.nodes.is_left_out(node, self.timeout, now.monotonic);
                false
            }
        }
    }

    /// True if another node is left out.
    pub(super) fn leave_out(&self, node: usize) -> bool {
        self.entries.is_gone(node)
    }

    /// Logs why another node cannot be reached.
    pub(super) fn explain_entry(&mut self, node: usize, found: Option<String>) {
        self.nodes.explain(node, found);
    }

    /// Shows in the metrics what comes back.
    fn show(&self) {
        self.metrics.set_entries(self.entries.count());
        let proven = !self.are_missing() && !self.incomplete && !self.lack_an_entry();
        self.metrics.set_listening(proven);
    }

    /// True if no echo comes back through one of the other nodes.
    pub(super) fn lack_an_entry(&self) -> bool {
        let [_answering, missing, _gone] = self.entries.count();
        missing > 0
    }

    /// True if no echo comes back and the log says so.
    pub(super) fn are_missing(&self) -> bool {
        self.missing.is_some()
    }

    /// True if messages are thrown away or devices kept out.
    pub(super) fn are_incomplete(&self) -> bool {
        self.incomplete
    }

    /// Logs that still no echo comes back, if it is time for a reminder.
    pub(super) fn remind(&mut self, now: Instant) {
        self.nodes.remind(now);
        if let Some(lasts) = self.missing.as_mut().and_then(|missing| missing.remind(now)) {
            let (topic, seconds) = (self.topic.as_deref(), lasts.as_secs());
            error!(
                target: TARGET, topic, seconds;
                "no echo has come back for {}, and no device goes offline", human(lasts)
            );
        }
    }

    /// Takes an echo that has come back.
    pub(super) fn take(&mut self, token: EchoToken, now: Reading) -> Came {
        let Returned { latency, node, echoed } = match self.entries.take(token, now) {
            Ok(returned) => returned,
            Err(why) => {
                self.ignore(why);
                return Came::Nothing;
            }
        };
        self.metrics.echoed(latency.as_secs_f64());
        debug!(target: TARGET, latency_ms = latency.as_millis(); "echo came back");
        match node {
            Some(node) => {
                self.nodes.is_back(node, now.monotonic);
                self.show();
            }
            None => self.come_back(now.monotonic),
        }
        match echoed {
            Some(Echoed::Proves(Proof { since, until, after, .. })) => {
                let until = until.checked_sub_signed(self.settle).filter(|until| *until >= since);
                let proof = until.map(|until| ConfirmListening { since, until, after });
                proof.map_or(Came::Nothing, Came::Proves)
            }
            Some(Echoed::CaughtUp { stop, .. }) => Came::CaughtUp(stop),
            None => Came::Nothing,
        }
    }

    /// Notes that an echo has come back, if that was missing.
    fn come_back(&mut self, now: Instant) {
        if let Some(missing) = self.missing.take() {
            // Only an echo of a subscribed connection proves anything.
            self.show();
            let lasted = missing.lasts(now);
            info!(
                target: TARGET, seconds = lasted.as_secs();
                "echoes come back again, after {}", human(lasted)
            );
        }
    }

    fn ignore(&self, why: EchoIgnored) {
        self.metrics.echo_ignored(why);
        if let Some(topic) = &self.topic
            && why.is_foreign()
        {
            self.foreign.spend(|| mqtt::warn_of_foreign_echo(topic, why));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(5);

    fn echoes(topic: Option<&str>) -> Echoes {
        Echoes::new(topic, INTERVAL, Arc::new(Metrics::new()))
    }

    /// The readings of two clocks that run together from 0 on.
    fn clocks() -> impl Fn(u32) -> Reading {
        let began = Instant::now();
        move |seconds| Reading {
            wall: DateTime::from_timestamp(seconds.into(), 0).expect("small"),
            monotonic: began + Duration::from_secs(seconds.into()),
        }
    }

    fn proof(came: Came) -> ConfirmListening {
        match came {
            Came::Proves(proof) => proof,
            other => panic!("{other:?}"),
        }
    }

    fn token(number: u32) -> EchoToken {
        EchoToken::new(number.into())
    }

    #[test]
    fn echoes_are_missing_after_four_intervals_until_one_of_a_new_subscription_comes_back() {
        let (mut echoes, at) = (echoes(Some("echo")), clocks());
        echoes.begin(at(0));
        let sent = [0, 5, 10, 15, 20].map(|second| echoes.send(token(second), at(second)));
        assert_eq!(sent, [false, false, false, false, true]);
        assert!(echoes.are_missing());
        assert_eq!(echoes.take(token(20), at(21)), Came::Nothing);

        echoes.begin(at(22));
        assert!(!echoes.send(token(25), at(25)) && echoes.are_missing());
        let proof = proof(echoes.take(token(25), at(26)));
        assert_eq!((proof.since, proof.until), (at(22).wall, at(25).wall));
        assert_eq!(proof.after, GapCause::NoEcho);
        assert!(!echoes.are_missing());
    }

    #[test]
    fn no_echo_is_missed_where_none_is_published() {
        let (mut echoes, at) = (echoes(None), clocks());
        echoes.begin(at(0));
        assert!((0..20).all(|number| !echoes.send(token(number), at(5 * number))));
        assert!(!echoes.are_missing());
    }

    #[test]
    fn nothing_is_proven_while_another_node_is_missing_until_it_is_left_out() {
        let (mut echoes, at) = (echoes(Some("echo")), clocks());
        echoes.enter_at(&["mqtt://node2:1883".to_owned()], Duration::from_secs(30));
        echoes.begin(at(0));
        let mut tick = |second: u32| {
            assert!(!echoes.send(token(second), at(second)), "the own ones come back");
            let diagnosed = echoes.sent_through(0, None, at(second));
            let proven = match echoes.take(token(second), at(second)) {
                Came::Proves(proof) => Some((proof.since, proof.until)),
                _ => None,
            };
            (diagnosed, echoes.lack_an_entry(), proven)
        };
        let waiting = [0, 5, 10, 15].map(&mut tick);
        assert_eq!(waiting, [(false, false, None); 4], "it is not missing yet");
        assert_eq!(tick(20), (true, true, None));
        assert_eq!(tick(25), (false, true, None));
        assert_eq!(tick(30), (false, false, Some((at(30).wall, at(30).wall))));
        assert_eq!(tick(35), (false, false, Some((at(30).wall, at(35).wall))));
        let page = echoes.metrics.encode().expect("it prints");
        assert!(page.contains("heartbeatd_entries{state=\"gone\"} 1"), "{page}");
        assert!(page.contains("heartbeatd_listening 1"), "{page}");
    }

    #[test]
    fn an_echo_proves_nothing_once_messages_were_thrown_away() {
        let (mut echoes, at) = (echoes(Some("echo")), clocks());
        echoes.begin(at(0));
        echoes.send(token(5), at(5));
        echoes.missed(at(6), GapCause::Shed);
        assert_eq!(echoes.take(token(5), at(7)), Came::Nothing);
        echoes.send(token(10), at(10));
        let proof = proof(echoes.take(token(10), at(11)));
        assert_eq!((proof.since, proof.after), (at(6).wall, GapCause::Shed));
    }
}
