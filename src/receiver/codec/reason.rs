//! Reasons for refusals.

/// The reason for a refusal, as MQTT 5 numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(in crate::receiver) enum Reason {
    /// A packet cannot be read.
    Malformed = 0x81,
    /// A packet can be read, but must not be sent here.
    Protocol = 0x82,
    /// The client speaks another version.
    UnsupportedVersion = 0x84,
    /// The client id is not accepted.
    ClientIdNotValid = 0x85,
    /// The user is unknown, or has another password.
    BadUserNameOrPassword = 0x86,
    /// The client may not do this.
    NotAuthorized = 0x87,
    /// The server cannot let anybody in.
    Unavailable = 0x88,
    /// The server cannot let anybody in now.
    Busy = 0x89,
    /// The service is stopping.
    ShuttingDown = 0x8b,
    /// The authentication method is not supported.
    BadAuthenticationMethod = 0x8c,
    /// The client was silent for too long.
    KeepAliveTimeout = 0x8d,
    /// Another connection has the client id.
    SessionTakenOver = 0x8e,
    /// The topic is not one to publish to.
    TopicNameInvalid = 0x90,
    /// The topic alias is not one that was offered.
    TopicAliasInvalid = 0x94,
    /// A packet is larger than this server takes.
    PacketTooLarge = 0x95,
    /// A limit is reached.
    QuotaExceeded = 0x97,
    /// The user was removed or has changed.
    Administrative = 0x98,
}

/// The code of a packet that has none for a reason.
const UNSPECIFIED: u8 = 0x80;

impl Reason {
    /// All reasons that are counted as such. What exceeds a quota is counted by the limit.
    pub(in crate::receiver) const ALL: [Self; 16] = [
        Self::Malformed,
        Self::Protocol,
        Self::UnsupportedVersion,
        Self::ClientIdNotValid,
        Self::BadUserNameOrPassword,
        Self::NotAuthorized,
        Self::Unavailable,
        Self::Busy,
        Self::ShuttingDown,
        Self::BadAuthenticationMethod,
        Self::KeepAliveTimeout,
        Self::SessionTakenOver,
        Self::TopicNameInvalid,
        Self::TopicAliasInvalid,
        Self::PacketTooLarge,
        Self::Administrative,
    ];

    /// The value of the `reason` label in the metrics.
    pub(in crate::receiver) fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Protocol => "protocol_error",
            Self::UnsupportedVersion => "unsupported_version",
            Self::ClientIdNotValid => "client_id",
            Self::BadUserNameOrPassword => "bad_credentials",
            Self::NotAuthorized => "not_authorized",
            Self::Unavailable => "unavailable",
            Self::Busy => "busy",
            Self::ShuttingDown => "stopping",
            Self::BadAuthenticationMethod => "authentication_method",
            Self::KeepAliveTimeout => "keep_alive",
            Self::SessionTakenOver => "taken_over",
            Self::TopicNameInvalid => "topic",
            Self::TopicAliasInvalid => "topic_alias",
            Self::PacketTooLarge => "packet_too_large",
            Self::QuotaExceeded => "limit",
            Self::Administrative => "user_changed",
        }
    }

    /// The code of a CONNACK of MQTT 3.1 and 3.1.1.
    pub(super) fn in_old_connack(self) -> u8 {
        match self {
            Self::UnsupportedVersion => 1,
            Self::ClientIdNotValid => 2,
            Self::BadUserNameOrPassword => 4,
            Self::NotAuthorized => 5,
            _ => 3,
        }
    }

    /// The code of a CONNACK of MQTT 5.
    pub(super) fn in_connack(self) -> u8 {
        match self {
            Self::ShuttingDown => Self::Unavailable as u8,
            Self::KeepAliveTimeout
            | Self::SessionTakenOver
            | Self::TopicAliasInvalid
            | Self::Administrative => UNSPECIFIED,
            reason => reason as u8,
        }
    }

    /// The code of a PUBACK or PUBREC of MQTT 5.
    pub(super) fn in_acknowledgement(self) -> u8 {
        match self {
            Self::NotAuthorized | Self::TopicNameInvalid | Self::QuotaExceeded => self as u8,
            _ => UNSPECIFIED,
        }
    }

    /// The code of a DISCONNECT.
    pub(super) fn in_disconnect(self) -> u8 {
        match self {
            Self::UnsupportedVersion
            | Self::ClientIdNotValid
            | Self::BadUserNameOrPassword
            | Self::Unavailable => UNSPECIFIED,
            reason => reason as u8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = Reason> {
        Reason::ALL.into_iter().chain([Reason::QuotaExceeded])
    }

    #[test]
    fn a_packet_has_only_codes_that_the_standard_has_for_it() {
        // Tables 3-1, 3-4, 3-5 and 3-10 of MQTT 5, those of refusals.
        let connack = [
            0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8c, 0x90, 0x95,
            0x97, 0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9f,
        ];
        let acknowledgement = [0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
        let disconnect = [
            0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8b, 0x8c, 0x8d, 0x8e, 0x8f, 0x90, 0x93, 0x94,
            0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9e, 0x9f, 0xa0, 0xa1, 0xa2,
        ];
        for reason in all() {
            assert!(connack.contains(&reason.in_connack()), "{reason:?}");
            assert!(acknowledgement.contains(&reason.in_acknowledgement()), "{reason:?}");
            assert!(disconnect.contains(&reason.in_disconnect()), "{reason:?}");
            assert!((1..=5).contains(&reason.in_old_connack()), "{reason:?}");
        }
    }

    #[test]
    fn each_reason_has_a_label_of_its_own() {
        let mut labels: Vec<_> = all().map(Reason::label).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), all().count());
    }
}
