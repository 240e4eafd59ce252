//! The lines that actors log on the thread of a test, written as in the service's log.

use std::cell::RefCell;

use log::{LevelFilter, Log, Metadata, Record};

thread_local! {
    static LINES: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

struct Logger;

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        LINES.with_borrow(Option::is_some)
    }

    fn log(&self, record: &Record<'_>) {
        LINES.with_borrow_mut(|lines| {
            let Some(lines) = lines else { return };
            let (level, target) = (record.level(), record.target());
            let mut line = format!("[now {level} {target}] {}", record.args());
            let _ = record.key_values().visit(&mut Pairs(&mut line));
            lines.push(line);
        });
    }

    fn flush(&self) {}
}

struct Pairs<'a>(&'a mut String);

impl<'kvs> log::kv::VisitSource<'kvs> for Pairs<'_> {
    fn visit_pair(
        &mut self,
        key: log::kv::Key<'kvs>,
        value: log::kv::Value<'kvs>,
    ) -> Result<(), log::kv::Error> {
        self.0.push_str(&format!(" {key}={value}"));
        Ok(())
    }
}

/// Keeps the lines at info and above that this thread logs from now on.
pub fn keep_lines() {
    // Another test may already have set it.
    if log::set_logger(&Logger).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
    LINES.set(Some(Vec::new()));
}

/// Takes the lines that were logged since, and goes on keeping lines.
pub fn take_lines() -> Vec<String> {
    LINES.replace(Some(Vec::new())).expect("lines are kept")
}
