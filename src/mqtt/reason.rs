//! The reason codes with which a broker refuses something, each with a hint at the
//! remedy.

use paho_mqtt as paho;
use paho_mqtt::ReasonCode as Reason;

use crate::logging::escape::Quoted;

const VERSION: &str = "mqtt.version should be one that the broker speaks";
const LOG: &str = "the broker's log should say why";

/// The parts of a subscription that explain its refusal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filter<'a> {
    /// The configuration key that holds it: `mqtt.topic` or `mqtt.echo_topic`.
    pub(super) key: &'static str,
    pub(super) client_id: &'a str,
    /// The number of filters that are subscribed to.
    pub(super) of: usize,
}

/// The owner of the client that was refused. It has other settings by which to be let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    /// The service's.
    Service,
    /// That of `heartbeatd simulate`.
    Simulation,
}

/// Explains a CONNACK that refuses the connection. `None` if the error is something else.
pub(super) fn not_connected(error: &paho::Error, of: Of) -> Option<String> {
    use paho::ConnectReturnCode as Code;
    let (reason, properties) = match error {
        paho::Error::ReasonCode(reason, properties) => (*reason, Some(properties)),
        // MQTT 3.1.1 has five codes, which MQTT 5 has under other numbers.
        paho::Error::ConnectReturn(code) => {
            let reason = match code {
                Code::UnacceptableProtocolVersion => Reason::UnsupportedProtocolVersion,
                Code::IdentifierRejected => Reason::ClientIdentifierNotValid,
                Code::BadUserNameOrPassword => Reason::BadUserNameOrPassword,
                Code::NotAuthorized => Reason::NotAuthorized,
                Code::ServerUnavailable => Reason::ServerUnavailable,
                Code::Accepted => return None,
            };
            (reason, None)
        }
        _ => return None,
    };
    let what = match reason {
        Reason::UnsupportedProtocolVersion => "the version of MQTT",
        Reason::ClientIdentifierNotValid => "the client identifier",
        Reason::BadUserNameOrPassword => "the user name or password",
        Reason::NotAuthorized => "this client as not authorized",
        _ => {
            let (name, right) = (named(reason), connecting(reason, of));
            let elsewhere = properties.map(server_reference).unwrap_or_default();
            return Some(format!("the broker refuses the connection: {name}; {right}{elsewhere}"));
        }
    };
    Some(format!("the broker refuses {what}: {}", connecting(reason, of)))
}

/// Describes a failed request for which the broker gave no code. Replaces the library's
/// text where that only speaks about the library.
pub(super) fn failed(error: &paho::Error) -> String {
    match error {
        paho::Error::Disconnected | paho::Error::OperationIncomplete => {
            "the connection was lost before the broker answered".to_owned()
        }
        paho::Error::Failure => {
            "the connection or the broker's answer failed in a way that MQTT has no code for"
                .to_owned()
        }
        other => other.to_string(),
    }
}

fn connecting(reason: Reason, of: Of) -> &'static str {
    match reason {
        Reason::BadUserNameOrPassword | Reason::NotAuthorized if of == Of::Simulation => {
            "give --username and --password-file of a user that the broker knows; `heartbeatd user \
             add NAME --devices 'sim-*'` adds one to the embedded broker"
        }
        Reason::UnsupportedProtocolVersion => VERSION,
        Reason::MalformedPacket | Reason::ProtocolError => {
            "it does not understand this client: mqtt.version should be one that the broker speaks"
        }
        Reason::ClientIdentifierNotValid => "the broker should allow mqtt.client_id",
        Reason::BadUserNameOrPassword => {
            "mqtt.username and mqtt.password should be known to the broker"
        }
        Reason::NotAuthorized => {
            "the broker should let mqtt.username and mqtt.client_id in, or wants credentials"
        }
        Reason::Banned => {
            "its administrator should lift the ban, which may be on mqtt.client_id, on \
             mqtt.username or on this machine's address"
        }
        Reason::BadAuthenticationMethod => {
            "the broker should accept mqtt.username and mqtt.password or a certificate, because \
             heartbeatd knows no other way to log in"
        }
        Reason::PacketTooLarge => {
            "mqtt.client_id, mqtt.username and mqtt.password should be shorter, or the broker's \
             limit on packets higher"
        }
        Reason::QuotaExceeded => {
            "a limit of the broker is reached, on its clients or on what one may use; it should \
             be raised"
        }
        _ => anywhere(reason),
    }
}

