//! The composition root, and the only file that knows all actors. Builds them, runs them,
//! and drains them in the right order.

pub mod drain;
mod error;

use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use actix_rt::task::JoinHandle;
use chrono::TimeDelta;
use futures::future::{Either, select};
use log::{info, warn};
use tokio::time::{Instant, timeout_at};

use self::drain::Draining;
pub use self::error::AppError;
use crate::actors::alert_sink::{AlertSink, DevicesOffline, DevicesRecovered};
use crate::actors::courier::{self, Courier, Sinks};
use crate::actors::device_registry::{self, DeviceRegistry, Found};
use crate::actors::mqtt_ingest::MqttIngest;
use crate::actors::on_own_thread;
use crate::actors::ticker::{self, Ticker};
use crate::board::Board;
use crate::clock::{Clock, system_clock};
use crate::config::{Config, FenceMode, Listen, MqttConfig};

use crate::domain::{Configured, Subscription};
use crate::http::{self, HttpServer};
use crate::inbox::{Inbox, ticks};
use crate::metrics::Metrics;
use crate::mqtt::{self, Broker, Client, Fencer};
use crate::process::open_files::{self, Needed};
use crate::receiver::{self, Receiver};
use crate::store::{self, DeviceStore, Member, Reader};
use crate::views::{About, Summary, sentence};

/// The longest time for a drain. Supervisors kill after ten seconds or more.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(8);

/// The pause between two attempts to write the rest of the heartbeats.
const WRITE_AGAIN: Duration = Duration::from_millis(500);

/// The number of actors, each with a runtime on its own thread.
const ACTORS: u64 = 5;

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
    reader: Reader,
    registry: Addr<DeviceRegistry>,
    ingest: Addr<MqttIngest>,
    ticker: Addr<Ticker>,
    courier: Addr<Courier>,
    http: Option<HttpServer>,
    watch: JoinHandle<()>,
    receiver: Option<Receiver>,
    board: Arc<Board>,
    about: About,
    clock: Clock,
}

/// An [`App`] that is not running yet.
pub struct AppBuilder {
    config: Config,
    sink: Option<Recipient<DevicesOffline>>,
    recoveries: Option<Recipient<DevicesRecovered>>,
    clock: Clock,
}

impl App {
    /// Makes a builder from `config`, with the alert sink that only logs.
    pub fn build(config: Config) -> AppBuilder {
        AppBuilder { config, sink: None, recoveries: None, clock: system_clock }
    }

    /// The address on which the embedded broker listens without TLS, if it does.
    pub fn broker_address(&self) -> Option<SocketAddr> {
        self.receiver.as_ref().and_then(Receiver::address)
    }

    /// The address on which the embedded broker listens with TLS, if it does.
    pub fn broker_tls_address(&self) -> Option<SocketAddr> {
        self.receiver.as_ref().and_then(Receiver::tls_address)
    }

    /// The service and the fleet in one sentence, as the page and `heartbeatd status` say it.
    pub fn sentence(&self) -> String {
        let now = (self.clock)();
        sentence(&Summary::of(self.board.snapshot(now), &self.about, now.wall))
    }

    /// Reads again what can be changed while the service runs: the certificates of the
    /// embedded broker. Returns at once. False if there is nothing of the kind.
    pub fn reload(&self) -> bool {
        self.receiver.as_ref().is_some_and(Receiver::reload)
    }

    /// The address on which HTTP is served, if it is.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(HttpServer::address)
    }

    /// Resolves when the service can no longer do its job, for example because the alert
    /// sink has stopped, and never otherwise. Drain and restart; nothing is lost.
    pub async fn failed(&self) -> AppError {
        let ticker = pin!(self.ticker.send(ticker::AwaitEnd));
        let courier = pin!(self.courier.send(courier::AwaitEnd));
        let store = pin!(self.store.must_end());
        match select(select(ticker, courier), store).await {
            Either::Left((Either::Left((Err(gone), _)) | Either::Right((Err(gone), _)), _)) => {
                gone.into()
            }
            Either::Right((why, _)) => why.into(),
        }
    }

    /// Stops checking and listening, lets the delivery under way finish, writes what was
    /// received and closes the database.
    ///
    /// # Errors
    ///
    /// If what was received could not be written within eight seconds.
    pub async fn drain(self) -> Result<(), AppError> {
        let began = Instant::now();
        let deadline = began + DRAIN_TIMEOUT;
        if let Some(http) = &self.http {
            http.say_goodbye();
        }
        let Self { ticker, courier, ingest, registry, .. } = self;
        let draining = Draining { ticker, courier, ingest, registry: registry.clone() };
        draining.run(deadline, WRITE_AGAIN).await?;
        leave(registry, deadline).await;
        self.watch.abort();
        if let Some(receiver) = self.receiver {
            receiver.stop().await;
        }
        if let Some(http) = self.http {
            http.stop();
        }
        // A request that is still answered may go without.
        let _ = timeout_at(deadline, self.reader.close()).await;
        if let Ok(closed) = timeout_at(deadline, self.store.close()).await {
            closed?;
        }
        let duration_ms = began.elapsed().as_millis();
        info!(target: "heartbeatd", duration_ms; "everything is written");
        Ok(())
    }
}

