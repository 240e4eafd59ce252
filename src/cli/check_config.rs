//! `heartbeatd check-config`: what the configuration comes to.

use std::io::Write;
use std::process::ExitCode;

use crate::Config;

pub(super) fn run(config: &Config) -> anyhow::Result<ExitCode> {
    // Secrets print as ***, see `config::Secret`.
    let text = toml::to_string(config)?;
    write!(std::io::stdout(), "{text}")?;
    Ok(ExitCode::SUCCESS)
}
