//! The vocabulary and the rules of Sockhop, without I/O.
//!
//! The host decides by these rules whether it loads a plugin, and what an event and its handler may
//! do. The SDK's test host decides by the same rules, so a unit test and the host never disagree
//! about them.
//! All functions are pure: they take values, and return a value or why something is refused.
//!
//! The modules are listed in reading order. Each uses only modules above it:
//!
//! | module | owns |
//! |---|---|
//! | [`limits`] | the defaults of the limits that both hosts enforce |
//! | [`name`] | which names plugins and events may have |
//! | [`arguments`] | how many arguments a message has |
//! | [`json`] | JSON text that was parsed once; the depth of a text |
//! | [`attachment`] | placeholders of binary attachments |
//! | [`identity`] | who a client is |
//! | [`rejection`] | why an event had no effects, and why a call is refused |
//! | [`rule`] | who may send an event or join a room |
//! | [`route`] | the HTTP routes of plugins, and which of them conflict |
//! | [`effect`] | receivers of an emitted event, and the limits of one event's effects |
//! | [`key`] | keys as text whose order is that of the values |
//! | [`state`] | which keys, values, scans and sequences a plugin's state allows |
//! | [`state_check`] | the replies to `$check` |
//! | [`timer`] | the names and the deadlines of timers |
//! | [`load`] | the replies to `$load`, and when it is sent again |
//! | [`ack`] | emits with an ack: their outcomes, and what bounds them |
//! | [`outbound`] | HTTP requests of handlers, and their responses |
//! | [`delivery`] | HTTP requests after the commit of a handler, and when they are sent again |
//! | [`declarations`] | what a plugin may declare in `register` |
//! | `schedule` | the times that a cron pattern names |
//! | `schema` | JSON Schemas, and the check of documents against them |
//! | `events` | the declared events of a plugin, and the checks of their data |
//! | `request` | the payload of an event that an HTTP request becomes |
//! | `handshake` | what handlers may see of what a client sends when it connects |
//!
//! The feature `schema` adds the last five, with the libraries `jsonschema` and `croner`. A
//! compiled plugin needs none of them, so the SDK enables the feature only for native targets.
//!
//! The crate compiles for native targets and for `wasm32-wasip2`, and knows no library that reads
//! files, opens sockets or starts threads.

#![forbid(unsafe_code)]

pub mod ack;
pub mod arguments;
pub mod attachment;
pub mod declarations;
pub mod delivery;
pub mod effect;
#[cfg(feature = "schema")]
pub mod events;
#[cfg(feature = "schema")]
pub mod handshake;
pub mod identity;
pub mod json;
pub mod key;
pub mod limits;
pub mod load;
pub mod name;
pub mod outbound;
pub mod rejection;
#[cfg(feature = "schema")]
pub mod request;
pub mod route;
pub mod rule;
#[cfg(feature = "schema")]
pub mod schedule;
#[cfg(feature = "schema")]
pub mod schema;
pub mod state;
pub mod state_check;
pub mod timer;