impl AppBuilder {
    /// Hands offline devices to `sink` instead of only logging them.
    pub fn alert_sink(mut self, sink: Recipient<DevicesOffline>) -> Self {
        self.sink = Some(sink);
        self
    }

    /// Hands the devices that came back to `sink`. Without this they are only logged, or with an
    /// alert sink of your own reported to nobody.
    pub fn recovery_sink(mut self, sink: Recipient<DevicesRecovered>) -> Self {
        self.recoveries = Some(sink);
        self
    }

    /// Takes the time from `clock` instead of the machine's.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Starts everything, inside an actix system. The broker need not be reachable yet,
    /// because the service keeps retrying.
    ///
    /// # Errors
    ///
    /// If the database, an address to listen on, or a file for TLS cannot be
    /// used, or if the limit of open files is too low.
    pub async fn start(self) -> Result<App, AppError> {
        let Self { config, sink, recoveries, clock } = self;
        let started_at = clock().wall;
        open_files::raise();
        needed_files(&config).check()?;
        let metrics = Arc::new(Metrics::new().with_refusals(receiver::refusal_labels()));
        let timeout = config.heartbeat.timeout.get();
        let settings = device_registry::Settings::from(&config);
        let board = Board::new(config.mqtt.confirm_interval(), timeout);
        let board = Arc::new(board.proving_after(match config.mqtt.share_group {
            // By what all members have saved, as a look finds it.
            Some(_) => settings.proving_after() + settings.look_interval,
            None => settings.settle,
        }));

        let store = if config.may_be_several() {
            DeviceStore::open_standby(&config.database, &settings.member()).await?
        } else {
            DeviceStore::open_exclusive(&config.database).await?
        };
        let reader = store.reader().await?;
        let found = Found::read(&store, &settings).await?;
        // Everything is bound before anything connects or delivers. So a second service
        // that is started by mistake ends here, before it throws the first off its
        // broker.
        let http = match config.http.listen {
            Listen::Off => None,
            Listen::At(address) => {
                let listener = TcpListener::bind(address);
                Some(listener.map_err(|source| AppError::Http { address, source })?)
            }
        };
        let inbox = Arc::new(Inbox::new(config.mqtt.max_backlog));
        ticks::begin(&inbox, clock);
        let (receiver, broker) = match Broker::configured(&config.mqtt) {
            Some(broker) => (None, broker),
            None => {
                let (inbox, metrics) = (Arc::clone(&inbox), Arc::clone(&metrics));
                let max_files = open_files::max_clients(streams(&config));
                let receiver =
                    Receiver::start(&config.mqtt, max_files, inbox, clock, metrics).await?;
                let broker = receiver.broker();
                (Some(receiver), broker)
            }
        };
        let client = Client::new(&config.mqtt, &broker, inbox, clock, Arc::clone(&metrics))?;
        let sessions = match &config.mqtt.share_group {
            Some(_group) => Some(Fencer::new(&config.mqtt, &broker)?),
            None => None,
        };

        let registry = on_own_thread("device_registry", {
            let (store, metrics) = (store.clone(), Arc::clone(&metrics));
            let board = Arc::clone(&board);
            move || {
                let registry = DeviceRegistry::new(settings, store, found, metrics)
                    .with_board(board)
                    .watching_the_state(clock);
                match sessions {
                    Some(sessions) => registry.in_a_group(Arc::new(sessions)),
                    None => registry,
                }
            }
        });
        let ingest = on_own_thread("mqtt_ingest", {
            let (registry, metrics) = (registry.clone(), Arc::clone(&metrics));
            let interval = config.mqtt.confirm_interval();
            let board = Arc::clone(&board);
            let in_a_group = config.mqtt.share_group.is_some();
            let settle = config.mqtt.settle();
            move || {
                let ingest = MqttIngest::new(Box::new(client), registry, interval, clock, metrics)
                    .with_board(board)
                    .with_entries(timeout)
                    .settling(settle);
                if in_a_group { ingest.in_a_group() } else { ingest }
            }
        });
        let sinks = sinks(sink, recoveries);
        let courier = on_own_thread("courier", {
            let (registry, metrics) = (registry.clone(), Arc::clone(&metrics));
            let patience = config.alerts.timeout.get();
            let board = Arc::clone(&board);
            move || Courier::new(registry, sinks, patience, clock, metrics).with_board(board)
        });
        let ticker = on_own_thread("ticker", {
            let (registry, courier) = (registry.clone(), courier.clone().recipient());
            let check_interval = config.heartbeat.check_interval.get();
            move || Ticker::new(check_interval, registry, courier, clock)
        });

        let watch = actix_rt::spawn(open_files::watch(Arc::clone(&metrics)));
        let about = About::new(&config, started_at);
        let http = http.map(|listener| {
            let (registry, ingest) = (registry.clone(), ingest.clone());
            // Devices are changed as commands change them, also while this instance stands by.
            let store = store.for_commands();
            let (config, reader) = (&config, reader.clone());
            let (about, board) = (about.clone(), Arc::clone(&board));
            let parts = http::Parts {
                config,
                about,
                store,
                reader,
                board,
                metrics,
                registry,
                ingest,
                clock,
            };
            HttpServer::start(listener, parts)
        });
        let http = http.transpose().map_err(AppError::Serve)?;

        Ok(App {
            store,
            reader,
            registry,
            ingest,
            ticker,
            courier,
            http,
            watch,
            receiver,
            board,
            about,
            clock,
        })
    }
}

