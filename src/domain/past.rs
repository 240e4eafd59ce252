//! The past of a device: what is known about it as of an instant.

use chrono::{DateTime, Utc};

use super::{Status, Transition};

/// A device as of an instant, as far as its row and its history say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past {
    /// Its status at that instant.
    pub status: Status,
    /// The last heartbeat until then.
    pub heard: Heard,
}

/// The last heartbeat of a device until some instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It had never been heard.
    Never,
    /// The time of the heartbeat.
    At(DateTime<Utc>),
    /// It had been heard, but only the last heartbeat of all is kept, and those before an
    /// outage.
    NotKept,
}

impl Past {
    /// The past of a device as of `at`. `status` and `last_seen_at` are those of now, `before` is
    /// the newest transition until then, `after` the next one.
    pub fn of(
        (status, last_seen_at): (Status, Option<DateTime<Utc>>),
        before: Option<&Transition>,
        after: Option<&Transition>,
        at: DateTime<Utc>,
    ) -> Self {
        let status_before_next = after.map_or(status, |after| after.from);
        let status = before.map_or(status_before_next, |before| before.to);
        // Nothing was heard between a silence's beginning and the transition that says so.
        let of_outage = match (before, after) {
            (Some(before), _) if before.to == Status::Offline => before.last_seen_at,
            (_, Some(after)) if after.to == Status::Offline => after.last_seen_at,
            _ => None,
        };
        let known = [of_outage, last_seen_at].into_iter().flatten();
        let heard = match known.filter(|seen| *seen <= at).max() {
            Some(seen) => Heard::At(seen),
            None if status == Status::Provisioning => Heard::Never,
            None => Heard::NotKept,
        };
        Self { status, heard }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::DatabaseTimeline;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).expect("small")
    }

    fn change(seconds: i64, from: Status, to: Status, last_seen_at: i64) -> Transition {
        Transition {
            sequence: seconds,
            timeline: DatabaseTimeline::NONE,
            device_id: "pump".parse().expect("an id"),
            from,
            to,
            at: at(seconds),
            last_seen_at: Some(at(last_seen_at)),
            cutoff: None,
            timeout: None,
            listened: None,
            instance: None,
            ended_at: None,
            ends: None,
            delivered_at: None,
            given_up: None,
        }
    }

    #[test]
    fn of_the_past_only_what_silence_proves_is_known() {
        use Status::{Offline, Online, Provisioning};
        let history = [
            change(10, Provisioning, Online, 10),
            change(100, Online, Offline, 40),
            change(150, Offline, Online, 150),
        ];
        for (second, expected) in [
            (5, (Provisioning, Heard::Never)),
            (10, (Online, Heard::NotKept)),
            (39, (Online, Heard::NotKept)),
            // Nothing was heard from here to the outage.
            (40, (Online, Heard::At(at(40)))),
            (99, (Online, Heard::At(at(40)))),
            (100, (Offline, Heard::At(at(40)))),
            (149, (Offline, Heard::At(at(40)))),
            (150, (Online, Heard::NotKept)),
            (199, (Online, Heard::NotKept)),
            // Nor after the last heartbeat of all.
            (200, (Online, Heard::At(at(200)))),
            (300, (Online, Heard::At(at(200)))),
        ] {
            let before = history.iter().rev().find(|change| change.at <= at(second));
            let after = history.iter().find(|change| change.at > at(second));
            let now = (Online, Some(at(200)));
            let Past { status, heard } = Past::of(now, before, after, at(second));
            assert_eq!((status, heard), expected, "{second}");
        }
        let imported = Past::of((Online, Some(at(200))), None, None, at(100));
        assert_eq!(imported, Past { status: Online, heard: Heard::NotKept });
    }
}
