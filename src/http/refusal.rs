//! Answers to requests that are refused. Each says what would be right instead.

use actix_web::HttpResponse;
use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{ALLOW, CONTENT_LENGTH, TRANSFER_ENCODING};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;

use super::api;
use super::connection::{Exchange, MAX_HEAD};

pub(super) async fn not_found() -> HttpResponse {
    let text = "no such page; there are /api/v1/openapi.json, /healthz, /readyz and /metrics\n";
    answer(StatusCode::NOT_FOUND).body(text)
}

pub(super) async fn not_allowed() -> HttpResponse {
    answer(StatusCode::METHOD_NOT_ALLOWED)
        .insert_header((ALLOW, "GET, HEAD"))
        .body("this is read-only: use GET or HEAD\n")
}

/// Refuses a request whose head is too large or that has a body. Nothing but the API takes one,
/// so it is not read.
pub(super) async fn refuse_flaws<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> actix_web::Result<ServiceResponse<BoxBody>> {
    let exchange = request.conn_data::<Exchange>();
    let refused = if exchange.is_some_and(Exchange::head_too_large) {
        let text = format!("the head of a request may have at most {MAX_HEAD} bytes\n");
        answer(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE).body(text)
    } else if has_body(&request) && !request.path().starts_with(api::ROOT) {
        answer(StatusCode::PAYLOAD_TOO_LARGE).body("a request to this path must not have a body\n")
    } else {
        return Ok(next.call(request).await?.map_into_boxed_body());
    };
    Ok(request.into_response(refused))
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
