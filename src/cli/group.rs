//! `heartbeatd group`: the instances on one database.

use std::process::ExitCode;

use super::output::{JsonArray, List, Table};
use super::{open, refuse, succeed};
use crate::Config;
use crate::clock::system_clock;
use crate::store::{DeviceStore, OpenMode};
use crate::views::{ListenerView, text};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List the instances on the database, the newest stay last
    List(Arguments),
    /// End the stay of an instance that is gone for good
    ///
    /// Needed with mqtt.fence = "none", where no other instance does it and no silence counts in its
    /// group until then, and if it listens to something else than the others, which do not take part
    /// until then. Make sure that the broker has no session of it any more. An instance
    /// that still lives joins again.
    Remove {
        /// The number in the first column of `group list`
        #[arg(allow_negative_numbers = true, value_parser = number)]
        id: i64,
    },
}

fn number(text: &str) -> Result<i64, &'static str> {
    text.parse().map_err(|_| "the number of an instance is expected, as `group list` shows it")
}

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Also stays that have ended
    #[arg(long)]
    all: bool,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &Config, command: Command) -> anyhow::Result<ExitCode> {
    let store = open(config, OpenMode::Existing).await?;
    match command {
        Command::List(arguments) => list(&store, &arguments).await,
        Command::Remove { id } => remove(&store, id).await,
    }
}

async fn remove(store: &DeviceStore, id: i64) -> anyhow::Result<ExitCode> {
    if store.leave(id, "removed", system_clock().wall).await? {
        return succeed(&format!("removed {id}"));
    }
    refuse(&format!(
        "there is no instance {id} that has not left; `heartbeatd group list` lists those"
    ))
}

async fn list(
    store: &DeviceStore,
    &Arguments { all, json }: &Arguments,
) -> anyhow::Result<ExitCode> {
    let listeners = store.listeners().await?.into_iter();
    let shown = listeners.filter(|listener| all || listener.left_at.is_none());
    let shown: Vec<_> = shown.map(ListenerView::from).collect();
    let mut list: Box<dyn List<ListenerView>> = if json {
        Box::new(JsonArray::new())
    } else {
        let header = [
            "ID",
            "INSTANCE",
            "GROUP",
            "STATE",
            "JOINED",
            "LEFT",
            "PROVEN UNTIL",
            "CLOCK",
            "TOPIC",
        ];
        Box::new(Table::new(&header, row))
    };
    list.write(&shown)?;
    list.end()?;
    Ok(ExitCode::SUCCESS)
}

fn row(listener: &ListenerView) -> Vec<String> {
    vec![
        listener.id.to_string(),
        listener.instance.clone(),
        listener.group.clone().unwrap_or_default(),
        listener.state_in_words(),
        text::time(listener.joined_at),
        text::time(listener.left_at),
        text::time(listener.proven_until),
        format!("{:+} ms", listener.clock_offset_ms),
        listener.topic.clone().unwrap_or_default(),
    ]
}
