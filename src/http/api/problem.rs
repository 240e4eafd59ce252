//! Problems with requests, as `application/problem+json` (RFC 9457). Each kind has a page at
//! `/problems/NAME` that says what it means and what helps.

use serde::Serialize;

use super::answer::Answer;

/// The kinds of problems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum Kind {
    InvalidRequest,
    InvalidParameter,
    CursorMismatch,
    InvalidBody,
    Unauthorized,
    Forbidden,
    UnknownPath,
    UnknownDevice,
    WrongMethod,
    Conflict,
    Gone,
    TooSlow,
    LengthRequired,
    TooLarge,
    UnsupportedMediaType,
    HeadTooLarge,
    Busy,
    DatabaseUnavailable,
    TooManyStreams,
}

impl Kind {
    /// All kinds.
    pub(in crate::http) const ALL: [Self; 19] = [
        Self::InvalidRequest,
        Self::InvalidParameter,
        Self::CursorMismatch,
        Self::InvalidBody,
        Self::Unauthorized,
        Self::Forbidden,
        Self::UnknownPath,
        Self::UnknownDevice,
        Self::WrongMethod,
        Self::Conflict,
        Self::Gone,
        Self::TooSlow,
        Self::LengthRequired,
        Self::TooLarge,
        Self::UnsupportedMediaType,
        Self::HeadTooLarge,
        Self::Busy,
        Self::DatabaseUnavailable,
        Self::TooManyStreams,
    ];

    /// The name, the status, the title, and what the page about it says.
    fn about(self) -> (&'static str, u16, &'static str, &'static str) {
        match self {
            Self::InvalidRequest => (
                "invalid-request",
                400,
                "The request is not one of HTTP/1.1",
                "Its first line is a method, a path and the version, with one blank between them. \
                 Percent-encode everything else in the path, send one Host, and Content-Length and \
                 Authorization at most once.",
            ),
            Self::InvalidParameter => (
                "invalid-parameter",
                400,
                "A parameter is invalid",
                "A parameter of the path or the query is unknown, comes twice, or has a value \
                 that is not allowed. `errors` names each one and what would be right. \
                 /api/v1/openapi.json lists all parameters.",
            ),
            Self::CursorMismatch => (
                "cursor-mismatch",
                400,
                "The cursor belongs to another list",
                "A cursor continues a list with the same filters in the same order. Repeat the \
                 parameters of the first request together with the cursor, or begin again \
                 without a cursor.",
            ),
            Self::InvalidBody => (
                "invalid-body",
                400,
                "The body is invalid",
                "The body is not JSON, or not the JSON that this request takes. `errors` names \
                 what is wrong and what would be right.",
            ),
            Self::Unauthorized => (
                "unauthorized",
                401,
                "A token is needed",
                "Send `Authorization: Bearer TOKEN`, or log in. `heartbeatd token new NAME \
                 --scope read` creates a token and prints the line for the configuration.",
            ),
            Self::Forbidden => (
                "forbidden",
                403,
                "This is not permitted",
                "The token has a smaller scope than this request needs (read < operate < \
                 admin), or the request comes from a page of another origin, or it calls the \
                 service by a name that is not one of its own (http.names).",
            ),
            Self::UnknownPath => (
                "unknown-path",
                404,
                "There is nothing at this path",
                "/api/v1/openapi.json lists all paths.",
            ),
            Self::UnknownDevice => (
                "unknown-device",
                404,
                "There is no such device",
                "A device is registered by its first heartbeat or by PUT /api/v1/devices/ID. \
                 Ids distinguish upper and lower case.",
            ),
            Self::WrongMethod => (
                "wrong-method",
                405,
                "This path does not take this method",
                "The header `Allow` lists the methods that it takes.",
            ),
            Self::Conflict => (
                "conflict",
                409,
                "The row of the device cannot be used",
                "Another program has written something into the device's row that heartbeatd \
                 does not understand. `heartbeatd device show ID` names the columns; removing \
                 the device helps, too.",
            ),
            Self::Gone => (
                "gone",
                410,
                "The events after this one are not kept any more",
                "Events are kept for as long as the history (history.retention). After a failover \
                 of PostgreSQL, or if the database was replaced or restored, some may be lost \
                 and their numbers those of others. Read the current state, for example with \
                 GET /api/v1/devices, and continue with the newest events by leaving out `after`.",
            ),
            Self::TooSlow => (
                "too-slow",
                408,
                "The request did not come in time",
                "Send the head and the body within 5 s each, and as many bytes as Content-Length \
                 announces.",
            ),
            Self::LengthRequired => (
                "length-required",
                411,
                "The length of the body is not announced",
                "Send Content-Length instead of `Transfer-Encoding: chunked`.",
            ),
            Self::TooLarge => (
                "too-large",
                413,
                "The body is too large",
                "A body has at most 4,096 bytes and announces them with Content-Length. A GET \
                 has none.",
            ),
            Self::UnsupportedMediaType => (
                "unsupported-media-type",
                415,
                "The body is not announced as JSON",
                "Send `Content-Type: application/json`.",
            ),
            Self::HeadTooLarge => (
                "head-too-large",
                431,
                "The head of the request is too large",
                "The first line and all headers together have at most 8,192 bytes.",
            ),
            Self::Busy => (
                "busy",
                429,
                "Too much is asked at once",
                "Too many requests are being answered or wait for events, or too many wrong tokens \
                 have come from this address. Try again after the time that `Retry-After` gives.",
            ),
            Self::DatabaseUnavailable => (
                "database-unavailable",
                503,
                "The database does not answer",
                "The service goes on without it and loses no heartbeat, but it cannot read what \
                 is asked for. GET /api/v1/summary works without the database. Try again after \
                 the time that `Retry-After` gives.",
            ),
            Self::TooManyStreams => (
                "too-many-streams",
                503,
                "Too many event streams are open",
                "http.max_streams limits them. Close one, raise the limit, or ask GET \
                 /api/v1/events with `wait`.",
            ),
        }
    }

