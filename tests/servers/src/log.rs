//! The lines of heartbeatd's log, recognised by level, target and key-values. The words of a
//! message may change at any time.

/// The service listens from now on.
pub const LISTENING: &str = "INFO mqtt_ingest topic=";

/// A line, such as `[2026-11-24T22:47:36.123Z INFO  ticker] checked newly_offline=7`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// The time as it is written.
    pub time: &'a str,
    /// The level in capitals.
    pub level: &'a str,
    /// The actor, or the part of the service, or a library's module.
    pub target: &'a str,
    /// The message and its key-values.
    text: &'a str,
}

impl<'a> Line<'a> {
    /// Reads a line. `None` if it does not come from the logger.
    pub fn parse(line: &'a str) -> Option<Self> {
        let (head, text) = line.strip_prefix('[')?.split_once("] ")?;
        let mut words = head.split_whitespace();
        let (time, level, target) = (words.next()?, words.next()?, words.next()?);
        Some(Self { time, level, target, text })
    }

    /// True for a line of this event, written as `LEVEL target key=value key=`. A key without
    /// a value stands for any value. The line may have more keys, in any order.
    ///
    /// # Panics
    ///
    /// If `event` is not written like that.
    #[track_caller]
    pub fn is(&self, event: &str) -> bool {
        let (level, rest) = event.split_once(' ').expect("LEVEL target key=value");
        let (target, pairs) = rest.split_once(' ').unwrap_or((rest, ""));
        let has = |(key, value): Pair<'_>| {
            self.value(key).is_some_and(|found| value.is_empty() || found == value)
        };
        let mut expected = Pairs(pairs);
        let begins = self.level == level && self.target == target;
        let is_event = expected.by_ref().fold(begins, |so_far, pair| so_far && has(pair));
        assert!(expected.0.is_empty(), "{event:?} is not LEVEL target key=value");
        is_event
    }

    /// The value of a key, with its quotes.
    pub fn value(&self, key: &str) -> Option<&'a str> {
        Pairs(self.text).find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// The whole number of a key.
    pub fn number(&self, key: &str) -> Option<u64> {
        self.value(key)?.parse().ok()
    }
}

/// True if the text is a line of this event, written as [`Line::is`] says.
///
/// # Panics
///
/// If `event` is not written like that.
#[track_caller]
pub fn is_event(line: &str, event: &str) -> bool {
    Line::parse(line).is_some_and(|line| line.is(event))
}

/// A key and its value.
type Pair<'a> = (&'a str, &'a str);

/// The key-values at the end of a text, the last one first.
struct Pairs<'a>(&'a str);

impl<'a> Iterator for Pairs<'a> {
    type Item = Pair<'a>;

    fn next(&mut self) -> Option<Pair<'a>> {
        let text = self.0;
        // A value that was cut has an ellipsis after its quotes.
        let (pair, value) = match text.strip_suffix('…').unwrap_or(text).strip_suffix('"') {
            Some(unfinished) => text.split_at(opening_quote(unfinished)?),
            None => text.split_at(text.rfind([' ', '='])? + 1),
        };
        let pair = pair.strip_suffix('=')?;
        let (rest, key) = pair.rsplit_once(' ').unwrap_or(("", pair));
        let is_key = !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        is_key.then(|| {
            self.0 = rest;
            (key, value)
        })
    }
}

/// The place of the last quote that is not part of a value, where it has a backslash.
fn opening_quote(text: &str) -> Option<usize> {
    let mut quotes = text.rmatch_indices('"').map(|(at, _)| at);
    quotes.find(|at| !text[..*at].ends_with('\\'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> String {
        format!("[2026-11-24T22:47:36.123Z WARN  mqtt_ingest] {text}")
    }

    #[test]
    fn a_line_is_an_event_by_its_level_its_target_and_its_key_values() {
        let line = line("rejected: too long device=pump-17 reason=invalid_device_id");
        let line = Line::parse(&line).expect("a line");
        for event in [
            "WARN mqtt_ingest",
            "WARN mqtt_ingest device=pump-17",
            "WARN mqtt_ingest reason=invalid_device_id device=",
        ] {
            assert!(line.is(event), "{event}");
        }
        for event in [
            "ERROR mqtt_ingest",
            "WARN device_registry",
            "WARN mqtt_ingest device=pump-1",
            "WARN mqtt_ingest topic=",
        ] {
            assert!(!line.is(event), "{event}");
        }
    }

    #[test]
    fn a_value_in_quotes_is_one_value_and_a_message_has_none() {
        for (text, key, value) in [
            (
                r#"status changed device="a device=b from=online" to=error"#,
                "device",
                Some(r#""a device=b from=online""#),
            ),
            (r#"status changed device="a device=b from=online" to=error"#, "from", None),
            (r#"rejected device="a\" b=\"c\\" seconds=7"#, "seconds", Some("7")),
            (r#"rejected device="a\" b=\"c\\" seconds=7"#, "b", None),
            (r#"rejected device="a\" b=\"c\\""#, "device", Some(r#""a\" b=\"c\\""#)),
            ("rejected device=\"x\"… seconds=7", "device", Some("\"x\"…")),
            ("rejected why=\"\" seconds=7", "why", Some("\"\"")),
            ("set mqtt.echo_interval=0s or stop", "echo_interval", None),
            (r#"set version = "3.1.1""#, "version", None),
            ("a=b is in the message seconds=7", "a", None),
        ] {
            let line = line(text);
            assert_eq!(Line::parse(&line).expect("a line").value(key), value, "{text}");
        }
    }

    #[test]
    fn text_that_is_not_from_the_logger_is_not_a_line() {
        for text in ["", "panicked", "[", "[a b c]", "[2026-11-24T22:47:36.123Z WARN] x"] {
            assert_eq!(Line::parse(text), None, "{text}");
        }
    }

    #[test]
    #[should_panic(expected = "LEVEL target key=value")]
    fn words_are_not_an_event() {
        let line = line("connected");
        Line::parse(&line).expect("a line").is("INFO ticker connected");
    }
}
