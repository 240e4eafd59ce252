//! The log: one line on stderr for each event, `[time LEVEL target] message key=value`.
//!
//! Text from outside is escaped, and a value that could be taken for several is quoted.
//! Libraries write a few lines a second at most, and never a secret, whatever `RUST_LOG`
//! says.

pub mod batch_log;
pub mod escape;
pub mod line_budget;
pub mod outage;

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::io::{self, Write as _};

use chrono::{DateTime, SecondsFormat, Utc};
use env_logger::fmt::Formatter;
use env_logger::fmt::style::Style;
use log::kv::{self, Key, Source, Value, VisitSource, VisitValue};
use log::{Level, LevelFilter, Log, Metadata, Record};
use parking_lot::Mutex;

use self::escape::Escaped;
use self::line_budget::LineBudget;

/// The default levels. The `info` lines of libraries only help to debug the libraries.
/// paho traces every packet as soon as it may log more than errors, which takes more time
/// than everything else.
const DEFAULT_FILTERS: &str = "info,actix_http=warn,actix_server=warn,mio=warn,paho_mqtt=error,\
                               sea_orm=warn,sea_orm_migration=warn,sqlx=warn,\
                               sqlx_postgres=error,tracing=warn";

/// The libraries that would log secrets, with the highest level that each may log. paho
/// prints its options with the password at debug, and its C part may print what it sends
/// at trace. sea-orm prints the URL with the password at trace. sqlx-postgres prints an
/// unreadable line of .pgpass in a warning.
const CAPS: [(&str, LevelFilter); 4] = [
    ("paho_mqtt", LevelFilter::Info),
    ("paho_mqtt_c", LevelFilter::Debug),
    ("sea_orm", LevelFilter::Debug),
    ("sqlx_postgres", LevelFilter::Error),
];

/// The maximum size of a message and of a value in a line, in bytes. Bounded because a
/// library's message may contain whatever a client has sent.
const MAX_MESSAGE: usize = 4096;
const MAX_VALUE: usize = 1024;

/// The maximum number of libraries with their own budget; the others share one.
const MAX_LIBRARIES: usize = 64;

/// Logs to stderr at `info`, unless `RUST_LOG` says otherwise. `RUST_LOG` affects a
/// library only if it names it.
///
/// # Panics
///
/// If a logger is already set.
pub fn init() {
    let mut builder = env_logger::Builder::new();
    builder
        .parse_filters(DEFAULT_FILTERS)
        .parse_default_env()
        .format_timestamp_millis()
        .format_indent(None)
        .format_key_values(write_key_values);
    let logger = Logger { inner: builder.build(), libraries: Mutex::default() };
    let capped = logger.capped();
    log::set_max_level(logger.inner.filter());
    log::set_boxed_logger(Box::new(logger)).expect("no other logger is set");
    for (library, level) in capped {
        log::warn!(
            target: "heartbeatd", library, level = level.as_str();
            "RUST_LOG asks this library for more than it may log, because it would log passwords"
        );
    }
}

/// Writes a time into a key-value, as the API does: RFC 3339 in UTC with milliseconds.
pub fn instant(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

struct Logger {
    inner: env_logger::Logger,
    libraries: Mutex<HashMap<String, LineBudget>>,
}

impl Logger {
    /// The libraries that may not log as much as `RUST_LOG` asks for, with their caps.
    fn capped(&self) -> Vec<(&'static str, LevelFilter)> {
        let more = |(library, most): &(&str, LevelFilter)| {
            let next = Level::iter().find(|level| level > most);
            next.is_some_and(|level| {
                self.inner.enabled(&Metadata::builder().target(library).level(level).build())
            })
        };
        CAPS.into_iter().filter(more).collect()
    }

    fn budget(&self, library: &str) -> LineBudget {
        let mut libraries = self.libraries.lock();
        if let Some(budget) = libraries.get(library) {
            return budget.clone();
        }
        let library = if libraries.len() < MAX_LIBRARIES { library } else { "other libraries" };
        let budget = || LineBudget::new("heartbeatd", library.to_owned());
        libraries.entry(library.to_owned()).or_insert_with(budget).clone()
    }

    fn write(&self, record: &Record<'_>) {
        let message = Bounded::<MAX_MESSAGE>::of(Escaped(record.args()));
        self.inner.log(&record.to_builder().args(format_args!("{message}")).build());
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let library = root(metadata.target());
        let cap = CAPS.iter().find(|(capped, _)| *capped == library);
        cap.is_none_or(|(_, most)| metadata.level() <= *most) && self.inner.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        // This crate's own lines have budgets where they are written. Details that
        // RUST_LOG asks for are not bounded.
        if is_ours(record) || record.level() > Level::Info {
            return self.write(record);
        }
        self.budget(root(record.target())).spend(|| self.write(record));
    }

    fn flush(&self) {
        self.inner.flush();
    }
}

/// True if this crate logs it, under any target.
fn is_ours(record: &Record<'_>) -> bool {
    record.module_path().is_some_and(|path| root(path) == env!("CARGO_CRATE_NAME"))
}

/// The crate of a module path.
fn root(path: &str) -> &str {
    path.split_once("::").map_or(path, |(root, _)| root)
}

fn write_key_values(out: &mut Formatter, pairs: &dyn Source) -> io::Result<()> {
    pairs.visit(&mut KeyValues(out)).map_err(io::Error::other)
}

struct KeyValues<'a>(&'a mut Formatter);

impl<'kvs> VisitSource<'kvs> for KeyValues<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        if is_absent(&value) {
            return Ok(());
        }
        // Without colours the default style of a level is empty.
        let plain = self.0.default_level_style(Level::Info) == Style::new();
        let style = if plain { Style::new() } else { Style::new().italic() };
        let value = shown(&value);
        Ok(write!(self.0, " {style}{key}{style:#}={value}")?)
    }
}

