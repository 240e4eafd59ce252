//! The foundation of the tests: the binary, its devices, a fleet on a database.

pub mod browser;
pub mod certificates;
pub mod connection;
pub mod database;
pub mod events;
pub mod fake_broker;
pub mod fleet;
pub mod http;
pub mod log_lines;
pub mod next_commit;
pub mod plans;
pub mod proxy;
pub mod service;
pub mod users;
pub mod waiting;