/// Explains why a SUBACK did not grant a filter. `None` stands for a code that the SUBACK
/// left out.
pub(super) fn not_subscribed(reason: Option<Reason>, filter: Filter<'_>) -> String {
    let Filter { key, client_id, of } = filter;
    let Some(reason) = reason else {
        return "no answer: the broker left it out, which is a fault of the broker".to_owned();
    };
    let right = match reason {
        Reason::NotAuthorized => {
            format!("the broker's access rules should allow {client_id:?} to read it")
        }
        // MQTT 3.1.1 has no other code.
        Reason::UnspecifiedError | Reason::ImplementationSpecificError => format!(
            "the broker's access rules should allow {client_id:?} to read it; if they do, its log \
             should say what is wrong"
        ),
        Reason::TopicFilterInvalid => format!(
            "{key} should be one that the broker accepts: some limit the levels or the length of \
             a filter, or where a '+' may stand"
        ),
        Reason::QuotaExceeded => format!(
            "the broker should allow {client_id:?} more subscriptions, of which it needs {of}{}",
            if of > 1 { "; with mqtt.echo_topic within mqtt.topic it needs one" } else { "" }
        ),
        _ => anywhere(reason).to_owned(),
    };
    format!("{}; {right}", named(reason))
}

/// Explains a PUBACK or PUBREC that refuses a heartbeat of a simulation whose devices have these
/// ids.
pub(super) fn not_published(reason: Reason, ids: &str) -> String {
    let right = match reason {
        Reason::NotAuthorized => format!(
            "give --username and --password-file of a user with the right for all ids of the \
             simulation; `heartbeatd user add NAME --devices '{ids}'` adds one to the embedded broker"
        ),
        Reason::TopicNameInvalid => "mqtt.topic should be one that the broker accepts".to_owned(),
        Reason::QuotaExceeded => "a limit of the broker is reached; it should be raised, or \
                                  --devices be lower or --period longer"
            .to_owned(),
        _ => anywhere(reason).to_owned(),
    };
    format!("the broker refuses heartbeats: {}; {right}", named(reason))
}

/// Explains a DISCONNECT from the broker.
pub(super) fn disconnected(reason: Reason, properties: &paho::Properties) -> String {
    let right = match reason {
        Reason::SessionTakenOver => {
            return "another client has connected with the same client id; each needs its own \
                    mqtt.client_id"
                .to_owned();
        }
        Reason::Success => return format!("the broker closed it without a reason; {LOG}"),
        Reason::NotAuthorized => {
            "its access rules should allow this client to read mqtt.topic, and to read and write \
             mqtt.echo_topic"
        }
        Reason::KeepAliveTimeout => {
            "it heard nothing for 1.5 times mqtt.keep_alive: this machine or the network stood \
             still, or mqtt.keep_alive should be longer"
        }
        Reason::ServerShuttingDown => "it should be back soon",
        Reason::AdministrativeAction => {
            "its administrator has ended the connection, and should know why"
        }
        Reason::MessageRateTooHigh => {
            "its limit should allow an echo every mqtt.echo_interval, or mqtt.echo_interval should \
             be longer"
        }
        Reason::MaximumConnectTime => {
            "it limits the time that a connection may last: the limit should be raised, because \
             heartbeats are missed at each end"
        }
        Reason::PacketTooLarge | Reason::QuotaExceeded | Reason::ReceiveMaximumExceeded => {
            "a limit of the broker is reached; its log should say which, and it should be raised"
        }
        _ => anywhere(reason),
    };
    let elsewhere = server_reference(properties);
    format!("the broker closed it: {}; {right}{elsewhere}", named(reason))
}

/// The remedy for codes that mean the same in every packet.
fn anywhere(reason: Reason) -> &'static str {
    match reason {
        Reason::ServerUnavailable => "if that lasts, its log should say why",
        Reason::ServerBusy => "if that lasts, it needs more resources or fewer clients",
        Reason::ConnectionRateExceeded => {
            "too many clients connect at once: this passes, or the broker's limit should be raised"
        }
        Reason::UseAnotherServer => "mqtt.url should name another broker for now",
        Reason::ServerMoved => "mqtt.url should name another broker from now on",
        Reason::TopicFilterInvalid | Reason::TopicNameInvalid => {
            "mqtt.topic and mqtt.echo_topic should be topics that the broker accepts"
        }
        Reason::QosNotSupported => "mqtt.qos should be lower",
        Reason::SharedSubscriptionsNotSupported => {
            "mqtt.share_group should be unset, or the broker should support shared subscriptions"
        }
        Reason::SubscriptionIdentifiersNotSupported => {
            "heartbeatd sends none, so the broker is at fault; mqtt.version = \"3.1.1\" has none"
        }
        Reason::WildcardSubscriptionsNotSupported => {
            "the broker should allow wildcards, because heartbeatd cannot do without the '+' in \
             mqtt.topic"
        }
        Reason::MalformedPacket
        | Reason::ProtocolError
        | Reason::PacketIdentifierInUse
        | Reason::PacketIdentifierNotFound
        | Reason::ReceiveMaximumExceeded
        | Reason::TopicAliasInvalid => {
            "the broker and this client do not understand each other; mqtt.version may help, and \
             the broker's log should say why"
        }
        _ => LOG,
    }
}

