//! `heartbeatd check-config`: what the configuration comes to.

use std::io::Write;
use std::process::ExitCode;

use crate::config::Loaded;

pub(super) fn run(loaded: &Loaded) -> anyhow::Result<ExitCode> {
    super::run::tell(loaded);
    loaded.config.check_files()?;
    // Secrets print as ***, see `config::Secret`.
    let text = toml::to_string(&loaded.config)?;
    write!(std::io::stdout(), "{text}")?;
    Ok(ExitCode::SUCCESS)
}
