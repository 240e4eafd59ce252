//! Something that is away: said when it begins, now and then while it lasts, and when
//! it is over.

use std::time::{Duration, Instant};

/// How often an outage that goes on is mentioned again.
const REMINDER: Duration = Duration::from_secs(30);

/// An outage that goes on.
#[derive(Clone, Debug)]
pub struct Outage {
    since: Instant,
    mentioned: Instant,
    why: String,
}

/// What is to be said of an outage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mention {
    /// It has just begun.
    Begins,
    /// It goes on, and has for so long.
    GoesOn(Duration),
    /// It was mentioned lately.
    Nothing,
}

impl Outage {
    /// Notes at `now` that something is away, and why. Returns what is to be said of it.
    pub fn note(outage: &mut Option<Self>, now: Instant, why: String) -> Mention {
        let Some(outage) = outage else {
            *outage = Some(Self { since: now, mentioned: now, why });
            return Mention::Begins;
        };
        outage.why = why;
        if now.saturating_duration_since(outage.mentioned) < REMINDER {
            return Mention::Nothing;
        }
        outage.mentioned = now;
        Mention::GoesOn(outage.lasts(now))
    }

    /// How long it has lasted.
    pub fn lasts(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    /// The newest reason.
    pub fn why(&self) -> &str {
        &self.why
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
        assert_eq!(outage.why(), "locked 90");
        assert_eq!(outage.lasts(after(100)), Duration::from_secs(100));
    }
}
