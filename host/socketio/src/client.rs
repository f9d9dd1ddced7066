//! Socket.IO over one session: reads the client's packets and calls the handler.
//!
//! A client belongs to the task of its session, so packets of one client can't overtake each other:
//! a namespace that is left and entered again is left first. Whether a packet is well formed is
//! decided in `packet` and `call`. The session owns the queue of outgoing packets.

mod detached;

use std::future::Future;
use std::mem::take;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::time::timeout;
use tracing::{debug, error, info};

use crate::call::{Arguments, Call, Rejected, parse_auth, parse_reply};
use crate::connection::{
    Closed, ConnectError, ConnectRequest, Connection, Context, DisconnectReason, Event, Handler,
    Reattached, Reply, ReturnRequest,
};
use crate::engineio::{Batch, End, Protocol, Reservation, Session, Sid, catch};
use crate::hub::Hub;
use crate::namespace::Namespace;
use crate::packet::{Head, Kind, Packet};
use crate::recovery::Resume;

use detached::expire;

/// The protocol of one session.
pub(crate) struct Client<H: Handler> {
    hub: Arc<Hub<H>>,
    session: Arc<Session>,
    value: Arc<H::Session>,
    /// At most one for each namespace.
    connections: SmallVec<[Arc<Connection<H>>; 1]>,
    partial: Option<Box<Partial>>,
    /// Whether a namespace was ever entered. If so, packets for a namespace that the client is not
    /// in are ignored, because it may have sent them before it left.
    was_connected: bool,
    /// Whether the application has closed the session by a connection that was removed since.
    was_closed: bool,
    /// Whether an unknown namespace was logged: once for each session.
    has_logged_namespace: bool,
}

/// How long a client that returns waits for the handler of its old session, which still runs. Then
/// it gets a new connection. A stock client waits for 20 s.
const MAX_TAKEOVER: Duration = Duration::from_secs(10);

/// The memory of an attachment besides its bytes: its entry in the list and the allocator's part.
const ATTACHMENT_COST: usize = 64;

/// How much of an unknown namespace's name is logged, in characters.
const LOGGED_NAME: usize = 64;

/// A packet whose attachments have not all arrived.
struct Partial {
    text: String,
    announced: usize,
    attachments: Vec<Bytes>,
    attached_bytes: usize,
    /// The bytes of text and attachments, among those of all sessions.
    reservation: Reservation,
}

impl<H: Handler> Client<H> {
    pub(crate) fn new(hub: &Arc<Hub<H>>, session: &Arc<Session>, value: H::Session) -> Self {
        Self {
            hub: Arc::clone(hub),
            session: Arc::clone(session),
            value: Arc::new(value),
            connections: SmallVec::new(),
            partial: None,
            was_connected: false,
            was_closed: false,
            has_logged_namespace: false,
        }
    }

    /// Ends the session because of a packet. The end of the session has a log line for operators;
    /// this one has the details.
    fn reject(&self, rejected: Rejected) -> End {
        let (client, session) = (self.name(), self.session.sid());
        debug!(client, ?session, error = %rejected, "packet rejected");
        End::Parse
    }

    /// The application's name for the client, for the log: that of its first connection.
    fn name(&self) -> Option<&str> {
        self.hub.handler().log_name(self.connections.first()?)
    }

    /// Counts the list of an event's arguments while it is handled, if it is in memory of its own.
    fn count_list(&self, arguments: &Arguments<'_>) -> Result<Option<Reservation>, End> {
        if !arguments.spilled() {
            return Ok(None);
        }
        let mut reservation = self.session.reserve();
        let is_counted = reservation.resize(arguments.capacity() * size_of::<&str>());
        is_counted.then_some(Some(reservation)).ok_or(End::Overload)
    }

    fn position(&self, namespace: &str) -> Option<usize> {
        self.connections.iter().position(|connection| connection.namespace() == namespace)
    }

