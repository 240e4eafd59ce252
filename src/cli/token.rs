//! `heartbeatd token …`: tokens for the API. A new one is shown once; the configuration gets
//! only its SHA-256.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Subcommand;

use super::output::{self, JsonArray, List, Table};
use super::refuse;
use crate::Config;
use crate::config::{Scope, TokenHash, TokenName};
use crate::views::{NewTokenView, TokenView};

/// The number of random bytes in a token, which nobody guesses.
const RANDOM_BYTES: usize = 32;

/// The beginning of every token, by which people and scanners recognise one.
const PREFIX: &str = "hb_";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create a token, and print it and what belongs into the configuration
    New {
        /// The name of whoever will hold it, such as dashboard
        name: TokenName,
        /// The rights that it gives: read, operate (also changes devices) or admin
        #[arg(long, value_enum, default_value_t = Scope::Read)]
        scope: Scope,
        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },
    /// List the tokens of the configuration
    List {
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(config: &Config, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::New { name, scope, json } => new(config, &name, scope, json),
        Command::List { json } => list(config, json),
    }
}

fn new(config: &Config, name: &TokenName, scope: Scope, json: bool) -> anyhow::Result<ExitCode> {
    if config.http.tokens.iter().any(|token| token.name == *name) {
        return refuse(&format!("the configuration already has a token {name}; use another name"));
    }
    let mut random = [0; RANDOM_BYTES];
    openssl::rand::rand_bytes(&mut random)?;
    let token = format!("{PREFIX}{}", crate::base64url::encode(&random));
    let sha256 = TokenHash::of(&token).to_string();
    if json {
        output::json(&NewTokenView { name: name.as_str(), scope, token: &token, sha256: &sha256 })?;
        return Ok(ExitCode::SUCCESS);
    }
    // Only the token goes to stdout, so that a script can take it.
    writeln!(io::stdout(), "{token}")?;
    let mut more = io::stderr().lock();
    writeln!(more, "\nThis is the only time that the token is shown. Add to the configuration,")?;
    writeln!(more, "and restart the service:\n")?;
    let name = super::check_config::basic_string(name.as_str());
    writeln!(more, "[[http.tokens]]\nname = {name}\nscope = \"{scope}\"\nsha256 = \"{sha256}\"")?;
    Ok(ExitCode::SUCCESS)
}

fn list(config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let tokens: Vec<TokenView> = TokenView::all(&config.http);
    let mut list: Box<dyn List<TokenView>> = if json {
        Box::new(JsonArray::new())
    } else {
        Box::new(Table::new(&["NAME", "SCOPE", "SHA256"], row))
    };
    list.write(&tokens)?;
    list.end()?;
    Ok(ExitCode::SUCCESS)
}

fn row(token: &TokenView) -> Vec<String> {
    let mut digits = token.sha256.clone();
    digits.truncate(12);
    vec![token.name.clone(), token.scope.to_string(), format!("{digits}…")]
}