/// Ends the stay of this instance. If that fails, another one finds out that it is gone.
async fn leave(registry: Addr<DeviceRegistry>, deadline: Instant) {
    match timeout_at(deadline, registry.send(device_registry::Leave)).await {
        Ok(Ok(Ok(()))) => (),
        Ok(Ok(Err(error))) => warn!(target: "standby", "{error}"),
        Ok(Err(error)) => warn!(target: "standby", "{error}"),
        Err(_elapsed) => warn!(target: "standby", "no answer from the database"),
    }
}

/// The given sinks. Without one for alerts, the stub takes both kinds.
fn sinks(
    alerts: Option<Recipient<DevicesOffline>>,
    recoveries: Option<Recipient<DevicesRecovered>>,
) -> Sinks {
    if let Some(alerts) = alerts {
        return Sinks { alerts, recoveries };
    }
    let stub = on_own_thread("alert_sink", AlertSink::default);
    let recoveries = recoveries.unwrap_or_else(|| stub.clone().recipient());
    Sinks { alerts: stub.recipient(), recoveries: Some(recoveries) }
}

impl From<&Config> for device_registry::Settings {
    fn from(config: &Config) -> Self {
        Self {
            instance: config.mqtt.client_id.clone(),
            incarnation: Member::new_incarnation(),
            look_interval: config
                .mqtt
                .confirm_interval()
                .max(config.heartbeat.flush_interval.get()),
            topic: config.mqtt.topic.clone(),
            confirm_interval: config.mqtt.confirm_interval(),
            timeout: config.heartbeat.timeout.get(),
            flush_interval: config.heartbeat.flush_interval.get(),
            max_clock_skew: config.heartbeat.max_clock_skew,
            retention: config.history.retention.get(),
            devices: config.devices.clone(),
            embedded: config.mqtt.url.is_none(),
            share_group: config.mqtt.share_group.clone(),
            fences: config.mqtt.fence == FenceMode::Takeover,
            settle: config.mqtt.settle(),
            configured: configured(config),
        }
    }
}

/// The part of the configuration that other instances on the database have to know.
fn configured(config: &Config) -> Configured {
    let span = |time: Duration| TimeDelta::from_std(time).unwrap_or(TimeDelta::MAX);
    let MqttConfig { topic, url, entry_urls, .. } = &config.mqtt;
    let mut entry_urls: Vec<_> = entry_urls.iter().map(ToString::to_string).collect();
    entry_urls.sort_unstable();
    let broker = url.as_ref().map(ToString::to_string);
    Configured {
        subscription: Subscription { topic: topic.to_string(), broker, entry_urls },
        timeout: span(config.heartbeat.timeout.get()),
        check_interval: span(config.heartbeat.check_interval.get()),
    }
}

/// The least number of open files that a service with `config` needs, besides the runtime
/// that starts it.
pub(crate) fn needed_files(config: &Config) -> Needed {
    let serves = config.http.listen != Listen::Off;
    let embeds = config.mqtt.url.is_none();
    let needed = Needed::default()
        .runtimes(ACTORS + http::RUNTIMES * u64::from(serves) + u64::from(embeds))
        .with("the database", store::open_files(&config.database))
        .with("the MQTT client", mqtt::CLIENT_OPEN_FILES);
    let streams = streams(config);
    let entries = config.mqtt.other_entries().count() as u64;
    let needed = if entries > 0 {
        needed.with("the other nodes of mqtt.entry_urls", entries * mqtt::ENTRY_OPEN_FILES)
    } else {
        needed
    };
    let needed = if serves {
        needed.with("HTTP", http::OPEN_FILES).with("event streams", streams)
    } else {
        needed
    };
    if embeds {
        let broker = receiver::open_files(&config.mqtt.embedded);
        needed.with("the embedded broker", broker).clients(streams)
    } else {
        needed
    }
}

/// The number of event streams that may be open. Each holds its connection.
fn streams(config: &Config) -> u64 {
    if config.http.listen == Listen::Off { 0 } else { config.http.max_streams as u64 }
}