    pub(in crate::http) fn name(self) -> &'static str {
        self.about().0
    }

    /// The page about the kind of this name.
    pub(in crate::http) fn page(name: &str) -> Option<String> {
        let kind = Self::ALL.into_iter().find(|kind| kind.name() == name)?;
        let (name, status, title, text) = kind.about();
        Some(format!("{name} ({status}): {title}\n\n{text}\n"))
    }
}

/// A problem with one request.
#[derive(Clone, Debug)]
pub(in crate::http) struct Problem {
    pub(in crate::http) kind: Kind,
    detail: String,
    errors: Vec<Flaw>,
    retry_after: Option<u64>,
    allow: Option<String>,
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Flaw {
    /// `/query/limit`, `/path/id`, or a JSON pointer into the body.
    pointer: String,
    /// The flaw, and what would be right.
    detail: String,
}

#[derive(Serialize)]
struct Shown<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    errors: &'a [Flaw],
}

impl Problem {
    pub(in crate::http) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), errors: Vec::new(), retry_after: None, allow: None }
    }

    /// A problem with one parameter of the query.
    pub(super) fn parameter(name: &str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self::new(Kind::InvalidParameter, format!("{name}: {detail}"))
            .flaw(format!("/query/{name}"), detail)
    }

    /// Adds one thing that is wrong.
    pub(super) fn flaw(mut self, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        self.errors.push(Flaw { pointer: pointer.into(), detail: detail.into() });
        self
    }

    /// Says after how many seconds another attempt makes sense.
    pub(super) fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// Names the methods that the path takes.
    pub(in crate::http) fn allow(mut self, methods: impl Into<String>) -> Self {
        self.allow = Some(methods.into());
        self
    }
}

impl From<Problem> for Answer {
    fn from(problem: Problem) -> Self {
        let Problem { kind, detail, errors, retry_after, allow } = problem;
        let (name, status, title, _) = kind.about();
        let shown = Shown {
            r#type: format!("/problems/{name}"),
            title,
            status,
            detail: &detail,
            errors: &errors,
        };
        let mut answer = Self::json(status, &shown).of_type("application/problem+json");
        if kind == Kind::Unauthorized {
            answer = answer.header("www-authenticate", "Bearer realm=\"heartbeatd\"");
        }
        if let Some(seconds) = retry_after {
            answer = answer.header("retry-after", seconds.to_string());
        }
        if let Some(methods) = allow {
            answer = answer.header("allow", methods);
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_name_of_its_own_and_a_page() {
        let mut names: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        for name in &names {
            let page = Kind::page(name).expect("a page");
            assert!(page.starts_with(&format!("{name} (")), "{page}");
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Kind::ALL.len());
        assert_eq!(Kind::page("no-such-problem"), None);
    }
}
