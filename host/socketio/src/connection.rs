//! One client in one namespace, as the application sees it: send, wait for an answer, disconnect.
//! And the handler that the application implements, because the two types name each other.
//!
//! Any task may use a connection. It knows its session, but neither other connections nor rooms.

mod ack;
mod frame;
mod handler;
mod recovery;
mod send;
mod shared;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::engineio::{Batch, End, Session, Sid, Transport};
use crate::namespace::Namespace;
use crate::packet::{Head, Kind};
use crate::recovery::Pid;

pub use ack::{AckReceiver, EmitError, NoReply, PendingAck, Reply};
pub use frame::EventFrame;
pub use handler::{
    ConnectError, ConnectRequest, Context, DisconnectReason, Event, Handler, ReturnRequest,
};
pub(crate) use recovery::{Closed, Reattached};
pub(crate) use shared::Shared;

use ack::Waiter;
use recovery::{Keep, Lasting, is_lost};
use send::Flush;

/// One client in one namespace.
///
/// All methods may be called from any task, and only [`writable`](Self::writable) waits. Messages
/// are queued in the order of the calls and written at once, as far as the client reads. The rest
/// is bounded by [`Config::max_queued`](crate::Config::max_queued); beyond, the session ends
/// with [`End::Overflow`].
pub struct Connection<H: Handler> {
    id: Sid,
    shared: Arc<Shared<H>>,
    namespace: Arc<Namespace>,
    data: H::Data,
    /// Changes only while `state` is locked.
    has_ended: AtomicBool,
    /// The application has ended the connection together with its session.
    closes_session: AtomicBool,
    /// The session may end with the server, as far as this connection is concerned.
    shuts_down: AtomicBool,
    /// `None` if the server has no recovery.
    lasting: Option<Box<Lasting>>,
    /// The session of a connection that never has another: the server has no recovery.
    only_session: Option<Arc<Session>>,
    /// A packet of a connection that has ended can't follow the CONNECT with which its client
    /// entered the namespace again. Without recovery, this needs no more than the session's lock,
    /// under which a packet is queued only if `has_ended` is not set. With recovery, this lock is
    /// held while a packet is queued, so that packets are queued in the order in which they are
    /// kept. The session's lock is taken while this one is held, never the other way round.
    state: Mutex<ConnectionState<H>>,
}

struct ConnectionState<H: Handler> {
    /// The session, or the last one of a connection that is detached.
    session: Arc<Session>,
    /// The value that [`Handler::open`] returned for it.
    value: Arc<H::Session>,
    /// The answers that are waited for, by the id of their event.
    acks: Acks,
    /// `None` if the server has no recovery.
    keep: Option<Box<Keep>>,
}

type Acks = BTreeMap<u64, Waiter>;

impl<H: Handler> Connection<H> {
    /// # Errors
    ///
    /// If the system has no random numbers.
    pub(crate) fn new(
        id: Sid,
        shared: &Arc<Shared<H>>,
        namespace: &Arc<Namespace>,
        session: &Arc<Session>,
        value: &Arc<H::Session>,
        data: H::Data,
    ) -> Result<Arc<Self>, getrandom::Error> {
        let pid = shared.recovery().map(|_| Pid::random()).transpose()?;
        let keep = shared.recovery().map(|recovery| Box::new(Keep::new(recovery.ring())));
        let only_session = keep.is_none().then(|| Arc::clone(session));
        namespace.add_connection();
        let connection = Arc::new(Self {
            id,
            shared: Arc::clone(shared),
            namespace: Arc::clone(namespace),
            data,
            has_ended: AtomicBool::new(false),
            closes_session: AtomicBool::new(false),
            shuts_down: AtomicBool::new(false),
            lasting: pid.map(|pid| Box::new(Lasting::new(pid))),
            only_session,
            state: Mutex::new(ConnectionState {
                session: Arc::clone(session),
                value: Arc::clone(value),
                acks: Acks::new(),
                keep,
            }),
        });
        if let (Some(recovery), Some(pid)) = (shared.recovery(), pid) {
            recovery.insert(pid, &connection);
        }
        Ok(connection)
    }

