//! heartbeatd's log, with its own measurements.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use chrono::{DateTime, TimeDelta, Utc};

/// The lines written so far.
pub struct Log(String);

/// A line, such as `[2026-11-24T22:47:36.123Z DEBUG ticker] what key=value`.
#[derive(Clone, Copy)]
pub struct Line<'a> {
    pub at: DateTime<Utc>,
    target: &'a str,
    text: &'a str,
}

impl Log {
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        // The last line may be incomplete.
        let complete = text.rfind('\n').map_or(0, |end| end + 1);
        Ok(Self(text[..complete].to_owned()))
    }

    /// The lines of an actor that begin with `what`.
    pub fn of<'a>(&'a self, target: &'a str, what: &'a str) -> impl Iterator<Item = Line<'a>> {
        let lines = self.0.lines().filter_map(Line::parse);
        lines.filter(move |line| line.target == target && line.text.starts_with(what))
    }

    /// The latencies of the echoes that were on their way during at least a part of one
    /// of these spans.
    pub fn echo_latencies(&self, spans: &[Span]) -> Vec<Duration> {
        let echoes = self.of("mqtt_ingest", "echo came back").filter_map(|line| {
            let on_its_way = line.span("latency_ms")?;
            let within = spans.iter().any(|span| span.overlaps(&on_its_way));
            within.then(|| line.duration("latency_ms")).flatten()
        });
        echoes.collect()
    }
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (head, text) = line.strip_prefix('[')?.split_once("] ")?;
        let mut words = head.split_whitespace();
        let at = DateTime::parse_from_rfc3339(words.next()?).ok()?.to_utc();
        Some(Self { at, target: words.nth(1)?, text })
    }

    /// The whole number of a key.
    pub fn number(&self, key: &str) -> Option<u64> {
        let mut pairs = self.text.split_whitespace().filter_map(|word| word.split_once('='));
        pairs.find(|(name, _)| *name == key)?.1.parse().ok()
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

    #[test]
    fn a_line_is_read_with_its_target_time_text_and_numbers() {
        let text = "[2026-11-24T22:47:36.123Z DEBUG ticker] checked newly_offline=7 undelivered=0 duration_ms=23\n\
                    panicked\n[2026-11-24T22:47:37.000Z INFO  ticker] checked newly_of";
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("it is ours");
        let log = Log::read(file.path()).expect("it is there");
        let lines: Vec<_> = log.of("ticker", "checked").collect();
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].number("newly_offline"), Some(7));
        let span = lines[0].span("duration_ms").expect("it has one");
        assert_eq!((span.until - span.from).num_milliseconds(), 23);
        assert_eq!(log.of("alert_sink", "checked").count(), 0);
    }
}
