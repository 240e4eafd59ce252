//! `heartbeatd run`: the service.

use std::convert::Infallible;
use std::future::pending;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use actix_rt::signal::unix::{SignalKind, signal};
use futures::future::{Either, select};
use log::{info, warn};
use tokio::time::sleep;

use super::greeting::greet;
use crate::App;
use crate::config::Loaded;
use crate::logging::line_budget::LineBudget;
use crate::process::notify::Notifier;

pub(super) async fn run(loaded: Loaded) -> anyhow::Result<ExitCode> {
    // Before anything starts, so that no signal is missed.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    ignore_other_signals()?;

    tell(&loaded);
    let Loaded { config, .. } = loaded;
    config.check_secrets()?;
    config.check_files()?;

    let mut signal = pin!(async {
        match select(pin!(terminate.recv()), pin!(interrupt.recv())).await {
            Either::Left(_) => "SIGTERM",
            Either::Right(_) => "SIGINT",
        }
    });
    // While a database that does not answer is waited for, signals are obeyed.
    let starting = App::build(config.clone()).start();
    let app = match select(signal.as_mut(), pin!(starting)).await {
        Either::Left((name, _)) => {
            info!(target: "heartbeatd", "{name} during the start, nothing was received yet; stopping");
            return Ok(ExitCode::SUCCESS);
        }
        Either::Right((started, _)) => started.map_err(anyhow::Error::new)?,
    };
    greet(&app, &config);

    let mut manager = Notifier::from_environment();
    let ended = {
        let failed = pin!(app.failed());
        let mut ended = pin!(select(signal, failed));
        let mut telling = pin!(tell_manager(&app, manager.as_mut()));
        loop {
            let hangup = pin!(hangup.recv());
            match select(ended.as_mut(), select(hangup, telling.as_mut())).await {
                Either::Left((Either::Left((name, _)), _)) => break Ok(name),
                Either::Left((Either::Right((failed, _)), _)) => break Err(failed),
                Either::Right((Either::Left(_), _)) => reload(&app),
                Either::Right((Either::Right((never, _)), _)) => match never {},
            }
        }
    };
    if let Some(manager) = &mut manager {
        manager.status("Writing what was received, then stopping.".to_owned());
    }
    let failed = match ended {
        Ok(name) => {
            info!(target: "heartbeatd", "{name}; writing what was received, then stopping");
            Ok(())
        }
        Err(failed) => {
            info!(target: "heartbeatd", "{failed}; writing what was received, then stopping");
            Err(failed)
        }
    };
    app.drain().await.map_err(anyhow::Error::new)?;
    failed.map_err(anyhow::Error::new)?;
    Ok(ExitCode::SUCCESS)
}

/// Logs the warnings about the configuration.
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

/// Tells the service manager the sentence of the page and of `heartbeatd status`.
async fn tell_manager(app: &App, manager: Option<&mut Notifier>) -> Infallible {
    const INTERVAL: Duration = Duration::from_secs(5);
    let Some(manager) = manager else { return pending().await };
    loop {
        manager.status(app.sentence());
        sleep(INTERVAL).await;
    }
}

/// Obeys a SIGHUP. The configuration itself is read only at the start.
fn reload(app: &App) {
    if !app.reload() {
        info!(target: "heartbeatd", "SIGHUP: {NOTHING}");
    }
}

const NOTHING: &str = "nothing is reloaded; restart the service to apply a changed configuration";

/// Keeps signals that end a process by default from ending this one without a drain.
fn ignore_other_signals() -> std::io::Result<()> {
    let lines = LineBudget::new("heartbeatd", "ignored signals");
    // Then a write beyond the limit fails, like one to a full disk.
    let file_size = SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());
    for (name, kind, what) in [
        ("SIGUSR1", SignalKind::user_defined1(), NOTHING),
        ("SIGUSR2", SignalKind::user_defined2(), NOTHING),
        ("SIGXFSZ", file_size, "a file has reached its size limit (ulimit -f, LimitFSIZE)"),
    ] {
        let mut received = signal(kind)?;
        let lines = lines.clone();
        actix_rt::spawn(async move {
            while received.recv().await.is_some() {
                lines.spend(|| {
                    info!(target: "heartbeatd", "{name}: {what}");
                });
            }
        });
    }
    Ok(())
}
