//! `/metrics`, for Prometheus.

use std::time::{Duration, Instant};

use actix_web::HttpResponse;
use actix_web::error::ErrorInternalServerError;
use actix_web::web::{Bytes, Data};
use parking_lot::Mutex;

use super::State;

/// The format that `prometheus-client` writes.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The number of times per second that the page is rendered. Further requests within the
/// second get the last page. A scraper at any usual rate always gets the current values.
const PAGES_PER_SECOND: u32 = 20;
const SECOND: Duration = Duration::from_secs(1);

/// The last page, and how often it was rendered within this second.
#[derive(Default)]
pub(super) struct Page(Mutex<Option<Written>>);

struct Written {
    second: Instant,
    pages: u32,
    last: Bytes,
}

impl Page {
    fn get<E>(&self, now: Instant, write: impl FnOnce() -> Result<String, E>) -> Result<Bytes, E> {
        let mut written = self.0.lock();
        let (second, pages) = match &*written {
            Some(w) if now.duration_since(w.second) < SECOND => (w.second, w.pages),
            _ => (now, 0),
        };
        if let Some(w) = &*written
            && pages >= PAGES_PER_SECOND
        {
            return Ok(w.last.clone());
        }
        let last = Bytes::from(write()?);
        *written = Some(Written { second, pages: pages + 1, last: last.clone() });
        Ok(last)
    }
}

pub(super) async fn metrics(state: Data<State>) -> actix_web::Result<HttpResponse> {
    let page = state.page.get(Instant::now(), || state.metrics.encode());
    let page = page.map_err(ErrorInternalServerError)?;
    Ok(HttpResponse::Ok().content_type(CONTENT_TYPE).body(page))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_rendered_a_few_times_each_second() {
        let (page, start) = (Page::default(), Instant::now());
        let mut written = 0;
        let mut get = |at: Duration| {
            let got = page.get::<()>(start + at, || {
                written += 1;
                Ok(written.to_string())
            });
            got.expect("it writes")
        };
        for number in 1..=PAGES_PER_SECOND {
            assert_eq!(get(Duration::ZERO), number.to_string());
        }
        assert_eq!(get(Duration::from_millis(999)), PAGES_PER_SECOND.to_string());
        assert_eq!(get(SECOND), (PAGES_PER_SECOND + 1).to_string());
    }
}
