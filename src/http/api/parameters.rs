//! The parameters of a query: each is known, comes once, and has an allowed value.

use chrono::{DateTime, SubsecRound, Utc};
use serde_json::{Value as Json, json};
use url::form_urlencoded;

use super::problem::{Kind, Problem};
use crate::domain::{DeviceId, Status};
use crate::logging::escape::in_quotes;
use crate::views::api::place_of_text;

/// A parameter that a path takes.
#[derive(Debug)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) takes: Takes,
    pub(super) about: &'static str,
}

/// The values that a parameter takes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Takes {
    /// Statuses, by giving the parameter several times.
    Statuses,
    /// A status.
    Status,
    /// A whole number.
    Number { least: u64, most: u64, default: u64 },
    /// `true` or `false`.
    Flag,
    /// A time in RFC 3339.
    Time,
    /// A device's id.
    DeviceId,
    /// A text that a cursor is made of; its list knows more.
    Cursor,
    /// A place between two events.
    Place,
    /// Any text that is not empty, of at most so many characters.
    Text(usize),
    /// One of these words.
    Word(&'static [&'static str]),
    /// Seconds, up to this many, with or without the unit.
    Seconds(u64),
}

/// A place as text: two numbers of at most 18 digits, and perhaps a timeline.
const PLACE: &str = "^(0|[1-9][0-9]{0,17})-(0|[1-9][0-9]{0,17})(-[0-9A-F]{8})?$";

const STATUS: &str = "#/components/schemas/Status";
const DEVICE_ID: &str = "#/components/schemas/DeviceId";

/// The longest cursor: a device's id of 128 characters of four bytes, in base64.
const MAX_CURSOR: usize = 800;

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Status(Status),
    Number(u64),
    Flag(bool),
    Time(DateTime<Utc>),
    DeviceId(DeviceId),
    Text(String),
}

/// The parameters of one request.
#[derive(Clone, Debug, Default)]
pub(super) struct Query {
    values: Vec<(&'static str, Value)>,
    /// As they came, for a cursor.
    given: Vec<(&'static str, String)>,
}

impl Query {
    /// Reads a query.
    pub(super) fn read(query: &str, known: &'static [Parameter]) -> Result<Self, Problem> {
        let mut read = Self::default();
        if percent_encoding::percent_decode_str(query).decode_utf8().is_err() {
            let detail = "it is not UTF-8, of which each byte is percent-encoded";
            return Err(Problem::new(Kind::InvalidParameter, format!("the query: {detail}"))
                .flaw("/query", detail));
        }
        let mut flaws: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let Some(parameter) = known.iter().find(|parameter| parameter.name == name) else {
                flaws.push((in_quotes(&name), unknown(known)));
                continue;
            };
            let repeats = matches!(parameter.takes, Takes::Statuses);
            if !repeats && read.values.iter().any(|(other, _)| *other == parameter.name) {
                flaws.push((parameter.name.to_owned(), "it may be given only once".to_owned()));
                continue;
            }
            match parameter.takes.read(&value) {
                Ok(typed) => {
                    read.values.push((parameter.name, typed));
                    read.given.push((parameter.name, value.into_owned()));
                }
                Err(why) => flaws.push((parameter.name.to_owned(), why)),
            }
        }
        let Some((name, why)) = flaws.first() else { return Ok(read) };
        let problem = Problem::new(Kind::InvalidParameter, format!("{name}: {why}"));
        let point = |problem: Problem, (name, why): &(String, String)| {
            let name = name.trim_matches('"').replace('~', "~0").replace('/', "~1");
            problem.flaw(format!("/query/{name}"), why)
        };
        // Each is named once, however often it came.
        let mut named = std::collections::BTreeSet::new();
        let flaws = flaws.iter().filter(|(name, _)| named.insert(name.as_str()));
        Err(flaws.take(10).fold(problem, point))
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.values.iter().find(|(other, _)| *other == name).map(|(_, value)| value)
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        match self.get(name) {
            Some(Value::Number(number)) => Some(*number),
            _ => None,
        }
    }

    /// The maximum number of items of a list.
    pub(super) fn limit(&self) -> u64 {
        self.number("limit").unwrap_or(100)
    }

    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        match self.get(name) {
            Some(Value::Flag(flag)) => Some(*flag),
            _ => None,
        }
    }

