//! The interface between the host and its Socket.IO implementations. An implementation reports to
//! the host through [`Clients`] and [`Client`]. The host reaches one connection through [`Link`].
//!
//! Each implementation is one file. [`builtin`] adapts the crate `sockhop-socketio`. [`library`]
//! adapts socketioxide, and the files below it add what socketioxide lacks. [`recorded`] is for
//! clients without a transport, by which plugins are tested. None knows rooms, plugins or the
//! meaning of an event.

pub(crate) mod builtin;
mod cut;
pub(crate) mod library;
pub(crate) mod recorded;
mod request;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::Context;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde_json::Value;

use crate::auth::Credentials;
use crate::effect::Emit;
use crate::transport::SessionSlot;

pub(crate) use cut::TOKEN;
pub(crate) use request::{RequestKind, kind_of};

/// The message limits of an implementation are this many times those of the host. So the host can
/// tell a client that its message was too large.
const PROTOCOL_LIMIT: usize = 2;

/// A client that asks to enter a namespace.
pub(crate) struct Newcomer {
    /// The Socket.IO id of the connection, which the client knows.
    pub(crate) sid: String,
    /// The namespace.
    pub(crate) namespace: Arc<str>,
    /// The address from which its handshake came.
    pub(crate) address: Option<IpAddr>,
    /// What it sent to prove who it is.
    pub(crate) credentials: Credentials,
    /// The query of the URL of its handshake; `None` if no plugin asks for it.
    pub(crate) query: Option<Box<str>>,
    /// The slot of its session, if the client must hold it until its last event is handled.
    pub(crate) slot: Option<SessionSlot>,
}

/// Returns the query of a handshake's URL, if a plugin asks for it. Of a query that is too long,
/// only so much is returned that it is not kept.
fn kept_query(clients: &dyn Clients, uri: &http::Uri) -> Option<Box<str>> {
    let max = clients.handshake_bytes()?;
    let query = uri.query().unwrap_or_default();
    Some(query.get(..=max).unwrap_or(query).into())
}

/// Why a client may not enter. The client receives it as CONNECT_ERROR.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}")]
pub(crate) struct ConnectRefusal {
    /// A code of the contract: the `message` of a stock client's `connect_error`.
    pub(crate) code: &'static str,
    /// Its `data`. The library sends only the code.
    pub(crate) data: Option<Value>,
}

impl ConnectRefusal {
    /// The host can't accept clients now.
    pub(crate) const UNAVAILABLE: Self = Self { code: "unavailable", data: None };
    /// The client has no valid token.
    pub(crate) const UNAUTHORIZED: Self = Self { code: "unauthorized", data: None };
}

/// The host, as seen by an implementation.
pub(crate) trait Clients: Send + Sync + 'static {
    /// Returns how many bytes of a handshake are kept for plugins. `None` if no plugin asks for
    /// handshakes.
    fn handshake_bytes(&self) -> Option<usize>;

    /// Prepares a connection: decides who the client is, and whether it may enter. Awaited before
    /// CONNECT is answered, without a limit of its own.
    ///
    /// # Errors
    /// Returns why the client may not enter. It leaves nothing behind then.
    fn prepare(&self, newcomer: Newcomer)
    -> BoxFuture<'_, Result<Arc<dyn Client>, ConnectRefusal>>;
}

/// One client in one namespace. An implementation calls [`Client::enter`], [`Client::begin`],
/// [`Client::event`] for each event in the order of the client, and [`Client::leave`] at the end. A
/// client that never entered is only dropped. With connection state recovery, [`Client::recovered`]
/// may be called in between.
pub(crate) trait Client: Send + Sync + 'static {
    /// The public id, for the log.
    fn id(&self) -> &str;

    /// Makes the connection known. The host can then reach it by `link`.
    fn enter(&self, link: Link);

    /// Decides whether a client with these credentials may return to this connection, whose
    /// transport was lost: only its own user may.
    fn may_return(self: Arc<Self>, credentials: Credentials) -> BoxFuture<'static, bool>;

    /// Notes that the client, whose transport was lost, has returned from `address`, which may be
    /// another one. Called between its events.
    fn recovered(&self, address: Option<IpAddr>, link: &Link);

    /// Starts the handling of events, because CONNECT was answered.
    fn begin(self: Arc<Self>);

    /// Takes one event. With a `context`, the event is handled at once in the caller's task if
    /// nothing of this connection waits. If it then has to wait for something, it continues in its
    /// own task.
    fn event(
        self: Arc<Self>,
        incoming: Incoming<'_>,
        link: Link,
        context: Option<&mut Context<'_>>,
    );

    /// Takes the answer to the emit with this token. `None`: the client can't answer any more.
    /// Called at most once for each token, before the events that the client sends after its
    /// answer. An answer to an emit that is not waited for any more is dropped.
    fn answered(self: Arc<Self>, token: u64, answer: Option<ClientAnswer>);

    /// Ends the connection. `reason` is Socket.IO's own word for it, such as `transport close`. The
    /// future resolves when all its events are handled and `$disconnect` is dispatched. Then the
    /// connection can't be reached any more.
    fn leave(self: Arc<Self>, reason: &'static str) -> BoxFuture<'static, ()>;
}

