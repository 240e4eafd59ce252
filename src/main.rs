//! Arguments, logger, exit code; all else is in the library.

use std::process::ExitCode;

use heartbeatd::{cli, panics};

fn main() -> ExitCode {
    cli::init_logger();
    panics::end_the_process();
    cli::main()
}
