//! HTTP: health, readiness and metrics, in the same actix system. One file per
//! resource; an API and a page would be further ones.

mod health;
mod metrics;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use actix_web::dev::ServerHandle;
use actix_web::web::{self, Data};

use crate::actors::device_registry::DeviceRegistry;
use crate::actors::mqtt_ingest::MqttIngest;
use crate::metrics::Metrics;

/// Scrapes and probes are few.
const WORKERS: usize = 1;

/// How long an actor may take to answer before it counts as stuck.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// What the handlers share.
#[derive(Clone)]
struct State {
    metrics: Arc<Metrics>,
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
        let state = State { metrics, registry, ingest };
        let server = actix_web::HttpServer::new(move || {
            actix_web::App::new()
                .app_data(Data::new(state.clone()))
                .route("/healthz", web::get().to(health::healthz))
                .route("/readyz", web::get().to(health::readyz))
                .route("/metrics", web::get().to(metrics::metrics))
        })
        .workers(WORKERS)
        // The service has its own way to end.
        .disable_signals()
        .listen(listener)?;
        let server = server.run();
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