/// The name and the number of a code.
fn named(reason: Reason) -> String {
    match reason {
        Reason::MqttppV3Code => "a reason code that MQTT does not have".to_owned(),
        _ => format!("{reason} (0x{:02X})", reason as u8),
    }
}

/// The other broker that this one recommends.
fn server_reference(properties: &paho::Properties) -> String {
    let reference = properties.get(paho::PropertyCode::ServerReference);
    let reference = reference.and_then(|property| property.get_string());
    reference.map_or(String::new(), |name| format!(", it names {}", Quoted(&name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODES: std::ops::RangeInclusive<u32> = 0x80..=0xa2;

    fn connack(code: u32) -> String {
        let error = paho::Error::ReasonCode(Reason::from(code), paho::Properties::new());
        not_connected(&error, Of::Service).expect("it is a refusal")
    }

    #[test]
    fn a_simulation_is_told_of_its_own_options() {
        for (code, others) in [(0x86, "mqtt.username"), (0x87, "mqtt.client_id")] {
            let error = paho::Error::ReasonCode(Reason::from(code), paho::Properties::new());
            let told = not_connected(&error, Of::Simulation).expect("it is a refusal");
            assert!(told.contains("--username and --password-file"), "{told}");
            assert!(!told.contains(others) && connack(code).contains(others), "{told}");
        }
    }

    #[test]
    fn a_simulation_without_the_right_for_its_ids_is_told_of_the_command_that_gives_it() {
        let told = not_published(Reason::NotAuthorized, "lab-*");
        assert!(told.contains("(0x87)") && told.contains("--devices 'lab-*'"), "{told}");
        for code in CODES {
            let told = not_published(Reason::from(code), "lab-*");
            assert!(told.starts_with("the broker refuses heartbeats: "), "{told}");
        }
    }

    fn suback(code: u32, key: &'static str, of: usize) -> String {
        not_subscribed(Some(Reason::from(code)), Filter { key, client_id: "watcher", of })
    }

    fn disconnect(code: u32) -> String {
        disconnected(Reason::from(code), &paho::Properties::new())
    }

    #[track_caller]
    fn assert_said(said: &str, parts: &[&str]) {
        for part in parts {
            assert!(said.contains(part), "no {part:?} in {said}");
        }
    }

    #[test]
    fn a_refused_connection_says_what_would_be_right() {
        for (code, parts) in [
            (0x80, &["0x80", "broker's log"][..]),
            (0x81, &["0x81", "mqtt.version"]),
            (0x84, &["version of MQTT", "mqtt.version"]),
            (0x85, &["client identifier", "mqtt.client_id"]),
            (0x86, &["user name or password", "mqtt.username"]),
            (0x87, &["not authorized", "mqtt.username"]),
            (0x88, &["unavailable (0x88)", "if that lasts", "log"]),
            (0x89, &["busy (0x89)", "fewer clients"]),
            (0x8a, &["anned (0x8A)", "lift the ban", "mqtt.client_id"]),
            (0x8c, &["0x8C", "mqtt.username", "certificate"]),
            (0x95, &["too large (0x95)", "mqtt.client_id", "limit on packets"]),
            (0x97, &["uota exceeded (0x97)", "raised"]),
            (0x9c, &["nother server (0x9C)", "mqtt.url", "for now"]),
            (0x9d, &["moved (0x9D)", "mqtt.url", "from now on"]),
            (0x9f, &["rate exceeded (0x9F)", "limit should be raised"]),
        ] {
            assert_said(&connack(code), parts);
        }
        for (code, parts) in [
            (1, ["version of MQTT", "mqtt.version"]),
            (2, ["client identifier", "mqtt.client_id"]),
            (3, ["unavailable", "log should say why"]),
            (4, ["user name or password", "mqtt.password"]),
            (5, ["not authorized", "mqtt.client_id"]),
        ] {
            let error = paho::Error::from_connect_return_code(code);
            assert_said(&not_connected(&error, Of::Service).expect("it is a refusal"), &parts);
        }
        assert_eq!(not_connected(&paho::Error::TcpTlsConnectFailure, Of::Service), None);
    }

    #[test]
    fn a_failure_without_a_code_is_described_without_library_jargon() {
        for (code, part) in [
            (-1, "no code for"),
            (-3, "lost before the broker answered"),
            (-11, "lost before the broker answered"),
            // CONNACK of MQTT 3.1.1 with a return code that is reserved.
            (6, "no code for"),
        ] {
            let error = paho::Error::from(code);
            assert!(failed(&error).contains(part), "{code}: {}", failed(&error));
        }
        assert!(failed(&paho::Error::TcpConnectTimeout).contains("timeout"));
    }

    #[test]
    fn a_refused_subscription_says_what_would_be_right() {
        for (code, parts) in [
            (0x80, &["Unspecified error (0x80)", "access rules", "\"watcher\"", "log"][..]),
            (0x83, &["0x83", "access rules", "\"watcher\"", "log"]),
            (0x87, &["Not authorized (0x87)", "access rules", "\"watcher\""]),
            (0x8f, &["0x8F", "mqtt.echo_topic should be one that the broker accepts"]),
            (0x91, &["0x91", "broker's log"]),
            (0x97, &["uota exceeded (0x97)", "needs 2", "mqtt.echo_topic within mqtt.topic"]),
            (0x9e, &["0x9E", "mqtt.share_group should be unset"]),
            (0xa1, &["0xA1", "broker is at fault", "3.1.1"]),
            (0xa2, &["0xA2", "allow wildcards", "mqtt.topic"]),
            (0x7f, &["a reason code that MQTT does not have", "log"]),
        ] {
            assert_said(&suback(code, "mqtt.echo_topic", 2), parts);
        }
        assert_said(&suback(0x97, "mqtt.topic", 1), &["needs 1"]);
        assert!(!suback(0x97, "mqtt.topic", 1).contains("mqtt.echo_topic"));
        let filter = Filter { key: "mqtt.topic", client_id: "watcher", of: 2 };
        assert_said(&not_subscribed(None, filter), &["no answer", "fault of the broker"]);
    }

    #[test]
    fn a_closed_connection_says_what_would_be_right() {
        for (code, parts) in [
            (0x00, &["without a reason", "log"][..]),
            (0x80, &["0x80", "log"]),
            (0x82, &["0x82", "mqtt.version"]),
            (0x87, &["0x87", "mqtt.topic", "mqtt.echo_topic"]),
            (0x89, &["0x89", "fewer clients"]),
            (0x8b, &["0x8B", "back soon"]),
            (0x8d, &["0x8D", "mqtt.keep_alive"]),
            (0x8e, &["same client id", "mqtt.client_id"]),
            (0x95, &["0x95", "raised"]),
            (0x96, &["0x96", "mqtt.echo_interval"]),
            (0x97, &["0x97", "raised"]),
            (0x98, &["0x98", "administrator"]),
            (0x9b, &["0x9B", "mqtt.qos"]),
            (0x9c, &["0x9C", "mqtt.url"]),
            (0x9d, &["0x9D", "mqtt.url"]),
            (0x9e, &["0x9E", "mqtt.share_group"]),
            (0xa0, &["0xA0", "limit should be raised"]),
            (0xa2, &["0xA2", "wildcards"]),
        ] {
            assert_said(&disconnect(code), parts);
        }
    }

    #[test]
    fn the_broker_that_is_named_instead_is_shown_quoted() {
        let mut properties = paho::Properties::new();
        properties
            .push_string(paho::PropertyCode::ServerReference, "b.example:1883 \u{202e}level=x")
            .expect("it is a string");
        let parts = ["mqtt.url", r#"it names "b.example:1883 \u{202e}level=x""#];
        assert_said(&disconnected(Reason::ServerMoved, &properties), &parts);
        let error = paho::Error::ReasonCode(Reason::ServerMoved, properties);
        assert_said(&not_connected(&error, Of::Service).expect("it is a refusal"), &parts);
    }

    #[test]
    fn every_code_has_its_own_complete_sentence() {
        for code in CODES.filter(|&code| Reason::from(code) != Reason::MqttppV3Code) {
            for said in [connack(code), suback(code, "mqtt.topic", 1), disconnect(code)] {
                let ends = said.len() > 40 && !said.ends_with([';', ':', ' ', '.']);
                assert!(ends && !said.contains("  "), "0x{code:02x}: {said}");
            }
        }
    }
}
