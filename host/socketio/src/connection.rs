//! One client in one namespace, as the application sees it: send, wait for an answer, disconnect.
//!
//! Any task may use a connection. It knows its session, but neither other connections nor rooms.

mod ack;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::call::quote;
use crate::engineio::{Batch, End, Frame, Session, Sid, Transport};
use crate::handler::Handler;
use crate::hub::{Hub, Namespace};
use crate::packet::{Head, Kind};

pub use ack::{AckReceiver, EmitError, NoReply, Reply};

/// One client in one namespace.
///
/// All methods may be called from any task, and only [`writable`](Self::writable) waits. What is sent is queued in the order of
/// the calls and written at once, as far as the client reads. The rest is bounded by
/// [`Config::max_queued`](crate::Config::max_queued); beyond, the session ends with
/// [`End::Overflow`].
pub struct Connection<H: Handler> {
    id: Sid,
    hub: Arc<Hub<H>>,
    namespace: Arc<Namespace>,
    session: Arc<Session>,
    session_value: Arc<H::Session>,
    data: H::Data,
    /// Changes only while `acks` is locked.
    has_ended: AtomicBool,
    /// The answers that are waited for, by the id of their event. The lock is held while a packet
    /// is queued. So a packet of a connection that has ended can't follow the CONNECT with which its
    /// client entered the namespace again.
    acks: Mutex<Acks>,
}

type Acks = BTreeMap<u64, oneshot::Sender<Reply>>;

impl<H: Handler> Connection<H> {
    pub(crate) fn new(
        id: Sid,
        hub: &Arc<Hub<H>>,
        namespace: &Arc<Namespace>,
        session: &Arc<Session>,
        session_value: &Arc<H::Session>,
        data: H::Data,
    ) -> Arc<Self> {
        namespace.add_connection();
        Arc::new(Self {
            id,
            hub: Arc::clone(hub),
            namespace: Arc::clone(namespace),
            session: Arc::clone(session),
            session_value: Arc::clone(session_value),
            data,
            has_ended: AtomicBool::new(false),
            acks: Mutex::default(),
        })
    }

    fn acks(&self) -> MutexGuard<'_, Acks> {
        self.acks.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// What [`Handler::open`] returned for the session of this connection.
    pub fn session(&self) -> &H::Session {
        &self.session_value
    }

    /// What [`Handler::connect`] returned for this connection.
    pub fn data(&self) -> &H::Data {
        &self.data
    }

    /// Sends an event.
    ///
    /// `arguments` are JSON texts separated by commas; none is an empty string. A placeholder
    /// `{"_placeholder":true,"num":N}` stands for attachment `N`. The text is not checked: what is
    /// not JSON makes a stock client disconnect.
    ///
    /// Returns false if the connection has ended, also because there was no room for this event.
    /// True is no promise that the client receives it.
    pub fn emit(&self, name: &str, arguments: &str, attachments: &[Bytes]) -> bool {
        self.queue_event(name, arguments, attachments) && self.flushed()
    }

    /// Answers the event with this ack id, like [`emit`](Self::emit).
    ///
    /// At most one answer must be sent for an event. A handler that answers while it handles the
    /// event uses [`Context::ack`](crate::Context::ack).
    pub fn ack(&self, id: u64, arguments: &str, attachments: &[Bytes]) -> bool {
        self.queue_ack(id, arguments, attachments) && self.flushed()
    }

    /// Queues an event like [`emit`](Self::emit), which leaves when the batch is flushed.
    pub fn emit_in(&self, batch: &Batch, name: &str, arguments: &str, attachments: &[Bytes]) -> bool {
        self.added_to(batch, self.queue_event(name, arguments, attachments))
    }

    /// Queues an answer like [`ack`](Self::ack), which leaves when the batch is flushed.
    pub fn ack_in(&self, batch: &Batch, id: u64, arguments: &str, attachments: &[Bytes]) -> bool {
        self.added_to(batch, self.queue_ack(id, arguments, attachments))
    }

    /// Sends an event that was encoded before, like [`emit`](Self::emit).
    ///
    /// Also returns false, and sends nothing, if the event is for another namespace.
    pub fn send(&self, event: &EventFrame) -> bool {
        self.queue_frame(event) && self.flushed()
    }

    /// Queues an event that was encoded before. It leaves when the batch is flushed, together with
    /// all else that the batch has for this client. Returns the same as [`send`](Self::send).
    pub fn send_in(&self, batch: &Batch, event: &EventFrame) -> bool {
        self.added_to(batch, self.queue_frame(event))
    }

