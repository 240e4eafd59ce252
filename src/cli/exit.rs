//! Exit codes, after sysexits.h.

use std::process::ExitCode;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue};
use log::error;

use super::password::NoPassword;
use crate::app::AppError;
use crate::config::ConfigError;
use crate::logging::escape::Escaped;
use crate::mqtt::ClientError;
use crate::process::open_files::TooFewFiles;
use crate::store::StoreError;
use crate::users::EditError;

/// There is no such device or user, it exists already, or its row cannot be read.
pub(super) const NEGATIVE: u8 = 1;
const EX_USAGE: u8 = 64;
const EX_UNAVAILABLE: u8 = 69;
const EX_SOFTWARE: u8 = 70;
const EX_CONFIG: u8 = 78;
/// A signal came while a password was typed. Shells report SIGINT like this.
const INTERRUPTED: u8 = 130;

pub(super) fn on_usage(error: clap::Error) -> ExitCode {
    let error = escaped(error);
    // clap returns --help and --version as errors too.
    let code = if error.use_stderr() { EX_USAGE } else { 0 };
    // If stdout is closed, the reader does not want the text.
    let _ = error.print();
    code.into()
}

/// Reports arguments that cannot be used.
pub(super) fn wrong_usage(why: &str) -> anyhow::Result<ExitCode> {
    error!(target: "heartbeatd", "{why}");
    Ok(EX_USAGE.into())
}

/// Escapes whatever the error quotes of the arguments. They may come from a script's input,
/// and must neither drive the terminal nor forge lines of a log.
pub(super) fn escaped(mut error: clap::Error) -> clap::Error {
    let context: Vec<_> = error
        .context()
        .filter_map(|(kind, value)| Some((kind, escaped_context(kind, value)?)))
        .collect();
    for (kind, value) in context {
        error.insert(kind, value);
    }
    error
}

/// Escapes one part of an error. `None` for a part without text from outside, such as the
/// usage.
fn escaped_context(kind: ContextKind, value: &ContextValue) -> Option<ContextValue> {
    let escape = |text: &String| Escaped(text).to_string();
    match value {
        ContextValue::String(text) => Some(ContextValue::String(escape(text))),
        ContextValue::Strings(texts) => {
            Some(ContextValue::Strings(texts.iter().map(escape).collect()))
        }
        // A tip quotes the argument. As plain text it has lost its colours, and with them every
        // escape sequence.
        ContextValue::StyledStrs(tips) if kind == ContextKind::Suggested => {
            let plain = tips.iter().map(|tip| StyledStr::from(Escaped(tip).to_string()));
            Some(ContextValue::StyledStrs(plain.collect()))
        }
        _ => None,
    }
}

pub(super) fn on_config(error: &ConfigError) -> ExitCode {
    error!(target: "heartbeatd", "{error}");
    EX_CONFIG.into()
}

/// Reports an error and returns the exit code that describes it best.
pub(super) fn on_error(error: &anyhow::Error) -> ExitCode {
    if let Some(io) = error.downcast_ref::<std::io::Error>()
        && io.kind() == std::io::ErrorKind::BrokenPipe
    {
        // A reader such as `head` has seen enough and closed the pipe.
        return ExitCode::SUCCESS;
    }
    error!(target: "heartbeatd", "{error}");
    if error.is::<ConfigError>() || error.is::<TooFewFiles>() {
        return EX_CONFIG.into();
    }
    match error.downcast_ref::<NoPassword>() {
        Some(NoPassword::Interrupted) => return INTERRUPTED.into(),
        Some(NoPassword::Io(_)) => return EX_UNAVAILABLE.into(),
        Some(_) => return EX_USAGE.into(),
        None => (),
    }
    match error.downcast_ref::<EditError>() {
        Some(EditError::Unusable(_)) => return EX_CONFIG.into(),
        Some(EditError::Exists(_) | EditError::Unknown(_)) => return NEGATIVE.into(),
        Some(EditError::Io { .. }) => return EX_UNAVAILABLE.into(),
        None => (),
    }
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Setup(_)) => return EX_CONFIG.into(),
        Some(_) => return EX_UNAVAILABLE.into(),
        None => (),
    }
    let code = match error.downcast_ref::<AppError>() {
        Some(
            AppError::Client(ClientError::Setup(_))
            | AppError::OpenFiles(_)
            | AppError::Store(StoreError::Url(_) | StoreError::SameName { .. }),
        ) => EX_CONFIG,
        Some(AppError::Receiver(error)) if error.is_config() => EX_CONFIG,
        Some(AppError::Mailbox(_)) => EX_SOFTWARE,
        Some(_) => EX_UNAVAILABLE,
        None => match error.downcast_ref::<StoreError>() {
            Some(StoreError::Url(_) | StoreError::SameName { .. }) => EX_CONFIG,
            Some(_) => EX_UNAVAILABLE,
            None => EX_SOFTWARE,
        },
    };
    code.into()
}
