//! Entries: the nodes of a broker cluster at which heartbeats may enter.
//!
//! The service is subscribed at one node. An echo that goes in and out there does not prove that a
//! heartbeat arrives which enters at another one. So the service publishes an echo through each
//! other node, too. It has listened at an instant only if that is proven of all of them.
//!
//! ```text
//! own node    [====e====e====e====e====e====e
//! node 2       e====e    x    x    e====e         x: did not come back
//! listened     [====]    .    .    [====]
//! ```
//!
//! An echo through another node proves that what entered there *when it was sent* has arrived. The
//! time between two of them is proven only if no echo in between was lost: a node that was cut off
//! may have thrown away the heartbeats of that time. It may do so whatever comes back later.
//!
//! A node that cannot be reached for the timeout of a device is gone: its devices have had that
//! time to connect elsewhere. It is left out until it can be reached. One that can be reached keeps
//! its devices, so as long as no echo comes back through it, nothing is proven.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use super::{EchoIgnored, EchoToken, Echoed, GapCause, Proof, Reading, Rounds, Stop};

/// The number of echoes through one node that are remembered, on their way and past.
const ECHOES_KEPT: usize = 64;

/// The rounds of a service, and what the other nodes of its broker have proven in the newest.
#[derive(Clone, Debug)]
pub struct Entries {
    rounds: Rounds,
    /// The number of the round to which everything below belongs.
    round: u64,
    /// The newest proof of the node at which the service is subscribed.
    own: Option<Proof>,
    nodes: Vec<Node>,
    /// The instant at which a node was given up. What entered there before is unknown.
    given_up: Option<DateTime<Utc>>,
    /// The instant up to which everything was proven last.
    proven: Option<DateTime<Utc>>,
    interval: Duration,
    /// The time after which a node that cannot be reached is gone.
    timeout: Duration,
}

/// The state of another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// Echoes come back through it, or are not missing yet.
    Answering,
    /// No echo has come back through it for too long, so nothing is proven.
    Missing,
    /// It could not be reached for so long that its devices are elsewhere. It is left out.
    Gone,
}

impl NodeState {
    /// All states.
    pub const ALL: [Self; 3] = [Self::Answering, Self::Missing, Self::Gone];

    /// The name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answering => "answering",
            Self::Missing => "missing",
            Self::Gone => "gone",
        }
    }
}

/// An echo that has come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Returned {
    /// The time for which it was on its way.
    pub latency: Duration,
    /// The other node through which it was published. `None` for the own one.
    pub node: Option<usize>,
    /// The meaning, if there is one. A proof is one for all nodes.
    pub echoed: Option<Echoed>,
}

impl Entries {
    /// The rounds of a service whose broker has only one node.
    pub fn new(interval: Duration) -> Self {
        let rounds = Rounds::new(interval);
        Self {
            round: rounds.number(),
            rounds,
            own: None,
            nodes: Vec::new(),
            given_up: None,
            proven: None,
            interval,
            timeout: Duration::MAX,
        }
    }

    /// The same with so many other nodes. One that cannot be reached for `timeout` is gone.
    #[must_use]
    pub fn with_nodes(mut self, nodes: usize, timeout: Duration) -> Self {
        self.nodes = vec![Node::default(); nodes];
        self.timeout = timeout;
        self
    }

    /// Ends the round: the service no longer listens.
    pub fn interrupt(&mut self, cause: GapCause) {
        self.rounds.interrupt(cause);
        self.follow();
    }

    /// Begins a round: the service listens from now on.
    pub fn begin(&mut self, now: Reading) {
        self.rounds.begin(now);
        self.follow();
    }

    /// Begins a round that listens since an earlier instant, see [`Rounds::begin_since`]: that at
    /// which a member has joined its group.
    ///
    /// No node gives a member heartbeats before it knows of the subscription. So when the first of
    /// them is given, the way from that node works, as if an echo had just come back.
    pub fn begin_since(&mut self, since: DateTime<Utc>, now: Reading) {
        self.rounds.begin_since(since, now);
        self.follow();
        self.nodes.iter_mut().for_each(|node| node.begin_since(since));
    }

    /// Begins a new round because something was missed just now, while the listening goes on.
    pub fn restart(&mut self, now: Reading, cause: GapCause) {
        self.rounds.restart(now, cause);
        self.follow();
    }