/// The answer of a client to an emit with an ack.
pub(crate) struct ClientAnswer {
    /// The text of its arguments, separated by commas.
    pub(crate) text: Box<str>,
    /// The attachments. Each owns its memory.
    pub(crate) attachments: Vec<Bytes>,
}

/// Why an emit with an ack was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotAsked {
    /// The connection has ended, or has lost its transport.
    Disconnected,
    /// Too many answers of the connection are waited for.
    TooManyAcks,
    /// The buffer of the client is full.
    Full,
}

/// An answer is waited for. If this is dropped, it is not waited for any more.
#[expect(dead_code, reason = "it is kept to be dropped")]
pub(crate) enum Asked {
    /// By our own implementation.
    Builtin(builtin::Asked),
    /// By the library.
    Library(library::Asked),
    /// By a client without a transport.
    Recorded,
}

/// One received event.
pub(crate) struct Incoming<'packet> {
    /// The event's name, and the text of its arguments, separated by commas. `None` if the packet
    /// is not an array that begins with a name.
    pub(crate) call: Option<(Cow<'packet, str>, &'packet str)>,
    /// Bytes of the packet's text.
    pub(crate) bytes: usize,
    /// The attachments. Each owns its memory.
    pub(crate) attachments: Vec<Bytes>,
    /// The id of the ack, if the client asks for one.
    pub(crate) ack: Option<u64>,
}

/// The answer to an event: an ack, or an event.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Answer<'text> {
    /// The ack with this id, the text of its arguments, and the attachments to which that refers.
    Ack(u64, &'text str, &'text [Bytes]),
    /// An event with this name, and the text of its argument.
    Event(&'static str, &'text str),
}

/// The outgoing queue has no space for an answer now.
#[derive(Debug)]
pub(crate) struct Full;

/// The handle by which the host reaches one connection.
#[derive(Clone)]
pub(crate) enum Link {
    /// A link of our own implementation.
    Builtin(builtin::Link),
    /// A link of the library.
    Library(library::Link),
    /// A link to a client without a transport.
    Recorded(recorded::Link),
}

impl Link {
    /// A link whose connection is gone.
    #[cfg(test)]
    pub(crate) fn of_nobody() -> Self {
        Self::Builtin(builtin::Link::of_nobody())
    }

    /// Sends an event to this connection only. Returns whether the connection can receive it. A
    /// client without space for it is disconnected.
    pub(crate) fn emit(&self, emit: &Emit) -> bool {
        match self {
            Self::Builtin(link) => link.emit(emit),
            Self::Library(link) => link.encode(emit).is_some_and(|frame| link.send(&frame)),
            Self::Recorded(link) => link.send(&recorded::Frame::of(emit)),
        }
    }

    /// Sends an event to this connection only, and lets its [`Client`] take the answer, with this
    /// token.
    ///
    /// # Errors
    /// Returns why nothing was sent.
    pub(crate) fn emit_with_ack(&self, token: u64, emit: &Emit) -> Result<Asked, NotAsked> {
        match self {
            Self::Builtin(link) => link.emit_with_ack(token, emit).map(Asked::Builtin),
            Self::Library(link) => link.emit_with_ack(token, emit).map(Asked::Library),
            Self::Recorded(link) => link.emit_with_ack(emit),
        }
    }

    /// Sends an encoded event, unless so much waits for the client that volatile emits are skipped
    /// for it. Never disconnects a client. Returns whether the event was sent.
    pub(crate) fn send_volatile(&self, frame: &Frame) -> bool {
        match (self, frame) {
            (Self::Builtin(link), Frame::Builtin(frame)) => link.send_volatile(frame),
            (Self::Library(link), Frame::Library(frame)) => link.send_volatile(frame),
            (Self::Recorded(link), Frame::Recorded(frame)) => link.send(frame),
            // A host uses only one implementation.
            _ => false,
        }
    }

    /// Encodes an event for this connection and others of its namespace. Returns `None` if it can't
    /// be encoded. A volatile event is not kept for clients that return.
    pub(crate) fn encode(&self, emit: &Emit) -> Option<Frame> {
        match self {
            Self::Builtin(link) => link.encode(emit).map(Frame::Builtin),
            Self::Library(link) => link.encode(emit).map(Frame::Library),
            Self::Recorded(_) => Some(Frame::Recorded(recorded::Frame::of(emit))),
        }
    }

