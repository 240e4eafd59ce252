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

impl Outage {
    /// An outage that begins at `now`.
    pub fn begin(now: Instant, why: String) -> Self {
        Self { since: now, mentioned: now, why }
    }

    /// Notes that it goes on, and why. Returns how long it has lasted if it is time to
    /// mention it again.
    pub fn goes_on(&mut self, now: Instant, why: String) -> Option<Duration> {
        self.why = why;
        if now.saturating_duration_since(self.mentioned) < REMINDER {
            return None;
        }
        self.mentioned = now;
        Some(self.lasts(now))
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
        let mut outage = Outage::begin(began, "locked".to_owned());
        let after = |seconds| began + Duration::from_secs(seconds);
        let mut mentioned = Vec::new();
        for second in 1..=90 {
            mentioned.extend(outage.goes_on(after(second), format!("locked {second}")));
        }
        assert_eq!(mentioned, [30, 60, 90].map(Duration::from_secs));
        assert_eq!(outage.why(), "locked 90");
        assert_eq!(outage.lasts(after(100)), Duration::from_secs(100));
    }
}
