//! heartbeatd's log, with its own measurements.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use chrono::{DateTime, TimeDelta, Utc};
use servers::log;

/// The lines written so far.
pub struct Log(String);

/// A line with its time.
pub struct Line<'a> {
    pub at: DateTime<Utc>,
    line: log::Line<'a>,
}

impl Log {
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        // The last line may be incomplete.
        let complete = text.rfind('\n').map_or(0, |end| end + 1);
        Ok(Self(text[..complete].to_owned()))
    }

    /// The lines of an event, written as [`log::Line::is`] says.
    pub fn of<'a>(&'a self, event: &'a str) -> impl Iterator<Item = Line<'a>> {
        let lines = self.0.lines().filter_map(log::Line::parse);
        lines.filter(move |line| line.is(event)).filter_map(Line::timed)
    }

    /// The latencies of the echoes that were on their way during at least a part of one
    /// of these spans.
    pub fn echo_latencies(&self, spans: &[Span]) -> Vec<Duration> {
        let echoes = self.of("DEBUG mqtt_ingest latency_ms=").filter_map(|line| {
            let on_its_way = line.span("latency_ms")?;
            let within = spans.iter().any(|span| span.overlaps(&on_its_way));
            within.then(|| line.duration("latency_ms")).flatten()
        });
        echoes.collect()
    }
}

impl<'a> Line<'a> {
    fn timed(line: log::Line<'a>) -> Option<Self> {
        let at = DateTime::parse_from_rfc3339(line.time).ok()?.to_utc();
        Some(Self { at, line })
    }

    /// The whole number of a key.
    pub fn number(&self, key: &str) -> Option<u64> {
        self.line.number(key)
    }

    pub fn duration(&self, key: &str) -> Option<Duration> {
        self.number(key).map(Duration::from_millis)
    }

    /// The beginning of something that took as long as the key says and ended with this
    /// line.
    pub fn since(&self, key: &str) -> Option<DateTime<Utc>> {
        Some(self.at - TimeDelta::from_std(self.duration(key)?).ok()?)
    }

    /// The span from [`since`](Self::since) until the line was written.
    pub fn span(&self, key: &str) -> Option<Span> {
        Some(Span { from: self.since(key)?, until: self.at })
    }
}

/// A stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub from: DateTime<Utc>,
    pub until: DateTime<Utc>,
}

impl Span {
    pub fn overlaps(&self, other: &Self) -> bool {
        self.from <= other.until && other.from <= self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::silence::CHECKED;

    #[test]
    fn a_line_is_read_with_its_time_and_its_numbers() {
        let text = "[2026-11-24T22:47:36.123Z INFO  ticker] checked newly_offline=7 undelivered=0 duration_ms=23\n\
                    panicked\n[2026-11-24T22:47:37.000Z INFO  ticker] checked newly_of";
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("it is ours");
        let log = Log::read(file.path()).expect("it is there");
        let lines: Vec<_> = log.of(CHECKED).collect();
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].number("newly_offline"), Some(7));
        let span = lines[0].span("duration_ms").expect("it has one");
        assert_eq!((span.until - span.from).num_milliseconds(), 23);
        assert_eq!(log.of("INFO alert_sink").count(), 0);
    }
}
