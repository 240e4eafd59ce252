//! `heartbeatd history`: status changes, newest first.

use std::process::ExitCode;

use super::device::{status, unknown};
use super::exit::wrong_usage;
use super::output::{self, JsonArray, List, Table};
use super::when::{TIMES, When};
use super::{count, open, refuse};
use crate::Config;
use crate::clock::system_clock;
use crate::domain::{DeviceId, Status};
use crate::store::{DeviceStore, OpenMode, Reader, StoreError, TransitionQuery};
use crate::views::{TransitionView, Transitions, text};

#[derive(Debug, clap::Args)]
#[command(after_help = TIMES)]
pub(super) struct Arguments {
    /// Only changes of this device
    device: Option<DeviceId>,
    /// Only changes at this time or later: a time, a date, or a duration ago such as 2h
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = When::parse)]
    since: Option<When>,
    /// Only changes before this time
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = When::parse)]
    until: Option<When>,
    /// Only changes to this status
    #[arg(long, value_name = "STATUS", value_parser = status())]
    to: Option<Status>,
    /// The maximum number of changes to show
    #[arg(long, default_value_t = 1000, value_name = "COUNT", allow_hyphen_values = true,
          value_parser = count)]
    limit: u64,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &Config, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let now = system_clock().wall;
    let from = arguments.since.map(|when| when.before(now));
    let until = arguments.until.map(|when| when.before(now));
    if let (Some(from), Some(until)) = (from, until)
        && from >= until
    {
        return wrong_usage("--until must be later than --since, or nothing is between them");
    }
    let store = open(config, OpenMode::Existing).await?;
    let reader = store.reader().await?;
    if let Some(device) = &arguments.device
        && !is_known(&store, &reader, device).await?
    {
        return refuse(&unknown(&store, device.as_str()).await);
    }
    let mut list: Box<dyn List<TransitionView>> = if arguments.json {
        Box::new(JsonArray::new())
    } else {
        Box::new(Table::new(&["SEQUENCE", "AT", "DEVICE", "CHANGE", "LAST SEEN", "DELIVERED"], row))
    };
    let query = TransitionQuery {
        device: arguments.device,
        to: arguments.to,
        from,
        until,
        ..TransitionQuery::default()
    };
    let mut transitions = Transitions::new(reader, query, arguments.limit);
    // The first page may be empty: the table has its header all the same.
    while let Some(page) = transitions.next_page().await? {
        list.write(&page)?;
    }
    list.end()?;
    output::tell_unreadable(&store, "correct or delete them in the table status_transition");
    Ok(ExitCode::SUCCESS)
}

/// True if a device is registered or has a history, which outlasts its removal.
async fn is_known(
    store: &DeviceStore,
    reader: &Reader,
    device: &DeviceId,
) -> Result<bool, StoreError> {
    if store.look_up(device.as_str()).await?.is_some() {
        return Ok(true);
    }
    let query = TransitionQuery { device: Some(device.clone()), ..TransitionQuery::default() };
    let history = reader.transitions(&query, None, 1).await?;
    Ok(!history.transitions.is_empty() || history.next.is_some())
}

fn row(transition: &TransitionView) -> Vec<String> {
    vec![
        transition.sequence.to_string(),
        text::time(Some(transition.at)),
        transition.device_id.to_string(),
        format!("{} -> {}", transition.from, transition.to),
        text::time(transition.last_seen_at),
        match (&transition.delivered_at, &transition.given_up) {
            (Some(at), _) => text::time(Some(*at)),
            (None, Some(given_up)) => format!("given up: {}", given_up.why),
            (None, None) => String::new(),
        },
    ]
}
