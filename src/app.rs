//! The composition root: the only file that knows all actors. Builds them, runs
//! them, and drains them in the right order.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use futures::future::{Either, select};
use log::{error, info, warn};

use crate::actors::alert_sink::{AlertSink, DevicesOffline};
use crate::actors::device_registry::{DeviceRegistry, Flush, Found};
use crate::actors::mqtt_ingest::{Disconnect, MqttIngest};
use crate::actors::on_own_thread;
use crate::actors::ticker::{self, AwaitEnd, Schedule, Ticker};
use crate::clock::{Clock, system_clock};
use crate::config::{Config, HttpListen};
use crate::http::HttpServer;
use crate::metrics::Metrics;
use crate::mqtt::{Broker, Client, ClientError};
#[cfg(feature = "embedded-broker")]
use crate::mqtt::{EmbeddedBroker, EmbeddedError};
use crate::store::{DeviceStore, StoreError};

/// How long a drain may take. Supervisors kill after ten seconds and more.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(9);

/// The running service.
///
/// ```no_run
/// use heartbeatd::{App, Config};
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let app = App::build(Config::default()).start().await?;
/// actix_rt::signal::ctrl_c().await?;
/// app.drain().await?;
/// # Ok(())
/// # }
/// ```
pub struct App {
    store: DeviceStore,
    registry: Addr<DeviceRegistry>,
    ingest: Addr<MqttIngest>,
    ticker: Addr<Ticker>,
    http: Option<HttpServer>,
    #[cfg(feature = "embedded-broker")]
    embedded: Option<EmbeddedBroker>,
}

/// An [`App`] that is not running yet.
pub struct AppBuilder {
    config: Config,
    sink: Option<Recipient<DevicesOffline>>,
    clock: Clock,
}

/// Why the service does not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The database is not to be had.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The MQTT client cannot be made.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The embedded broker does not start.
    #[cfg(feature = "embedded-broker")]
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
    /// The address for HTTP is taken or not this machine's.
    #[error("http.listen = {address}: {source}")]
    Http {
        /// Which.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// There is no broker to connect to.
    #[error("mqtt.url is unset and this heartbeatd was built without the embedded broker")]
    NoBroker,
    /// An actor is gone.
    #[error("an actor is gone: {0}")]
    Mailbox(#[from] MailboxError),
    /// It took too long.
    #[error("not drained within {}", humantime::format_duration(DRAIN_TIMEOUT))]
    DrainTimeout,
}

impl App {
    /// A service by `config`, with the alert sink that only logs.
    pub fn build(config: Config) -> AppBuilder {
        AppBuilder { config, sink: None, clock: system_clock }
    }

    /// Where the embedded broker listens, if it runs.
    #[cfg(feature = "embedded-broker")]
    pub fn broker_address(&self) -> Option<SocketAddr> {
        self.embedded.as_ref().map(EmbeddedBroker::address)
    }

    /// Where HTTP is served, if it is.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(HttpServer::address)
    }

    /// Waits until the service can no longer do its work, for which it never ends by
    /// itself: an actor is gone, such as an alert sink that stopped. What is left to
    /// do then is to drain and to start anew; nothing is lost by it.
    pub async fn failed(&self) -> AppError {
        match select(pin!(self.ticker.send(AwaitEnd)), pin!(self.store.taken_over())).await {
            Either::Left((Err(gone), _)) => gone.into(),
            Either::Right((taken_over, _)) => taken_over.into(),
        }
    }

    /// Stops: no more checks, no more heartbeats, write what was received, close
    /// the database.
    ///
    /// # Errors
    ///
    /// If what was received could not be written within nine seconds.
    pub async fn drain(self) -> Result<(), AppError> {
        let draining = async {
            match self.ticker.send(ticker::Stop).await {
                // One that is gone checks no more either.
                Ok(()) | Err(MailboxError::Closed) => (),
                Err(MailboxError::Timeout) => return Err(MailboxError::Timeout.into()),
            }
            self.ingest.send(Disconnect).await?;
            self.registry.send(Flush).await??;
            if let Some(http) = self.http {
                http.stop().await;
            }
            self.store.close().await?;
            Ok(())
        };
        actix_rt::time::timeout(DRAIN_TIMEOUT, draining)
            .await
            .unwrap_or(Err(AppError::DrainTimeout))
            .inspect(|()| info!(target: "heartbeatd", "everything is written"))
            .inspect_err(
                |error| error!(target: "heartbeatd", "the last heartbeats may be lost: {error}"),
            )
    }
}

impl AppBuilder {
    /// Hands offline devices to `sink` instead of only logging them.
    pub fn alert_sink(mut self, sink: Recipient<DevicesOffline>) -> Self {
        self.sink = Some(sink);
        self
    }

    /// Takes the time from `clock` instead of the machine's.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Starts everything, inside an actix system. The broker need not be
    /// reachable: the service goes on trying.
    ///
    /// # Errors
    ///
    /// If the database, an address to listen on, or a file for TLS cannot be
    /// used.
    pub async fn start(self) -> Result<App, AppError> {
        let Self { config, sink, clock } = self;
        let metrics = Arc::new(Metrics::new());

        let store = DeviceStore::open_exclusive(config.database.url.reveal()).await?;
        let found = Found::read(&store, &config).await?;

        #[cfg(feature = "embedded-broker")]
        let embedded = match config.mqtt.url {
            Some(_) => None,
            None => Some(EmbeddedBroker::start(&config.mqtt).await?),
        };
        #[cfg(feature = "embedded-broker")]
        let own = embedded.as_ref().map(EmbeddedBroker::broker);
        #[cfg(not(feature = "embedded-broker"))]
        let own = None;
        let broker = Broker::configured(&config.mqtt).or(own).ok_or(AppError::NoBroker)?;
        let client = Client::new(&config.mqtt, &broker, clock, Arc::clone(&metrics))?;

        let registry = on_own_thread("device_registry", {
            let (config, store, metrics) = (config.clone(), store.clone(), Arc::clone(&metrics));
            move || DeviceRegistry::new(config, store, found, metrics)
        });
        let ingest = on_own_thread("mqtt_ingest", {
            let (registry, metrics) = (registry.clone(), Arc::clone(&metrics));
            let interval = config.mqtt.confirm_interval();
            move || MqttIngest::new(Box::new(client), registry, interval, clock, metrics)
        });
        let sink =
            sink.unwrap_or_else(|| on_own_thread("alert_sink", AlertSink::default).recipient());
        let ticker = on_own_thread("ticker", {
            let registry = registry.clone();
            let schedule = Schedule {
                check_interval: config.heartbeat.check_interval,
                delivery_timeout: config.alerts.timeout,
            };
            move || Ticker::new(schedule, registry, sink, clock)
        });

        let http = match config.http.listen {
            HttpListen::Off => None,
            HttpListen::At(address) => {
                let http = HttpServer::start(address, metrics, registry.clone(), ingest.clone());
                Some(http.map_err(|source| AppError::Http { address, source })?)
            }
        };
        if config.http.token.is_some() {
            warn!(target: "heartbeatd", "http.token is set, but nothing in this version needs it");
        }

        Ok(App {
            store,
            registry,
            ingest,
            ticker,
            http,
            #[cfg(feature = "embedded-broker")]
            embedded,
        })
    }
}
