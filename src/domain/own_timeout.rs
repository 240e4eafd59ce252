//! The timeout that a device's row has: heartbeatd writes only usable ones, and another
//! program anything.

use std::time::Duration;

/// A hundred years in seconds: the longest timeout that is compared with anything.
const LONGEST: i64 = 100 * 365 * 24 * 60 * 60;

/// A device's own timeout in seconds, as far as it can be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnTimeout {
    /// It has been set.
    Usable(u64),
    /// It is unusable, and the device has the default.
    NotPositive(i64),
    /// It is unusable: longer than anybody waits, so the device never goes offline.
    Endless(u64),
}

impl OwnTimeout {
    /// What so many seconds in a device's row mean.
    pub fn of(seconds: i64) -> Self {
        match seconds {
            ..=0 => Self::NotPositive(seconds),
            1..=LONGEST => Self::Usable(seconds.unsigned_abs()),
            _ => Self::Endless(seconds.unsigned_abs()),
        }
    }

    /// How long the device may be silent; `None`: for as long as the default says.
    pub fn in_effect(self) -> Option<Duration> {
        match self {
            Self::Usable(seconds) | Self::Endless(seconds) => Some(Duration::from_secs(seconds)),
            Self::NotPositive(_) => None,
        }
    }

    /// The timeout, if it is usable.
    ///
    /// # Errors
    ///
    /// [`UnusableTimeout`] if not.
    pub fn usable(self) -> Result<Duration, UnusableTimeout> {
        match self {
            Self::Usable(seconds) => Ok(Duration::from_secs(seconds)),
            Self::NotPositive(seconds) => Err(UnusableTimeout::NotPositive(seconds)),
            Self::Endless(seconds) => Err(UnusableTimeout::Endless(seconds)),
        }
    }
}

/// Why a device's own timeout cannot be used, and what holds instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusableTimeout {
    /// It is zero or less.
    #[error("a timeout_seconds of {0} is unusable: it is not positive; the default is in effect")]
    NotPositive(i64),
    /// It is longer than a hundred years.
    #[error(
        "a timeout_seconds of {0} is unusable: it is more than {LONGEST}; the device never goes \
         offline"
    )]
    Endless(u64),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_second_to_a_hundred_years_is_usable() {
        for seconds in [i64::MIN, -5, 0, LONGEST + 1, i64::MAX] {
            OwnTimeout::of(seconds).usable().expect_err("it is unusable");
        }
        for seconds in [1, 180, LONGEST] {
            let timeout = Duration::from_secs(seconds.unsigned_abs());
            assert_eq!(OwnTimeout::of(seconds).usable(), Ok(timeout));
        }
        assert_eq!(OwnTimeout::of(-5).in_effect(), None);
    }
}