    pub(super) fn time(&self, name: &str) -> Option<DateTime<Utc>> {
        match self.get(name) {
            Some(Value::Time(time)) => Some(*time),
            _ => None,
        }
    }

    pub(super) fn device(&self, name: &str) -> Option<&DeviceId> {
        match self.get(name) {
            Some(Value::DeviceId(id)) => Some(id),
            _ => None,
        }
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match self.get(name) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// All statuses that were given, each once.
    pub(super) fn statuses(&self, name: &str) -> Vec<Status> {
        let mut statuses = Vec::new();
        for (other, value) in &self.values {
            if let Value::Status(status) = value
                && *other == name
                && !statuses.contains(status)
            {
                statuses.push(*status);
            }
        }
        statuses
    }

    /// The parameters that were given, besides the limit and the cursor.
    pub(super) fn filters(&self) -> impl Iterator<Item = (&str, &str)> {
        let given = self.given.iter().map(|(name, value)| (*name, value.as_str()));
        given.filter(|(name, _)| !["limit", "cursor"].contains(name))
    }
}

fn unknown(known: &[Parameter]) -> String {
    let names: Vec<_> = known.iter().map(|parameter| parameter.name).collect();
    match &names[..] {
        [] => "there is no such parameter; this path takes none".to_owned(),
        names => format!("there is no such parameter; this path takes {}", names.join(", ")),
    }
}

impl Takes {
    /// The values as JSON schema.
    pub(super) fn schema(self) -> Json {
        match self {
            Self::Statuses => json!({"type": "array", "items": {"$ref": STATUS}}),
            Self::Status => json!({"$ref": STATUS}),
            Self::Number { least, most, default } => {
                json!({"type": "integer", "minimum": least, "maximum": most, "default": default})
            }
            Self::Flag => json!({"type": "boolean"}),
            Self::Time => json!({"type": "string", "format": "date-time"}),
            Self::DeviceId => json!({"$ref": DEVICE_ID}),
            Self::Cursor => json!({
                "type": "string", "format": "cursor", "minLength": 1, "maxLength": MAX_CURSOR,
            }),
            Self::Place => json!({"type": "string", "pattern": PLACE}),
            Self::Text(most) => json!({"type": "string", "minLength": 1, "maxLength": most}),
            Self::Word(words) => json!({"type": "string", "enum": words}),
            Self::Seconds(most) => json!({
                "oneOf": [
                    {"type": "integer", "minimum": 0, "maximum": most},
                    {"type": "string", "pattern": "^[0-9]+s$"},
                ],
            }),
        }
    }

