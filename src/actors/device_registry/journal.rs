//! The happenings besides status changes, until a flush writes them.

use std::collections::VecDeque;

use chrono::{DateTime, Utc};

use crate::board::{Board, Told};
use crate::clock::Clock;
use crate::domain::{Entry, Happening, ServiceState};

/// The number of entries that wait while the database is away. Beyond it the oldest are
/// forgotten.
const KEPT: usize = 1_000;

/// The entries that are not written yet.
#[derive(Default)]
pub(super) struct Journal {
    waiting: VecDeque<Entry>,
    /// The clock by which the state of the service is watched; `None` if it is not.
    pub(super) clock: Option<Clock>,
    state: Option<ServiceState>,
    /// True once this process has proven something.
    has_proven: bool,
}

impl Journal {
    /// Notes that something happened.
    pub(super) fn note(&mut self, at: DateTime<Utc>, what: Happening) {
        self.waiting.push_back(Entry { at, what });
        self.forget_the_oldest();
    }

    /// Notes that listening was proven until `until`, if this process has not proven anything
    /// before.
    pub(super) fn proven(&mut self, until: DateTime<Utc>) {
        if !std::mem::replace(&mut self.has_proven, true) {
            self.note(until, Happening::Listening);
        }
    }

    /// Notes the state of the service if it is another one than before.
    pub(super) fn watch(&mut self, board: &Board) {
        let Some(clock) = self.clock else { return };
        let Told { state, detail, since } = board.state(clock());
        if self.state.replace(state) != Some(state) {
            self.note(since, Happening::State { state: state.to_string(), detail });
        }
    }

    /// Forgets everything, because another instance writes the journal. A later part as the
    /// active one begins anew.
    pub(super) fn forget(&mut self) {
        self.waiting.clear();
        (self.state, self.has_proven) = (None, false);
    }

    /// Takes out everything, to be written.
    pub(super) fn take(&mut self) -> Vec<Entry> {
        self.waiting.drain(..).collect()
    }

    /// Puts back what a flush has not written.
    pub(super) fn put_back(&mut self, entries: Vec<Entry>) {
        entries.into_iter().rev().for_each(|entry| self.waiting.push_front(entry));
        self.forget_the_oldest();
    }

    fn forget_the_oldest(&mut self) {
        let beyond = self.waiting.len().saturating_sub(KEPT);
        self.waiting.drain(..beyond);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::system_clock;

    #[test]
    fn a_state_is_noted_once_until_it_is_another_one() {
        let (mut journal, board) =
            (Journal::default(), Board::new(Duration::from_secs(5), Duration::from_secs(180)));
        let watch = |journal: &mut Journal| {
            journal.watch(&board);
            journal.watch(&board);
            journal.take().into_iter().map(|entry| entry.what).collect::<Vec<_>>()
        };
        assert_eq!(watch(&mut journal), [], "without a clock");
        journal.clock = Some(system_clock);
        let mut watch = || watch(&mut journal);
        let state =
            |state: ServiceState| Happening::State { state: state.to_string(), detail: None };
        assert_eq!(watch(), [state(ServiceState::Disconnected)]);
        assert_eq!(watch(), []);
        board.change(|facts| facts.broker(Ok(()), true));
        assert_eq!(watch(), [state(ServiceState::Unproven)]);
        board.change(|facts| facts.broker(Err(None), true));
        assert_eq!(watch(), [state(ServiceState::Disconnected)], "once more");
    }

    #[test]
    fn what_a_flush_has_not_written_waits_in_order_and_within_bounds() {
        let mut journal = Journal::default();
        let at = |second| DateTime::from_timestamp(second, 0).expect("small");
        journal.proven(at(1));
        journal.proven(at(2));
        let taken = journal.take();
        assert_eq!(taken, [Entry { at: at(1), what: Happening::Listening }], "only the first");
        journal.note(at(3), Happening::Listening);
        journal.put_back(taken);
        assert_eq!(journal.take().iter().map(|e| e.at).collect::<Vec<_>>(), [at(1), at(3)]);
        for second in 0..2_000 {
            journal.note(at(second), Happening::Listening);
        }
        let kept = journal.take();
        assert_eq!((kept.len(), kept[0].at), (KEPT, at(1_000)));
    }
}
