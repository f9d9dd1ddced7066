//! The trait that an application implements, and the arguments of its methods.

use std::fmt;
use std::future::{Future, ready};
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;

use super::Connection;
use super::frame::EventFrame;
use crate::call::{placeholders_are_valid, quote};
use crate::engineio::{Batch, End, Refused, Sid};

/// The application's part of a server.
///
/// All methods for one session are called one at a time, in the order of the client's packets.
/// While one is running, nothing more is read from this client, so a slow handler slows its client
/// down instead of filling memory. The client is still pinged, and its pongs are not missed. Other
/// sessions continue. The futures are never cancelled; a client that goes away meanwhile does not
/// stop them.
///
/// Each connection that [`connect`](Self::connect) accepts gets exactly one call of
/// [`connected`](Self::connected), then its events, and exactly one call of
/// [`disconnected`](Self::disconnected). If its client returns to it in a new session, there is a
/// call of [`recovered`](Self::recovered) between the events; all calls for one connection are made
/// one at a time, in whichever session it is. This also holds if a method panics: the panic ends
/// the session, with [`End::Aborted`] and a log line.
pub trait Handler: Sized + Send + Sync + 'static {
    /// The application's data about a session, such as the client's address or its identity. All
    /// connections of the session share it.
    type Session: Send + Sync + 'static;

    /// The application's data about one connection.
    type Data: Send + Sync + 'static;

    /// Accepts a session. Called once for each, before its handshake is answered, with the request
    /// of the handshake: its address, query and headers, and the extensions of the application's
    /// own HTTP service.
    ///
    /// # Errors
    ///
    /// The HTTP answer for a client that may not have a session.
    fn open(&self, request: &Parts) -> Result<Self::Session, Refused>;

    /// Accepts a connection. Called for each CONNECT to a namespace of the server, before it is
    /// answered.
    ///
    /// # Errors
    ///
    /// The error that the client receives. Its session continues, so the client may try again.
    fn connect(
        &self,
        request: &ConnectRequest<'_, Self>,
    ) -> impl Future<Output = Result<Self::Data, ConnectError>> + Send;

    /// A connection was accepted and CONNECT is answered. Events that are sent here arrive before
    /// any others.
    fn connected(&self, cx: &Context<'_, Self>) -> impl Future<Output = ()> + Send {
        let _ = cx;
        ready(())
    }

    /// Decides whether a client that asks for `connection`, whose transport was lost, may return to
    /// it. It has sent the right `pid`. If not, it gets a new connection:
    /// [`connect`](Self::connect) is called. Without an implementation, it may.
    ///
    /// Also called if the connection then turns out to have ended. Only called with
    /// [`Config::recovery`](crate::Config::recovery).
    fn may_recover(
        &self,
        connection: &Connection<Self>,
        request: &ReturnRequest<'_, Self>,
    ) -> impl Future<Output = bool> + Send {
        let _ = (connection, request);
        ready(true)
    }

    /// A client has returned to a connection whose transport was lost. CONNECT is answered, and the
    /// events that the client has missed are queued. Events that are sent here follow them.
    ///
    /// [`open`](Self::open) was called for the new session, whose value the connection has from now
    /// on. [`connect`](Self::connect) is not called. Only called with
    /// [`Config::recovery`](crate::Config::recovery).
    fn recovered(&self, cx: &Context<'_, Self>) -> impl Future<Output = ()> + Send {
        let _ = cx;
        ready(())
    }

    /// A session has ended, and its connections have ended or are detached. The application may
    /// release resources that belong to the session and not to its connections. A detached
    /// connection keeps the value of its last session.
    fn closed(&self, session: &Self::Session) {
        let _ = session;
    }

    /// Handles an event.
    fn event(&self, cx: &Context<'_, Self>, event: &Event<'_>) -> impl Future<Output = ()> + Send;

    /// The application's name for a connection in its log, such as a public id. The server's log
    /// records about this connection or its session have it in the field `client`. Called only when
    /// there is a record. It must be no secret, as the connection's own id may be.
    fn log_name<'a>(&'a self, connection: &'a Connection<Self>) -> Option<&'a str> {
        let _ = connection;
        None
    }

    /// A connection has ended: nothing can be sent to it any more. The session counts against
    /// [`Config::max_sessions`](crate::Config::max_sessions) until this has returned.
    ///
    /// With [`Config::recovery`](crate::Config::recovery), a connection whose transport was lost
    /// ends later, if its client does not return. Then this is called from a task of its own, or
    /// from that of the client's next session, with the reason for which the transport was lost.
    fn disconnected(
        &self,
        cx: &Context<'_, Self>,
        reason: DisconnectReason,
    ) -> impl Future<Output = ()> + Send {
        let _ = (cx, reason);
        ready(())
    }
}

/// A client that wants to return to its connection.
pub struct ReturnRequest<'a, H: Handler> {
    /// The value that [`Handler::open`] returned for the new session.
    pub session: &'a H::Session,
    /// The `auth` of the client: a well-formed JSON object.
    pub auth: &'a str,
}