    fn read(self, text: &str) -> Result<Value, String> {
        match self {
            Self::Statuses | Self::Status => {
                Status::named(text).map(Value::Status).ok_or_else(|| {
                    format!("one of {} is expected", Status::ALL.map(Status::as_str).join(", "))
                })
            }
            Self::Number { least, most, .. } => whole(text)
                .filter(|number| (least..=most).contains(number))
                .map(Value::Number)
                .ok_or_else(|| format!("a whole number from {least} to {most} is expected")),
            Self::Flag => match text {
                "true" => Ok(Value::Flag(true)),
                "false" => Ok(Value::Flag(false)),
                _ => Err("true or false is expected".to_owned()),
            },
            Self::Time => time(text).map(Value::Time).ok_or_else(|| {
                "a time such as 2026-11-26T14:08:22Z is expected (RFC 3339)".to_owned()
            }),
            Self::DeviceId => match text.parse() {
                Ok(id) => Ok(Value::DeviceId(id)),
                Err(why) => Err(format!("a device's id is expected: {why}")),
            },
            // An empty one would begin the list anew, again and again.
            Self::Cursor if text.is_empty() || text.len() > MAX_CURSOR => {
                Err("a cursor is the `next` of an earlier answer, as it is".to_owned())
            }
            Self::Text(most)
                if text.is_empty() || text.chars().count() > most || text.contains('\0') =>
            {
                Err(format!("1 to {most} characters are expected, none of them U+0000"))
            }
            Self::Place if place_of_text(text).is_none() => {
                Err("the `id` of an event or a `next` is expected, as it is".to_owned())
            }
            Self::Cursor | Self::Place | Self::Text(_) => Ok(Value::Text(text.to_owned())),
            Self::Word(words) if words.contains(&text) => Ok(Value::Text(text.to_owned())),
            Self::Word(words) => Err(format!("{} is expected", words.join(" or "))),
            Self::Seconds(most) => whole(text.strip_suffix('s').unwrap_or(text))
                .filter(|seconds| *seconds <= most)
                .map(Value::Number)
                .ok_or_else(|| format!("0 to {most} seconds are expected, such as {most}s")),
        }
    }
}

/// A whole number without a sign.
fn whole(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

fn time(text: &str) -> Option<DateTime<Utc>> {
    // In a query a + that is not encoded means a blank.
    let text = text.replace(' ', "+");
    Some(DateTime::parse_from_rfc3339(&text).ok()?.to_utc().trunc_subsecs(3))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[Parameter] = &[
        Parameter { name: "status", takes: Takes::Statuses, about: "" },
        Parameter {
            name: "limit",
            takes: Takes::Number { least: 1, most: 1000, default: 100 },
            about: "",
        },
        Parameter { name: "from", takes: Takes::Time, about: "" },
        Parameter { name: "device", takes: Takes::DeviceId, about: "" },
        Parameter { name: "late", takes: Takes::Flag, about: "" },
        Parameter { name: "wait", takes: Takes::Seconds(30), about: "" },
        Parameter { name: "q", takes: Takes::Text(3), about: "" },
        Parameter { name: "cursor", takes: Takes::Cursor, about: "" },
    ];

    #[test]
    fn a_query_is_read_by_the_types_of_its_parameters() {
        let query = "status=online&status=error&status=online&limit=7&late=true&wait=30s&q=%2Aa\
                     &device=K%C3%B6ln&from=2026-11-26T14:08:22.1239+01:00";
        let read = Query::read(query, KNOWN).expect("it is valid");
        assert_eq!(read.statuses("status"), [Status::Online, Status::Error]);
        assert_eq!((read.limit(), read.number("wait")), (7, Some(30)));
        assert_eq!((read.flag("late"), read.text("q")), (Some(true), Some("*a")));
        assert_eq!(read.device("device").map(DeviceId::as_str), Some("Köln"));
        let from = read.time("from").expect("a time").to_rfc3339();
        assert_eq!(from, "2026-11-26T13:08:22.123+00:00");
        let none = Query::read("", KNOWN).expect("it is valid");
        assert_eq!((none.limit(), none.text("q"), none.flag("late")), (100, None, None));
        assert_eq!(none.filters().count(), 0);
    }

    #[test]
    fn a_parameter_that_comes_again_and_again_is_one_flaw() {
        let problem = Query::read(&"late=true&".repeat(1000), KNOWN).expect_err("it repeats");
        let shown = format!("{problem:?}");
        assert_eq!(shown.matches("Flaw").count(), 1, "{shown}");
        let problem = Query::read(&"limit=0&x=1&".repeat(9), KNOWN).expect_err("it repeats");
        let shown = format!("{problem:?}");
        assert_eq!(shown.matches("Flaw").count(), 2, "{shown}");
    }

    #[test]
    fn each_wrong_parameter_is_named_with_what_would_be_right() {
        for (query, expected) in [
            ("limits=1", "this path takes status, limit, from, device, late, wait, q, cursor"),
            ("limit=0", "a whole number from 1 to 1000"),
            ("limit=1001", "a whole number from 1 to 1000"),
            ("limit=99999999999999999999999", "a whole number from 1 to 1000"),
            ("limit=%2B1", "a whole number from 1 to 1000"),
            ("limit=1&limit=1", "only once"),
            ("status=asleep", "one of provisioning, online, offline, error"),
            ("from=yesterday", "a time such as"),
            ("device=a%2Fb", "a device's id is expected"),
            ("late=1", "true or false"),
            ("wait=31", "0 to 30 seconds"),
            ("cursor=", "the `next` of an earlier answer"),
            ("q=", "1 to 3 characters"),
            ("q=abcd", "1 to 3 characters"),
            ("q=%00", "none of them U+0000"),
            ("q=%ff", "not UTF-8"),
        ] {
            let problem = Query::read(query, KNOWN).expect_err(query);
            let shown = format!("{problem:?}");
            assert!(shown.contains(expected), "{query}: {shown}");
        }
    }
}
