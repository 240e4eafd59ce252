//! `heartbeatd group`: the instances on one database.

use std::process::ExitCode;

use super::open;
use super::output::{JsonArray, List, Table};
use crate::Config;
use crate::store::OpenMode;
use crate::views::{ListenerView, text};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List the instances on the database, the newest stay last
    List(Arguments),
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
    let Command::List(Arguments { all, json }) = command;
    let store = open(config, OpenMode::Existing).await?;
    let listeners = store.listeners().await?.into_iter();
    let shown = listeners.filter(|listener| all || listener.left_at.is_none());
    let shown: Vec<_> = shown.map(ListenerView::from).collect();
    let mut list: Box<dyn List<ListenerView>> = if json {
        Box::new(JsonArray::new())
    } else {
        let header = ["ID", "INSTANCE", "STATE", "JOINED", "LEFT", "PROVEN UNTIL", "CLOCK"];
        Box::new(Table::new(&header, row))
    };
    list.write(&shown)?;
    list.end()?;
    Ok(ExitCode::SUCCESS)
}

fn row(listener: &ListenerView) -> Vec<String> {
    let by = listener.fenced_by.as_ref().map_or(String::new(), |by| format!(" by {by}"));
    vec![
        listener.id.to_string(),
        listener.instance.clone(),
        format!("{}{by}", listener.state),
        text::time(listener.joined_at),
        text::time(listener.left_at),
        text::time(listener.proven_until),
        format!("{:+} ms", listener.clock_offset_ms),
    ]
}
