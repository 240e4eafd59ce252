//! The rate at which heartbeats may register devices. It bounds what one client that
//! invents ids can do before an operator notices.

use std::time::Instant;

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// A token bucket: a burst of registrations at once, then a number of them each second. It
/// is full at the start.
#[derive(Clone, Debug)]
pub struct RegistrationBudget {
    /// Devices per second, which equals billionths of a device per nanosecond.
    rate: u64,
    /// In billionths of a device.
    burst: u128,
    /// In billionths of a device.
    level: u128,
    filled_at: Instant,
}

impl RegistrationBudget {
    /// Creates a budget of `burst` devices, and `rate` more each second.
    pub fn new(rate: u64, burst: u64, now: Instant) -> Self {
        let burst = u128::from(burst) * NANOS_PER_SECOND;
        Self { rate, burst, level: burst, filled_at: now }
    }

    /// The number of devices that may be registered now.
    pub fn available(&mut self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.filled_at).as_nanos();
        let gained = elapsed.saturating_mul(self.rate.into());
        self.level = self.burst.min(self.level.saturating_add(gained));
        self.filled_at = self.filled_at.max(now);
        u64::try_from(self.level / NANOS_PER_SECOND).unwrap_or(u64::MAX)
    }

    /// Deducts devices that were registered. The rest of what was available stays.
    pub fn spend(&mut self, devices: u64) {
        self.level = self.level.saturating_sub(u128::from(devices) * NANOS_PER_SECOND);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_flood_registers_the_burst_and_then_the_rate() {
        let start = Instant::now();
        let mut budget = RegistrationBudget::new(1_000, 100_000, start);
        let mut registered = 0;
        for second in 0..=20 {
            let available = budget.available(start + Duration::from_secs(second));
            budget.spend(available);
            registered += available;
        }
        assert_eq!(registered, 120_000);
    }

    #[test]
    fn what_is_not_used_stays_up_to_the_burst() {
        let start = Instant::now();
        let mut budget = RegistrationBudget::new(2, 10, start);
        assert_eq!(budget.available(start), 10);
        budget.spend(4);
        assert_eq!(budget.available(start), 6);
        assert_eq!(budget.available(start + Duration::from_millis(499)), 6);
        assert_eq!(budget.available(start + Duration::from_millis(500)), 7);
        assert_eq!(budget.available(start + Duration::from_secs(1_000)), 10);
        assert_eq!(budget.available(start), 10, "an earlier time gains nothing");
    }

    proptest! {
        /// The model remembers every registration. Since any instant in the past, no more
        /// than the burst and the rate may have been registered.
        #[test]
        fn it_allows_what_every_interval_of_the_past_allows(
            rate in 1_u64..1_000,
            burst in 1_u64..50,
            steps in prop::collection::vec((0_u64..3_000_000_000, 0_u64..20), 1..40),
        ) {
            let start = Instant::now();
            let mut budget = RegistrationBudget::new(rate, burst, start);
            let mut past: Vec<(u64, u64)> = Vec::new();
            let mut now = 0;
            for (nanos, wanted) in steps {
                now += nanos;
                let spent_since = |then: u64| -> u64 {
                    past.iter().filter(|(at, _)| *at >= then).map(|(_, spent)| spent).sum()
                };
                let allowed_since = |then: u64| {
                    let left = i128::from(burst) - i128::from(spent_since(then));
                    let gained = i128::from(rate) * i128::from(now - then);
                    (left * 1_000_000_000 + gained) / 1_000_000_000
                };
                let instants = past.iter().map(|(at, _)| *at).chain([0]);
                let allowed = instants.map(allowed_since).fold(burst.into(), i128::min);
                let available = budget.available(start + Duration::from_nanos(now));
                prop_assert_eq!(i128::from(available), allowed);
                let spent = wanted.min(available);
                budget.spend(spent);
                past.push((now, spent));
            }
        }
    }
}
