//! All tests that need a server, a database or the real binary. They are one program, so
//! that it is linked once and its PostgreSQL is started once.
//!
//! Each test starts what it needs, on free ports and in a temporary folder, and stops it
//! again. Nothing needs to run beforehand. If a server is not installed, the test fails
//! and says what to install.

mod api;
mod architecture;
mod bad_input;
mod client_library;
mod clock;
mod compose;
mod configuration;
mod conformance;
mod connecting;
mod coverage;
mod database_faults;
mod database_tls;
mod delivery;
mod demo;
mod devices;
mod differing;
mod drain;
mod end_to_end;
mod entries;
mod events;
mod failover;
mod faults;
mod fleet_history;
mod group;
mod group_alerts;
mod group_failover;
mod http;
mod instances;
mod interleavings;
mod keys;
mod large_fleet;
mod late;
mod limits;
mod listing;
mod log;
mod malformed;
mod narrow;
mod openapi;
mod opening;
mod outage;
mod outages;
mod page;
mod page_states;
mod pair;
mod panics;
mod past;
mod payloads;
mod pictures;
mod plug_in_alerts;
mod postgresql;
mod proof;
mod reading;
mod receiver_limits;
mod recoveries;
mod registration;
mod rights;
mod rules_in_sql;
mod secrets;
mod simulation;
mod specification;
mod standby;
mod status;
mod stops;
mod stream;
mod support;
mod tls;
mod unit_file;
mod unreadable_rows;
mod users;
mod views;
mod watch;