    /// Begins a new round because the process was stopped, see [`Rounds::stopped`].
    pub fn stopped(&mut self, stop: Stop, now: Reading) {
        self.rounds.stopped(stop, now);
        self.follow();
    }

    /// Begins a new round because everything has arrived that had waited for the end of a stop,
    /// see [`Rounds::caught_up`].
    pub fn caught_up(&mut self, now: Reading) {
        self.rounds.caught_up(now);
        self.follow();
    }

    /// Remembers an echo that is about to be sent through the own node, see [`Rounds::send`].
    pub fn send(&mut self, token: EchoToken, now: Reading) -> Option<Duration> {
        let missing = self.rounds.send(token, now);
        self.follow();
        missing
    }

    /// Remembers an echo that was due at another node: one that is about to be sent, or `None` if
    /// the node cannot be reached. Returns the state of the node if it has changed.
    ///
    /// A stopped process waits for nothing, so at most one interval of the time between two echoes
    /// counts.
    pub fn send_through(
        &mut self,
        node: usize,
        token: Option<EchoToken>,
        now: Reading,
    ) -> Option<NodeState> {
        let (interval, timeout, patience) = (self.interval, self.timeout, self.rounds.patience());
        let node = self.nodes.get_mut(node)?;
        let before = node.state;
        node.wait(token.is_some(), now.monotonic, interval);
        node.send(token, now);
        if node.judge(patience, timeout) == NodeState::Gone && before != NodeState::Gone {
            self.given_up = Some(now.wall);
        }
        (node.state != before).then_some(node.state)
    }

    /// Takes an echo that has come back.
    ///
    /// # Errors
    ///
    /// The reason why it proves nothing. Then nothing is proven that was not before.
    pub fn take(&mut self, token: EchoToken, now: Reading) -> Result<Returned, EchoIgnored> {
        let node = self.nodes.iter().position(|node| node.knows(token));
        let latency = match node {
            None => {
                let echoed = self.rounds.take(token, now);
                self.follow();
                match echoed? {
                    Echoed::Proves(proof) => {
                        self.own = Some(proof);
                        proof.latency
                    }
                    Echoed::CaughtUp { latency, .. } => {
                        return Ok(Returned { latency, node, echoed: Some(echoed?) });
                    }
                }
            }
            Some(index) => {
                self.rounds.watch_the_clock(now);
                self.follow();
                self.nodes[index].take(token, now)?
            }
        };
        Ok(Returned { latency, node, echoed: self.proof(latency).map(Echoed::Proves) })
    }

    /// True if a node is left out.
    pub fn is_gone(&self, node: usize) -> bool {
        self.nodes.get(node).is_some_and(|node| node.state == NodeState::Gone)
    }

    /// The number of other nodes in each state, in the order of [`NodeState::ALL`].
    pub fn count(&self) -> [usize; 3] {
        NodeState::ALL.map(|state| self.nodes.iter().filter(|node| node.state == state).count())
    }

    /// The number of other nodes.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Forgets what belongs to an earlier round.
    fn follow(&mut self) {
        if self.rounds.number() == self.round {
            return;
        }
        self.round = self.rounds.number();
        (self.own, self.given_up, self.proven) = (None, None, None);
        self.nodes.iter_mut().for_each(Node::forget);
    }

    /// The proof that all nodes have given, if it reaches further than before.
    fn proof(&mut self, latency: Duration) -> Option<Proof> {
        let Proof { mut since, mut until, mut after, .. } = self.own?;
        let mut begins = |at: DateTime<Utc>| {
            if at > since {
                (since, after) = (at, GapCause::NoEcho);
            }
        };
        for node in self.nodes.iter().filter(|node| node.state != NodeState::Gone) {
            let proven = node.proven?;
            until = until.min(proven.until);
            begins(proven.since);
        }
        self.given_up.into_iter().for_each(&mut begins);
        if until < since || self.proven.is_some_and(|proven| until <= proven) {
            return None;
        }
        self.proven = Some(until);
        Some(Proof { since, until, after, latency })
    }
}

