//! `heartbeatd run`: the service.

use std::pin::pin;
use std::process::ExitCode;

use actix_rt::signal::unix::{SignalKind, signal};
use futures::future::{Either, select};
use log::{info, warn};

use crate::config::Loaded;
use crate::{App, Config, duration};

pub(super) async fn run(loaded: Loaded) -> anyhow::Result<ExitCode> {
    // Before anything starts, so that no signal finds nobody.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    tell(&loaded);
    let Loaded { config, .. } = loaded;
    let app = App::build(config.clone()).start().await.map_err(anyhow::Error::new)?;
    greet(&app, &config);

    let signal = async {
        match select(pin!(terminate.recv()), pin!(interrupt.recv())).await {
            Either::Left(_) => "SIGTERM",
            Either::Right(_) => "SIGINT",
        }
    };
    let failed = match select(pin!(signal), pin!(app.failed())).await {
        Either::Left((name, _)) => {
            info!(target: "heartbeatd", "{name}: writing what was received, then stopping");
            Ok(())
        }
        Either::Right((failed, _)) => {
            info!(target: "heartbeatd", "{failed}: writing what was received, then stopping");
            Err(failed)
        }
    };
    app.drain().await.map_err(anyhow::Error::new)?;
    failed.map_err(anyhow::Error::new)?;
    Ok(ExitCode::SUCCESS)
}

/// Says what is odd about the configuration.
pub(super) fn tell(loaded: &Loaded) {
    for warning in &loaded.warnings {
        warn!(target: "heartbeatd", "{warning}");
    }
    if loaded.kubernetes_variables > 0 {
        info!(
            target: "heartbeatd", count = loaded.kubernetes_variables;
            "variables of a Kubernetes Service in the environment are ignored"
        );
    }
}

/// The first lines tell what runs where and how to try it.
fn greet(app: &App, config: &Config) {
    let timeout = duration::format(config.heartbeat.timeout);
    let check_interval = duration::format(config.heartbeat.check_interval);
    let database = config.database.url.to_string();
    let version = env!("CARGO_PKG_VERSION");
    info!(target: "heartbeatd", database, timeout, check_interval; "heartbeatd {version}");
    if let Some(address) = app.http_address() {
        info!(target: "heartbeatd", "metrics on http://{address}/metrics, health on /healthz and /readyz");
    }
    if let Some(address) = broker_address(app) {
        let reach = if address.ip().is_loopback() { " for this machine only" } else { "" };
        info!(target: "heartbeatd", "embedded broker on {address}{reach}");
    }
    let topic = config.mqtt.topic.topic_of("my-device");
    let (host, port) = match (broker_address(app), &config.mqtt.url) {
        (Some(address), _) => (address.ip().to_string(), address.port()),
        (None, Some(url)) => (url.host().to_owned(), url.port()),
        (None, None) => return,
    };
    info!(
        target: "heartbeatd",
        "send a heartbeat: mosquitto_pub -h {host} -p {port} -q 1 -t {topic} -m '{{\"uptime_seconds\": 60}}'"
    );
}

#[cfg(feature = "embedded-broker")]
fn broker_address(app: &App) -> Option<std::net::SocketAddr> {
    app.broker_address()
}

#[cfg(not(feature = "embedded-broker"))]
fn broker_address(_: &App) -> Option<std::net::SocketAddr> {
    None
}
