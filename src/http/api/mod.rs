//! The API at `/api/v1`: one file per resource. It shows what the store and the registry know
//! and never takes part in their work.
//!
//! A request is let in (`access`), its parameters are read (`parameters`), then a worker
//! (`workers`) makes the answer. `routes` has all paths. Whatever is wrong is a `problem`.

mod access;
mod answer;
mod cursor;
mod device;
mod devices;
mod events;
mod feed;
mod fleet;
mod listening;
mod openapi;
mod parameters;
mod problem;
mod routes;
mod session;
mod stream;
mod summary;
mod timeline;
mod transitions;
mod window;
mod workers;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::Method;
use actix_web::http::header::{CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use futures::StreamExt;
use serde::de::{DeserializeOwned, IgnoredAny};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

pub(in crate::http) use self::access::Access;
use self::access::Holder;
pub(in crate::http) use self::answer::Answer;
pub(in crate::http) use self::feed::{Feed, start as start_feed};
use self::parameters::Query;
pub(in crate::http) use self::problem::{Kind, Problem};
use self::routes::{Operation, Route};
pub(in crate::http) use self::workers::{THREADS, Workers};
use super::connection::{Exchange, MAX_BODY, MAX_WAITS};
use crate::board::Board;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::store::{DeviceStore, Reader, StoreError};
use crate::views::{About, EvidenceSettings};

/// The path below which the API is.
pub(in crate::http) const ROOT: &str = "/api/v1";

/// The API of a running service.
pub(in crate::http) struct Api {
    pub(in crate::http) access: Access,
    pub(in crate::http) workers: Workers,
    pub(in crate::http) context: Arc<Context>,
    pub(in crate::http) feed: Arc<Feed>,
    /// A place for each event stream.
    pub(in crate::http) streams: Arc<Semaphore>,
    pub(in crate::http) max_streams: usize,
    /// A place for each request that waits for events.
    pub(in crate::http) waits: Arc<Semaphore>,
    /// True once the service ends.
    pub(in crate::http) ending: watch::Sender<bool>,
}

/// The state that the workers share.
pub(in crate::http) struct Context {
    /// For changes.
    pub(in crate::http) store: DeviceStore,
    /// For everything else.
    pub(in crate::http) reader: Reader,
    pub(in crate::http) settings: EvidenceSettings,
    pub(in crate::http) metrics: Arc<Metrics>,
    pub(in crate::http) board: Arc<Board>,
    pub(in crate::http) about: About,
    pub(in crate::http) auto_register: bool,
    /// The time for which the history is kept.
    pub(in crate::http) retention: Duration,
    pub(in crate::http) clock: Clock,
}

/// The time within which a client must have sent the body of its request.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

type Answered = Result<Answer, Problem>;

/// Serves any request below [`ROOT`].
pub(in crate::http) async fn serve(
    request: HttpRequest,
    payload: Payload,
    api: Data<Api>,
) -> HttpResponse {
    let answer = answer(&request, payload, api).await;
    answer.unwrap_or_else(|problem| Answer::from(problem).into())
}

async fn answer(
    request: &HttpRequest,
    payload: Payload,
    api: Data<Api>,
) -> Result<HttpResponse, Problem> {
    let path = request.uri().path();
    let (route, id) = find(request.method(), path.strip_prefix(ROOT).unwrap_or_default())?;
    let holder = api.access.holder(request)?;
    api.access.admit(route.needs, holder)?;
    if route.writes() {
        api.access.check_origin(request)?;
    }
    let id = id.map(decoded).transpose()?;
    let query = Query::read(request.uri().query().unwrap_or_default(), route.parameters)?;
    let body = body(request, payload, route).await?;

    if route.operation == Operation::EventStream {
        if *request.method() == Method::HEAD {
            return Ok(Answer::text(200, "").of_type("text/event-stream").into());
        }
        return stream::open(request, api.clone(), &query).await;
    }
    let wait = query.number("wait").unwrap_or(0);
    let _waits = if wait > 0 { Some(place_to_wait(&api)?) } else { None };
    if let Some(exchange) = request.conn_data::<Exchange>()
        && wait > 0
    {
        exchange.extend(Duration::from_secs(wait));
    }
    let id = id.unwrap_or_default();
    Ok(work(&api, request, route, holder, id, query, body).await?.into())
}

/// A place among the requests that wait for events. There are fewer than connections, so that
/// one more is told so, and none is cut off for it.
fn place_to_wait(api: &Api) -> Result<OwnedSemaphorePermit, Problem> {
    Arc::clone(&api.waits).try_acquire_owned().map_err(|_| {
        let detail = format!(
            "{MAX_WAITS} requests wait for events already; ask without `wait`, or open an event \
             stream"
        );
        Problem::new(Kind::Busy, detail).retry_after(1)
    })
}

/// Makes the answer to a request that was let in.
async fn work(
    api: &Api,
    request: &HttpRequest,
    route: &Route,
    holder: Option<&Holder>,
    id: String,
    query: Query,
    body: Vec<u8>,
) -> Answered {
    let context = Arc::clone(&api.context);
    let workers = &api.workers;
    match route.operation {
        Operation::Summary => Ok(summary::show(&context)),
        Operation::Fleet => workers.run(async move || fleet::show(&context, &query).await).await,
        Operation::Events => events::list(api, &query).await,
        Operation::EventStream => Err(Problem::new(Kind::UnknownPath, "this is a stream")),
        Operation::Devices => {
            workers.run(async move || devices::list(&context, &query).await).await
        }
        Operation::Device => {
            workers.run(async move || device::show(&context, &id, &query).await).await
        }
        Operation::Timeline => {
            workers.run(async move || timeline::show(&context, &id, &query).await).await
        }
        Operation::Listening => {
            workers.run(async move || listening::show(&context, &query).await).await
        }
        Operation::Register => {
            let change = parsed(&body)?;
            workers.run(async move || device::register(&context, &id, change).await).await
        }
        Operation::Change => {
            let change = parsed(&body)?;
            workers.run(async move || device::change(&context, &id, change).await).await
        }
        Operation::Remove => workers.run(async move || device::remove(&context, &id).await).await,
        Operation::Transitions => {
            workers.run(async move || transitions::list(&context, &query).await).await
        }
        Operation::Outages => {
            workers.run(async move || transitions::outages(&context, &query).await).await
        }
        Operation::WhoAmI => Ok(session::who_am_i(&api.access, holder)),
        Operation::Login => session::log_in(&api.access, request, &parsed(&body)?),
        Operation::Logout => Ok(session::log_out(&api.access, request)),
        Operation::OpenApi => Ok(Answer::ok(&openapi::document(&api.access))),
    }
}

/// Finds the route for a method and a path below [`ROOT`], with the text in place of `{id}`.
fn find<'p>(method: &Method, path: &'p str) -> Result<(&'static Route, Option<&'p str>), Problem> {
    // Whoever asks for the head gets the head of what GET gets.
    let name = if *method == Method::HEAD { "GET" } else { method.as_str() };
    let (routes, id) = routes::at(path);
    let mut methods = Vec::new();
    for route in routes {
        if route.method == name {
            return Ok((route, id));
        }
        methods.push(route.method);
        if route.method == "GET" {
            methods.push("HEAD");
        }
    }
    if methods.is_empty() {
        let detail = "there is nothing at this path; GET /api/v1/openapi.json lists all paths";
        return Err(Problem::new(Kind::UnknownPath, detail));
    }
    let methods = methods.join(", ");
    let detail = format!("this path takes {methods}");
    Err(Problem::new(Kind::WrongMethod, detail).allow(methods))
}