    /// Sends an encoded event, like [`Link::emit`].
    pub(crate) fn send(&self, frame: &Frame) -> bool {
        match (self, frame) {
            (Self::Builtin(link), Frame::Builtin(frame)) => link.send(frame),
            (Self::Library(link), Frame::Library(frame)) => link.send(frame),
            (Self::Recorded(link), Frame::Recorded(frame)) => link.send(frame),
            // A host uses only one implementation.
            _ => false,
        }
    }

    /// Sends an answer. Returns when there is space for another one, or when the connection has
    /// ended. A client that makes no space for too long is disconnected.
    pub(crate) async fn answer(&self, answer: Answer<'_>) {
        match self {
            Self::Builtin(link) => link.answer(answer).await,
            Self::Library(link) => link.answer(answer).await,
            Self::Recorded(link) => link.answer(answer),
        }
    }

    /// Like [`Link::answer`], without waiting.
    ///
    /// # Errors
    /// Returns [`Full`] if there is no space.
    pub(crate) fn try_answer(&self, answer: Answer<'_>) -> Result<(), Full> {
        match self {
            Self::Builtin(link) => link.try_answer(answer),
            Self::Library(link) => link.try_answer(answer),
            Self::Recorded(link) => {
                link.answer(answer);
                Ok(())
            }
        }
    }

    /// Ends the connection after everything that was sent before.
    pub(crate) fn close(&self) {
        match self {
            Self::Builtin(link) => link.close(),
            Self::Library(link) => link.close(),
            Self::Recorded(link) => link.end(recorded::CLOSED),
        }
    }

    /// Identifies the session of the connection; `None` if it is gone, and with the library.
    pub(crate) fn session_key(&self) -> Option<u128> {
        match self {
            Self::Builtin(link) => link.session_key(),
            Self::Library(_) | Self::Recorded(_) => None,
        }
    }

    /// Ends the session of the connection after everything that was sent before, when this was
    /// called for all connections of the session. A stock client connects again by itself. Without
    /// effect with the library, which can only close all.
    pub(crate) fn shut_down(&self) {
        if let Self::Builtin(link) = self {
            link.shut_down();
        }
    }

    /// Ends the connection at once, because it has missed a message. Later bytes would hide the
    /// gap. `reason` is a short code for the log.
    pub(crate) fn abort(&self, reason: &'static str) {
        match self {
            Self::Builtin(link) => link.abort(reason),
            Self::Library(link) => link.abort(reason),
            Self::Recorded(link) => link.end(reason),
        }
    }

    /// Bytes that wait for the client: with the builtin implementation all, with the library those
    /// that found no space in its buffer.
    pub(crate) fn waiting_bytes(&self) -> usize {
        match self {
            Self::Builtin(link) => link.waiting_bytes(),
            Self::Library(link) => link.waiting_bytes(),
            Self::Recorded(link) => link.waiting_bytes(),
        }
    }

    /// The current transport: `polling` or `websocket`.
    pub(crate) fn transport(&self) -> &'static str {
        match self {
            Self::Builtin(link) => link.transport(),
            Self::Library(link) => link.transport(),
            Self::Recorded(_) => "none",
        }
    }
}

/// An event that is encoded once and sent to many connections of one namespace.
pub(crate) enum Frame {
    /// For our own implementation.
    Builtin(builtin::Frame),
    /// For the library.
    Library(library::Frame),
    /// For clients without a transport.
    Recorded(recorded::Frame),
}

/// What clients make an implementation hold, with its limits. A value that an implementation does
/// not count is 0, with limit 0.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    /// Bytes queued for clients that read slowly.
    pub(crate) queued: Share,
    /// Bytes of incomplete messages.
    pub(crate) unfinished: Share,
    /// Number of connections that lost their transport and whose client may return.
    pub(crate) detached: usize,
    /// Bytes of the events kept for these connections.
    pub(crate) recovery: Share,
}

/// The amount in use, and its limit.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Share {
    /// The amount in use.
    pub(crate) used: usize,
    /// The limit.
    pub(crate) limit: usize,
}

/// The implementation that serves the host's clients.
#[derive(Clone)]
pub(crate) enum Server {
    /// Our own implementation.
    Builtin(builtin::Server),
    /// The library.
    Library(library::Server),
}

impl Server {
    /// Whether it can end a single connection so that its client connects again.
    pub(crate) fn closes_one_by_one(&self) -> bool {
        matches!(self, Self::Builtin(_))
    }

    /// Ends the transport of every connection, so that standard clients reconnect elsewhere.
    pub(crate) async fn close(&self) {
        match self {
            Self::Builtin(server) => server.close().await,
            Self::Library(server) => server.close().await,
        }
    }

    /// Returns what clients make it hold.
    pub(crate) fn usage(&self) -> Usage {
        match self {
            Self::Builtin(server) => server.usage(),
            Self::Library(server) => server.usage(),
        }
    }
}
