//! HTTP: the API, health, readiness and metrics, in the same actix system as the actors. One
//! file per resource.

mod api;
mod connection;
mod health;
mod metrics;
mod page;
mod refusal;

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use actix_http::{HttpService, KeepAlive};
use actix_rt::{Arbiter, ArbiterHandle};
use actix_service::{Service, ServiceFactory, map_config};
use actix_web::dev::{AppConfig, Handler};
use actix_web::middleware::from_fn;
use actix_web::web::{self, Data};
use actix_web::{FromRequest, HttpResponse, Resource, Responder, guard};
use tokio::sync::{Semaphore, watch};

use self::api::{Access, Api, Context, Feed, Kind, Workers};
use self::connection::{Connection, Connections, MAX_WAITS};
use crate::actors::device_registry::DeviceRegistry;
use crate::actors::mqtt_ingest::MqttIngest;
use crate::board::Board;
use crate::clock::Clock;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::process::accept::{self, Acceptor};
use crate::process::panics;
use crate::store::{DeviceStore, Reader};
use crate::views::About;

/// The number of descriptors that are held back for probes.
const RESERVED: usize = 16;

/// The number of files that HTTP holds open without any connection.
pub(crate) const OPEN_FILES: u64 = accept::files(RESERVED);

/// The number of runtimes that HTTP has: its own, and those of the workers.
pub(crate) const RUNTIMES: u64 = 1 + api::THREADS as u64;

/// The time after which an actor that has not answered counts as stuck.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// The time for which a client may go on sending a request that was refused.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// The state that the handlers share.
#[derive(Clone)]
struct State {
    metrics: Arc<Metrics>,
    pages: Arc<metrics::Pages>,
    registry: Addr<DeviceRegistry>,
    ingest: Addr<MqttIngest>,
}

/// The parts of the service that the server uses.
pub(crate) struct Parts<'a> {
    pub(crate) config: &'a Config,
    pub(crate) about: About,
    pub(crate) store: DeviceStore,
    pub(crate) reader: Reader,
    pub(crate) board: Arc<Board>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) registry: Addr<DeviceRegistry>,
    pub(crate) ingest: Addr<MqttIngest>,
    pub(crate) clock: Clock,
}

/// The running server, on its own thread.
pub struct HttpServer {
    address: SocketAddr,
    thread: ArbiterHandle,
    ending: watch::Sender<bool>,
}

impl HttpServer {
    /// Starts to serve the connections that arrive at `listener`.
    ///
    /// # Errors
    ///
    /// If the listener cannot be used, or no thread can be started.
    pub(crate) fn start(listener: TcpListener, parts: Parts<'_>) -> std::io::Result<Self> {
        let address = listener.local_addr()?;
        let Parts { config, about, store, reader, board, metrics, registry, ingest, clock } = parts;
        let state =
            State { metrics: Arc::clone(&metrics), pages: Arc::default(), registry, ingest };
        let context = Arc::new(Context {
            store,
            reader,
            metrics,
            board,
            about,
            settings: config.into(),
            auto_register: config.devices.auto_register,
            retention: config.history.retention.get(),
            clock,
        });
        let (workers, feed) = (Workers::start(), Arc::new(Feed::new()));
        workers.begin(api::start_feed(&feed, &context));
        let ending = watch::Sender::new(false);
        let api = Api {
            access: Access::new(&config.http, address),
            workers,
            context,
            feed,
            streams: Arc::new(Semaphore::new(config.http.max_streams)),
            max_streams: config.http.max_streams,
            waits: Arc::new(Semaphore::new(MAX_WAITS)),
            ending: ending.clone(),
        };
        let thread = Arbiter::new().handle();
        thread.spawn_fn(move || {
            panics::this_thread_is("http");
            actix_rt::spawn(async move {
                let Err(error) = serve(listener, state, api).await;
                log::error!(target: "http", "HTTP is not served: {error}");
            });
        });
        Ok(Self { address, thread, ending })
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Says goodbye to event streams, and answers whoever waits for events. The rest goes on.
    pub fn say_goodbye(&self) {
        self.ending.send_replace(true);
    }

    /// Stops the server; a request under way is cut off.
    pub fn stop(&self) {
        self.thread.stop();
    }
}

/// Serves until something fails. No connection waits for another.
async fn serve(listener: TcpListener, state: State, api: Api) -> std::io::Result<Infallible> {
    let address = listener.local_addr()?;
    let app = actix_web::App::new()
        .app_data(Data::new(state))
        .app_data(Data::new(api))
        .service(resource("/healthz", health::healthz))
        .service(resource("/readyz", health::readyz))
        .service(resource("/metrics", metrics::metrics))
        .service(web::resource(api::ROOT).to(api::serve))
        .service(web::resource("/api/v1/{path:.*}").to(api::serve))
        .service(resource("/problems/{name}", problem))
        .configure(page::configure)
        .default_service(web::to(refusal::not_found))
        .wrap(from_fn(refusal::refuse_flaws));
    let http = HttpService::build()
        // One request per connection, so that a busy client queues again for the next one.
        .keep_alive(KeepAlive::Disabled)
        // The connection itself does that, with an answer that says so.
        .client_request_timeout(Duration::ZERO)
        .client_disconnect_timeout(LINGER_TIMEOUT)
        .local_addr(address)
        .on_connect_ext(|connection: &Connection, data| {
            data.insert(connection.exchange().clone());
        })
        .h1(map_config(app, |_| AppConfig::default()));
    let failed = |()| std::io::Error::other("the HTTP service could not be created");
    let http = Rc::new(http.new_service(()).await.map_err(failed)?);
    let acceptor = Acceptor::new(listener, RESERVED, "http")?;
    let connections = Connections::default();
    loop {
        let (stream, peer) = acceptor.accept(|| connections.make_room()).await;
        let exchange = http.call((connections.admit(stream), Some(peer)));
        let reserve = acceptor.reserve();
        actix_rt::spawn(async move {
            if let Err(error) = exchange.await {
                log::debug!(target: "http", "{error}");
            }
            reserve.refill();
        });
        // Its request is looked at before the next connection takes the place of one that seems
        // to wait for its client.
        tokio::task::yield_now().await;
    }
}

/// `/problems/NAME`: what a kind of problem means and what helps.
async fn problem(name: web::Path<String>) -> HttpResponse {
    match Kind::page(&name) {
        Some(page) => api::Answer::text(200, page).into(),
        None => refusal::nothing(),
    }
}

/// A read-only resource: it takes GET and HEAD, and refuses every other method.
fn resource<F, Args>(path: &str, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    let readable = guard::Any(guard::Get()).or(guard::Head());
    web::resource(path)
        .route(web::route().guard(readable).to(handler))
        .default_service(web::to(refusal::not_allowed))
}
