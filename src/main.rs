//! Arguments, logger, exit code; all else is in the library.

use std::process::ExitCode;

use heartbeatd::{cli, panics};

fn main() -> ExitCode {
    // The first to initialize OpenSSL decides whether `exit` cleans it up. It must not: a
    // thread that still takes a random token from it would crash the process at its end.
    openssl::init();
    cli::init_logger();
    panics::end_the_process();
    cli::main()
}
