//! The turns of publishers that fill the inbox themselves.
//!
//! A publisher asks for a turn before it reads from its socket. While the inbox has no room,
//! or not for this publisher, it waits and its socket is not read: nothing is thrown away.
//!
//! - Waiting publishers get their turns first come, first served. A turn is bounded, so that
//!   none of them can keep the others out.
//! - The more of the inbox is taken, the less of it one publisher may fill: at most as much as
//!   is still free. So those that send most wait first, and the others find room.
//! - What proves that everything before it was received, an echo, goes behind every publisher
//!   that is waiting.

use std::collections::VecDeque;

/// The maximum number of messages that are put into the inbox in one turn.
pub const MAX_TURN: usize = 4096;

/// The number of messages for which the inbox has room: about 3 MB of heartbeats, beside as many
/// that are handled meanwhile.
pub(super) const ROOM: usize = 32 * 1024;

/// The messages that one publisher has put into the inbox since it was last emptied.
#[derive(Debug, Default)]
pub struct Share {
    /// The emptying after which they were put in.
    since: u64,
    messages: usize,
}

/// The room in the inbox and the publishers that wait for it, each known by a `W`.
#[derive(Debug)]
pub(super) struct Turns<W> {
    room: usize,
    /// The maximum number of messages of one turn.
    turn: usize,
    /// The messages in the inbox.
    filled: usize,
    /// The messages that those who have a turn may put in.
    reserved: usize,
    /// The number of times that the inbox was emptied.
    emptied: u64,
    waiting: VecDeque<W>,
}

impl<W> Turns<W> {
    /// Turns for an inbox of at most `max_backlog` messages, but at least of a few turns.
    pub(super) fn new(max_backlog: usize) -> Self {
        const LEAST: usize = 4 * MAX_TURN;
        Self::of(max_backlog.clamp(LEAST, ROOM), MAX_TURN)
    }

    /// Turns of at most `turn` messages for an inbox of `room` messages.
    pub(super) fn of(room: usize, turn: usize) -> Self {
        Self { room, turn, filled: 0, reserved: 0, emptied: 0, waiting: VecDeque::new() }
    }

    /// Begins a turn of a publisher, unless it has to wait.
    pub(super) fn begin(&mut self, share: &Share) -> bool {
        let mine = if share.since == self.emptied { share.messages } else { 0 };
        self.reserve(mine)
    }

    /// Begins a turn after those of all waiting publishers, unless there are any.
    pub(super) fn begin_last(&mut self) -> bool {
        self.waiting.is_empty() && self.reserve(0)
    }

    fn reserve(&mut self, mine: usize) -> bool {
        let free = self.room - self.filled - self.reserved;
        let fits = free >= self.turn && free - self.turn >= mine;
        self.reserved += if fits { self.turn } else { 0 };
        fits
    }

    pub(super) fn wait(&mut self, publisher: W) {
        self.waiting.push_back(publisher);
    }

    /// Ends a turn in which `messages` were put into the inbox, at most as many as belong to it.
    pub(super) fn end(&mut self, messages: usize, share: &mut Share) {
        let messages = messages.min(self.turn);
        self.reserved -= self.turn;
        self.filled += messages;
        if share.since != self.emptied {
            *share = Share { since: self.emptied, messages: 0 };
        }
        share.messages += messages;
    }

    /// The inbox is empty again.
    pub(super) fn empty(&mut self) {
        self.filled = 0;
        self.emptied += 1;
    }

    /// Gives the next waiting publisher its turn, if there is room for it.
    pub(super) fn next(&mut self) -> Option<W> {
        let next = !self.waiting.is_empty() && self.reserve(0);
        if next { self.waiting.pop_front() } else { None }
    }

    /// True if nobody waits.
    pub(super) fn is_free(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Gives up all who wait.
    pub(super) fn forget_waiting(&mut self) {
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(turns: &mut Turns<&'static str>, share: &mut Share) -> usize {
        let mut begun = 0;
        while turns.begin(share) {
            turns.end(MAX_TURN, share);
            begun += 1;
        }
        begun
    }

    #[test]
    fn one_publisher_alone_fills_half_of_the_inbox_and_the_next_half_of_the_rest() {
        let mut turns = Turns::new(usize::MAX);
        let (mut first, mut second) = (Share::default(), Share::default());
        assert_eq!(full(&mut turns, &mut first), ROOM / MAX_TURN / 2);
        assert_eq!(full(&mut turns, &mut second), ROOM / MAX_TURN / 4);
        assert!(turns.begin(&Share::default()), "one that has sent nothing finds room");
    }

    #[test]
    fn those_who_wait_get_their_turns_in_order_and_an_echo_is_the_last() {
        let mut turns = Turns::of(MAX_TURN, MAX_TURN);
        let mut share = Share::default();
        assert!(turns.begin(&share));
        turns.end(1, &mut share);
        for publisher in ["a", "b"] {
            assert!(!turns.begin(&Share::default()));
            turns.wait(publisher);
        }
        assert!(!turns.begin_last());
        turns.wait("echo");
        let mut order = Vec::new();
        for _ in 0..3 {
            assert_eq!(turns.next(), None, "it is full");
            turns.empty();
            order.extend(turns.next());
            turns.end(1, &mut Share::default());
        }
        assert_eq!(order, ["a", "b", "echo"]);
    }

    #[test]
    fn an_echo_waits_behind_a_publisher_that_has_had_its_share() {
        let mut turns = Turns::new(usize::MAX);
        let mut share = Share::default();
        full(&mut turns, &mut share);
        turns.wait("glutton");
        assert!(turns.begin(&Share::default()), "there is room");
        turns.end(0, &mut Share::default());
        assert!(!turns.begin_last());
        turns.empty();
        assert_eq!(turns.next(), Some("glutton"));
    }

    #[test]
    fn a_share_counts_until_the_inbox_is_emptied() {
        let mut turns: Turns<&str> = Turns::new(usize::MAX);
        let mut share = Share::default();
        let filled = full(&mut turns, &mut share);
        turns.empty();
        assert_eq!(full(&mut turns, &mut share), filled);
    }
}
