//! The limit on this machine: a paho client that only counts, behind a broker of
//! its own process or another's. Prints how many heartbeats it has received
//! whenever that has changed.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use heartbeatd::Config;
use heartbeatd::mqtt::{Broker, EmbeddedBroker};
use paho_mqtt as paho;

/// How closely it is looked at: no more often than heartbeatd is asked.
const POLL: Duration = Duration::from_millis(5);

#[derive(clap::Args)]
pub struct Options {
    /// Where the broker listens.
    #[arg(long)]
    port: u16,
    /// Start heartbeatd's embedded broker there.
    #[arg(long)]
    embedded: bool,
    #[arg(long)]
    qos: i32,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut config = Config::default().mqtt;
    config.client_id = "counting".to_owned();
    config.embedded.listen = ([127, 0, 0, 1], options.port).into();
    let embedded = match options.embedded {
        true => Some(runtime.block_on(EmbeddedBroker::start(&config))?),
        false => None,
    };
    let external = Broker { uri: format!("mqtt://127.0.0.1:{}", options.port), credentials: None };
    let broker = embedded.as_ref().map_or(external, EmbeddedBroker::broker);

    let received = Arc::<AtomicU64>::default();
    let create = paho::CreateOptionsBuilder::new()
        .server_uri(&broker.uri)
        .client_id(&config.client_id)
        .persistence(None)
        .finalize();
    let client = paho::AsyncClient::new(create)?;
    let counted = Arc::clone(&received);
    client.set_message_callback(move |_, message| {
        counted.fetch_add(u64::from(message.is_some()), Ordering::Relaxed);
    });
    let mut connect = paho::ConnectOptionsBuilder::new_v5();
    connect.clean_start(true);
    if let Some((name, password)) = broker.credentials {
        connect.user_name(name).password(password);
    }
    client.connect(connect.finalize()).wait().context("cannot connect")?;
    client.subscribe(config.topic.to_string(), options.qos).wait().context("cannot subscribe")?;

    let mut out = std::io::stdout().lock();
    let mut shown = None;
    loop {
        let now = received.load(Ordering::Relaxed);
        if shown != Some(now) {
            writeln!(out, "{now}")?;
            out.flush()?;
            shown = Some(now);
        }
        // A pipe that nobody reads any more ends it at the next heartbeat; the
        // orchestrator kills it.
        std::thread::sleep(POLL);
    }
}
