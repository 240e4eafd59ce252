//! Topic aliases: numbers with which a client of MQTT 5 saves sending a topic again.

use std::num::NonZeroU16;

use super::addressed::Addressed;
use super::{Peer, Refusal, Topics};

/// The number of topic aliases that a client may use. Each takes 48 bytes for as long as its
/// connection lasts, and up to 1.5 KB more if its topic is long or refused.
pub(super) const MAX_ALIASES: u16 = 64;

/// The meanings of one client's aliases. A topic is looked at once.
#[derive(Debug, Default)]
pub(super) struct Aliases(Vec<Option<Addressed>>);

impl Aliases {
    /// Resolves the topic or the alias of a message. If it has both, the alias stands for the topic
    /// from here on. An error ends the session.
    pub(super) fn resolve(
        &mut self,
        topic: &str,
        alias: Option<NonZeroU16>,
        peer: &Peer,
        topics: &Topics,
    ) -> Result<Addressed, Refusal> {
        let Some(alias) = alias else { return Ok(peer.addressed(topic, topics)) };
        if alias.get() > MAX_ALIASES {
            return Err(Refusal::alias(format!("topic alias {alias} is above {MAX_ALIASES}")));
        }
        let index = usize::from(alias.get()) - 1;
        if topic.is_empty() {
            let known = self.0.get(index).cloned().flatten();
            return known.ok_or_else(|| Refusal::unknown_alias(alias));
        }
        let addressed = peer.addressed(topic, topics);
        if self.0.len() <= index {
            self.0.resize(index + 1, None);
        }
        self.0[index] = Some(addressed.clone());
        Ok(addressed)
    }
}
