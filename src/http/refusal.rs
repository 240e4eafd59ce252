//! Answers to requests that are refused. Each says what would be right instead.

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{ALLOW, CONTENT_LENGTH, TRANSFER_ENCODING};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};

use super::connection::{Exchange, HEAD_TIMEOUT, HeadRefused, MAX_HEAD};
use super::{api, page};

/// Answers for an address at which there is nothing, to a browser with a page that leads on.
pub(super) async fn not_found(request: HttpRequest) -> HttpResponse {
    page::missing(&request).unwrap_or_else(nothing)
}

pub(super) fn nothing() -> HttpResponse {
    let text = "no such page; there are / (for people), /api/v1/openapi.json, /healthz, /readyz \
                and /metrics\n";
    answer(StatusCode::NOT_FOUND).body(text)
}

pub(super) async fn not_allowed() -> HttpResponse {
    answer(StatusCode::METHOD_NOT_ALLOWED)
        .insert_header((ALLOW, "GET, HEAD"))
        .body("this is read-only: use GET or HEAD\n")
}

/// The paths that are open under every name: probes call a service by any. They say nothing about
/// a device.
const PROBES: [&str; 2] = ["/healthz", "/readyz"];

/// Refuses a request whose head is too large, late or malformed, that calls the service by a name
/// that is not its own, or that has a body. Nothing but the API takes one, so it is not read.
pub(super) async fn refuse_flaws<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> actix_web::Result<ServiceResponse<BoxBody>> {
    let refused = if let Some(problem) = refused_head(&request) {
        api::Answer::from(problem).into()
    } else if has_body(&request) && !request.path().starts_with(api::ROOT) {
        answer(StatusCode::PAYLOAD_TOO_LARGE).body("a request to this path must not have a body\n")
    } else {
        return Ok(next.call(request).await?.map_into_boxed_body());
    };
    Ok(request.into_response(refused))
}

/// The problem with the head of a request, or with the name by which it calls the service.
fn refused_head(request: &ServiceRequest) -> Option<api::Problem> {
    if let Some(why) = request.conn_data::<Exchange>().and_then(Exchange::refused) {
        return Some(problem_with_head(why));
    }
    if PROBES.contains(&request.path()) {
        return None;
    }
    let api = request.app_data::<Data<api::Api>>()?;
    api.access.check_host(request.request()).err()
}

fn problem_with_head(why: HeadRefused) -> api::Problem {
    let (kind, detail) = match why {
        HeadRefused::TooLarge => {
            let detail = format!("the head of a request may have at most {MAX_HEAD} bytes");
            (api::Kind::HeadTooLarge, detail)
        }
        HeadRefused::TooSlow => {
            let seconds = HEAD_TIMEOUT.as_secs();
            let detail = format!("the head of the request was not complete within {seconds} s");
            (api::Kind::TooSlow, detail)
        }
        HeadRefused::Malformed(why) => {
            (api::Kind::InvalidRequest, format!("the request is not one of HTTP/1.1: {why}"))
        }
    };
    api::Problem::new(kind, detail)
}

/// True for a GET or HEAD with a body. Other methods are refused as such.
fn has_body(request: &ServiceRequest) -> bool {
    let headers = request.headers();
    let has_body = headers.contains_key(TRANSFER_ENCODING)
        || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0");
    has_body && matches!(*request.method(), Method::GET | Method::HEAD)
}

fn answer(status: StatusCode) -> actix_web::HttpResponseBuilder {
    let mut answer = HttpResponse::build(status);
    answer.content_type("text/plain; charset=utf-8");
    answer
}