    fn state(&self) -> MutexGuard<'_, ConnectionState<H>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection's id, which its client knows too. It is not the id of the session, so it may
    /// be shown to other clients.
    pub fn id(&self) -> Sid {
        self.id
    }

    /// The name of the namespace, such as `/`.
    pub fn namespace(&self) -> &str {
        self.namespace.name()
    }

    /// The value that [`Handler::open`] returned for the session of this connection. After a
    /// recovery, this is the value of the new session, and the connection has dropped the old one.
    /// While it is detached, it has the old one.
    pub fn session(&self) -> Arc<H::Session> {
        Arc::clone(&self.state().value)
    }

    /// The value that [`Handler::connect`] returned for this connection.
    pub fn data(&self) -> &H::Data {
        &self.data
    }

    /// Sends an event.
    ///
    /// `arguments` are JSON texts separated by commas; none is an empty string. A placeholder
    /// `{"_placeholder":true,"num":N}` stands for attachment `N`. The text is not checked: invalid
    /// JSON makes a stock client disconnect.
    ///
    /// Returns false if the connection has ended, also because this event exceeded a bound.
    /// True is no promise that the client receives it. With
    /// [`Config::recovery`](crate::Config::recovery), an event for a client whose transport is lost
    /// is kept until the client returns, and this returns true.
    pub fn emit(&self, name: &str, arguments: &str, attachments: &[Bytes]) -> bool {
        self.write_event(Flush::Now, name, arguments, attachments)
    }

    /// Answers the event with this ack id, like [`emit`](Self::emit). Returns false also while the
    /// transport is lost: answers are not kept.
    ///
    /// At most one answer must be sent for an event. A handler that answers while it handles the
    /// event uses [`Context::ack`](crate::Context::ack).
    pub fn ack(&self, id: u64, arguments: &str, attachments: &[Bytes]) -> bool {
        self.write_ack(Flush::Now, id, arguments, attachments)
    }

    /// Queues an event like [`emit`](Self::emit), which leaves when the batch is flushed.
    pub fn emit_in(
        &self,
        batch: &Batch,
        name: &str,
        arguments: &str,
        attachments: &[Bytes],
    ) -> bool {
        self.write_event(Flush::With(batch), name, arguments, attachments)
    }

    /// Queues an answer like [`ack`](Self::ack), which leaves when the batch is flushed.
    pub fn ack_in(&self, batch: &Batch, id: u64, arguments: &str, attachments: &[Bytes]) -> bool {
        self.write_ack(Flush::With(batch), id, arguments, attachments)
    }

    /// Sends an event that was encoded before, like [`emit`](Self::emit).
    ///
    /// Also returns false, and sends nothing, if the event is for another namespace.
    pub fn send(&self, event: &EventFrame) -> bool {
        self.write_frame(Flush::Now, event)
    }

    /// Queues an event that was encoded before. It leaves when the batch is flushed, together with
    /// all else that the batch has for this client. Returns the same as [`send`](Self::send).
    pub fn send_in(&self, batch: &Batch, event: &EventFrame) -> bool {
        self.write_frame(Flush::With(batch), event)
    }

    /// Sends an event that the client must answer, and returns a future of the answer.
    ///
    /// The future must not be awaited in the handler of an event of the same client: while the
    /// handler runs, nothing is read from the client, and so no answer. A dropped future no longer
    /// counts as a pending answer, so a timeout around it needs nothing else.
    ///
    /// # Errors
    ///
    /// [`EmitError::Disconnected`] if the connection has ended or its transport is lost,
    /// [`EmitError::TooManyAcks`] if [`Config::max_pending_acks`](crate::Config::max_pending_acks)
    /// answers of this connection are waited for. Nothing was sent then.
    pub fn emit_with_ack(
        self: &Arc<Self>,
        name: &str,
        arguments: &str,
        attachments: &[Bytes],
    ) -> Result<AckReceiver<H>, EmitError> {
        let (sender, receiver) = oneshot::channel();
        let id = self.emit_and_wait(name, arguments, attachments, || Waiter::Task(sender))?;
        Ok(AckReceiver::new(self, id, receiver))
    }