    /// Handles a complete packet.
    async fn packet(
        &mut self,
        packet: &Packet<'_>,
        attachments: Vec<Bytes>,
        batch: &Batch,
    ) -> Result<(), End> {
        let mut position = self.position(packet.namespace);
        // The application has disconnected this connection. The client may enter again.
        if let Some(at) = position.filter(|at| {
            self.connections.get(*at).is_some_and(|connection| connection.is_finished())
        }) {
            position = None;
            self.leave(at, batch).await?;
        }
        if self.is_closing() {
            return self.woken(batch).await;
        }
        let connection = position.and_then(|at| self.connections.get(at));
        match (packet.kind, connection) {
            (Kind::Event | Kind::BinaryEvent, Some(connection)) => {
                let call = Call::parse(packet.data).map_err(|rejected| self.reject(rejected))?;
                let _list = self.count_list(&call.arguments)?;
                let event = Event {
                    name: &call.name,
                    arguments: &call.arguments,
                    text: call.text,
                    attachments: &attachments,
                    ack: packet.id,
                };
                let cx = Context::new(connection, batch);
                let event = async { self.hub.handler().event(&cx, &event).await };
                self.guard(Some(connection), batch, event).await
            }
            (Kind::Ack | Kind::BinaryAck, Some(connection)) => {
                let arguments =
                    parse_reply(packet.data).map_err(|rejected| self.reject(rejected))?;
                let id = packet.id.ok_or(Rejected::Id).map_err(|rejected| self.reject(rejected))?;
                connection
                    .complete_ack(id, || Reply { arguments: arguments.to_owned(), attachments });
                Ok(())
            }
            (Kind::Connect, None) => self.connect(packet, batch).await,
            (Kind::Disconnect, Some(_)) if packet.data.is_empty() => match position {
                Some(at) => self.leave(at, batch).await,
                None => Ok(()),
            },
            // The client wrote this before it knew that it had left.
            (
                Kind::Disconnect | Kind::Event | Kind::Ack | Kind::BinaryEvent | Kind::BinaryAck,
                None,
            ) if self.was_connected => Ok(()),
            (Kind::Connect | Kind::ConnectError, _) | (_, None) => {
                Err(self.reject(Rejected::Unexpected))
            }
            (Kind::Disconnect, Some(_)) => Err(self.reject(Rejected::Payload)),
        }
    }

    /// Answers CONNECT for a namespace in which the client has no connection.
    async fn connect(&mut self, packet: &Packet<'_>, batch: &Batch) -> Result<(), End> {
        let auth = parse_auth(packet.data).map_err(|rejected| self.reject(rejected))?;
        let hub = Arc::clone(&self.hub);
        let Some(namespace) = hub.namespaces().get(packet.namespace) else {
            if !std::mem::replace(&mut self.has_logged_namespace, true) {
                let namespace: String = packet.namespace.chars().take(LOGGED_NAME).collect();
                let (client, session) = (self.name(), self.session.sid());
                info!(client, ?session, ?namespace, "connection refused: unknown namespace");
            }
            // The reference server's words.
            self.refuse(packet.namespace, &ConnectError::new("Invalid namespace"));
            return Ok(());
        };
        if self.recover(namespace, auth, batch).await? {
            return Ok(());
        }
        // Without random numbers nothing can be identified.
        let id = Sid::random().map_err(|_| End::Aborted)?;
        let request =
            ConnectRequest { id, namespace: namespace.name(), session: &*self.value, auth };
        let connect = async { hub.handler().connect(&request).await };
        let data = match self.guard(None, batch, connect).await? {
            Ok(data) => data,
            Err(error) => {
                self.refuse(namespace.name(), &error);
                return Ok(());
            }
        };
        let connection =
            Connection::new(id, hub.shared(), namespace, &self.session, &self.value, data)
                .map_err(|_| End::Aborted)?;
        connection.answer_connect(&self.session);
        self.enter(&connection);
        let cx = Context::new(&connection, batch);
        let connected = async { hub.handler().connected(&cx).await };
        self.guard(Some(&connection), batch, connected).await
    }

    /// Adds a connection whose CONNECT is answered.
    fn enter(&mut self, connection: &Arc<Connection<H>>) {
        self.was_connected = true;
        self.session.connected();
        self.connections.push(Arc::clone(connection));
    }

