//! The timeout in a device's row. heartbeatd writes only usable ones, but another program
//! may write anything.

use std::time::Duration;

/// A hundred years in seconds, the longest usable timeout.
const LONGEST: i64 = 100 * 365 * 24 * 60 * 60;

/// A device's own timeout in seconds, usable or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnTimeout {
    /// The timeout is in effect.
    Usable(u64),
    /// Zero or less is unusable, so the default is in effect.
    NotPositive(i64),
    /// More than a hundred years is unusable, and the device never goes offline.
    Endless(u64),
}

impl OwnTimeout {
    /// Classifies the seconds in a device's row.
    pub fn of(seconds: i64) -> Self {
        match seconds {
            ..=0 => Self::NotPositive(seconds),
            1..=LONGEST => Self::Usable(seconds.unsigned_abs()),
            _ => Self::Endless(seconds.unsigned_abs()),
        }
    }

    /// The silence that the device is allowed; `None` if the default is in effect.
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
    /// [`UnusableTimeout`] if it is not.
    pub fn usable(self) -> Result<Duration, UnusableTimeout> {
        match self {
            Self::Usable(seconds) => Ok(Duration::from_secs(seconds)),
            Self::NotPositive(seconds) => Err(UnusableTimeout::NotPositive(seconds)),
            Self::Endless(seconds) => Err(UnusableTimeout::Endless(seconds)),
        }
    }
}

/// The reason why a device's own timeout cannot be used, and what is in effect instead.
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
