//! Exit codes, after sysexits.h.

use std::process::ExitCode;

use log::error;

use crate::app::AppError;
use crate::config::ConfigError;
use crate::mqtt::ClientError;
use crate::store::StoreError;

/// No such device, or there is one already.
pub(super) const NEGATIVE: u8 = 1;
const EX_USAGE: u8 = 64;
const EX_UNAVAILABLE: u8 = 69;
const EX_SOFTWARE: u8 = 70;
const EX_CONFIG: u8 = 78;

pub(super) fn on_usage(error: &clap::Error) -> ExitCode {
    // --help and --version are no errors to clap's caller, but are to its type.
    let code = if error.use_stderr() { EX_USAGE } else { 0 };
    // A closed stdout is nobody's loss.
    let _ = error.print();
    code.into()
}

pub(super) fn on_config(error: &ConfigError) -> ExitCode {
    error!(target: "heartbeatd", "{error}");
    EX_CONFIG.into()
}

/// The code that says best what was wrong.
pub(super) fn on_error(error: &anyhow::Error) -> ExitCode {
    if let Some(io) = error.downcast_ref::<std::io::Error>()
        && io.kind() == std::io::ErrorKind::BrokenPipe
    {
        // `heartbeatd device list | head` has seen enough.
        return ExitCode::SUCCESS;
    }
    error!(target: "heartbeatd", "{error}");
    if error.is::<ConfigError>() {
        return EX_CONFIG.into();
    }
    let code = match error.downcast_ref::<AppError>() {
        Some(
            AppError::Client(ClientError::Setup(_))
            | AppError::NoBroker
            | AppError::Store(StoreError::Url(_)),
        ) => EX_CONFIG,
        #[cfg(feature = "embedded-broker")]
        Some(AppError::Embedded(crate::mqtt::EmbeddedError::Users(_))) => EX_CONFIG,
        Some(AppError::Mailbox(_)) => EX_SOFTWARE,
        Some(_) => EX_UNAVAILABLE,
        None => match error.downcast_ref::<StoreError>() {
            Some(StoreError::Url(_)) => EX_CONFIG,
            Some(_) => EX_UNAVAILABLE,
            None => EX_SOFTWARE,
        },
    };
    code.into()
}