    /// Attaches the connection to which the client wants to return. Returns false if there is none
    /// to which it can return: then it gets a new one.
    async fn recover(
        &mut self,
        namespace: &Arc<Namespace>,
        auth: &str,
        batch: &Batch,
    ) -> Result<bool, End> {
        let hub = Arc::clone(&self.hub);
        let Some(recovery) = hub.recovery() else { return Ok(false) };
        let Some(resume) = Resume::parse(auth) else { return Ok(false) };
        let found = recovery.find(resume.pid).filter(|connection| connection.is_in(namespace));
        let Some(connection) = found else { return Ok(false) };
        let request = ReturnRequest { session: &*self.value, auth };
        let may_recover = async { hub.handler().may_recover(&connection, &request).await };
        if !self.guard(None, batch, may_recover).await? {
            return Ok(false);
        }
        loop {
            match connection.reattach(&self.session, &self.value, resume.offset) {
                Reattached::Done => break,
                Reattached::Attached(old) => {
                    if !self.take_over(&connection, &old).await? {
                        return Ok(false);
                    }
                }
                Reattached::Ended(reason) => {
                    // The application learns of the end before it learns of the new connection.
                    if let Some(end) = reason {
                        self.disconnected(&connection, DisconnectReason::SessionEnded(end), batch)
                            .await?;
                    }
                    return Ok(false);
                }
            }
        }
        self.enter(&connection);
        let cx = Context::new(&connection, batch);
        let recovered = async { hub.handler().recovered(&cx).await };
        self.guard(Some(&connection), batch, recovered).await?;
        Ok(true)
    }

    /// The client has left its old session, which has not noticed it. Ends that session, and waits
    /// until it does not use the connection any more. Returns false if that takes too long.
    async fn take_over(&self, connection: &Connection<H>, old: &Arc<Session>) -> Result<bool, End> {
        if Arc::ptr_eq(old, &self.session) {
            return Ok(false);
        }
        old.end(End::Transport);
        tokio::select! {
            // Two sessions that take over from each other must not wait for each other.
            () = self.session.over() => Err(self.session.ended().unwrap_or(End::Aborted)),
            detached = timeout(MAX_TAKEOVER, connection.until_detached_from(old)) => Ok(detached.is_ok()),
        }
    }

    fn refuse(&self, namespace: &str, error: &ConnectError) {
        let head = Head::new(Kind::ConnectError, 0, namespace, None);
        self.session.text(&[head.as_bytes(), error.as_json().as_bytes()], &[]);
    }

    /// Whether the application has closed the session.
    fn is_closing(&self) -> bool {
        self.was_closed || self.connections.iter().any(|connection| connection.closes_session())
    }

    /// Disconnects the other connections of a session that the application has closed.
    fn disconnect_all(&self) {
        if self.is_closing() {
            for connection in &self.connections {
                connection.disconnect();
            }
        }
    }

    /// Removes the connection at this position, because its client or the application wants it.
    async fn leave(&mut self, at: usize, batch: &Batch) -> Result<(), End> {
        let connection = self.connections.remove(at);
        let reason =
            if connection.finish() { DisconnectReason::Left } else { DisconnectReason::Server };
        self.was_closed |= connection.closes_session();
        self.disconnected(&connection, reason, batch).await
    }

    async fn disconnected(
        &self,
        connection: &Arc<Connection<H>>,
        reason: DisconnectReason,
        batch: &Batch,
    ) -> Result<(), End> {
        let cx = Context::new(connection, batch);
        let disconnected = async { self.hub.handler().disconnected(&cx, reason).await };
        let result = self.guard(Some(connection), batch, disconnected).await;
        // Events for other clients must not wait for this client's next packet.
        batch.flush();
        result
    }

    /// Runs a method of the handler. A panic of it ends the session, but not the session's task:
    /// the application still learns of the end of its connections. `connection`: the one for which
    /// the method is called.
    async fn guard<T>(
        &self,
        connection: Option<&Connection<H>>,
        batch: &Batch,
        method: impl Future<Output = T>,
    ) -> Result<T, End> {
        guard(batch, method).await.ok_or_else(|| {
            let client = match connection {
                Some(connection) => self.hub.handler().log_name(connection),
                None => self.name(),
            };
            error!(client, session = ?self.session.sid(), "handler panicked, session ends");
            End::Aborted
        })
    }

