//! The command line: one file per command or group of commands.

mod ask;
mod check_config;
mod demo;
mod device;
mod ending;
mod exit;
mod greeting;
mod group;
mod history;
mod output;
mod password;
mod run;
mod simulate;
mod status;
mod token;
mod user;
mod when;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::Loaded;
use crate::logging::escape::Escaped;
pub use crate::logging::init as init_logger;
use crate::logging::line_budget;
use crate::process::open_files::{self, Needed, TooFewFiles};
use crate::store::{DeviceStore, OpenMode};
use crate::{Config, app, store};

/// Watches a fleet of MQTT devices: records when each was last seen, and raises an alert
/// when one falls silent.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER_HELP)]
struct Cli {
    /// Configuration file [default: ./config.toml if it exists, otherwise built-in defaults]
    #[arg(long, global = true, value_name = "PATH")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Option<Command>,
}

const AFTER_HELP: &str = "\
Environment:
  HEARTBEATD_<SECTION>__<KEY>  Overrides a key of config.toml, for example
                               HEARTBEATD_MQTT__URL or HEARTBEATD_HEARTBEAT__TIMEOUT
  RUST_LOG                     What is logged, such as debug or ticker=debug; libraries
                               log only warnings and errors, and paho only errors,
                               unless they are named [default: info]

Exit codes:
   0  Done
   1  No such device or user, or its row cannot be read; for `add` and `new`: it exists
      already; for `status`: the service neither listens nor
      stands by, hears no device, or does not answer; for
      `simulate`: the broker has refused all heartbeats
  64  Wrong usage
  69  A needed service, such as the database, is unavailable
  70  Internal error
  78  Invalid configuration, or another process has this mqtt.client_id
 130  Interrupted while a password was typed";

const DEVICE_HELP: &str = "\
These commands work directly on the database, whether the service is running or not.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service (the default)
    Run,
    /// Add, list, show and remove devices, or set their timeouts
    #[command(subcommand, after_help = DEVICE_HELP)]
    Device(device::Command),
    /// Add, list and remove users of the embedded broker, or set their passwords
    User(user::Arguments),
    /// Create and list tokens for the API
    #[command(subcommand)]
    Token(token::Command),
    /// List the instances on the database, or end the stay of one that is gone for good
    #[command(subcommand)]
    Group(group::Command),
    /// Show status changes, newest first
    History(history::Arguments),
    /// Say whether the service is listening, and how the fleet is
    Status(status::Arguments),
    /// Show what the service does, with a few virtual devices and without any configuration
    Demo(demo::Arguments),
    /// Simulate devices that publish heartbeats to a broker
    Simulate(Box<simulate::Arguments>),
    /// Check the configuration and print it with all defaults, secrets as ***
    CheckConfig,
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return exit::on_usage(error),
    };
    let command = cli.command.unwrap_or(Command::Run);
    let loaded = match command {
        Command::Demo(_) => Ok(Loaded::default()),
        _ => Loaded::read(cli.config.as_deref()),
    };
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(error) => return exit::on_config(&error),
    };
    let config = loaded.config.clone();
    // Without a free descriptor the runtime itself would panic.
    if let Err(error) = check_open_files(&command, &config) {
        return exit::on_error(&error.into());
    }
    let system = actix_rt::System::new();
    let done = system.block_on(async {
        match command {
            Command::Run => run::run(loaded).await,
            Command::Device(command) => device::run(&config, command).await,
            Command::User(arguments) => user::run(&config, arguments).await,
            Command::Token(command) => token::run(&config, command),
            Command::Group(command) => group::run(&config, command).await,
            Command::History(arguments) => history::run(&config, arguments).await,
            Command::Status(arguments) => status::run(&config, arguments).await,
            Command::Demo(arguments) => demo::run(arguments).await,
            Command::Simulate(arguments) => simulate::run(&config, *arguments).await,
            Command::CheckConfig => check_config::run(&loaded),
        }
    });
    let code = done.unwrap_or_else(|error| exit::on_error(&error));
    line_budget::tell_all();
    code
}

fn check_open_files(command: &Command, config: &Config) -> Result<(), TooFewFiles> {
    let needed = match command {
        Command::Run => {
            open_files::raise();
            app::needed_files(config).with("the main thread", open_files::MAIN_RUNTIME)
        }
        Command::Demo(_) => {
            open_files::raise();
            demo::files().with("the main thread", open_files::MAIN_RUNTIME)
        }
        Command::Device(_) | Command::Group(_) | Command::History(_) => {
            Needed::by_command(store::open_files(&config.database))
        }
        Command::Simulate(_) => {
            let client = crate::mqtt::CLIENT_OPEN_FILES;
            Needed::default()
                .with("the main thread", open_files::MAIN_RUNTIME)
                .with("the MQTT client", client)
        }
        Command::User(_) | Command::Token(_) | Command::Status(_) | Command::CheckConfig => {
            Needed::by_command(0)
        }
    };
    needed.check()
}

/// Parses a number of things.
fn count(text: &str) -> Result<u64, &'static str> {
    text.parse().map_err(|_| "a whole number is expected, 0 or more")
}

/// Opens the database for a command.
async fn open(config: &Config, mode: OpenMode) -> anyhow::Result<DeviceStore> {
    Ok(DeviceStore::open(&config.database, mode).await?)
}

/// Prints what a command has done.
fn succeed(text: &str) -> anyhow::Result<ExitCode> {
    writeln!(io::stdout(), "{}", Escaped(text))?;
    Ok(ExitCode::SUCCESS)
}