/// Decodes the id in a path.
fn decoded(segment: &str) -> Result<String, Problem> {
    let text = percent_encoding::percent_decode_str(segment).decode_utf8();
    text.map(Cow::into_owned).map_err(|_| invalid_id("it is not UTF-8"))
}

/// The problem with an id in a path.
fn invalid_id(why: impl Into<String>) -> Problem {
    let why = why.into();
    Problem::new(Kind::InvalidParameter, format!("id: {why}")).flaw("/path/id", why)
}

/// Reads the body of a request that takes one, and refuses any other.
async fn body(
    request: &HttpRequest,
    mut payload: Payload,
    route: &Route,
) -> Result<Vec<u8>, Problem> {
    let headers = request.headers();
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let length: usize = length.unwrap_or_default();
    let chunked = headers.contains_key(TRANSFER_ENCODING);
    if chunked && route.takes_body() {
        let detail = "the length of a body has to be announced by Content-Length; it is not read \
                      in chunks";
        return Err(Problem::new(Kind::LengthRequired, detail));
    }
    if chunked || length > MAX_BODY {
        let detail = format!("a body has at most {MAX_BODY} bytes, announced by Content-Length");
        return Err(Problem::new(Kind::TooLarge, detail));
    }
    if length == 0 && !route.takes_body() {
        return Ok(Vec::new());
    }
    if !route.takes_body() {
        return Err(Problem::new(Kind::TooLarge, "this request takes no body"));
    }
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        let detail = "the body has to be announced as `Content-Type: application/json`";
        return Err(Problem::new(Kind::UnsupportedMediaType, detail));
    }
    let mut body = Vec::with_capacity(length);
    let whole = async {
        while let Some(Ok(chunk)) = payload.next().await {
            body.extend_from_slice(&chunk);
        }
    };
    if tokio::time::timeout(BODY_TIMEOUT, whole).await.is_err() {
        let seconds = BODY_TIMEOUT.as_secs();
        let detail = format!("{length} bytes were announced, and did not come within {seconds} s");
        return Err(Problem::new(Kind::TooSlow, detail));
    }
    if body.len() != length {
        return Err(Problem::new(Kind::InvalidBody, "the body is shorter than announced"));
    }
    Ok(body)
}

fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    // serde would take a list for an object, too.
    if body.is_empty() {
        let why = "an object in JSON is expected, and the body is empty";
        return Err(Problem::new(Kind::InvalidBody, why).flaw("", why));
    }
    let is_object = matches!(body.trim_ascii_start(), [b'{', ..]);
    let is_other = !is_object && serde_json::from_slice::<IgnoredAny>(body).is_ok();
    let read = if is_other { Err("an object is expected".to_owned()) } else { Ok(()) };
    let read = read.and_then(|()| serde_json::from_slice(body).map_err(|why| why.to_string()));
    read.map_err(|why| {
        let detail = format!("the body is not what is expected: {why}");
        Problem::new(Kind::InvalidBody, detail).flaw("", why)
    })
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        log::debug!(target: "http", "{error}");
        let detail = format!("the database does not answer: {error}");
        Self::new(Kind::DatabaseUnavailable, detail).retry_after(5)
    }
}