/// Without `auth`, which may hold a secret.
impl<H: Handler> fmt::Debug for ReturnRequest<'_, H> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ReturnRequest").finish_non_exhaustive()
    }
}

/// A client that asks for a namespace.
pub struct ConnectRequest<'a, H: Handler> {
    /// The id that the connection will have.
    pub id: Sid,
    /// The name of the namespace.
    pub namespace: &'a str,
    /// The value that [`Handler::open`] returned for the session.
    pub session: &'a H::Session,
    /// The `auth` of the client: a well-formed JSON object, `{}` if it sent none. A stock client
    /// that could not be recovered has added the `pid` and `offset` of its earlier connection.
    pub auth: &'a str,
}

/// Without `auth`, which may hold a secret.
impl<H: Handler> fmt::Debug for ConnectRequest<'_, H> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ConnectRequest")
            .field("id", &self.id)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

/// The error for a client that may not connect: the JSON of CONNECT_ERROR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectError(String);

impl ConnectError {
    /// A message. A stock client finds it as the `message` of its `connect_error`.
    pub fn new(message: &str) -> Self {
        Self(format!(r#"{{"message":{}}}"#, json(message)))
    }

    /// A message and further data as JSON text, which is not checked. A stock client finds it as
    /// the `data` of its `connect_error`.
    pub fn with_data(message: &str, data: &str) -> Self {
        Self(format!(r#"{{"message":{},"data":{data}}}"#, json(message)))
    }

    /// The JSON text.
    pub fn as_json(&self) -> &str {
        &self.0
    }
}

fn json(text: &str) -> String {
    String::from_utf8_lossy(&quote(text)).into_owned()
}

/// An event of a client, borrowed from the buffer that it was read into.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    /// The name, or a number as the client wrote it. Never one of the libraries' own names, such as
    /// `disconnect`.
    pub name: &'a str,
    /// Each argument as well-formed JSON text. Placeholders stand for attachments.
    pub arguments: &'a [&'a str],
    /// All arguments as the client wrote them, separated by commas; an empty string without any.
    pub text: &'a str,
    /// The attachments, exactly as many as the client announced. Each owns its memory.
    pub attachments: &'a [Bytes],
    /// The id for an answer, if the client wants one.
    pub ack: Option<u64>,
}

impl Event<'_> {
    /// Whether each placeholder in the arguments names an attachment of this event.
    ///
    /// A stock client never sends another. The server does not check this itself, so that the
    /// application can answer such an event; the reference server ends the session.
    pub fn placeholders_are_valid(&self) -> bool {
        placeholders_are_valid(self.text, self.attachments.len())
    }
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DisconnectReason {
    /// The client left the namespace. Its session continues.
    Left,
    /// The application called [`Connection::disconnect`](crate::Connection::disconnect), or
    /// [`Connection::close_session`](crate::Connection::close_session) for a connection of the
    /// session.
    Server,
    /// The session ended.
    SessionEnded(End),
}

/// The connection for which a method of [`Handler`] was called, and the batch that is flushed
/// later.
///
/// Messages that are sent through the context leave when all events that arrived in the same read
/// are handled, with one write, or when a handler waits for something.
pub struct Context<'a, H: Handler> {
    connection: &'a Arc<Connection<H>>,
    batch: &'a Batch,
}

impl<'a, H: Handler> Context<'a, H> {
    pub(crate) fn new(connection: &'a Arc<Connection<H>>, batch: &'a Batch) -> Self {
        Self { connection, batch }
    }

    /// The connection.
    pub fn connection(&self) -> &'a Arc<Connection<H>> {
        self.connection
    }

    /// The batch of this turn, for [`Connection::send_in`].
    pub fn batch(&self) -> &'a Batch {
        self.batch
    }

    /// Sends an event to the connection, like [`Connection::emit`].
    pub fn emit(&self, name: &str, arguments: &str, attachments: &[Bytes]) -> bool {
        self.connection.queue_event(name, arguments, attachments)
    }

    /// Answers an event, like [`Connection::ack`]. Returns false if the client wants no answer.
    pub fn ack(&self, event: &Event<'_>, arguments: &str, attachments: &[Bytes]) -> bool {
        event.ack.is_some_and(|id| self.connection.queue_ack(id, arguments, attachments))
    }

    /// Sends an encoded event to any connection, like [`Connection::send_in`] in this batch.
    pub fn send(&self, receiver: &Connection<H>, event: &EventFrame) -> bool {
        receiver.send_in(self.batch, event)
    }
}

impl<H: Handler> fmt::Debug for Context<'_, H> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Context")
            .field("connection", self.connection)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_json() {
        assert_eq!(ConnectError::new("no \"way\"").as_json(), r#"{"message":"no \"way\""}"#);
        let error = ConnectError::with_data("no", r#"{"code":[1]}"#);
        assert_eq!(error.as_json(), r#"{"message":"no","data":{"code":[1]}}"#);
    }
}
