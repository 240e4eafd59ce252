//! HTTP: health, readiness and metrics, in the same actix system. One file per
//! resource; an API and a page would be further ones.

mod connection;
mod health;
mod metrics;
mod refusal;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use actix_http::{HttpService, KeepAlive};
use actix_rt::net::TcpStream;
use actix_service::{ServiceFactoryExt, fn_service, map_config};
use actix_web::dev::{AppConfig, Handler, ServerHandle};
use actix_web::middleware::from_fn;
use actix_web::web::{self, Data};
use actix_web::{FromRequest, Resource, Responder, guard};

use self::connection::{Connection, Connections};
use crate::actors::device_registry::DeviceRegistry;
use crate::actors::mqtt_ingest::MqttIngest;
use crate::metrics::Metrics;

/// Scrapes and probes are few.
const WORKERS: usize = 1;

/// How long an actor may take to answer before it counts as stuck.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a client may take for the head of its request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a client whose request is refused may go on sending it.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// How many connections may be open at all, those included that are about to end; more
/// wait to be accepted. See [`Connections`] for how many are served.
const MAX_OPEN: usize = 256;

/// What the handlers share.
#[derive(Clone)]
struct State {
    metrics: Arc<Metrics>,
    page: Arc<metrics::Page>,
    registry: Addr<DeviceRegistry>,
    ingest: Addr<MqttIngest>,
}

/// The running server.
pub struct HttpServer {
    address: SocketAddr,
    handle: ServerHandle,
}

impl HttpServer {
    /// Starts serving what arrives at `listener`.
    ///
    /// # Errors
    ///
    /// If the listener cannot be used.
    pub fn start(
        listener: TcpListener,
        metrics: Arc<Metrics>,
        registry: Addr<DeviceRegistry>,
        ingest: Addr<MqttIngest>,
    ) -> std::io::Result<Self> {
        let address = listener.local_addr()?;
        let state = State { metrics, page: Arc::default(), registry, ingest };
        let service = move || {
            let connections = Connections::default();
            let accept = move |stream: TcpStream| {
                let peer = stream.peer_addr().ok();
                std::future::ready(Ok((connections.admit(stream), peer)))
            };
            let app = actix_web::App::new()
                .app_data(Data::new(state.clone()))
                .service(resource("/healthz", health::healthz))
                .service(resource("/readyz", health::readyz))
                .service(resource("/metrics", metrics::metrics))
                .default_service(web::to(refusal::not_found))
                .wrap(from_fn(refusal::refuse_flaws));
            let http = HttpService::build()
                // A connection for each request: whoever wants the next one waits again.
                .keep_alive(KeepAlive::Disabled)
                .client_request_timeout(HEAD_TIMEOUT)
                .client_disconnect_timeout(LINGER_TIMEOUT)
                .local_addr(address)
                .on_connect_ext(|connection: &Connection, data| {
                    data.insert(connection.flaws().clone());
                })
                .h1(map_config(app, |_| AppConfig::default()));
            fn_service(accept).and_then(http)
        };
        let server = actix_server::Server::build()
            .workers(WORKERS)
            .max_concurrent_connections(MAX_OPEN)
            // The service has its own way to end.
            .disable_signals()
            .listen("http", listener, service)?
            .run();
        let handle = server.handle();
        actix_rt::spawn(server);
        Ok(Self { address, handle })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops; a request under way is cut off.
    pub async fn stop(&self) {
        self.handle.stop(false).await;
    }
}

/// A resource that can be read, and nothing else.
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
