//! The kind of a message, by its topic and its sender.

use super::{Peer, Refusal, Topics};
use crate::domain::device_id::is_reserved;
use crate::domain::{DeviceId, Rejection};

/// The kinds of messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Addressed {
    /// The heartbeat of a device that the client may publish for.
    Heartbeat(DeviceId),
    /// An echo of this service.
    Echo,
    /// A message that does not count.
    Nothing(Refusal),
    /// It would be a heartbeat if its device id were one.
    Invalid(Rejection),
}

impl Peer {
    /// The name of the user that has logged in, if one has.
    pub(in crate::receiver) fn user(&self) -> Option<&str> {
        match self {
            Self::Service => Some(crate::receiver::SERVICE_USER),
            Self::Anyone => None,
            Self::User(user) => Some(user.name()),
        }
    }

    /// The kind of a message of this client on this topic.
    pub(super) fn addressed(&self, topic: &str, topics: &Topics) -> Addressed {
        if matches!(self, Self::Service) && topics.echo.as_deref() == Some(topic) {
            return Addressed::Echo;
        }
        let Some(device) = topics.heartbeats.device_level(topic) else {
            return Addressed::Nothing(Refusal::not_a_heartbeat(topic, &topics.heartbeats));
        };
        if is_reserved(device) {
            return Addressed::Nothing(Refusal::reserved(topic));
        }
        match device.parse() {
            Err(invalid) => Addressed::Invalid(Rejection::InvalidDeviceId(invalid)),
            Ok(_) if !self.may_publish_for(device) => {
                Addressed::Nothing(Refusal::not_allowed(device))
            }
            Ok(device) => Addressed::Heartbeat(device),
        }
    }

    fn may_publish_for(&self, device: &str) -> bool {
        match self {
            Self::Service | Self::Anyone => true,
            Self::User(user) => user.rights().allows(device),
        }
    }
}