    /// Sends an event that the client must answer, and returns a future of the answer.
    ///
    /// The future must not be awaited in the handler of an event of the same client: while the
    /// handler runs, nothing is read from the client, and so no answer. A dropped future frees its
    /// place, so a timeout around it needs nothing else.
    ///
    /// # Errors
    ///
    /// [`EmitError::Disconnected`] if the connection has ended, [`EmitError::TooManyAcks`] if
    /// [`Config::max_pending_acks`](crate::Config::max_pending_acks) answers of this connection are
    /// waited for. Nothing was sent then.
    pub fn emit_with_ack(self: &Arc<Self>, name: &str, arguments: &str, attachments: &[Bytes]) -> Result<AckReceiver<H>, EmitError> {
        let (sender, receiver) = oneshot::channel();
        let mut acks = self.acks();
        if self.has_ended() {
            return Err(EmitError::Disconnected);
        }
        if acks.len() >= self.hub.max_pending_acks() {
            return Err(EmitError::TooManyAcks);
        }
        let id = self.namespace.next_ack();
        if !self.write_event(name, arguments, attachments, Some(id)) {
            return Err(EmitError::Disconnected);
        }
        acks.insert(id, sender);
        self.hub.add_pending_acks(1);
        drop(acks);
        self.session.flush();
        Ok(AckReceiver::new(self, id, receiver))
    }

    /// Encodes an event for any number of connections in this connection's namespace.
    pub fn encode(&self, name: &str, arguments: &str, attachments: &[Bytes]) -> EventFrame {
        let frame = |parts: &[&[u8]]| self.session.frame(parts, attachments);
        EventFrame::new(&self.namespace, name, arguments, attachments.len(), frame)
    }

    /// How many bytes of the session wait for the client, of all its namespaces together.
    pub fn queued_bytes(&self) -> usize {
        self.session.queued_bytes()
    }

    /// Waits until at most so many bytes of the session wait for the client, or until the session
    /// has ended. A handler or a task that sends much waits here instead of exceeding
    /// [`Config::max_queued`](crate::Config::max_queued).
    ///
    /// A client that takes nothing for [`Config::stall_timeout`](crate::Config::stall_timeout) ends
    /// its session with [`End::Overflow`]. The future may be dropped.
    pub async fn writable(&self, at_most_bytes: usize) {
        self.session.writable(at_most_bytes).await;
    }

    /// What carries the session now.
    pub fn transport(&self) -> Transport {
        self.session.transport()
    }

    /// Whether the connection has ended: the client has left the namespace, the application has
    /// disconnected it, or its session is over.
    pub fn has_ended(&self) -> bool {
        self.is_finished() || self.session.is_over()
    }

    /// Disconnects the client from this namespace: it receives what is queued, then DISCONNECT.
    ///
    /// Nothing can be sent from now on, and events of the client that are under way are ignored.
    /// [`Handler::disconnected`] is called with [`DisconnectReason::Server`] when the client's
    /// packet that is being handled is finished. Connections in other namespaces go on. If there is
    /// none, the session ends with [`End::Server`]. A stock client does not connect to the
    /// namespace again by itself.
    ///
    /// [`DisconnectReason::Server`]: crate::DisconnectReason::Server
    pub fn disconnect(&self) {
        if self.queue_disconnect() {
            self.session.flush();
            self.session.wake();
        }
    }

    /// Ends the client's session: it receives what is queued, then DISCONNECT for this namespace.
    ///
    /// A stock client that has connections in other namespaces opens these again, in a new session.
    /// Does nothing if the connection has ended.
    pub fn close_session(&self) {
        if self.queue_disconnect() {
            self.session.end(End::Server);
        }
    }

    /// Ends the connection with DISCONNECT. Returns false if it has ended before.
    fn queue_disconnect(&self) -> bool {
        let acks = {
            let mut acks = self.acks();
            if self.has_ended() {
                return false;
            }
            self.has_ended.store(true, Ordering::Relaxed);
            let head = Head::new(Kind::Disconnect, 0, self.namespace.name(), None);
            self.session.text(&[head.as_bytes()], &[]);
            std::mem::take(&mut *acks)
        };
        self.hub.remove_pending_acks(acks.len());
        true
    }

    /// Ends the client's session at once. What is queued is lost, and a stock client connects
    /// again.
    ///
    /// Does nothing if the connection has ended: its client may have another one by now.
    pub fn abort(&self) {
        if !self.has_ended() {
            self.session.end(End::Aborted);
        }
    }

