//! A Socket.IO host: it asks a plugin to turn a client's event into effects, and applies the
//! effects to rooms.
//!
//! ```text
//! event path (hot)
//!   client -> socket -> dispatcher { registry -> schema -> plugin } -> effects -> rooms -> clients
//!                            \__ any step __/ -> rejection -> ack, or an `error` event
//!
//! reload path (cold)
//!   directory -> watch -> scan -> load -> slots -> resolve -> registry
//!                                  |  \-> failure -> log and GET /api/plugins
//!                                  |      (the previous version keeps serving)
//!                                  hash, compile, link, register
//! ```
//!
//! The modules are listed from the lowest layer to the highest. Each uses only modules above it;
//! basic types use each other. Each heavy dependency is used by one module; `axum` is also used by
//! `host`, which connects the parts:
//!
//! | part | owns | depends on |
//! |---|---|---|
//! | `rejection`, [`rule`], [`schema`], `events` (crate `sockhop-core`) | the rules that the SDK's test host shares | `jsonschema`, no I/O |
//! | `breaker`, [`config`], [`event`], `effect`, `memory`, `rate`, `transport`, `wall_clock` | basic types | `figment2` (`config`), `governor` (`rate`) |
//! | `error_chain`, [`files`] | errors as text; atomic file writes | files |
//! | [`tls`] | certificates, handshakes with clients | `rustls`, `x509-cert` |
//! | [`auth`] | who a client is, by its token | `jsonwebtoken` |
//! | [`outbound`] | HTTP requests of plugins to other services | `hyper` (its client), `rustls` |
//! | `socketio` | clients, for either implementation of Socket.IO | `sockhop-socketio`, `socketioxide` |
//! | [`log`] | the host's log | `tracing-subscriber` |
//! | [`metrics`] | the host's metrics | `prometheus-client` |
//! | [`store`] | durable state of plugins | SQLite |
//! | [`plugin`] | compiled code, instances, their limits | `wasmtime` |
//! | [`rooms`] | connections, their rooms, and what clients receive | |
//! | [`contract`] | what is promised to clients now, as plain data | no I/O |
//! | [`scenario`] | what virtual clients do, and what must come of it | `serde-saphyr`, `similar`, no I/O but files |
//! | [`registry`] | the plugins, events and rooms that are served now | |
//! | [`dispatcher`] | the handling of an event, up to its answer | |
//! | `plugin_tasks` | one task for each plugin that serves | |
//! | `socket` | connections, mailboxes | |
//! | `timers` | timers that are due | |
//! | `deliveries` | requests that are sent after a commit | |
//! | `load_events` | `$load`, until each version of a plugin has finished | |
//! | [`reload`] | loading plugins from the directory and publishing them | `notify` |
//! | `settings` | a configuration that changes while the host runs | |
//! | `http` | HTTP endpoints | `axum` |
//! | [`host`] | composition of all parts | all modules, `axum` |
//! | [`trial`] | a host without listeners, which tests plugins | |
//!
//! # Socket.IO
//!
//! `[server] socketio` selects one of two implementations. `socketio/builtin`, the default, passes
//! requests to the crate `sockhop-socketio`. `socketio/library` passes them to socketioxide; the
//! files below it add what that library lacks. An implementation uses the host through two traits.
//! `Clients` prepares a connection to a namespace, or refuses it. `Client` takes its events and is
//! notified of its disconnect. The host uses a connection through its `Link`: emit, send a frame
//! that was encoded for many, answer (which waits while the client does not read), close, abort.
//! The host itself keeps the connections and their rooms ([`rooms`]).
//!
//! `builtin` handles an event in the task that has read it, if no other event of the connection
//! waits. All packets that the events of one read send leave with one write. An event that has to
//! wait continues in its own task, and later events wait in the mailbox. With the library, every
//! event passes through the mailbox.
//!
//! `ARCHITECTURE.md` beside this crate's `Cargo.toml` describes the semantics and where to add new
//! parts.

use sockhop_core::{events, rejection};
/// The vocabulary and the rules that the SDK's test host shares, as modules of this crate.
pub use sockhop_core::{rule, schema};

mod breaker;
pub mod config;
mod effect;
mod error_chain;
pub mod event;
pub mod files;
mod memory;
mod rate;
mod transport;
mod wall_clock;

pub mod tls;

pub mod auth;

pub mod outbound;

mod socketio;

pub mod log;

pub mod metrics;

pub mod store;

pub mod plugin;

pub mod rooms;

pub mod contract;

pub mod scenario;

pub mod registry;

pub mod dispatcher;

mod plugin_tasks;

mod socket;

mod timers;

mod deliveries;

mod load_events;

pub mod reload;

mod settings;

mod http;

pub mod host;

pub mod trial;

/// What fuzzers call: each function reads bytes that a client, a plugin, an operator or a disk has
/// supplied, and checks what must hold for any. Not part of the crate's interface. A function fails
/// by panicking.
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::config::fuzzing::configuration;
    pub use crate::outbound::fuzzing::url;
    pub use crate::plugin::fuzzing::registration;
    pub use crate::reload::fuzzing::slots;
    pub use crate::schema::fuzzing::schema;
    pub use crate::socket::fuzzing::packet;
    pub use crate::socketio::library::fuzzing::payload;
}
