//! The process as the operating system sees it: its open files, and its end by a panic.

pub(crate) mod open_files;
pub mod panics;
