//! Notices the end of a burst of heartbeats, which is then written at once. A fleet that
//! reconnects is in the database up to a flush interval sooner; one that sends at its usual pace
//! never pauses long enough, or never has so much to write.

use std::time::{Duration, Instant};

/// The least number of heartbeats that are a burst: as many as one transaction takes.
const BURST: usize = 10_000;

/// The pause after which a burst has ended. A fleet of a million devices that each send once a
/// minute has a heartbeat every 0.06 ms.
pub(super) const PAUSE: Duration = Duration::from_millis(20);

/// The watch for the end of a burst.
#[derive(Debug, Default)]
pub(super) struct Settling {
    /// The time of the last heartbeats.
    heard: Option<Instant>,
    /// True while somebody looks again after each [`PAUSE`].
    is_watched: bool,
}

/// The next thing to do after a [`PAUSE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// The burst goes on: look again.
    Again,
    /// It has ended: write it.
    Settled,
    /// A flush has taken it already.
    Over,
}

impl Settling {
    /// Notes heartbeats, after which `waiting` of them are to be written. True if somebody must
    /// [look](Self::look) after a [`PAUSE`].
    pub(super) fn heard(&mut self, at: Instant, waiting: usize) -> bool {
        self.heard = Some(at);
        waiting >= BURST && !std::mem::replace(&mut self.is_watched, true)
    }

    /// Looks whether the burst has ended by `now`, when `waiting` heartbeats are to be written.
    pub(super) fn look(&mut self, now: Instant, waiting: usize) -> Look {
        let is_pause = |heard: Instant| now.saturating_duration_since(heard) >= PAUSE;
        let look = match self.heard {
            _ if waiting < BURST => Look::Over,
            Some(heard) if !is_pause(heard) => Look::Again,
            _ => Look::Settled,
        };
        self.is_watched = look == Look::Again;
        look
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_written_once_it_pauses_and_is_watched_by_one_at_a_time() {
        let (mut settling, began) = (Settling::default(), Instant::now());
        assert!(!settling.heard(began, BURST - 1), "this is no burst");
        assert!(settling.heard(began, BURST));
        let later = began + PAUSE / 2;
        assert!(!settling.heard(later, 2 * BURST), "somebody looks already");
        assert_eq!(settling.look(began + PAUSE, 2 * BURST), Look::Again);
        assert_eq!(settling.look(later + PAUSE, 2 * BURST), Look::Settled);
        assert!(settling.heard(later + PAUSE, BURST), "the next burst needs a new watch");
    }

    #[test]
    fn a_burst_that_a_flush_has_taken_is_over() {
        let (mut settling, began) = (Settling::default(), Instant::now());
        assert!(settling.heard(began, BURST));
        assert_eq!(settling.look(began + PAUSE, 1), Look::Over);
        assert!(settling.heard(began + PAUSE, BURST));
    }
}
