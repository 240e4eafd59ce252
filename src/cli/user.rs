//! `heartbeatd user …`: works directly on the users file, whether the service is running or
//! not.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::output::{JsonArray, List, Table};
use super::{exit, password, refuse, succeed};
use crate::Config;
use crate::config::ConfigError;
use crate::domain::DeviceId;
use crate::users::{self, EditError, InvalidPattern, PasswordHash, Pattern, Rights, UserName};
use crate::views::{UserView, devices_in_words};

const AFTER_HELP: &str = "\
The users file is the one of mqtt.embedded.users_file. A running service reads it again within
seconds, and closes the connections of users that were removed or changed.

A password is read from stdin, as one line; on a terminal it is asked for.";

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// Users file [default: mqtt.embedded.users_file]
    #[arg(long, global = true, value_name = "PATH")]
    file: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

const ADD_EXAMPLES: &str = "\
Examples:
  heartbeatd user add pump-17
  heartbeatd user add hall-3 --devices 'hall-3-*' --devices fan < password.txt
  heartbeatd user add gateway --devices '*'";

#[derive(Debug, Subcommand)]
enum Command {
    /// Add a user; creates the file if it is missing
    #[command(after_help = ADD_EXAMPLES)]
    Add {
        /// User name, without ':'
        name: UserName,
        /// A device whose heartbeats the user may publish, or a pattern of several, such as
        /// 'hall-3-*'; may be repeated [default: the device of the same name]
        #[arg(long, value_name = "PATTERN")]
        devices: Vec<Pattern>,
    },
    /// Remove a user
    Remove {
        /// User name
        name: UserName,
    },
    /// List users and their devices
    List {
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Set another password for a user
    SetPassword {
        /// User name
        name: UserName,
    },
}

pub(super) async fn run(config: &Config, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let path = match (&arguments.file, &config.mqtt.embedded.users_file) {
        (Some(path), _) | (None, Some(path)) => path,
        (None, None) => return Err(no_file().into()),
    };
    match arguments.command {
        Command::Add { name, devices } => add(path, &name, devices).await,
        Command::Remove { name } => {
            done(users::remove(path, &name).map(|()| format!("removed user {name}{}", last(path))))
        }
        Command::List { json } => list(path, json),
        Command::SetPassword { name } => set_password(path, &name).await,
    }
}

fn no_file() -> ConfigError {
    let expected = "set it to the path of the users file, or name a file with --file PATH";
    ConfigError::Missing { key: "mqtt.embedded.users_file", expected: expected.to_owned() }
}

async fn add(path: &Path, name: &UserName, devices: Vec<Pattern>) -> anyhow::Result<ExitCode> {
    let rights = match rights(name, devices) {
        Ok(rights) => rights,
        Err(why) => return exit::wrong_usage(&why),
    };
    // A refusal that is certain comes before the question.
    if users::has(path, name).unwrap_or(false) {
        return done(Err(EditError::Exists(name.clone())));
    }
    let hash = PasswordHash::of(&password::read().await?)?;
    let added = users::add(path, name, &hash, rights.as_ref());
    if matches!(added, Ok(true)) {
        writeln!(io::stderr(), "created the users file {}", path.display())?;
    }
    let of_own_name = Rights::of_own_name(name);
    let devices = devices_in_words(rights.as_ref().unwrap_or(&of_own_name));
    done(added.map(|_| format!("added user {name}; it may publish heartbeats of {devices}")))
}

/// The rights that are written into the file; `None` for the default, which needs no field.
fn rights(name: &UserName, devices: Vec<Pattern>) -> Result<Option<Rights>, String> {
    if !devices.is_empty() {
        let rights =
            Rights::matching(devices).map_err(|error: InvalidPattern| error.to_string())?;
        return Ok(Some(rights));
    }
    match DeviceId::of_device(name.as_str()) {
        Ok(_) => Ok(None),
        Err(why) => Err(format!(
            "user {name} can have no device of the same name, because {why}: name its devices \
             with --devices PATTERN"
        )),
    }
}

async fn set_password(path: &Path, name: &UserName) -> anyhow::Result<ExitCode> {
    if !users::has(path, name)? {
        return done(Err(EditError::Unknown(name.clone())));
    }
    let hash = PasswordHash::of(&password::read().await?)?;
    let set = users::set_password(path, name, &hash);
    done(set.map(|()| format!("set the password of user {name}")))
}

fn list(path: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let users = users::list(path).map_err(EditError::from)?;
    let mut list: Box<dyn List<UserView>> = if json {
        Box::new(JsonArray::new())
    } else {
        Box::new(Table::new(&["USER", "DEVICES", "HASH"], row))
    };
    let users: Vec<_> = users.iter().map(|(user, hash)| UserView::new(user, hash)).collect();
    list.write(&users)?;
    list.end()?;
    Ok(ExitCode::SUCCESS)
}

fn row(user: &UserView) -> Vec<String> {
    vec![user.name.clone(), user.devices.join(" "), user.hash.to_owned()]
}

/// Prints what was done, or refuses it.
/// A hint after the removal of the last user, which a running service does not follow.
fn last(path: &Path) -> &'static str {
    if users::list(path).is_ok_and(|users| users.is_empty()) {
        "; it was the last one, so a running service lets it in until it is restarted"
    } else {
        ""
    }
}

fn done(result: Result<String, EditError>) -> anyhow::Result<ExitCode> {
    match result {
        Ok(text) => succeed(&text),
        Err(error @ (EditError::Exists(_) | EditError::Unknown(_))) => refuse(&error.to_string()),
        Err(error) => Err(error.into()),
    }
}
