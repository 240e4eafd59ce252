//! `heartbeatd history`: status changes, newest first.

use std::process::ExitCode;

use super::open;
use super::output::{self, JsonArray, List, Table};
use crate::Config;
use crate::domain::DeviceId;
use crate::store::OpenMode;
use crate::views::{TransitionView, Transitions, text};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Only changes of this device
    device: Option<DeviceId>,
    /// The maximum number of changes to show
    #[arg(long, default_value_t = 1000, value_name = "COUNT")]
    limit: u64,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &Config, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let store = open(config, OpenMode::Existing).await?;
    let mut list: Box<dyn List<TransitionView>> = if arguments.json {
        Box::new(JsonArray::new())
    } else {
        Box::new(Table::new(&["SEQUENCE", "AT", "DEVICE", "CHANGE", "LAST SEEN", "DELIVERED"], row))
    };
    let mut transitions = Transitions::new(&store, arguments.device.as_ref(), arguments.limit);
    // The first page may be empty: the table has its header all the same.
    while let Some(page) = transitions.next_page().await? {
        list.write(&page)?;
    }
    list.end()?;
    output::tell_unreadable(&store, "correct or delete them in the table status_transition");
    Ok(ExitCode::SUCCESS)
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
