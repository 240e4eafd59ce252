//! The pace of one client: a bucket of messages that fills at `max_messages_per_second`.
//!
//! A client that has used up its messages is not refused. Its socket is read later, so TCP
//! makes it wait.

use std::time::{Duration, Instant};

/// The messages that a client may send now. A second's worth may come at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// The time at which everything that was sent would have been sent at the allowed rate.
    even: Instant,
}

/// The rate and the burst for which a bucket holds messages.
const BURST: Duration = Duration::from_secs(1);

impl Pace {
    /// A full bucket.
    pub(super) fn new(now: Instant) -> Self {
        Self { even: now }
    }

    /// Takes `messages` out of a bucket that fills with `per_second`. Returns the time to wait
    /// before more may be read, if there is any.
    pub(super) fn spend(
        &mut self,
        messages: usize,
        per_second: u32,
        now: Instant,
    ) -> Option<Duration> {
        let cost =
            Duration::from_secs(1).saturating_mul(u32::try_from(messages).unwrap_or(u32::MAX));
        self.even = self.even.max(now) + cost / per_second.max(1);
        let ahead = self.even.saturating_duration_since(now);
        ahead.checked_sub(BURST).filter(|wait| !wait.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `messages` in portions of 1,000 as soon as they may be read. Returns the time
    /// that this takes.
    fn time_for(messages: usize, per_second: u32) -> Duration {
        let began = Instant::now();
        let (mut pace, mut now) = (Pace::new(began), began);
        for _ in 0..messages / 1000 {
            now += pace.spend(1000, per_second, now).unwrap_or_default();
        }
        now - began
    }

    #[test]
    fn a_second_s_worth_passes_at_once_and_the_rest_at_the_rate() {
        assert_eq!(time_for(100_000, 100_000), Duration::ZERO);
        assert_eq!(time_for(200_000, 100_000), Duration::from_secs(1));
        assert_eq!(time_for(1_000_000, 100_000), Duration::from_secs(9));
    }

    #[test]
    fn a_silent_client_saves_up_for_one_burst_and_no_more() {
        let began = Instant::now();
        let mut pace = Pace::new(began);
        assert_eq!(pace.spend(10, 10, began), None);
        let later = began + Duration::from_secs(3600);
        assert_eq!(pace.spend(10, 10, later), None);
        assert_eq!(pace.spend(1, 10, later), Some(Duration::from_millis(100)));
    }

    #[test]
    fn a_clock_that_stands_still_and_any_number_of_messages_do_no_harm() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        assert!(pace.spend(usize::MAX, 1, now).is_some());
        assert_eq!(Pace::new(now).spend(0, 1, now), None);
    }
}