/// Another node, at which the service publishes and is not subscribed.
#[derive(Clone, Debug)]
struct Node {
    /// The echoes on their way, oldest first.
    under_way: VecDeque<Echo>,
    /// The newest echoes that prove nothing any more.
    past: VecDeque<EchoToken>,
    /// The number of echoes that were due, sent or not.
    due: u64,
    proven: Option<Proven>,
    /// The time at which the last echo was due.
    last: Option<Instant>,
    /// The time for which no echo has come back.
    unanswered: Duration,
    /// The time for which it provably could not be reached. `None` if it could.
    unreached: Option<Duration>,
    state: NodeState,
}

#[derive(Clone, Copy, Debug)]
struct Echo {
    token: EchoToken,
    number: u64,
    sent: Reading,
}

/// The time in which no echo through a node was lost.
#[derive(Clone, Copy, Debug)]
struct Proven {
    since: DateTime<Utc>,
    until: DateTime<Utc>,
    /// The number of its newest echo.
    newest: u64,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            under_way: VecDeque::new(),
            past: VecDeque::new(),
            due: 0,
            proven: None,
            last: None,
            unanswered: Duration::ZERO,
            unreached: None,
            state: NodeState::Answering,
        }
    }
}

impl Node {
    /// Counts the time since the last echo was due.
    fn wait(&mut self, is_reached: bool, now: Instant, interval: Duration) {
        let last = self.last.replace(now);
        let passed = last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        let passed = passed.min(interval);
        self.unanswered += passed;
        // It may have been reached until just before it was found that it cannot be.
        let unreached = self.unreached.map_or(Duration::ZERO, |unreached| unreached + passed);
        self.unreached = (!is_reached).then_some(unreached);
    }

    fn begin_since(&mut self, since: DateTime<Utc>) {
        self.proven = Some(Proven { since, until: since, newest: self.due });
    }

    fn send(&mut self, token: Option<EchoToken>, now: Reading) {
        self.due += 1;
        let Some(token) = token else { return };
        if self.under_way.len() == ECHOES_KEPT
            && let Some(oldest) = self.under_way.pop_front()
        {
            self.is_past(oldest.token);
        }
        self.under_way.push_back(Echo { token, number: self.due, sent: now });
    }

    /// Decides the state. A node that can be reached again is waited for as one that is new.
    fn judge(&mut self, patience: Duration, timeout: Duration) -> NodeState {
        match self.state {
            NodeState::Gone if self.unreached.is_none() => {
                self.unanswered = Duration::ZERO;
                self.state = NodeState::Answering;
            }
            NodeState::Gone => (),
            _ if self.unreached.is_some_and(|unreached| unreached >= timeout) => {
                self.forget();
                self.state = NodeState::Gone;
            }
            _ if self.unanswered >= patience => self.state = NodeState::Missing,
            _ => (),
        }
        self.state
    }

    fn knows(&self, token: EchoToken) -> bool {
        self.past.contains(&token) || self.under_way.iter().any(|echo| echo.token == token)
    }

    /// Takes an echo that has come back, and returns the time for which it was on its way. One that
    /// comes twice is late: a cluster may deliver it again.
    fn take(&mut self, token: EchoToken, now: Reading) -> Result<Duration, EchoIgnored> {
        let index = self.under_way.iter().position(|echo| echo.token == token);
        let index = index.ok_or(EchoIgnored::Late)?;
        // Those before it are lost.
        for _ in 0..index {
            self.lose_the_oldest();
        }
        let echo = self.under_way[0];
        self.lose_the_oldest();
        let until = echo.sent.wall;
        let unbroken = self.proven.filter(|proven| proven.newest + 1 == echo.number);
        // The clock may have been set back by less than is noticed.
        let since = unbroken.map_or(until, |proven| proven.since.min(until));
        self.proven = Some(Proven { since, until, newest: echo.number });
        (self.unanswered, self.unreached) = (Duration::ZERO, None);
        self.state = NodeState::Answering;
        Ok(now.monotonic.saturating_duration_since(echo.sent.monotonic))
    }

    /// Forgets what it has proven, and makes those that are on their way prove nothing.
    fn forget(&mut self) {
        self.proven = None;
        while !self.under_way.is_empty() {
            self.lose_the_oldest();
        }
    }