    /// Encodes an event for any number of connections in this connection's namespace.
    pub fn encode(&self, name: &str, arguments: &str, attachments: &[Bytes]) -> EventFrame {
        EventFrame::new(
            self.shared.recovery(),
            self.current().memory(),
            &self.namespace,
            name,
            arguments,
            attachments,
        )
    }

    /// Encodes an event like [`encode`](Self::encode), for clients that may miss it: it is not kept
    /// for a client whose transport is lost, and [`send`](Self::send) returns false then.
    pub fn encode_volatile(
        &self,
        name: &str,
        arguments: &str,
        attachments: &[Bytes],
    ) -> EventFrame {
        EventFrame::unkept(self.current().memory(), &self.namespace, name, arguments, attachments)
    }

    /// How many bytes of the session are queued for the client, of all its namespaces together.
    pub fn queued_bytes(&self) -> usize {
        self.current().queued_bytes()
    }

    /// Sends an event that was encoded before, like [`send_in`](Self::send_in), unless more than
    /// `at_most_bytes` of the session are queued for the client, or the event could exceed a bound.
    /// So it never ends the session. Returns false if it was not sent.
    pub fn send_volatile(
        &self,
        batch: Option<&Batch>,
        event: &EventFrame,
        at_most_bytes: usize,
    ) -> bool {
        let session = self.current();
        if session.queued_bytes() > at_most_bytes {
            // A batch holds them back, perhaps, and not the client.
            session.flush();
        }
        let flush = batch.map_or(Flush::Now, Flush::With);
        self.write_volatile(flush, event, at_most_bytes)
    }

    /// Waits until at most `at_most_bytes` of the session are queued for the client, or until the
    /// session has ended. A handler or a task that sends much waits here instead of exceeding
    /// [`Config::max_queued`](crate::Config::max_queued).
    ///
    /// A client that takes nothing for [`Config::stall_timeout`](crate::Config::stall_timeout) ends
    /// its session with [`End::Overflow`]. Cancel-safe.
    pub async fn writable(&self, at_most_bytes: usize) {
        let session = self.current();
        session.writable(at_most_bytes).await;
    }

    /// The current transport of the session.
    pub fn transport(&self) -> Transport {
        self.current().transport()
    }

    fn current(&self) -> Arc<Session> {
        self.only_session.clone().unwrap_or_else(|| Arc::clone(&self.state().session))
    }

    /// Whether the connection has ended: the client has left the namespace, the application has
    /// disconnected it, or its session is over and the client can't return to it.
    pub fn has_ended(&self) -> bool {
        self.is_finished() || self.is_over(&self.state())
    }

    fn is_over(&self, state: &ConnectionState<H>) -> bool {
        self.is_finished()
            || (state.session.is_over() && !(state.keep.is_some() && is_lost(&state.session)))
    }

    /// Disconnects the client from this namespace: it receives queued messages, then DISCONNECT.
    ///
    /// Nothing can be sent from now on, and events of the client that are under way are ignored.
    /// [`Handler::disconnected`] is called with [`DisconnectReason::Server`] when the client's
    /// packet that is being handled is finished. Connections in other namespaces continue. If there
    /// is none, the session ends with [`End::Server`]. A stock client does not connect to the
    /// namespace again by itself. A client whose transport is lost receives nothing, and can't
    /// return to this connection; the reason is then that of its transport.
    ///
    /// [`DisconnectReason::Server`]: crate::DisconnectReason::Server
    pub fn disconnect(&self) {
        self.send_disconnect(false);
    }

    /// Ends the client's session: the client receives queued messages, then DISCONNECT for each of
    /// its namespaces, and then the transport closes. A stock client does not connect again by
    /// itself.
    ///
    /// This connection ends at once, like with [`disconnect`](Self::disconnect). The session's
    /// other connections end when the client's packet that is being handled is finished. No later
    /// packet is handled. [`Handler::disconnected`] is called with [`DisconnectReason::Server`] for
    /// all of them. If the client's transport is lost, it does the same as `disconnect`.
    ///
    /// [`DisconnectReason::Server`]: crate::DisconnectReason::Server
    pub fn close_session(&self) {
        self.send_disconnect(true);
    }

