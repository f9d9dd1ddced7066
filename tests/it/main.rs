//! All tests that need a socket or a plugin. They are one binary, which is linked only once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a test fails by panicking, and its tasks end with it"
)]

mod answers;
mod attachments;
mod bounds;
mod breaker;
mod client_acks;
mod command_line;
mod compiling;
mod configured;
mod cost;
#[cfg(target_os = "linux")]
mod cpu_time;
mod deliver;
mod delivery;
mod durability;
mod edge;
mod faults;
mod hints;
mod host_events;
mod http;
mod identity;
mod leaving;
mod limits;
mod links;
mod load_events;
mod logging;
mod members;
mod messages;
mod migrations;
mod numbers;
mod occupancy;
mod operators;
mod order;
mod outbound;
mod presence;
mod proxies;
mod readme;
mod reload;
mod reminders;
mod rooms;
mod routes;
mod scenarios;
mod sessions;
mod settings;
mod state;
mod state_checks;
mod state_tools;
mod stopping;
mod tidy;
mod timers;
mod tls;
mod transactions;
mod volatile;
mod ways;
mod wit;
