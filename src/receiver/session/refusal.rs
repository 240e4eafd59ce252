//! Refusals of what a client does.

use std::num::NonZeroU16;

use crate::domain::TopicPattern;
use crate::logging::escape::Quoted;
use crate::receiver::codec::{Malformed, Reason};

/// A refusal, for the log and the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::receiver) struct Refusal {
    /// The reason code of MQTT 5.
    pub(in crate::receiver) reason: Reason,
    /// The flaw, and what would be right. Text from outside is quoted in it.
    pub(in crate::receiver) why: String,
    /// The words for the client instead, if it must not learn why.
    told: Option<&'static str>,
}

/// Refusals that ended no session.
#[derive(Debug, Default)]
pub(in crate::receiver) struct Refusals {
    /// The number of refusals for each reason.
    pub(in crate::receiver) counts: Vec<(Reason, u64)>,
    /// The first of them.
    pub(in crate::receiver) first: Option<(What, Refusal)>,
}

/// A client's attempt that was refused without ending its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::receiver) enum What {
    /// To publish.
    Message,
    /// To subscribe.
    Subscription,
}

impl What {
    /// It, in words.
    pub(in crate::receiver) fn as_str(self) -> &'static str {
        match self {
            Self::Message => "a message",
            Self::Subscription => "a subscription",
        }
    }
}

impl Refusals {
    /// The number of refusals.
    pub(in crate::receiver) fn len(&self) -> usize {
        let all: u64 = self.counts.iter().map(|(_, count)| count).sum();
        usize::try_from(all).unwrap_or(usize::MAX)
    }

    /// Adds one.
    pub(super) fn add(&mut self, what: What, refusal: &Refusal) {
        match self.counts.iter_mut().find(|(reason, _)| *reason == refusal.reason) {
            Some((_, count)) => *count += 1,
            None => self.counts.push((refusal.reason, 1)),
        }
        self.first.get_or_insert_with(|| (what, refusal.clone()));
    }
}

impl Refusal {
    /// A refusal for this reason.
    pub(in crate::receiver) fn new(reason: Reason, why: impl Into<String>) -> Self {
        Self { reason, why: why.into(), told: None }
    }

    /// The same refusal, of which the client is told only this.
    pub(in crate::receiver) fn told(self, told: &'static str) -> Self {
        Self { told: Some(told), ..self }
    }

    /// The reason in words, as the client is told it.
    pub(super) fn words(&self) -> &str {
        self.told.unwrap_or(&self.why)
    }

    /// Bytes that are not a packet.
    pub(super) fn malformed(malformed: Malformed) -> Self {
        Self::new(malformed.reason(), malformed.to_string())
    }

    /// A packet that must not be sent.
    pub(super) fn protocol(why: impl Into<String>) -> Self {
        Self::new(Reason::Protocol, why)
    }

    /// A topic that is not accepted.
    pub(super) fn topic(why: String) -> Self {
        Self::new(Reason::TopicNameInvalid, why)
    }

    /// A topic alias that was not offered.
    pub(super) fn alias(why: String) -> Self {
        Self::new(Reason::TopicAliasInvalid, why)
    }

    /// A topic alias that stands for nothing.
    pub(super) fn unknown_alias(alias: NonZeroU16) -> Self {
        Self::protocol(format!("topic alias {alias} was not set on this connection"))
    }

    /// A message on a topic that is not one of heartbeats.
    pub(super) fn not_a_heartbeat(topic: &str, pattern: &TopicPattern) -> Self {
        let topic = Quoted(topic);
        Self::topic(format!("the topic {topic} is not a device's, which would be {pattern}"))
    }

    /// A message on a topic of echoes.
    pub(super) fn reserved(topic: &str) -> Self {
        let topic = Quoted(topic);
        Self::topic(format!("the topic {topic} is reserved for echoes of the service"))
    }

    /// A heartbeat of a device that the user may not publish for.
    pub(super) fn not_allowed(device: &str) -> Self {
        let device = Quoted(device);
        let why = format!("the user may not publish for {device}: see `heartbeatd user list`");
        Self::new(Reason::NotAuthorized, why)
    }

    /// Subscriptions, the first of them to this filter.
    pub(super) fn subscription(first: &str, filters: usize) -> Self {
        let others = match filters {
            0 | 1 => String::new(),
            more => format!(" and {} more", more - 1),
        };
        let first = Quoted(first);
        let why = format!("nobody but this service may subscribe, here to {first}{others}");
        Self::new(Reason::NotAuthorized, why)
    }
}
