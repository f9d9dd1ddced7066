//! A host turns a client's event into effects by asking a plugin, and applies the effects to rooms.
//!
//! ```text
//! event path (hot)
//!   client -> socket -> dispatcher { registry -> schema -> plugin } -> effects -> rooms -> clients
//!                            \__ any step __/ -> rejection -> ack, or an `error` event
//!
//! reload path (cold)
//!   directory -> watch -> scan -> load { hash, compile, link, register } -> slots decide -> settle -> registry.publish
//!                                      \-> Failure -> log + GET /api/plugins (the version before keeps serving)
//! ```
//!
//! The modules stand here in the order in which data flows. Each uses only those before it; each heavy dependency is known to one:
//!
//! | part | owns | knows |
//! |---|---|---|
//! | [`breaker`], [`config`], [`event`], [`effect`], [`memory`], [`rejection`], [`rule`], [`transport`] | words | no I/O |
//! | [`log`] | what the host tells its operator | `tracing-subscriber` |
//! | [`metrics`] | what the host counts of itself | `prometheus-client` |
//! | [`schema`] | checks of payloads | `jsonschema` |
//! | [`store`] | plugins' durable state | SQLite |
//! | [`plugin`] | compiled code, instances, their limits | `wasmtime` |
//! | [`rooms`] | what clients receive | `socketioxide` |
//! | [`registry`] | what is served now | |
//! | [`dispatcher`] | an event's way to its answer | |
//! | `socket` | connections, mailboxes | `socketioxide` |
//! | [`reload`] | from a directory to what is served | `notify` |
//! | `http` | endpoints | `axum` |
//! | [`host`] | putting it together | all of them, by name |

pub mod breaker;
pub mod config;
pub mod effect;
pub mod event;
pub mod memory;
pub mod rejection;
pub mod rule;
pub mod transport;

pub mod log;

pub mod metrics;

pub mod schema;

pub mod store;

pub mod plugin;

pub mod rooms;

pub mod registry;

pub mod dispatcher;

mod socket;

pub mod reload;

mod http;

pub mod host;
