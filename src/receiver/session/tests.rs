//! The duties of a server without subscriptions to its clients, in bytes and without sockets.

mod aliases;
mod client;
mod connecting;
mod ending;
mod malformed;
mod publishing;
mod robustness;
mod subscribing;
mod wills;