    pub(crate) fn queue_event(&self, name: &str, arguments: &str, attachments: &[Bytes]) -> bool {
        self.queue(|| self.write_event(name, arguments, attachments, None))
    }

    pub(crate) fn queue_ack(&self, id: u64, arguments: &str, attachments: &[Bytes]) -> bool {
        self.queue(|| {
            let head = Head::new(Kind::Ack, attachments.len(), self.namespace.name(), Some(id));
            self.session.text(&[head.as_bytes(), b"[", arguments.as_bytes(), b"]"], attachments)
        })
    }

    fn queue_frame(&self, event: &EventFrame) -> bool {
        Arc::ptr_eq(&event.namespace, &self.namespace) && self.queue(|| self.session.shared(&event.frame))
    }

    /// Calls `write` unless the connection has ended, and returns whether something was queued.
    fn queue(&self, write: impl FnOnce() -> bool) -> bool {
        let _acks = self.acks();
        !self.has_ended() && write()
    }

    fn write_event(&self, name: &str, arguments: &str, attachments: &[Bytes], id: Option<u64>) -> bool {
        let head = Head::new(Kind::Event, attachments.len(), self.namespace.name(), id);
        self.session.text(&event_parts(&head, &quote(name), arguments), attachments)
    }

    fn added_to(&self, batch: &Batch, is_queued: bool) -> bool {
        if is_queued {
            batch.add(&self.session);
        }
        is_queued
    }

    fn flushed(&self) -> bool {
        self.session.flush();
        true
    }

    /// Passes an answer to the task that waits for it. An answer without a waiting task is dropped.
    pub(crate) fn complete_ack(&self, id: u64, reply: impl FnOnce() -> Reply) {
        let Some(sender) = self.forget_ack(id) else { return };
        // The receiver may be dropped at this moment.
        let _ = sender.send(reply());
    }

    fn forget_ack(&self, id: u64) -> Option<oneshot::Sender<Reply>> {
        let sender = self.acks().remove(&id)?;
        self.hub.remove_pending_acks(1);
        Some(sender)
    }

    /// Whether the client has left or was disconnected, although its session may go on.
    pub(crate) fn is_finished(&self) -> bool {
        self.has_ended.load(Ordering::Relaxed)
    }

    /// Ends the connection: nothing is queued from here on, and no answer is waited for. Returns
    /// false if the application has ended it before.
    pub(crate) fn finish(&self) -> bool {
        let (is_first, acks) = {
            let mut acks = self.acks();
            (!self.has_ended.swap(true, Ordering::Relaxed), std::mem::take(&mut *acks))
        };
        self.hub.remove_pending_acks(acks.len());
        is_first
    }
}

impl<H: Handler> Drop for Connection<H> {
    fn drop(&mut self) {
        self.namespace.remove_connection();
    }
}

impl<H: Handler> fmt::Debug for Connection<H> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Connection").field("id", &self.id).field("namespace", &self.namespace.name()).finish_non_exhaustive()
    }
}

/// An event that is encoded once and sent to many connections of one namespace.
///
/// Clones and queues share its bytes, which count once in
/// [`Config::max_queued_total`](crate::Config::max_queued_total).
#[derive(Debug, Clone)]
pub struct EventFrame {
    namespace: Arc<Namespace>,
    frame: Frame,
}

impl EventFrame {
    /// Writes the packet's text, and has `frame` encode it together with its attachments.
    pub(crate) fn new(
        namespace: &Arc<Namespace>,
        name: &str,
        arguments: &str,
        attachments: usize,
        frame: impl FnOnce(&[&[u8]]) -> Frame,
    ) -> Self {
        let head = Head::new(Kind::Event, attachments, namespace.name(), None);
        let frame = frame(&event_parts(&head, &quote(name), arguments));
        Self { namespace: Arc::clone(namespace), frame }
    }

    /// The name of the namespace whose connections can send this.
    pub fn namespace(&self) -> &str {
        self.namespace.name()
    }

    /// How many bytes it adds to the queue of a client.
    #[expect(clippy::len_without_is_empty, reason = "a frame is never empty")]
    pub fn len(&self) -> usize {
        self.frame.len()
    }
}

fn event_parts<'a>(head: &'a Head, name: &'a [u8], arguments: &'a str) -> [&'a [u8]; 6] {
    let comma: &[u8] = if arguments.is_empty() { b"" } else { b"," };
    [head.as_bytes(), b"[", name, comma, arguments.as_bytes(), b"]"]
}