    /// Keeps a packet until its attachments have arrived.
    fn begin(&mut self, text: &str, announced: usize) -> Result<(), End> {
        if announced > self.hub.max_attachments() {
            let (client, session) = (self.name(), self.session.sid());
            debug!(client, ?session, announced, "too many attachments announced");
            return Err(End::TooBig);
        }
        let mut reservation = self.session.reserve();
        if !reservation.resize(text.len()) {
            return Err(End::Overload);
        }
        self.session.begin_packet();
        self.partial = Some(Box::new(Partial {
            text: text.to_owned(),
            announced,
            attachments: Vec::new(),
            attached_bytes: 0,
            reservation,
        }));
        Ok(())
    }

    /// Adds an attachment, and returns the packet if it was the last one.
    fn attach(&mut self, data: &[u8]) -> Result<Option<Box<Partial>>, End> {
        // A client with another parser, such as msgpack's, begins with a binary message.
        let Some(partial) = &mut self.partial else {
            return Err(self.reject(Rejected::Unexpected));
        };
        partial.attached_bytes += data.len();
        if partial.attached_bytes > self.hub.max_attachment_bytes() {
            let (client, session) = (self.name(), self.session.sid());
            debug!(client, ?session, "attachments too large");
            return Err(End::TooBig);
        }
        let cost = partial.text.len()
            + partial.attached_bytes
            + (partial.attachments.len() + 1) * ATTACHMENT_COST;
        if !partial.reservation.resize(cost) {
            return Err(End::Overload);
        }
        // A copy of its own: an application that keeps an attachment must not keep a read buffer.
        partial.attachments.push(Bytes::copy_from_slice(data));
        let complete =
            self.partial.take_if(|partial| partial.attachments.len() == partial.announced);
        if complete.is_some() {
            self.session.finish_packet();
        }
        Ok(complete)
    }
}

impl<H: Handler> Protocol for Client<H> {
    async fn text(&mut self, text: &str, batch: &Batch) -> Result<(), End> {
        if self.partial.is_some() {
            return Err(self.reject(Rejected::Unexpected));
        }
        let packet = Packet::parse(text).map_err(|rejected| self.reject(rejected))?;
        if packet.attachments > 0 {
            return self.begin(text, packet.attachments);
        }
        self.packet(&packet, Vec::new(), batch).await
    }

    async fn binary(&mut self, data: &[u8], batch: &Batch) -> Result<(), End> {
        let Some(partial) = self.attach(data)? else { return Ok(()) };
        let Partial { text, attachments, reservation, .. } = *partial;
        // It was a packet when it began.
        let packet = Packet::parse(&text).map_err(|rejected| self.reject(rejected))?;
        let handled = self.packet(&packet, attachments, batch).await;
        drop(reservation);
        handled
    }

    async fn woken(&mut self, batch: &Batch) -> Result<(), End> {
        self.disconnect_all();
        while let Some(at) = self.connections.iter().position(|connection| connection.is_finished())
        {
            self.leave(at, batch).await?;
        }
        // Queued packets, such as DISCONNECT, still reach the client.
        if self.connections.is_empty() {
            return Err(End::Server);
        }
        if self.connections.iter().all(|connection| connection.shuts_down()) {
            self.session.end(End::Shutdown);
        }
        Ok(())
    }

    async fn closed(&mut self, end: End, batch: &Batch) {
        self.partial = None;
        end.log(self.session.sid(), self.name());
        // If the transport was lost meanwhile, none of them can be recovered.
        self.disconnect_all();
        // All at once, so that the first `disconnected` can't reach the others.
        let mut finished: SmallVec<[_; 1]> = SmallVec::new();
        for connection in take(&mut self.connections) {
            match connection.close(end) {
                Closed::Detached(detachment) => expire(&self.hub, connection, detachment),
                Closed::Ended(reason) => finished.push((connection, reason)),
            }
        }
        for (connection, reason) in finished {
            // A panic here must not keep the others from being called.
            let _ = self.disconnected(&connection, reason, batch).await;
        }
        // The same here.
        let _ = self.guard(None, batch, async { self.hub.handler().closed(&self.value) }).await;
    }
}

/// Runs a method of the handler. Messages that it has sent leave while it waits. Returns `None` if
/// it panicked.
///
/// `method` must call the handler only when it is polled, so that a panic before the handler
/// returns its future is caught too.
async fn guard<T>(batch: &Batch, method: impl Future<Output = T>) -> Option<T> {
    catch(pin!(method), || batch.flush()).await
}

#[cfg(test)]
mod model;
