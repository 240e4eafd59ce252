//! The limit of open files. Each connection is one, here and in the broker.

use std::io;

use anyhow::ensure;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The number of files besides connections: heartbeatd keeps 128 for itself.
const OTHERS: u64 = 160;

/// Raises the limit as far as the system allows. Programs that are started later inherit it.
pub fn raise() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        eprintln!("the limit of open files stays at {}: {}", limit(), io::Error::from(error));
    }
}

/// The number of files that may be open.
pub fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The number of connections that the limit allows.
pub fn connections() -> u64 {
    let files = limit().saturating_sub(OTHERS);
    // heartbeatd keeps some for clients that are connecting.
    files - (files / 16).min(1024)
}

/// Checks that the limit allows so many connections.
pub fn check(wanted: u64) -> anyhow::Result<()> {
    ensure!(
        wanted <= connections(),
        "the limit of open files is {}, which is enough for {} connections, not for {wanted}; \
         raise it (ulimit -n)",
        limit(),
        connections()
    );
    Ok(())
}
