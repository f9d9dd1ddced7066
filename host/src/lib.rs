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
//! | `socketio` | clients, whichever implementation serves them | `sockhop-socketio`, `socketioxide` |
//! | [`log`] | what the host tells its operator | `tracing-subscriber` |
//! | [`metrics`] | what the host counts of itself | `prometheus-client` |
//! | [`schema`] | checks of payloads | `jsonschema` |
//! | [`store`] | plugins' durable state | SQLite |
//! | [`plugin`] | compiled code, instances, their limits | `wasmtime` |
//! | [`rooms`] | connections and their rooms, what clients receive | |
//! | [`registry`] | what is served now | |
//! | [`dispatcher`] | an event's way to its answer | |
//! | `socket` | connections, mailboxes | |
//! | [`reload`] | from a directory to what is served | `notify` |
//! | `http` | endpoints | `axum` |
//! | [`host`] | putting it together | all of them, by name |
//!
//! # Socket.IO
//!
//! `[server] socketio` chooses between two implementations, each in one file: `socketio/builtin`, the default, passes on to the crate
//! `sockhop-socketio`, `socketio/library` to socketioxide, with what that library lacks in files below it. An implementation knows the host by two traits: `Clients` accepts or
//! refuses a client that asks for a namespace, and `Client` takes its events and learns of its end. The host knows a connection by its `Link`:
//! emit, send a frame that was encoded for many, answer (which waits while the client does not read), close, abort. Which connections there are and
//! in which rooms is the host's own knowledge ([`rooms`]).
//!
//! `builtin` handles an event in the task that has read it, if nothing else of the connection waits, and what the events of one read send leaves
//! with one write. An event that has to wait for something goes on in a task of its own, and later ones wait in the mailbox. With the library,
//! every event passes through the mailbox.

pub mod breaker;
pub mod config;
pub mod effect;
pub mod event;
pub mod memory;
pub mod rejection;
pub mod rule;
pub mod transport;

mod socketio;

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