    fn lose_the_oldest(&mut self) {
        if let Some(echo) = self.under_way.pop_front() {
            self.is_past(echo.token);
        }
    }

    fn is_past(&mut self, token: EchoToken) {
        if self.past.len() == ECHOES_KEPT {
            self.past.pop_front();
        }
        self.past.push_back(token);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::stops::Stops;

    const INTERVAL: Duration = Duration::from_secs(5);
    const TIMEOUT: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> DateTime<Utc> {
        DateTime::from_timestamp(i64::try_from(seconds).expect("small"), 0).expect("small")
    }

    /// A service with other nodes, which publishes echoes at once through all of them.
    struct Cluster {
        entries: Entries,
        now: Reading,
        tokens: u128,
    }

    /// The echoes that were due at one moment: the own one, and those of the other nodes.
    type Sent = (EchoToken, Vec<Option<EchoToken>>);

    impl Cluster {
        fn of(nodes: usize) -> Self {
            let now = Reading { wall: at(0), monotonic: Instant::now() };
            let mut entries = Entries::new(INTERVAL).with_nodes(nodes, TIMEOUT);
            entries.begin(now);
            Self { entries, now, tokens: 0 }
        }

        fn pass(&mut self, time: Duration) {
            self.now.wall += time;
            self.now.monotonic += time;
        }

        fn token(&mut self) -> EchoToken {
            self.tokens += 1;
            EchoToken::new(self.tokens)
        }

        /// Sends an echo through every node that is reached.
        fn send(&mut self, reached: &[bool]) -> Sent {
            let own = self.token();
            self.entries.send(own, self.now);
            let mut others = Vec::new();
            for (node, is_reached) in reached.iter().enumerate() {
                let token = is_reached.then(|| self.token());
                self.entries.send_through(node, token, self.now);
                others.push(token);
            }
            (own, others)
        }

        /// The interval that an echo proves, in seconds.
        fn take(&mut self, token: EchoToken) -> Result<Option<(u64, u64)>, EchoIgnored> {
            let seconds = |at: DateTime<Utc>| u64::try_from(at.timestamp()).expect("positive");
            let returned = self.entries.take(token, self.now)?;
            Ok(returned.echoed.map(|echoed| match echoed {
                Echoed::Proves(proof) => (seconds(proof.since), seconds(proof.until)),
                Echoed::CaughtUp { .. } => panic!("nothing has waited"),
            }))
        }

        /// Sends echoes an interval later, and takes those of the nodes that are `well`.
        fn tick(&mut self, reached: &[bool], well: &[bool]) -> Option<(u64, u64)> {
            self.pass(INTERVAL);
            let (own, others) = self.send(reached);
            let mut proven = self.take(own).expect("it is new");
            for token in
                others.into_iter().zip(well).filter_map(|(token, well)| token.filter(|_| *well))
            {
                proven = self.take(token).expect("it is new").or(proven);
            }
            proven
        }
    }

    #[test]
    fn the_first_echoes_prove_what_a_member_was_given_since_it_joined() {
        let mut cluster = Cluster::of(2);
        let joins = |cluster: &mut Cluster| {
            let joined_at = cluster.now.wall;
            cluster.pass(Duration::from_secs(1));
            cluster.entries.begin_since(joined_at, cluster.now);
        };
        cluster.tick(&[true; 2], &[true; 2]);
        joins(&mut cluster);
        assert_eq!(cluster.tick(&[true; 2], &[true; 2]), Some((5, 11)));
        joins(&mut cluster);
        assert_eq!(
            cluster.tick(&[true; 2], &[true, false]),
            Some((11, 11)),
            "before it was given any"
        );
        assert_eq!(cluster.tick(&[true; 2], &[true; 2]), Some((22, 22)), "one was lost");
        joins(&mut cluster);
        cluster.entries.interrupt(GapCause::NoEcho);
        cluster.entries.begin(cluster.now);
        assert_eq!(cluster.tick(&[true; 2], &[true; 2]), Some((28, 28)), "of another round");
    }

    #[test]
    fn with_one_node_each_echo_proves_what_it_proves() {
        let mut cluster = Cluster::of(0);
        assert_eq!(cluster.tick(&[], &[]), Some((0, 5)));
        assert_eq!(cluster.tick(&[], &[]), Some((0, 10)));
        assert_eq!(cluster.entries.count(), [0, 0, 0]);
    }

    #[test]
    fn nothing_is_proven_before_the_echoes_of_all_nodes_are_back() {
        let mut cluster = Cluster::of(2);
        let (own, others) = cluster.send(&[true, true]);
        let (first, second) = (others[0].expect("sent"), others[1].expect("sent"));
        assert_eq!(cluster.take(own), Ok(None));
        assert_eq!(cluster.take(second), Ok(None));
        assert_eq!(cluster.take(first), Ok(Some((0, 0))));
        assert_eq!(cluster.take(first), Err(EchoIgnored::Late), "once");
        assert_eq!(cluster.tick(&[true, true], &[true, false]), None);
        // What has come back of one counts when the others are as far.
        assert_eq!(cluster.tick(&[true, true], &[true, true]), Some((10, 10)));
        assert_eq!(cluster.take(EchoToken::new(999)), Err(EchoIgnored::Unknown));
    }

    #[test]
    fn the_slowest_node_says_how_far_it_is_proven() {
        let mut cluster = Cluster::of(1);
        let mut late = Vec::new();
        for _ in 0..4 {
            cluster.pass(INTERVAL);
            let (own, others) = cluster.send(&[true]);
            assert_eq!(cluster.take(own), Ok(None));
            late.push(others[0].expect("sent"));
        }
        let proven: Vec<_> = late.into_iter().map(|token| cluster.take(token)).collect();
        let expected = [5, 10, 15, 20].map(|until| Ok(Some((5, until))));
        assert_eq!(proven, expected, "late is not lost");
    }

    #[test]
    fn a_time_in_which_an_echo_was_lost_is_never_proven() {
        let mut cluster = Cluster::of(1);
        assert_eq!(cluster.tick(&[true], &[true]), Some((5, 5)));
        assert_eq!(cluster.tick(&[true], &[true]), Some((5, 10)));
        assert_eq!(cluster.tick(&[true], &[false]), None);
        assert_eq!(cluster.tick(&[true], &[true]), Some((20, 20)), "15 was lost");
        assert_eq!(cluster.tick(&[false], &[true]), None, "it was not sent");
        assert_eq!(cluster.tick(&[true], &[true]), Some((30, 30)));
    }

    #[test]
    fn a_node_that_cannot_be_reached_for_the_timeout_is_left_out_until_it_can() {
        let mut cluster = Cluster::of(1);
        cluster.tick(&[true], &[true]);
        let mut states = Vec::new();
        for _ in 0..12 {
            assert_eq!(cluster.tick(&[false], &[]), None);
            states.push(cluster.entries.count());
        }
        assert_eq!(states[2..5], [[1, 0, 0], [0, 1, 0], [0, 1, 0]], "four echoes are missing");
        assert_eq!(states[11], [0, 1, 0]);
        // Gone after a minute: from now on it is left out, and what was before is lost.
        assert_eq!(cluster.tick(&[false], &[]), Some((70, 70)));
        assert_eq!(cluster.entries.count(), [0, 0, 1]);
        assert_eq!(cluster.tick(&[false], &[]), Some((70, 75)));
        // It can be reached, and is waited for.
        assert_eq!(cluster.tick(&[true], &[false]), None);
        assert_eq!(cluster.entries.count(), [1, 0, 0]);
        assert_eq!(cluster.tick(&[true], &[true]), Some((85, 85)));
        assert_eq!(cluster.tick(&[true], &[true]), Some((85, 90)));
    }

    #[test]
    fn a_node_that_can_be_reached_is_never_left_out() {
        let mut cluster = Cluster::of(1);
        cluster.tick(&[true], &[true]);
        for _ in 0..100 {
            assert_eq!(cluster.tick(&[true], &[false]), None);
        }
        assert_eq!(cluster.entries.count(), [0, 1, 0]);
        assert_eq!(cluster.tick(&[true], &[true]), Some((510, 510)));
        assert_eq!(cluster.entries.count(), [1, 0, 0]);
    }

    #[test]
    fn a_pause_of_the_process_is_not_the_nodes() {
        let mut cluster = Cluster::of(1);
        cluster.tick(&[true], &[true]);
        cluster.pass(100 * TIMEOUT);
        cluster.tick(&[false], &[]);
        assert_eq!(cluster.entries.count(), [1, 0, 0]);
    }

    #[test]
    fn echoes_of_an_earlier_round_prove_nothing() {
        let interruptions: [fn(&mut Entries, Reading); 3] = [
            |entries, now| entries.restart(now, GapCause::Shed),
            |entries, now| {
                entries.interrupt(GapCause::Disconnected);
                entries.begin(now);
            },
            |entries, now| entries.begin(now),
        ];
        for interrupt in interruptions {
            let mut cluster = Cluster::of(1);
            cluster.tick(&[true], &[true]);
            let (_, others) = cluster.send(&[true]);
            interrupt(&mut cluster.entries, cluster.now);
            assert_eq!(cluster.take(others[0].expect("sent")), Err(EchoIgnored::Late));
            let (own, _) = cluster.send(&[false]);
            assert_eq!(cluster.take(own), Ok(None));
            assert_eq!(cluster.tick(&[true], &[true]), Some((10, 10)));
        }
    }

    #[test]
    fn after_a_stop_of_the_process_no_node_has_proven_anything() {
        let (mut stops, mut cluster) = (Stops::default(), Cluster::of(1));
        cluster.tick(&[true], &[true]);
        stops.tick(cluster.now);
        cluster.pass(2 * INTERVAL);
        let stop = stops.tick(cluster.now).expect("ten seconds without a reading");
        cluster.entries.stopped(stop, cluster.now);
        let (own, others) = cluster.send(&[true]);
        assert_eq!(cluster.take(others[0].expect("sent")), Ok(None));
        let returned = cluster.entries.take(own, cluster.now).expect("it is new");
        let latency = Duration::ZERO;
        assert_eq!(returned.echoed, Some(Echoed::CaughtUp { stop, latency }));
        cluster.entries.caught_up(cluster.now);
        assert_eq!(cluster.tick(&[true], &[false]), None, "what came before is forgotten");
        assert_eq!(cluster.tick(&[true], &[true]), Some((25, 25)));
    }

    #[test]
    fn a_clock_that_is_set_begins_a_round_for_all_nodes() {
        let settings: [fn(&mut DateTime<Utc>); 2] =
            [|wall: &mut DateTime<Utc>| *wall = at(3600), |wall: &mut DateTime<Utc>| *wall = at(1)];
        for set in settings {
            let mut cluster = Cluster::of(1);
            cluster.tick(&[true], &[true]);
            cluster.pass(INTERVAL);
            let (_, others) = cluster.send(&[true]);
            set(&mut cluster.now.wall);
            let late = cluster.take(others[0].expect("sent"));
            assert_eq!(late, Err(EchoIgnored::Late));
            let (since, until) = cluster.tick(&[true], &[true]).expect("all are back");
            assert_eq!(since, until);
        }
    }

    #[test]
    fn the_number_of_remembered_echoes_is_bounded() {
        let mut cluster = Cluster::of(1);
        for _ in 0..10 * ECHOES_KEPT {
            cluster.send(&[true]);
        }
        let node = &cluster.entries.nodes[0];
        assert_eq!((node.under_way.len(), node.past.len()), (ECHOES_KEPT, ECHOES_KEPT));
    }

    /// The fate of the echo that one node gets at one moment.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Fate {
        /// It comes back after so many moments.
        Back(usize),
        /// It is lost on the way.
        Lost,
        /// The node cannot be reached.
        Unreached,
    }

