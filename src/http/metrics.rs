//! `/metrics`, for Prometheus, in the format that it accepts.

use std::time::{Duration, Instant};

use actix_web::error::ErrorInternalServerError;
use actix_web::http::header::{ACCEPT, VARY};
use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse};
use parking_lot::Mutex;

use super::State;

/// A format of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// The one that people and most programs read.
    Text,
    OpenMetrics,
}

impl Format {
    fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// The format that a client prefers, by its header `Accept`.
    fn accepted(accept: &str) -> Self {
        let open = weight(accept, OPEN_METRICS).unwrap_or(0.0);
        // The most specific range counts.
        let text = ["text/plain", "text/*", "*/*"].into_iter();
        let text = text.filter_map(|range| weight(accept, range)).next().unwrap_or(0.0);
        if open > 0.0 && open >= text { Self::OpenMetrics } else { Self::Text }
    }
}

/// The highest weight that the header `Accept` gives to this range; `None` if it does not name it.
fn weight(accept: &str, range: &str) -> Option<f64> {
    let weights = accept.split(',').filter_map(|given| {
        let mut parts = given.split(';').map(str::trim);
        let named = parts.next()?.eq_ignore_ascii_case(range);
        let (mut weight, mut version) = (1.0, "1");
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            match key.trim() {
                "q" => weight = value.trim().parse().unwrap_or(0.0),
                "version" => version = value.trim(),
                _ => (),
            }
        }
        let known = range != OPEN_METRICS || version.starts_with('1');
        (named && known).then_some(weight)
    });
    weights.reduce(f64::max)
}

const OPEN_METRICS: &str = "application/openmetrics-text";

/// The number of times per second that the page is rendered. Further requests within the
/// second get the last page. A scraper at any usual rate always gets the current values.
const PAGES_PER_SECOND: u32 = 20;
const SECOND: Duration = Duration::from_secs(1);

/// The last page in each format.
#[derive(Default)]
pub(super) struct Pages {
    text: Page,
    open_metrics: Page,
}

/// The last page, and how often it was rendered within this second.
#[derive(Default)]
struct Page(Mutex<Option<Written>>);

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

pub(super) async fn metrics(
    request: HttpRequest,
    state: Data<State>,
) -> actix_web::Result<HttpResponse> {
    let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok());
    let format = Format::accepted(accept.unwrap_or_default());
    let (metrics, now) = (&state.metrics, Instant::now());
    let page = match format {
        Format::Text => state.pages.text.get(now, || metrics.encode_text()),
        Format::OpenMetrics => state.pages.open_metrics.get(now, || metrics.encode()),
    };
    let page = page.map_err(ErrorInternalServerError)?;
    let mut answer = HttpResponse::Ok();
    answer.insert_header((VARY, "Accept"));
    Ok(answer.content_type(format.content_type()).body(page))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_the_format_that_it_prefers() {
        let prometheus = "application/openmetrics-text;version=1.0.0,\
                          application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (accept, expected) in [
            ("", Format::Text),
            ("*/*", Format::Text),
            ("text/html,application/xhtml+xml,*/*;q=0.8", Format::Text),
            ("text/plain;version=0.0.4", Format::Text),
            (prometheus, Format::OpenMetrics),
            ("Application/OpenMetrics-Text", Format::OpenMetrics),
            ("application/openmetrics-text; version=1.0.0; q=0.5, text/plain", Format::Text),
            ("application/openmetrics-text;q=0.2,*/*;q=0.8", Format::Text),
            ("application/openmetrics-text;q=0.8,*/*;q=0.2", Format::OpenMetrics),
            ("application/openmetrics-text;q=0.5,*/*;q=0.8,text/plain;q=0.1", Format::OpenMetrics),
            ("application/openmetrics-text,*/*", Format::OpenMetrics),
            ("application/openmetrics-text;version=0.0.1", Format::Text),
            ("application/openmetrics-text;q=0", Format::Text),
            ("application/openmetrics-text;q=x,;=,", Format::Text),
        ] {
            assert_eq!(Format::accepted(accept), expected, "{accept}");
        }
    }

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
