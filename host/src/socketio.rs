//! How the host knows its clients, whichever implementation of Socket.IO serves them: what an implementation tells the host ([`Clients`],
//! [`Client`]), and how the host reaches one connection ([`Link`]).
//!
//! Each implementation is one file: [`builtin`] passes on to a crate of ours; [`library`] to socketioxide, with what that lacks in files below.
//! Neither knows rooms, plugins or what an event means.

pub(crate) mod builtin;
pub(crate) mod library;

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::Context;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::effect::Emit;
use crate::transport::SessionSlot;

/// An implementation's own limits on messages stand at this many times the host's, so that a client learns that its message was too large.
const PROTOCOL_LIMIT: usize = 2;

/// A client that asks to enter a namespace.
pub(crate) struct Newcomer {
    /// The id by which the client knows its connection.
    pub(crate) sid: String,
    /// The namespace.
    pub(crate) namespace: Arc<str>,
    /// Where its handshake came from.
    pub(crate) address: Option<IpAddr>,
    /// The slot of its session, if the client has to keep it until its last event is handled.
    pub(crate) slot: Option<SessionSlot>,
}

/// Why a client may not enter; the client is told this word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(pub(crate) &'static str);

/// The host, as an implementation knows it.
pub(crate) trait Clients: Send + Sync + 'static {
    /// Accepts or refuses a client. Awaited before CONNECT is answered.
    ///
    /// # Errors
    /// Why the client may not enter.
    fn accept(&self, newcomer: Newcomer) -> BoxFuture<'_, Result<Arc<dyn Client>, Refused>>;
}

/// One client in one namespace. An implementation calls [`Client::enter`], [`Client::begin`], [`Client::event`] for each event in the order of
/// the client, and [`Client::leave`] at the end. A client that never entered is only dropped.
pub(crate) trait Client: Send + Sync + 'static {
    /// The public id, for the log.
    fn id(&self) -> &str;

    /// Makes the connection known: from now on it can be reached by `link`.
    fn enter(&self, link: Link);

    /// CONNECT was answered: events are handled from now on.
    fn begin(self: Arc<Self>);

    /// Takes one event. With a `context`, the event is handled at once in the caller's task if nothing of this connection waits, and goes on in a
    /// task of its own if it has to wait for something.
    fn event(self: Arc<Self>, incoming: Incoming<'_>, link: Link, context: Option<&mut Context<'_>>);

    /// The connection has ended. Resolves when all its events are handled and `$disconnect` is dispatched; nobody can reach it any more then.
    fn leave(self: Arc<Self>) -> BoxFuture<'static, ()>;
}

/// One event as it came.
pub(crate) struct Incoming<'packet> {
    /// The event's name, and the text of its arguments, separated by commas. `None` if the packet is no array that begins with a name.
    pub(crate) call: Option<(Cow<'packet, str>, &'packet str)>,
    /// Bytes of the packet's text.
    pub(crate) bytes: usize,
    /// The attachments. Each owns its memory.
    pub(crate) attachments: Vec<Bytes>,
    /// The number of the ack, if the client asks for one.
    pub(crate) ack: Option<u64>,
}

/// What answers an event: an ack, or an event.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Answer<'text> {
    /// The ack of this number.
    Ack(u64, &'text str),
    /// An event of this name.
    Event(&'static str, &'text str),
}

/// The outgoing queue has no space for an answer now.
#[derive(Debug)]
pub(crate) struct Full;

/// The way to one connection.
#[derive(Clone)]
pub(crate) enum Link {
    /// Of our own implementation.
    Builtin(builtin::Link),
    /// Of the library.
    Library(library::Link),
}

impl Link {
    /// Sends an event to this connection only; returns whether it is there to receive it. A client for which there is no space left is cut.
    pub(crate) fn emit(&self, emit: &Emit) -> bool {
        match self {
            Self::Builtin(link) => link.emit(emit),
            Self::Library(link) => link.encode(emit).is_some_and(|frame| link.send(&frame)),
        }
    }

    /// Encodes an event for this connection and others of its namespace. Returns `None` if it can't be encoded.
    pub(crate) fn encode(&self, emit: &Emit) -> Option<Frame> {
        match self {
            Self::Builtin(link) => link.encode(emit).map(Frame::Builtin),
            Self::Library(link) => link.encode(emit).map(Frame::Library),
        }
    }

    /// Sends an encoded event, like [`Link::emit`].
    pub(crate) fn send(&self, frame: &Frame) -> bool {
        match (self, frame) {
            (Self::Builtin(link), Frame::Builtin(frame)) => link.send(frame),
            (Self::Library(link), Frame::Library(frame)) => link.send(frame),
            // A host has one implementation.
            _ => false,
        }
    }

    /// Sends an answer. Returns when there is space for another one, or when the connection has ended. A client that makes no space for too long
    /// is cut.
    pub(crate) async fn answer(&self, answer: Answer<'_>) {
        match self {
            Self::Builtin(link) => link.answer(answer).await,
            Self::Library(link) => link.answer(answer).await,
        }
    }

    /// The same without waiting.
    ///
    /// # Errors
    /// If there is no space.
    pub(crate) fn try_answer(&self, answer: Answer<'_>) -> Result<(), Full> {
        match self {
            Self::Builtin(link) => link.try_answer(answer),
            Self::Library(link) => link.try_answer(answer),
        }
    }

    /// Ends the connection after what was sent before.
    pub(crate) fn close(&self) {
        match self {
            Self::Builtin(link) => link.close(),
            Self::Library(link) => link.close(),
        }
    }

    /// Ends a connection at once that can't be told any more what it should be: its next bytes would hide that some are missing.
    pub(crate) fn abort(&self, reason: &str) {
        match self {
            Self::Builtin(link) => link.abort(reason),
            Self::Library(link) => link.abort(reason),
        }
    }

    /// What carries the connection now: `polling` or `websocket`.
    pub(crate) fn transport(&self) -> &'static str {
        match self {
            Self::Builtin(link) => link.transport(),
            Self::Library(link) => link.transport(),
        }
    }
}

/// An event that is encoded once and sent to many connections of one namespace.
pub(crate) enum Frame {
    /// For our own implementation.
    Builtin(builtin::Frame),
    /// For the library.
    Library(library::Frame),
}

/// What clients make an implementation hold, each with the most of it. What an implementation does not count is zero of zero.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    /// Bytes that wait for clients that read slowly.
    pub(crate) queued: Share,
    /// Bytes of messages whose end has not come.
    pub(crate) unfinished: Share,
    /// Connections whose transport was lost and whose client may return.
    pub(crate) detached: usize,
    /// Bytes of the events that are kept for them.
    pub(crate) recovery: Share,
}

/// How much is in use, and the most of it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Share {
    /// In use.
    pub(crate) used: usize,
    /// The most.
    pub(crate) limit: usize,
}

/// The implementation that serves the host's clients.
#[derive(Clone)]
pub(crate) enum Server {
    /// Our own.
    Builtin(builtin::Server),
    /// The library.
    Library(library::Server),
}

impl Server {
    /// Ends every connection's transport, so that stock clients connect again elsewhere.
    pub(crate) async fn close(&self) {
        match self {
            Self::Builtin(server) => server.close().await,
            Self::Library(server) => server.close().await,
        }
    }

    /// What clients make it hold.
    pub(crate) fn usage(&self) -> Usage {
        match self {
            Self::Builtin(server) => server.usage(),
            Self::Library(server) => server.usage(),
        }
    }
}
