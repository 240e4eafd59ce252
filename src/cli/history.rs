//! `heartbeatd history`: status changes, newest first.

use std::process::ExitCode;

use super::open;
use super::output::{self, JsonArray, List, Table};
use crate::Config;
use crate::domain::{DeviceId, Transition};
use crate::store::OpenMode;

const PAGE: u64 = 1000;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Only those of this device
    device: Option<DeviceId>,
    /// How many at most
    #[arg(long, default_value_t = 1000, value_name = "COUNT")]
    limit: u64,
    /// One JSON array
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &Config, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let store = open(config, OpenMode::Existing).await?;
    let mut list: Box<dyn List<Transition>> = if arguments.json {
        Box::new(JsonArray::new())
    } else {
        Box::new(Table::new(&["SEQUENCE", "AT", "DEVICE", "CHANGE", "LAST SEEN", "DELIVERED"], row))
    };
    let mut left = arguments.limit;
    let mut before = None;
    // A page of none has the header all the same.
    loop {
        let limit = left.min(PAGE);
        let page = store.history(arguments.device.as_ref(), before, limit).await?;
        list.write(&page)?;
        left -= page.len() as u64;
        match page.last() {
            Some(last) if left > 0 && page.len() as u64 == limit => before = Some(last.sequence),
            _ => break,
        }
    }
    list.end()?;
    output::tell_unreadable(&store, "correct or delete them in the table status_transition");
    Ok(ExitCode::SUCCESS)
}

fn row(transition: &Transition) -> Vec<String> {
    vec![
        transition.sequence.to_string(),
        output::time(Some(transition.at)),
        transition.device_id.to_string(),
        format!("{} -> {}", transition.from, transition.to),
        output::time(transition.last_seen_at),
        match (&transition.delivered_at, &transition.given_up) {
            (Some(at), _) => output::time(Some(*at)),
            (None, Some(given_up)) => format!("given up: {}", given_up.why),
            (None, None) => String::new(),
        },
    ]
}
