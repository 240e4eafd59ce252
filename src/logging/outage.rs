//! Something that is away. The log says so when it begins, every half minute while it lasts,
//! and when it is over.

use std::time::{Duration, Instant};

/// The time after which an outage that goes on is mentioned again.
pub const REMINDER: Duration = Duration::from_secs(30);

/// An outage that goes on.
#[derive(Clone, Debug)]
pub struct Outage {
    since: Instant,
    mentioned: Instant,
    why: Option<String>,
}

/// The thing to be said of an outage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mention {
    /// It has just begun.
    Begins,
    /// It goes on, and has lasted for this long.
    GoesOn(Duration),
    /// It was mentioned lately.
    Nothing,
}

impl Outage {
    /// An outage that begins at `now`, for a reason that is not known yet.
    pub fn begin(now: Instant) -> Self {
        Self { since: now, mentioned: now, why: None }
    }

    /// Notes that something is away at `now`, and why. Returns what is to be said of it.
    pub fn note(outage: &mut Option<Self>, now: Instant, why: String) -> Mention {
        let begins = outage.is_none();
        let outage = outage.get_or_insert_with(|| Self::begin(now));
        outage.because(why);
        if begins {
            return Mention::Begins;
        }
        outage.remind(now).map_or(Mention::Nothing, Mention::GoesOn)
    }

    /// Notes the newest reason.
    pub fn because(&mut self, why: String) {
        self.why = Some(why);
    }

    /// Returns for how long it has lasted, if it is time to mention it again.
    pub fn remind(&mut self, now: Instant) -> Option<Duration> {
        if now.saturating_duration_since(self.mentioned) < REMINDER {
            return None;
        }
        self.mentioned = now;
        Some(self.lasts(now))
    }

    /// The time for which it has lasted.
    pub fn lasts(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    /// The newest reason, if one is known.
    pub fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }

    /// The newest reason as a fault, if there is an outage.
    pub fn fault(outage: Option<&Self>) -> Result<(), String> {
        outage.map_or(Ok(()), |outage| Err(outage.why.clone().unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_mentioned_again_every_half_minute_with_its_newest_reason() {
        let began = Instant::now();
        let mut outage = None;
        let after = |seconds| began + Duration::from_secs(seconds);
        let mut mentioned = Vec::new();
        for second in 0..=90 {
            match Outage::note(&mut outage, after(second), format!("locked {second}")) {
                Mention::Begins => assert_eq!(second, 0),
                Mention::GoesOn(lasts) => mentioned.push(lasts),
                Mention::Nothing => (),
            }
        }
        assert_eq!(mentioned, [30, 60, 90].map(Duration::from_secs));
        let outage = outage.expect("it goes on");
        assert_eq!(outage.why(), Some("locked 90"));
        assert_eq!(outage.lasts(after(100)), Duration::from_secs(100));
    }
}
