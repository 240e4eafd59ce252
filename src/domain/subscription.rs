//! The subscription of an instance, as far as its configuration says.
//!
//! A proof says that whatever was published to this subscription has arrived. It says nothing of
//! devices that publish to another topic, or enter at another node.

use chrono::TimeDelta;

/// The configuration of an instance, as far as others on its database have to know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configured {
    /// Its subscription.
    pub subscription: Subscription,
    /// The silence after which a device is offline, unless it has its own timeout.
    pub timeout: TimeDelta,
    /// The time between two checks.
    pub check_interval: TimeDelta,
}

/// The subscription of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The topic of heartbeats (`mqtt.topic`).
    pub topic: String,
    /// The broker (`mqtt.url`); `None` for the embedded one.
    pub broker: Option<String>,
    /// The nodes of the broker's cluster at which devices connect (`mqtt.entry_urls`), in order.
    pub entry_urls: Vec<String>,
}

/// A key that two instances have different values for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The key.
    pub key: &'static str,
    /// The value here.
    pub here: String,
    /// The other instance's.
    pub there: String,
}

impl Subscription {
    /// The difference because of which what one of them proves says nothing for the other. `None`
    /// if they listen to the same, as far as can be told.
    ///
    /// The embedded broker has clients of its own. A node of others may have several names, so of the nodes only the number is compared, with the own one
    /// or without it.
    pub fn differs_from(&self, other: &Self) -> Option<Difference> {
        if self.topic != other.topic {
            let (here, there) = (quoted(&self.topic), quoted(&other.topic));
            return Some(Difference { key: "mqtt.topic", here, there });
        }
        if self.broker.is_none() != other.broker.is_none() {
            let shown = |broker: &Option<String>| {
                broker.as_ref().map_or("unset (the embedded broker)".to_owned(), |url| quoted(url))
            };
            let (here, there) = (shown(&self.broker), shown(&other.broker));
            return Some(Difference { key: "mqtt.url", here, there });
        }
        let is_as_many = self.entry_urls.len() == other.entry_urls.len()
            || self.nodes().len() == other.nodes().len();
        (!is_as_many).then(|| self.of_entries(other))
    }

    /// A difference that may mean that they listen to something else, or only that they have other
    /// names for the same.
    pub fn may_differ_from(&self, other: &Self) -> Option<Difference> {
        if self.entry_urls.is_empty() && other.entry_urls.is_empty() {
            let shown = |broker: &Option<String>| quoted(broker.as_deref().unwrap_or_default());
            let (here, there) = (shown(&self.broker), shown(&other.broker));
            return (here != there).then_some(Difference { key: "mqtt.url", here, there });
        }
        let same = self.entry_urls == other.entry_urls || self.nodes() == other.nodes();
        (!same).then(|| self.of_entries(other))
    }

    fn of_entries(&self, other: &Self) -> Difference {
        let list = |urls: &[String]| {
            format!("[{}]", urls.iter().map(|url| quoted(url)).collect::<Vec<_>>().join(", "))
        };
        let (here, there) = (list(&self.entry_urls), list(&other.entry_urls));
        Difference { key: "mqtt.entry_urls", here, there }
    }

    /// All nodes that it knows of, in order.
    fn nodes(&self) -> Vec<&str> {
        let nodes = self.entry_urls.iter().chain(&self.broker);
        let mut nodes: Vec<_> = nodes.map(String::as_str).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscription(topic: &str, broker: &str, entry_urls: &[&str]) -> Subscription {
        Subscription {
            topic: topic.to_owned(),
            broker: Some(broker.to_owned()),
            entry_urls: entry_urls.iter().map(|url| (*url).to_owned()).collect(),
        }
    }

    /// The keys that differ for certain, and that may differ.
    fn compared(one: &Subscription, other: &Subscription) -> (Option<String>, Option<String>) {
        let told = |difference: Option<Difference>| {
            difference.map(|Difference { key, here, there }| format!("{key} {here} {there}"))
        };
        assert_eq!(one.differs_from(other).is_some(), other.differs_from(one).is_some());
        (told(one.differs_from(other)), told(one.may_differ_from(other)))
    }

    #[test]
    fn the_embedded_broker_hears_other_devices_than_any_other_one() {
        let external = subscription("devices/+/heartbeat", "mqtt://a:1883", &[]);
        let embedded = Subscription { broker: None, ..external.clone() };
        let told = r#"mqtt.url unset (the embedded broker) "mqtt://a:1883""#;
        assert_eq!(compared(&embedded, &external).0.as_deref(), Some(told));
        assert_eq!(compared(&embedded, &embedded), (None, None));
    }

    #[test]
    fn another_topic_is_another_subscription() {
        let one = subscription("devices/+/heartbeat", "n1", &[]);
        let other = subscription("halls/+/heartbeat", "n1", &[]);
        let told = r#"mqtt.topic "devices/+/heartbeat" "halls/+/heartbeat""#.to_owned();
        assert_eq!(compared(&one, &other), (Some(told), None));
        assert_eq!(compared(&one, &one.clone()), (None, None));
    }

    #[test]
    fn another_number_of_nodes_is_another_subscription_and_other_names_may_be_one() {
        let of = |broker, urls: &[&str]| subscription("devices/+/heartbeat", broker, urls);
        for (one, other, differs, may) in [
            (of("n1", &["n1", "n2"]), of("n2", &["n1", "n2"]), false, false),
            // The own node may be in the list or not.
            (of("n1", &["n2", "n3"]), of("n2", &["n1", "n3"]), false, false),
            (of("n1", &["n2"]), of("n1", &["n1", "n2"]), false, false),
            (of("n1", &[]), of("n1", &["n1"]), false, false),
            (of("localhost", &["n1", "n2"]), of("n2", &["n1", "n2"]), false, false),
            (of("n1", &["n1", "n2"]), of("n1", &["n1", "n3"]), false, true),
            (of("n1", &["n1", "n2"]), of("n1", &[]), true, true),
            (of("n1", &["n1", "n2"]), of("n2", &[]), true, true),
            (of("n1", &["n1", "n2"]), of("n1", &["n1", "n2", "n3"]), true, true),
            (of("n1", &[]), of("n2", &[]), false, true),
        ] {
            let (told, doubted) = compared(&one, &other);
            assert_eq!((told.is_some(), doubted.is_some()), (differs, may), "{one:?} {other:?}");
        }
        let (one, other) = (of("n1", &["n1", "n2"]), of("n1", &[]));
        assert_eq!(compared(&one, &other).0.as_deref(), Some(r#"mqtt.entry_urls ["n1", "n2"] []"#));
    }
}
