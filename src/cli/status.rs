//! `heartbeatd status`: asks the running service how it and the fleet are.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use super::{ask, exit, refuse};
use crate::Config;
use crate::address::reachable;
use crate::config::{Secret, read_secret};
use crate::domain::ServiceState;
use crate::logging::escape::Escaped;
use crate::views::SummaryView;

const PATH: &str = "/api/v1/summary";

const AFTER_HELP: &str = "\
Asks the service at http.listen. If reading needs a token, it is http.token or --token-file.
The exit code is 0 if the service is listening, also if it has just started, or stands by. It is 1
if it is not, if no device has been heard for a suspiciously long time, or if nothing answers, and
then the command says what to check.";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// Address of the service [default: http.listen]
    #[arg(long, value_name = "IP:PORT")]
    address: Option<SocketAddr>,
    /// File that holds a token with the scope read [default: http.token]
    #[arg(long, value_name = "PATH")]
    token_file: Option<PathBuf>,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &Config, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Some(address) = arguments.address.or(config.http.listen.address()) else {
        return refuse("http.listen is off, so the service cannot be asked");
    };
    if address.port() == 0 {
        return refuse("the port of the service is not configured: give --address IP:PORT");
    }
    let address = reachable(address);
    let given = read_secret("--token-file", &arguments.token_file)?;
    let token = given.as_ref().or(config.http.token.as_ref());
    let answer = match ask::get(address, PATH, token.map(Secret::reveal)).await {
        Ok(answer) => answer,
        Err(why) => {
            return refuse(&format!(
                "nothing answers at http://{address}: {why}; is the service running, and with \
                 this http.listen? `systemctl status heartbeatd` and its log tell"
            ));
        }
    };
    match answer.status {
        200 => (),
        401 if token.is_none() => {
            return refuse(&format!(
                "the service at http://{address} wants a token that permits to read: set \
                 http.token_file or give --token-file"
            ));
        }
        401 => {
            let source = if given.is_some() { "--token-file" } else { "http.token" };
            return refuse(&format!(
                "the service at http://{address} does not take the token of {source}{}",
                reason(&answer.body)
            ));
        }
        404 => {
            return refuse(&format!(
                "what answers at http://{address} has no {PATH}: is it another program, or an \
                 older heartbeatd?"
            ));
        }
        other => {
            return refuse(&format!(
                "the service at http://{address} answered {other}{}",
                reason(&answer.body)
            ));
        }
    }
    let Ok(view) = serde_json::from_slice::<SummaryView>(&answer.body) else {
        return refuse(&format!(
            "what answers at http://{address} is not a heartbeatd of this version"
        ));
    };
    let mut out = io::stdout().lock();
    if arguments.json {
        // As the service has said it.
        out.write_all(&answer.body)?;
        writeln!(out)?;
    } else {
        writeln!(out, "{}", Escaped(&view.sentence))?;
        match &view.summary.detail {
            Some(detail) => writeln!(out, "{}", Escaped(detail))?,
            None if is_well(view.summary.state) => (),
            None => writeln!(out, "http://{address}/readyz and the log of the service say why")?,
        }
    }
    Ok(if is_well(view.summary.state) { 0 } else { exit::NEGATIVE }.into())
}

/// True while the service listens, whether or not it has done so for long enough, and while it
/// stands by.
fn is_well(state: ServiceState) -> bool {
    matches!(state, ServiceState::Listening | ServiceState::Warming | ServiceState::Standby)
}

/// The detail of a problem, to be added to a sentence; empty if the body is not a problem.
fn reason(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Problem {
        detail: String,
    }
    let problem = serde_json::from_slice::<Problem>(body);
    problem.map(|problem| format!(": {}", Escaped(problem.detail))).unwrap_or_default()
}
