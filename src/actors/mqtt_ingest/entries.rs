//! The echoes that go in at the other nodes of a broker cluster. Says which node is missing, while
//! that lasts, when it is left out, and when it is back.

use std::time::{Duration, Instant};

use actix::prelude::*;
use log::{error, info, warn};

use super::{MqttIngest, TARGET};
use crate::domain::Reading;
use crate::duration::human;
use crate::logging::outage::Outage;
use crate::mqtt;

impl MqttIngest {
    /// The same ingest, which has listened only if that is proven of all nodes at which devices
    /// enter. One that cannot be reached for `timeout` is left out.
    #[must_use]
    pub fn with_entries(mut self, timeout: Duration) -> Self {
        self.echoes.enter_at(self.connection.entries(), timeout);
        self
    }

    /// Publishes an echo of its own through each other node.
    pub(super) fn send_through_entries(&mut self, now: Reading, ctx: &mut Context<Self>) {
        for node in 0..self.echoes.nodes() {
            let token = match mqtt::random_token() {
                Ok(token) => token,
                Err(error) => {
                    return error!(target: TARGET, "no random numbers for an echo: {error}");
                }
            };
            let is_reached = self.connection.send_echo_through(node, token);
            if self.echoes.sent_through(node, is_reached.then_some(token), now) {
                self.diagnose_entry(node, ctx);
            }
        }
    }

    /// True if each other node is reached or left out. A member of a group that cannot reach one
    /// proves nothing, and nothing would count for the others either.
    pub(super) fn reaches_all_entries(&mut self, ctx: &mut Context<Self>) -> bool {
        let now = (self.clock)();
        let mut all = true;
        for node in 0..self.echoes.nodes() {
            if self.connection.reaches(node) {
                continue;
            }
            if self.echoes.sent_through(node, None, now) {
                self.diagnose_entry(node, ctx);
            }
            all &= self.echoes.leave_out(node);
        }
        all
    }

    /// Logs why a node cannot be reached, once that is found out.
    fn diagnose_entry(&self, node: usize, ctx: &mut Context<Self>) {
        let diagnosing = self.connection.diagnose_entry(node).into_actor(self);
        ctx.spawn(diagnosing.map(move |found, ingest, _| ingest.echoes.explain_entry(node, found)));
    }
}

/// The other nodes, and the time in which one is missing.
#[derive(Default)]
pub(super) struct EntryLog(Vec<Node>);

struct Node {
    url: String,
    missing: Option<Outage>,
    /// True while it is left out.
    is_left_out: bool,
}

/// The reason why a node that can be reached is useless.
const CUT_OFF: &str = "it can be reached, but what enters there does not arrive here: either the \
                       nodes of the cluster are cut off from each other, or it does not allow this \
                       client to write the echo topic";

impl EntryLog {
    pub(super) fn of(urls: &[String]) -> Self {
        let node = |url: &String| Node { url: url.clone(), missing: None, is_left_out: false };
        Self(urls.iter().map(node).collect())
    }

    /// Notes that no echo comes back through a node. Returns true if it has to be diagnosed before
    /// that is said.
    pub(super) fn is_missing(&mut self, node: usize, is_reached: bool, now: Instant) -> bool {
        let node = &mut self.0[node];
        node.is_left_out = false;
        node.missing.get_or_insert_with(|| Outage::begin(now));
        if is_reached {
            node.say_missing(CUT_OFF.to_owned());
        }
        !is_reached
    }

    /// Logs why a node is missing, unless it is back.
    pub(super) fn explain(&mut self, node: usize, found: Option<String>) {
        let node = &mut self.0[node];
        if !node.is_left_out && node.missing.is_some() {
            let why = found.unwrap_or_else(|| "it is not connected".to_owned());
            node.say_missing(why);
        }
    }

    /// Logs that a node is left out from now on.
    pub(super) fn is_left_out(&mut self, node: usize, timeout: Duration, now: Instant) {
        let node = &mut self.0[node];
        node.is_left_out = true;
        node.missing.get_or_insert_with(|| Outage::begin(now));
        warn!(
            target: TARGET, entry = node.url, seconds = timeout.as_secs();
            "could not be reached for {} (heartbeat.timeout), and is left out until it can: its \
             devices have had that time to connect to another node", human(timeout)
        );
    }

    /// Logs that a node is back, if it was missing.
    pub(super) fn is_back(&mut self, node: usize, now: Instant) {
        let node = &mut self.0[node];
        node.is_left_out = false;
        if let Some(missing) = node.missing.take() {
            let lasted = missing.lasts(now);
            info!(
                target: TARGET, entry = node.url, seconds = lasted.as_secs();
                "echoes come back through this node again, after {}", human(lasted)
            );
        }
    }

    /// Logs which nodes are still missing, if it is time for a reminder.
    pub(super) fn remind(&mut self, now: Instant) {
        for node in self.0.iter_mut().filter(|node| !node.is_left_out) {
            let Some(missing) = &mut node.missing else { continue };
            let Some(lasts) = missing.remind(now) else { continue };
            let why = missing.why().map_or(String::new(), |why| format!(": {why}"));
            error!(
                target: TARGET, entry = node.url, seconds = lasts.as_secs();
                "no echo has come back through this node for {}, and no device goes offline{why}",
                human(lasts)
            );
        }
    }

    /// The number of nodes.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }
}

impl Node {
    fn say_missing(&mut self, why: String) {
        error!(
            target: TARGET, entry = self.url;
            "no echo comes back through this node of mqtt.entry_urls, so nothing proves that \
             heartbeats which enter there arrive, and no device goes offline: {why}"
        );
        if let Some(missing) = &mut self.missing {
            missing.because(why);
        }
    }
}
