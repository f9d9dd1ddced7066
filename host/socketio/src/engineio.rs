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
//! A session begins with a handshake, which [`Service::open`] accepts or refuses. It ends for one
//! of the reasons of [`End`]. The engine passes the reason to [`Protocol::closed`], which is its
//! last call and is made exactly once, also after a panic. The protocol logs the end of the
//! session, because it knows the names of its clients. Each session has one task of the engine,
//! which owns it from its beginning to its end; [`Engine::wait`] waits for these tasks.
//!
//! Any task can send with a [`Session`]: [`text`](Session::text), [`binary`](Session::binary) and
//! [`shared`](Session::shared) queue a message, [`flush`](Session::flush) writes the queued
//! messages with one system call, or answers the pending poll with them. If at least 64 KiB are
//! queued, a message is written without a flush. A [`Batch`] flushes each of many sessions once.
//! Messages arrive in the order in which they were queued. An upgrade loses none of them, also if
//! it fails: until the client has confirmed its WebSocket, the session polls as before.
//!
//! While a handler of the [`Protocol`] runs, nothing more is read from its client. Messages that
//! the handler queues are sent meanwhile, and the client is pinged.
//!
//! # Memory
//!
//! [`Config`] bounds queued and unfinished messages in bytes, and [`Engine::usage`] returns how
//! many bytes are in use. The answer to a poll counts as queued until the HTTP server has written
//! it. Until then, its session counts against [`Config::max_sessions`], even if it has ended. After
//! the end of the session, the body of the answer fails when the HTTP server next reads from it: at
//! once, or only after [`Config::linger`] or [`Config::delivery_timeout`]. This depends on the
//! reason of the end.
//!
//! An idle WebSocket holds no buffer: it costs about 2.4 KiB of memory, including that of tokio, in
//! addition to the application's own data.
//!
//! Bytes that the kernel takes at once do not count as queued. If more than [`Config::max_queued`]
//! is queued for a client, its session ends with [`End::Overflow`]. One message may be longer than
//! that if nothing else is queued for the client, but [`Config::max_queued_total`] also applies to
//! it. A handler that sends much can wait with [`Session::writable`]. If more than half of
//! [`Config::max_queued`] is queued for a client, its next message is not handled yet. So a client
//! that sends many requests at once gets its answers as fast as it reads them.
//!
//! The engine bounds only its own memory. The HTTP server of the application must bound the time
//! for the head of a request and the time that a write may wait (with [`WriteDeadline`], for
//! example). It must also set how long the kernel waits for a peer that does not answer
//! (`TCP_USER_TIMEOUT`).
//!
//! # Closing
//!
//! The engine ends a WebSocket with a close frame in these cases:
//!
//! | status | reason |
//! |---|---|
//! | the client's own | the client has sent a close frame |
//! | 1000 | the server ([`End::Server`]) or the client (with the packet `1`) has ended the session |
//! | 1002 | the bytes are not a WebSocket frame that a client may send |
//! | 1007 | a text is not UTF-8 |
//! | 1008 | a message is not a packet that a client may send |
//! | 1009 | a message is too long |
//! | 1013 | all sessions together hold too many bytes of unfinished messages |
//!
//! In all other cases, the TCP connection is closed without a close frame, in particular when the
//! server stops. The engine does not send the packet `1` either, so stock clients connect again.
//! There is one exception, as with the reference server: if a client sends two polls or two posts
//! at once, its pending poll is answered with a `1`.
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
pub use stream::{Io, Layer, Socket, Stream};

#[cfg(test)]
mod model;
#[cfg(test)]
pub(crate) mod testing;
