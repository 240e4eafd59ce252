//! Rate limit for log lines that outside input can trigger.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The number of lines of one kind that are logged per second.
const LINES: u32 = 5;
const SECOND: Duration = Duration::from_secs(1);

/// Lets a few log lines a second through and counts the rest. Logs their number within
/// two seconds, even if no other line follows.
#[derive(Clone, Debug)]
pub struct LineBudget(Arc<Budget>);

#[derive(Debug)]
struct Budget {
    /// The log target of the line about the rest.
    target: &'static str,
    /// The name of the lines, such as "rejected heartbeats".
    kind: Cow<'static, str>,
    window: Mutex<Window>,
}

impl LineBudget {
    /// Creates a budget for one kind of lines, such as "rejected heartbeats". The line about
    /// the rest is logged under `target` and has `kind` as a value.
    pub fn new(target: &'static str, kind: impl Into<Cow<'static, str>>) -> Self {
        let window = Mutex::new(Window::new(LINES, SECOND));
        Self(Arc::new(Budget { target, kind: kind.into(), window }))
    }

    /// Creates a budget of `lines` within `window`, which may be spent all at once.
    pub(crate) fn of(
        target: &'static str,
        kind: impl Into<Cow<'static, str>>,
        lines: u32,
        window: Duration,
    ) -> Self {
        let window = Mutex::new(Window::new(lines, window));
        Self(Arc::new(Budget { target, kind: kind.into(), window }))
    }

    /// True if a line may be logged now. A line that may not is not counted as left out.
    pub(crate) fn admits(&self) -> bool {
        self.0.window.lock().admit(Instant::now())
    }

    /// Calls `line`, unless this second's lines are used up.
    pub fn spend(&self, line: impl FnOnce()) {
        let Spent { shown, left_out, first } = self.0.window.lock().spend(Instant::now());
        self.0.tell(left_out);
        if shown {
            line();
        }
        if first {
            reporter::await_end_of_window(&self.0);
        }
    }
}

/// Logs at once what all budgets have left out so far. Call it before the process ends.
pub(crate) fn tell_all() {
    reporter::tell_all();
}

impl Budget {
    fn tell(&self, left_out: u64) {
        if left_out > 0 {
            let (count, kind) = (left_out, &*self.kind);
            log::warn!(target: self.target, count, kind; "more lines were left out");
        }
    }
}

/// A stretch of time and the lines that were logged in it.
#[derive(Debug)]
struct Window {
    /// The maximum number of lines that it allows.
    allowed: u32,
    length: Duration,
    began: Option<Instant>,
    lines: u32,
    /// The lines left out and not reported yet, in this window or an earlier one.
    left_out: u64,
}

/// The answer to a line that is about to be logged.
#[derive(Debug, PartialEq, Eq)]
struct Spent {
    shown: bool,
    /// The number that was left out in earlier windows.
    left_out: u64,
    /// True if this is the first line left out.
    first: bool,
}

impl Window {
    fn new(allowed: u32, length: Duration) -> Self {
        Self { allowed, length, began: None, lines: 0, left_out: 0 }
    }

    fn spend(&mut self, now: Instant) -> Spent {
        let left_out = self.settle(now).unwrap_or(0);
        let shown = self.admit(now);
        if !shown {
            self.left_out += 1;
        }
        Spent { shown, left_out, first: !shown && self.left_out == 1 }
    }

    fn admit(&mut self, now: Instant) -> bool {
        if self.is_over(now) {
            (self.began, self.lines) = (Some(now), 0);
        }
        let admitted = self.lines < self.allowed;
        self.lines += u32::from(admitted);
        admitted
    }

    /// Takes the count of lines left out. `None` while the window is not over.
    fn settle(&mut self, now: Instant) -> Option<u64> {
        self.is_over(now).then(|| std::mem::take(&mut self.left_out))
    }

    fn is_over(&self, now: Instant) -> bool {
        self.began.is_none_or(|began| now.duration_since(began) >= self.length)
    }
}

