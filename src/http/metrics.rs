//! `/metrics`: what Prometheus scrapes.

use actix_web::HttpResponse;
use actix_web::error::ErrorInternalServerError;
use actix_web::web::Data;

use super::State;

/// The format that `prometheus-client` writes.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) async fn metrics(state: Data<State>) -> actix_web::Result<HttpResponse> {
    let page = state.metrics.encode().map_err(ErrorInternalServerError)?;
    Ok(HttpResponse::Ok().content_type(CONTENT_TYPE).body(page))
}
