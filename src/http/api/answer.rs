//! An answer that is whole: made by a worker, sent by the thread of HTTP.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use actix_web::web::Bytes;
use serde::Serialize;

/// An answer.
#[derive(Clone, Debug)]
pub(in crate::http) struct Answer {
    status: u16,
    content_type: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
}

impl Answer {
    /// An answer in JSON.
    pub(in crate::http) fn json(status: u16, body: &impl Serialize) -> Self {
        // The views hold texts, numbers, lists and maps with texts as keys.
        let body = serde_json::to_vec(body).expect("a view is JSON");
        Self { status, content_type: "application/json", headers: Vec::new(), body: body.into() }
    }

    /// The answer to a request that succeeded.
    pub(in crate::http) fn ok(body: &impl Serialize) -> Self {
        Self::json(200, body)
    }

    /// An answer in plain text.
    pub(in crate::http) fn text(status: u16, body: impl Into<Bytes>) -> Self {
        let (content_type, body) = ("text/plain; charset=utf-8", body.into());
        Self { status, content_type, headers: Vec::new(), body }
    }

    /// The same answer with another type.
    pub(in crate::http) fn of_type(self, content_type: &'static str) -> Self {
        Self { content_type, ..self }
    }

    /// Adds a header.
    pub(in crate::http) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

impl From<Answer> for HttpResponse {
    fn from(answer: Answer) -> Self {
        let Answer { status, content_type, headers, body } = answer;
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = HttpResponse::build(status);
        response.insert_header((CONTENT_TYPE, content_type));
        response.insert_header((CACHE_CONTROL, "no-store"));
        response.insert_header(("x-content-type-options", "nosniff"));
        for header in headers {
            response.insert_header(header);
        }
        response.body(body)
    }
}