    /// Ends the connection with DISCONNECT. The session's task does the rest.
    fn send_disconnect(&self, closes_session: bool) {
        let mut state = self.state();
        if self.is_over(&state) {
            return;
        }
        if state.session.is_over() {
            return self.end_lost(state);
        }
        self.closes_session.store(closes_session, Ordering::Relaxed);
        let acks = self.end(&mut state).1;
        let head = Head::new(Kind::Disconnect, 0, self.namespace.name(), None);
        state.session.text(&[head.as_bytes()], &[]);
        state.session.flush();
        state.session.wake();
        drop(state);
        drop(acks);
    }

    /// Ends a connection whose transport is lost: its client can't return.
    fn end_lost(&self, mut state: MutexGuard<'_, ConnectionState<H>>) {
        if let Some(keep) = &mut state.keep {
            keep.end_lost();
        }
        let acks = self.end(&mut state).1;
        drop(state);
        drop(acks);
    }

    /// Ends the client's session, as a stop of the server does: the client receives queued
    /// messages, and no packet about the end, so that a stock client connects again. If the client
    /// is in several namespaces, its session ends when this was called for all of its connections:
    /// the others may have answers to send.
    ///
    /// Does nothing if the connection has ended: its client may have another one by now.
    pub fn shut_down(&self) {
        let state = self.state();
        if self.is_over(&state) {
            return;
        }
        if state.session.is_over() {
            return self.end_lost(state);
        }
        self.shuts_down.store(true, Ordering::Relaxed);
        state.session.wake();
    }

    /// Identifies the client's session among those that exist now. It changes when a client returns
    /// to its connection.
    pub fn session_key(&self) -> u128 {
        self.state().session.sid().key()
    }

    /// Whether [`shut_down`](Self::shut_down) was called.
    pub(crate) fn shuts_down(&self) -> bool {
        self.shuts_down.load(Ordering::Relaxed)
    }

    /// Ends the client's session at once. Queued messages are lost, and a stock client connects
    /// again.
    ///
    /// Does nothing if the connection has ended: its client may have another one by now.
    pub fn abort(&self) {
        let state = self.state();
        if self.is_over(&state) {
            return;
        }
        if state.session.is_over() {
            return self.end_lost(state);
        }
        state.session.end(End::Aborted);
    }

    /// Passes an answer to what waits for it. An answer that nothing waits for is dropped.
    pub(crate) fn complete_ack(&self, id: u64, reply: impl FnOnce() -> Reply) {
        if let Some(waiter) = self.forget_ack(id) {
            waiter.complete(reply());
        }
    }

    fn forget_ack(&self, id: u64) -> Option<Waiter> {
        let waiter = self.state().acks.remove(&id)?;
        self.shared.remove_pending_acks(1);
        Some(waiter)
    }

    /// Whether the client has left or was disconnected, although its session may continue.
    pub(crate) fn is_finished(&self) -> bool {
        self.has_ended.load(Ordering::Relaxed)
    }

    /// Whether the application has ended the connection together with its session.
    pub(crate) fn closes_session(&self) -> bool {
        self.closes_session.load(Ordering::Relaxed)
    }

    /// Ends the connection: nothing is queued from here on, and no answer is waited for. Returns
    /// false if the application has ended it before.
    pub(crate) fn finish(&self) -> bool {
        // Dropped without the lock, which a task that is woken by it may want.
        let (is_first, _acks) = self.end(&mut self.state());
        is_first
    }

    /// Ends the connection. Returns whether it has not ended before, and the answers that are not
    /// waited for any more.
    fn end(&self, state: &mut ConnectionState<H>) -> (bool, Acks) {
        let is_first = !self.has_ended.swap(true, Ordering::Relaxed);
        let acks = std::mem::take(&mut state.acks);
        self.shared.remove_pending_acks(acks.len());
        if let Some(keep) = &mut state.keep {
            keep.clear();
            self.unregister();
        }
        (is_first, acks)
    }
}

impl<H: Handler> Drop for Connection<H> {
    fn drop(&mut self) {
        self.unregister();
        self.namespace.remove_connection();
    }
}

impl<H: Handler> fmt::Debug for Connection<H> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Connection")
            .field("id", &self.id)
            .field("namespace", &self.namespace.name())
            .finish_non_exhaustive()
    }
}
