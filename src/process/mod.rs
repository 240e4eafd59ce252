//! The process as the operating system sees it: its open files, how it accepts connections
//! when they run out, its end by a panic, and what it tells systemd.

pub(crate) mod accept;
pub(crate) mod notify;
pub(crate) mod open_files;
pub mod panics;
