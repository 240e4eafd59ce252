//! The process as the operating system sees it: its open files, how it accepts connections
//! when they run out, and its end by a panic.

pub(crate) mod accept;
pub(crate) mod open_files;
pub mod panics;
