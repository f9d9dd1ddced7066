//! A Socket.IO v5 server for tokio and hyper, with Engine.IO v4 over polling and WebSocket.
//!
//! An application implements [`Handler`], makes a [`Server`] of it, and passes the requests of its
//! own HTTP server to [`Server::handle`]. For each client in each namespace it gets a
//! [`Connection`], with which any task can send events, answer events, wait for a client's answer
//! and disconnect the client.
//!
//! The crate knows no rooms, no origins and no CORS. It does not parse the arguments of events, it
//! only makes sure that they are JSON. The application provides all of these.
//!
//! # Example
//!
//! ```no_run
#![doc = include_str!("../examples/chat.rs")]
//! ```
//!
//! # Order and back-pressure
//!
//! Everything that a client sends is handled in one task, one packet after the other, in the order
//! in which it was sent. While [`Handler::event`] waits, nothing more is read from this client: TCP
//! slows it down, and its later events need no memory of the server except in the buffer of the
//! same read. So a slow handler in one namespace also delays the other namespaces of the same
//! client. Other clients are not affected. Only another task may wait for the client itself, for
//! example with [`Connection::emit_with_ack`].
//!
//! Messages to a client arrive in the order of the calls. Messages of handlers are written when all
//! events of one read are handled, with one system call. Messages of other tasks are written at
//! once. Messages that a client does not read wait in its queue. The application may check
//! [`Connection::queued_bytes`], to wait or to send less.
//!
//! # Bounds
//!
//! Every queue and every buffer is bounded in bytes by a setting of [`Config`], and
//! [`Server::usage`] returns how much is in use.
//!
//! | setting | bounds | beyond the bound |
//! |---|---|---|
//! | `max_payload` | a message, the body of a POST | [`End::TooBig`], or 413 |
//! | `max_fragments` | the frames of one message | [`End::TooBig`] |
//! | `max_attachments`, `max_attachment_bytes` | the attachments of one packet | [`End::TooBig`] |
//! | `receive_timeout` | the time from a message's begin to its end | [`End::ReceiveTimeout`] |
//! | `max_unfinished_total` | the received bytes of all unfinished messages and of messages whose handlers wait | [`End::Overload`] |
//! | `max_queued` | the bytes that are queued for one client | [`End::Overflow`] |
//! | `max_queued_total` | the bytes that are queued for all clients | [`End::Overflow`] |
//! | `max_pending_acks` | the answers that are waited for, per connection | [`EmitError`] |
//! | `max_sessions` | the sessions, including ending ones | 503 |
//! | `connect_timeout` | the time to the first CONNECT that is accepted | [`End::ConnectTimeout`] |
//! | `upgrade_timeout` | the time of an upgrade | the session continues to poll |
//! | `stall_timeout` | the time in which a client must read something while a task waits for it | [`End::Overflow`] |
//! | `delivery_timeout` | the time to deliver queued messages when the server ends a session or stops | they are lost |
//! | `linger` | the time to deliver the last message of any other end | it is lost |
//! | [`Recovery::duration`] | the time for which a detached connection is kept | [`Handler::disconnected`] |
//! | [`Recovery::max_bytes`] | the events that are kept for clients that return | the oldest are dropped |
//! | `max_sessions`, with recovery | the connections that are detached | they end with their sessions |
//!
//! Attachments are counted with 64 bytes more than their own, and so is a long list of arguments.
//! While a handler waits, its event's message counts as unfinished, and so do the later bytes of
//! the same read.
//!
//! # Connection state recovery
//!
//! With [`Config::recovery`], a client whose transport was lost returns to its connection in a new
//! session, and receives the events that it has missed: the *connection state recovery* of
//! Socket.IO, which the stock JavaScript client has since version 4.6. Its `socket.recovered` is
//! then true.
//!
//! A session that ends with [`End::Transport`], [`End::PingTimeout`] or [`End::ReceiveTimeout`]
//! does not end its connections: they are *detached*. [`Handler::disconnected`] is not called,
//! [`Connection::has_ended`] is false, and events that are sent are kept. Answers that the server
//! waits for end with [`NoReply`], [`Connection::ack`] returns false, and
//! [`Connection::emit_with_ack`] fails. All other ends are final, also a client that leaves (with
//! DISCONNECT, or the Engine.IO `1` with which a polling client closes) or that does not keep up
//! ([`End::Overflow`]).
//!
//! A detached connection ends, with the reason for which its transport was lost, after
//! [`Recovery::duration`], when the application disconnects or aborts it, when the server closes,
//! and when its client returns and cannot be recovered. [`Handler::disconnected`] is called once.
//!
//! The answer to CONNECT contains a secret, `pid`, which identifies the connection when the client
//! returns: a client with this `pid` takes the connection over. Each event without an ack id has an
//! additional last argument, its offset, as with the reference server: a listener that counts its
//! arguments sees it, and clients of other languages too. A client that returns names the offset of
//! its last event. If [`Handler::may_recover`] allows it, for example because the client's token
//! is that of the same user, and if its connection still has all later events, the client gets the
//! same id, then these events, and [`Handler::recovered`] is called instead of
//! [`Handler::connect`]. [`Connection::session`] is then the new
//! session's value, and the old one is dropped. Otherwise the client gets a new connection. Its
//! CONNECT is answered when [`Handler::disconnected`] of the old connection has returned, so that
//! the application learns of the end first: a handler that waits there delays its client's return.
//!
//! An event is kept until it is dropped for a newer one, also while its client is there, or until
//! no client can need it any more and a newer one is sent. Events that want an answer are not kept,
//! and neither are answers: they are lost if a transport is lost before they arrive. Events of
//! other tasks arrive once and in order, also while a client returns.
//!
//! If a client returns before its old session has noticed its end, that session ends with
//! [`End::Transport`], and the client waits until the old session's handler has returned. After
//! ten seconds it gets a new connection.
//!
//! # What clients see
//!
//! | a client sends | the server |
//! |---|---|
//! | CONNECT to an unknown namespace | answers CONNECT_ERROR `{"message":"Invalid namespace"}`, with the name that was asked for |
//! | CONNECT that [`Handler::connect`] refuses | answers CONNECT_ERROR with its JSON |
//! | CONNECT to a namespace in which it is | ends the session |
//! | an event for a namespace that it has left | ignores it |
//! | an event before its first CONNECT | ends the session |
//! | an invalid packet, or one whose data is not JSON | ends the session, with a log line |
//! | an event with a reserved name, such as `disconnect` | ends the session, with a log line |
//! | CONNECT with data that is not an object | ends the session, with a log line |
//! | no CONNECT that is accepted within `connect_timeout` | ends the session |
//! | an attachment that was not announced, or a text in its place | ends the session |
//! | a placeholder without an attachment | passes it on: see [`Event::placeholders_are_valid`] |
//! | an answer to no pending question | ignores it |
//! | CONNECT with the `pid` of a connection that is still kept, and an offset from which on it has everything | continues that connection |
//! | CONNECT with another `pid`, or one of another namespace, or an offset of which it lacks something | makes a new connection, with a new `pid` |
//!
//! When the server stops, it delivers what is queued, and sends no packet about its end. Clients
//! see their connections break, and stock clients connect again. [`Connection::disconnect`] makes a
//! client leave one namespace. Its session continues while it is in another one.
//!
//! # Conformance
//!
//! `cargo xtask suite` runs the official test suite of Socket.IO on `examples/conformance.rs`, and
//! then on the host, without the cases that need several arguments or an echo of `auth`. It needs
//! Node.js, port 3000 and a checkout of the suite's repository, here in `SUITE`:
//!
//! ```text
//! git clone https://github.com/socketio/socket.io-protocol SUITE
//! cargo xtask suite SUITE/test-suite
//! ```
//!
//! The crate's tests run the stock JavaScript client if `tests/clients/javascript`, or the folder
//! in `SOCKHOP_JAVASCRIPT_CLIENT`, has its `node_modules`, and the stock Python clients if
//! `SOCKHOP_PYTHON` names an interpreter that has them. If a variable is set, its client must be
//! there. `cargo test` runs each fuzz target for a moment. With a nightly compiler, `cargo fuzz run
//! packets` in the crate's folder runs one without end; `fuzz/fuzz_targets` has the other targets.
#![forbid(unsafe_code)]

// Imports go one way, which a test of the repository checks: `server`, `client`, `hub`,
// `connection`, `recovery`, then `packet`, `call` and `namespace`, with `engineio` below.
mod call;
mod client;
mod connection;
pub mod engineio;
#[doc(hidden)]
pub mod fuzzing;
mod hub;
mod namespace;
mod packet;
mod recovery;
mod server;

pub use call::placeholders_are_valid;
pub use connection::{
    AckReceiver, ConnectError, ConnectRequest, Connection, Context, DisconnectReason, EmitError,
    Event, EventFrame, Handler, NoReply, PendingAck, Reply, ReturnRequest,
};
pub use engineio::{
    Abort, Answer, Batch, Config, End, Io, Layer, Recovery, Refused, Sid, Socket, Stream,
    Transport, Transports, WriteDeadline,
};
pub use namespace::InvalidNamespace;
pub use server::{Server, Usage};