/// True for the `None` of an `Option`. Its text would be that of a value `None`.
fn is_absent(value: &Value<'_>) -> bool {
    struct Absent(bool);

    impl<'v> VisitValue<'v> for Absent {
        fn visit_any(&mut self, _: Value<'_>) -> Result<(), kv::Error> {
            Ok(())
        }

        fn visit_null(&mut self) -> Result<(), kv::Error> {
            self.0 = true;
            Ok(())
        }
    }

    let mut absent = Absent(false);
    value.visit(&mut absent).is_ok() && absent.0
}

/// Formats a value for a line: quoted, unless it is one plain word.
fn shown(value: &Value<'_>) -> String {
    let text = Bounded::<MAX_VALUE>::of(value);
    let is_plain =
        |c: char| !matches!(c, ' ' | '=' | '"' | '\'' | '`' | '\\') && !escape::is_hazardous(c);
    if !text.kept.is_empty() && text.cut == 0 && text.kept.chars().all(is_plain) {
        return text.kept;
    }
    let cut = if text.cut > 0 { "…" } else { "" };
    format!("{}{cut}", escape::in_quotes(&text.kept))
}

/// The beginning of a text that may be of any length.
#[derive(Default)]
struct Bounded<const BYTES: usize> {
    kept: String,
    /// The number of bytes left out.
    cut: usize,
}

impl<const BYTES: usize> Bounded<BYTES> {
    fn of(text: impl fmt::Display) -> Self {
        let mut bounded = Self { kept: String::new(), cut: 0 };
        // If formatting fails, what was written so far is shown.
        let _ = write!(bounded, "{text}");
        bounded
    }
}

impl<const BYTES: usize> fmt::Write for Bounded<BYTES> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = if self.cut > 0 { 0 } else { BYTES - self.kept.len() };
        let (kept, cut) = text.split_at(text.floor_char_boundary(room));
        self.kept.push_str(kept);
        self.cut += cut.len();
        Ok(())
    }
}

impl<const BYTES: usize> fmt::Display for Bounded<BYTES> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kept)?;
        if self.cut > 0 { write!(f, "… ({} more bytes)", self.cut) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use log::kv::ToValue;

    use super::*;

    #[test]
    fn a_value_that_is_one_plain_word_stays_as_it_is() {
        for word in
            ["pump-17", "温度", "devices/+/heartbeat", "mqtt://[::1]:1883", "$share/g/a", "3"]
        {
            assert_eq!(shown(&Value::from(word)), word);
        }
        assert_eq!(shown(&Value::from(7)), "7");
        assert_eq!(shown(&Value::from(1.5)), "1.5");
    }

    #[test]
    fn a_time_is_one_plain_word_in_utc_with_milliseconds() {
        let time = DateTime::from_timestamp_millis(1_795_442_902_000).expect("small");
        assert_eq!(instant(time), "2026-11-23T14:08:22.000Z");
        assert_eq!(shown(&Value::from(instant(time).as_str())), instant(time));
    }

    #[test]
    fn a_value_that_could_be_taken_for_more_is_quoted() {
        for (value, expected) in [
            ("", r#""""#),
            ("Köln 3", r#""Köln 3""#),
            ("a device=b", r#""a device=b""#),
            ("a=b", r#""a=b""#),
            (r#"a" b="c"#, r#""a\" b=\"c""#),
            ("a\nb\u{2028}c\u{202e}d\u{200b}", r#""a\nb\u{2028}c\u{202e}d\u{200b}""#),
            ("\u{1b}[31mred", r#""\u{1b}[31mred""#),
        ] {
            assert_eq!(shown(&Value::from(value)), expected);
        }
    }

    #[test]
    fn only_a_value_that_is_not_there_is_absent() {
        let (none, some) = (None::<&str>, Some("None"));
        assert!(is_absent(&none.to_value()));
        assert!(!is_absent(&some.to_value()) && !is_absent(&Value::from("")));
    }

    #[test]
    fn a_long_text_is_cut_to_its_bound() {
        let long = "ä".repeat(100_000);
        let text = Bounded::<MAX_MESSAGE>::of(&long).to_string();
        assert!(text.starts_with("ää") && text.ends_with("… (195904 more bytes)"), "{text}");
        assert_eq!(shown(&Value::from(&*long)).chars().count(), MAX_VALUE / 2 + 3);
        assert_eq!(Bounded::<3>::of("äb").to_string(), "äb");
        assert_eq!(Bounded::<2>::of("aä").to_string(), "a… (2 more bytes)");
    }

    #[test]
    fn a_library_that_would_log_passwords_may_not() {
        let mut builder = env_logger::Builder::new();
        builder.parse_filters("trace");
        let logger = Logger { inner: builder.build(), libraries: Mutex::default() };
        let enabled = |target, level| {
            logger.enabled(&Metadata::builder().target(target).level(level).build())
        };
        assert!(!enabled("paho_mqtt::async_client", Level::Debug));
        assert!(enabled("paho_mqtt::async_client", Level::Info));
        assert!(!enabled("paho_mqtt_c", Level::Trace) && enabled("paho_mqtt_c", Level::Debug));
        assert!(enabled("mqtt_ingest", Level::Trace));
        assert_eq!(logger.capped(), CAPS);
    }

    #[test]
    fn libraries_beyond_a_bound_share_a_budget() {
        let inner = env_logger::Builder::new().build();
        let logger = Logger { inner, libraries: Mutex::default() };
        for number in 0..1000 {
            logger.budget(&format!("library{number}"));
        }
        assert_eq!(logger.libraries.lock().len(), MAX_LIBRARIES + 1);
    }
}