    fn fate() -> impl Strategy<Value = Fate> {
        prop_oneof![
            12 => Just(Fate::Back(0)),
            2 => (1_usize..4).prop_map(Fate::Back),
            1 => Just(Fate::Lost),
            4 => Just(Fate::Unreached),
        ]
    }

    /// The fates of 40 echoes of a node, which come in runs.
    fn fates() -> impl Strategy<Value = Vec<Fate>> {
        let runs = prop::collection::vec((fate(), 1_usize..16), 40);
        runs.prop_map(|runs| {
            let fates = runs.into_iter().flat_map(|(fate, times)| std::iter::repeat_n(fate, times));
            fates.take(40).collect()
        })
    }

    /// True if a later echo of the node comes back before this one.
    fn is_overtaken(fates: &[Fate], sent: usize, back: usize) -> bool {
        let later = fates.iter().enumerate().skip(sent + 1);
        later
            .take_while(|(at, _)| *at <= back)
            .any(|(at, fate)| matches!(fate, Fate::Back(after) if at + after < back))
    }

    /// For how many moments up to this one it could not be reached.
    fn unreached(fates: &[Fate], moment: usize) -> usize {
        fates[..=moment].iter().rev().take_while(|fate| **fate == Fate::Unreached).count()
    }

    proptest! {
        /// The model knows all echoes of all time: between two moments a node lets through what
        /// enters if the echoes of both have come back and it was not gone. All that is claimed is
        /// so for every node that is not gone at that time.
        #[test]
        fn what_is_proven_was_heard_at_every_node_that_is_not_gone(
            fates in prop::collection::vec(fates(), 1..4),
        ) {
            let mut cluster = Cluster::of(fates.len());
            let mut under_way: Vec<(usize, usize, usize, EchoToken)> = Vec::new();
            let mut claimed: Vec<(u64, u64)> = Vec::new();
            for moment in 0..40 {
                let reached: Vec<_> =
                    fates.iter().map(|fates| fates[moment] != Fate::Unreached).collect();
                let (own, others) = cluster.send(&reached);
                claimed.extend(cluster.take(own).expect("it is new"));
                for (node, token) in others.into_iter().enumerate() {
                    if let (Fate::Back(after), Some(token)) = (fates[node][moment], token) {
                        under_way.push((moment + after, moment, node, token));
                    }
                }
                under_way.sort_by_key(|(back, sent, ..)| (*back, *sent));
                while under_way.first().is_some_and(|(back, ..)| *back <= moment) {
                    let (_, _, _, token) = under_way.remove(0);
                    // An overtaken one is late.
                    claimed.extend(cluster.take(token).ok().flatten());
                }
                cluster.pass(INTERVAL);
            }
            let step = INTERVAL.as_secs();
            let limit = usize::try_from(TIMEOUT.as_secs() / step).expect("small");
            let came_back = |node: usize, moment: usize| match fates[node][moment] {
                Fate::Back(after) => !is_overtaken(&fates[node], moment, moment + after),
                _ => false,
            };
            for moment in 0..39 {
                let (from, to) = (step * moment as u64, step * (moment as u64 + 1));
                if !claimed.iter().any(|(since, until)| *since <= from && to <= *until) {
                    continue;
                }
                for node in 0..fates.len() {
                    let heard = came_back(node, moment) && came_back(node, moment + 1);
                    // The first of them only shows that it cannot be reached.
                    let gone = unreached(&fates[node], moment) > limit;
                    prop_assert!(heard || gone, "{from} to {to} at node {node}: {fates:?}");
                }
            }
        }

        /// As long as nothing is lost, all of it is proven up to the slowest node.
        #[test]
        fn nothing_is_unproven_as_long_as_all_come_back(
            delays in prop::collection::vec(prop::collection::vec(0_usize..5, 30), 1..4),
        ) {
            let mut cluster = Cluster::of(delays.len());
            let mut queues = vec![VecDeque::new(); delays.len()];
            let mut newest = vec![None; delays.len()];
            let mut proven = None;
            for moment in 0..30 {
                let (own, others) = cluster.send(&vec![true; delays.len()]);
                proven = cluster.take(own).expect("it is new").or(proven);
                for (node, token) in others.into_iter().enumerate() {
                    let queue = &mut queues[node];
                    queue.push_back((moment, token.expect("sent")));
                    let is_due = |sent: usize| sent + delays[node][moment] <= moment;
                    while let Some((sent, token)) = queue.pop_front_if(|(sent, _)| is_due(*sent)) {
                        newest[node] = Some(sent);
                        proven = cluster.take(token).expect("none is lost").or(proven);
                    }
                }
                let slowest: Option<Vec<usize>> = newest.iter().copied().collect();
                let slowest = slowest.and_then(|all| all.into_iter().min());
                let expected = slowest.map(|moment| (0, INTERVAL.as_secs() * moment as u64));
                prop_assert_eq!(proven, expected);
                cluster.pass(INTERVAL);
            }
        }
    }
}
