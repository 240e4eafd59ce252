//! Arguments, logger and exit code. Everything else is in the library.

use std::process::ExitCode;

use heartbeatd::{cli, panics};

fn main() -> ExitCode {
    // The code that initializes OpenSSL first decides whether `exit` cleans it up. It
    // must not, because a thread that still takes a random token from it would crash the
    // process at its end.
    openssl::init();
    cli::init_logger();
    panics::end_the_process();
    cli::main()
}
