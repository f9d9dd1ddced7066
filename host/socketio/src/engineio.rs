//! Engine.IO v4: sessions over polling and WebSocket connections, with upgrade and heartbeat.
//!
//! It knows nothing of Socket.IO: a [`Protocol`] receives the messages of one session, and a
//! [`Service`] makes a protocol for each new session. The crate's [`Server`](crate::Server) is such
//! a service; another one can use this module alone.
//!
//! # Example
//!
//! A server that sends every message back:
//!
//! ```no_run
#![doc = include_str!("../examples/echo.rs")]
//! ```
//!
//! # Sessions
//!
//! A session begins with a handshake, which [`Service::open`] accepts or refuses, and ends for one
//! of the reasons of [`End`], which [`Protocol::closed`] learns once and last, also after a panic.
//! The protocol writes the log record of it, because it knows the names of its clients. One task of
//! the engine owns each session from its beginning to its end; [`Engine::wait`] waits for all of
//! them.
//!
//! Any task can send with a [`Session`]: [`text`](Session::text), [`binary`](Session::binary) and
//! [`shared`](Session::shared) queue a message, [`flush`](Session::flush) writes what is queued
//! with one system call, or answers the poll that waits. A [`Batch`] flushes each of many sessions
//! once. Messages arrive in the order in which they were queued. They survive an upgrade, however
//! it goes: until the client has confirmed its WebSocket, the session polls as before.
//!
//! While a handler of the [`Protocol`] runs, nothing more is read from its client. Messages that
//! the handler queues are sent meanwhile, and the client is pinged.
//!
//! # Memory
//!
//! Everything that waits or is unfinished is bounded in bytes by [`Config`], and [`Engine::usage`]
//! tells how much there is. An answer to a poll counts until the HTTP server has written it, and so
//! does the place of its session. It breaks off if its session ends meanwhile, but only when the
//! HTTP server asks for more of it. An idle WebSocket holds no buffer: it costs about
//! 2.4 KiB, with tokio's part and without the application's.
//!
//! Bytes that the kernel takes at once do not count as queued. A message is always accepted if the
//! queue is empty. A handler that sends much can wait with [`Session::writable`]. A client that
//! sends many requests at once is answered as fast as it reads: above half of
//! [`Config::max_queued`], its next message waits.
//!
//! The engine bounds its own memory. The HTTP server of the application must bound the time
//! for the head of a request, the time that a write may wait (with [`WriteDeadline`], for example),
//! and the kernel's time for a peer that does not answer (`TCP_USER_TIMEOUT`).
//!
//! # Closing
//!
//! A client that violates the protocol or the bounds of a message receives a WebSocket close frame:
//! 1002 (no WebSocket frame of a client), 1007 (no UTF-8), 1008 (no packet), 1009 (too long),
//! 1013 (the server holds too much). A session that the server ([`End::Server`]) or the client ends
//! closes with 1000. All others are cut, above all when the server stops: the engine never sends an
//! Engine.IO `1` for this, so that stock clients connect again. (As with the reference server, a
//! client that sends two polls at once gets it.)
//!
//! # Conformance
//!
//! `cargo xtask suite` runs the official test suite of Engine.IO on `examples/echo.rs`. It needs
//! Node.js, port 3000 and a checkout of the suite's repository, here in `SUITE`:
//!
//! ```text
//! git clone https://github.com/socketio/socket.io SUITE
//! cargo xtask suite SUITE/docs/engine.io-protocol/v4-test-suite
//! ```

// Imports go one way: from `http` to the tasks of a session (`polling`, `websocket`, `upgrade`), to
// `engine`, to `session`, and to its parts, such as `heartbeat`, `outgoing` and `receiver`.
mod body;
mod buffer;
mod config;
mod deadline;
mod end;
mod engine;
mod frame;
#[doc(hidden)]
pub mod fuzzing;
mod heartbeat;
mod http;
mod incoming;
mod memory;
mod outgoing;
mod packet;
mod panics;
mod polling;
mod receiver;
mod session;
mod sessions;
mod sid;
mod slice;
mod stream;
mod upgrade;
mod websocket;

pub use body::{Abort, Body};
pub use config::{Config, Recovery, Transports};
pub use deadline::WriteDeadline;
pub use end::End;
pub use engine::{Batch, Engine, Protocol, Refused, Service};
pub use http::Answer;
pub(crate) use memory::{Budget, Memory};
pub use memory::{Reservation, Usage};
pub use outgoing::Frame;
pub(crate) use outgoing::{write_attachments, write_message};
pub(crate) use panics::catch;
pub use session::{Session, Transport};
pub use sid::Sid;
pub use stream::{Io, Stream};

#[cfg(test)]
mod model;
#[cfg(test)]
pub(crate) mod testing;
