//! From when on a silence counts.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

/// The time in which the service was provably listening.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    confirmed_until: Option<DateTime<Utc>>,
}

impl Coverage {
    /// Everything published before `until` has been received.
    pub fn confirm(&mut self, until: DateTime<Utc>) {
        self.confirmed_until = self.confirmed_until.max(Some(until));
    }

    /// The last instant that is proven.
    pub fn confirmed_until(&self) -> Option<DateTime<Utc>> {
        self.confirmed_until
    }

    /// The instant since which a silence lasts for `timeout` at `now`: a device
    /// is silent when it was last seen before it. `None`: too little is known,
    /// nobody is silent.
    pub fn cutoff(&self, now: DateTime<Utc>, timeout: Duration) -> Option<DateTime<Utc>> {
        now.checked_sub_signed(TimeDelta::from_std(timeout).ok()?)
    }

    /// The cutoff of the default timeout and of each one that devices have of
    /// their own.
    pub fn cutoffs(&self, now: DateTime<Utc>, default: Duration, own: &[Duration]) -> Cutoffs {
        Cutoffs {
            default: self.cutoff(now, default),
            own: own.iter().map(|&timeout| (timeout, self.cutoff(now, timeout))).collect(),
        }
    }
}

/// The instants before which a device's last heartbeat means that it is silent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cutoffs {
    /// For devices without a timeout of their own.
    pub default: Option<DateTime<Utc>>,
    /// For each timeout that some device has of its own.
    pub own: Vec<(Duration, Option<DateTime<Utc>>)>,
}