/// Refuses what a command was asked for, because something is not there, or is there already.
fn refuse(reason: &str) -> anyhow::Result<ExitCode> {
    log::error!(target: "heartbeatd", "{reason}");
    Ok(exit::NEGATIVE.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logging::escape::is_hazardous;

    #[test]
    fn usage_errors_escape_the_arguments_they_quote() {
        for hazard in [
            "\u{1b}]0;pwn\u{7}",
            "\u{9b}31m",
            "x\n[2026-11-25T12:00:00Z INFO  heartbeatd] forged",
            "\r",
            "\u{85}",
            "\u{2028}",
            "\u{202e}",
            "\u{200b}",
            "\u{3164}",
        ] {
            let bad = format!("a{hazard}b");
            let (long, equals) = (format!("--{bad}"), format!("--status={bad}"));
            for arguments in [
                &[bad.as_str()][..],
                &[&long],
                &["device", &bad],
                &["device", "show", &bad],
                &["device", "show", &format!("/{bad}")],
                &["device", "show", "pump", &bad],
                &["device", "show", "pump", &long],
                &["device", "add", &bad],
                &["device", "list", &equals],
                &["device", "list", "--status", &bad],
                &["device", "list", &format!("--json={bad}")],
                &["device", "list", &format!("--statu={bad}")],
                &["device", "set-timeout", "pump", &bad],
                &["device", "set-timeout", "pump", &format!("1{bad}")],
                &["device", "set-timeout", "pump", &format!("1{hazard}")],
                &["device", "remove", "--silent-for", &bad],
                &["device", "remove", &long],
                &["device", "remove", &format!("-{hazard}")],
                &["user", "add", &bad],
                &["user", "add", "pump", "--devices", &bad],
                &["user", "remove", &format!("{bad}:")],
                &["user", "list", &long],
                &["token", "new", &bad],
                &["token", "new", "page", "--scope", &bad],
                &["history", "--limit", &bad],
                &["history", "--since", &bad],
                &["history", "--until", &format!("1{bad}")],
                &["history", "--to", &bad],
                &["history", "--limit", "1", &bad],
                &["check-config", &bad],
                &["run", &long],
                &["status", "--address", &bad],
                &["simulate", "--url", &bad],
                &["simulate", "--url", &format!("mqtt://{bad}")],
                &["simulate", "--dying", &bad],
                &["simulate", "--prefix", &bad],
                &["simulate", "--for", &format!("1{bad}")],
                &["demo", "--seed", &bad],
            ] {
                let line = ["heartbeatd"].iter().chain(arguments);
                let Err(error) = Cli::try_parse_from(line) else { continue };
                let shown = exit::escaped(error).render().ansi().to_string();
                let own = shown.replace("\u{1b}[", "");
                let hazardous = own.chars().find(|&c| c != '\n' && is_hazardous(c));
                assert_eq!(hazardous, None, "{arguments:?}: {shown:?}");
                assert!(!shown.lines().any(|line| line.starts_with("[2026")), "{shown}");
            }
        }
    }

    #[test]
    fn a_value_that_begins_with_a_hyphen_is_refused_as_a_value() {
        for (arguments, expected) in [
            (&["device", "add", "a", "--timeout", "-5m"][..], "a duration is expected"),
            (&["device", "set-timeout", "a", "-5m"], "a duration is expected"),
            (&["device", "remove", "--silent-for", "-1d"], "a duration is expected"),
            (&["history", "--since", "-2h"], "'-2h' for '--since"),
            (&["history", "--limit", "-1"], "a whole number is expected"),
            (&["group", "remove", "x"], "as `group list` shows it"),
            (&["simulate", "--devices", "-1"], "a whole number from 1 to 10000000"),
            (&["simulate", "--dying", "-5%"], "a share such as 5%"),
            (&["simulate", "--period", "-5s"], "a duration is expected"),
            (&["simulate", "--seed", "-1"], "a whole number is expected"),
            (&["demo", "--for", "-1m"], "a duration is expected"),
            (&["demo", "--seed", "-1"], "a whole number is expected"),
        ] {
            let line = ["heartbeatd"].iter().chain(arguments);
            let error = Cli::try_parse_from(line).expect_err("it is no such value");
            let shown = exit::escaped(error).render().to_string();
            assert!(shown.contains(expected) && !shown.contains("tip:"), "{arguments:?}: {shown}");
        }
        let list = ["heartbeatd", "device", "set-timeout", "a", "--help"];
        let help = Cli::try_parse_from(list).expect_err("this is help");
        assert_eq!(help.kind(), clap::error::ErrorKind::DisplayHelp);
    }

    #[test]
    fn a_usage_error_keeps_its_lines_and_names_the_argument() {
        let error = Cli::try_parse_from(["heartbeatd", "device", "list", "--status", "asleep"]);
        let shown = exit::escaped(error.expect_err("no such status")).render().to_string();
        let expected =
            "error: invalid value 'asleep' for '--status <STATUS>'\n  [possible values: ";
        assert!(shown.starts_with(expected), "{shown}");
        let error = Cli::try_parse_from(["heartbeatd", "--\u{1b}[1m"]);
        let shown = exit::escaped(error.expect_err("no such option")).render().to_string();
        assert!(shown.contains(r"unexpected argument '--\u{1b}[1m' found"), "{shown}");
    }
}