/// The thread that reports what was left out when no other line follows. It runs only
/// while there is something to report.
mod reporter {
    use std::sync::Arc;
    use std::time::Instant;

    use parking_lot::Mutex;

    use super::{Budget, SECOND};

    static REPORTER: Mutex<Reporter> = Mutex::new(Reporter { waiting: Vec::new(), runs: false });

    struct Reporter {
        /// Budgets that have left lines out.
        waiting: Vec<Arc<Budget>>,
        runs: bool,
    }

    pub(super) fn await_end_of_window(budget: &Arc<Budget>) {
        let mut reporter = REPORTER.lock();
        if !reporter.waiting.iter().any(|waiting| Arc::ptr_eq(waiting, budget)) {
            reporter.waiting.push(Arc::clone(budget));
        }
        if !reporter.runs {
            let thread = std::thread::Builder::new().name("line_budget".to_owned());
            // Without a thread, the next line or the end of the process reports it.
            reporter.runs = thread.spawn(run).is_ok();
        }
    }

    fn run() {
        loop {
            #[expect(clippy::disallowed_methods, reason = "this thread is the timer")]
            std::thread::sleep(SECOND);
            let now = Instant::now();
            let mut due = Vec::new();
            let mut reporter = REPORTER.lock();
            reporter.waiting.retain(|budget| match budget.window.lock().settle(now) {
                None => true,
                Some(left_out) => {
                    due.push((Arc::clone(budget), left_out));
                    false
                }
            });
            reporter.runs = !reporter.waiting.is_empty();
            let runs = reporter.runs;
            // Logging may block, and no other thread should have to wait for it.
            drop(reporter);
            for (budget, left_out) in due {
                budget.tell(left_out);
            }
            if !runs {
                return;
            }
        }
    }

    pub(super) fn tell_all() {
        // A panic may have come from this module, and must not wait for itself.
        let Some(mut reporter) = REPORTER.try_lock_for(SECOND) else { return };
        let waiting = std::mem::take(&mut reporter.waiting);
        drop(reporter);
        for budget in waiting {
            let left_out =
                budget.window.try_lock_for(SECOND).map(|mut w| std::mem::take(&mut w.left_out));
            budget.tell(left_out.unwrap_or(0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns how many of `lines` at that instant are logged, and the number reported
    /// meanwhile.
    fn flood(window: &mut Window, lines: u32, at: Instant) -> (u32, u64) {
        let spent: Vec<_> = (0..lines).map(|_| window.spend(at)).collect();
        let shown = spent.iter().map(|spent| u32::from(spent.shown)).sum();
        (shown, spent.iter().map(|spent| spent.left_out).sum())
    }

    #[test]
    fn each_second_logs_a_few_lines() {
        let (mut window, start) = (Window::new(LINES, SECOND), Instant::now());
        assert_eq!(flood(&mut window, 100, start), (LINES, 0));
        assert_eq!(flood(&mut window, 100, start + Duration::from_millis(999)), (0, 0));
        assert_eq!(flood(&mut window, 100, start + SECOND), (LINES, 195));
    }

    #[test]
    fn the_number_left_out_is_reported_once_when_its_second_is_over() {
        let (mut window, start) = (Window::new(LINES, SECOND), Instant::now());
        flood(&mut window, 12, start);
        assert_eq!(window.settle(start + Duration::from_millis(999)), None);
        assert_eq!(window.settle(start + SECOND), Some(7));
        assert_eq!(window.settle(start + 2 * SECOND), Some(0));
        assert_eq!(flood(&mut window, 1, start + 2 * SECOND), (1, 0));
    }

    #[test]
    fn only_the_first_line_that_is_left_out_wakes_the_reporter() {
        let (mut window, start) = (Window::new(LINES, SECOND), Instant::now());
        flood(&mut window, LINES, start);
        assert!(window.spend(start).first);
        assert!(!window.spend(start).first);
        flood(&mut window, LINES, start + SECOND);
        assert!(window.spend(start + SECOND).first);
    }
}
