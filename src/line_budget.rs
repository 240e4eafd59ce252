//! A bound on how many log lines a second somebody outside can cause.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How many lines of a kind a second shows.
const LINES: u32 = 5;
const WINDOW: Duration = Duration::from_secs(1);

/// Lets a few log lines a second through and counts the rest.
#[derive(Debug, Default)]
pub struct LineBudget(Mutex<Option<Window>>);

#[derive(Debug)]
struct Window {
    began: Instant,
    lines: u32,
    suppressed: u64,
}

impl LineBudget {
    /// Calls `line` unless this second has had its lines. The first line after
    /// that says how many were left out.
    pub fn spend(&self, line: impl FnOnce()) {
        self.spend_at(Instant::now(), line);
    }

    fn spend_at(&self, now: Instant, line: impl FnOnce()) {
        let mut guard = self.0.lock();
        let window = guard.get_or_insert(Window { began: now, lines: 0, suppressed: 0 });
        let mut missed = 0;
        if now.duration_since(window.began) >= WINDOW {
            missed = window.suppressed;
            *window = Window { began: now, lines: 0, suppressed: 0 };
        }
        if window.lines >= LINES {
            window.suppressed += 1;
            return;
        }
        window.lines += 1;
        drop(guard);
        if missed > 0 {
            log::warn!("{missed} more lines like the next one were left out");
        }
        line();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_shows_a_few_lines_and_the_next_second_again() {
        let budget = LineBudget::default();
        let start = Instant::now();
        let shown = |at: Duration| {
            let mut shown = 0;
            for _ in 0..100 {
                budget.spend_at(start + at, || shown += 1);
            }
            shown
        };
        assert_eq!(shown(Duration::ZERO), LINES);
        assert_eq!(shown(Duration::from_millis(999)), 0);
        assert_eq!(shown(WINDOW), LINES);
    }
}
