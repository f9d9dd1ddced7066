//! The answer of a client to an event of the server: a future of it, or a function that takes it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::oneshot;

use super::Connection;
use super::frame::{closed, event_parts};
use super::handler::Handler;
use crate::call::quote;
use crate::packet::{Head, Kind};

/// The answer of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The arguments as well-formed JSON texts separated by commas, or an empty string.
    pub arguments: String,
    /// The attachments to which the placeholders refer. The references are not checked; use
    /// [`placeholders_are_valid`](crate::placeholders_are_valid).
    pub attachments: Vec<Bytes>,
}

/// Why an event that needs an answer was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EmitError {
    /// The connection has ended.
    #[error("the connection has ended")]
    Disconnected,
    /// Too many answers of this connection are waited for.
    #[error("too many answers are waited for")]
    TooManyAcks,
}

/// The connection ended before the client answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the connection ended before the client answered")]
pub struct NoReply;

/// What waits for an answer.
pub(super) enum Waiter {
    /// A task, by [`Connection::emit_with_ack`].
    Task(oneshot::Sender<Reply>),
    /// A function, by [`Connection::emit_with_callback`].
    Callback(Callback),
}

impl Waiter {
    /// Passes the answer on.
    pub(super) fn complete(self, reply: Reply) {
        match self {
            // The receiver may be dropped at this moment.
            Self::Task(sender) => _ = sender.send(reply),
            Self::Callback(mut callback) => callback.call(Ok(reply)),
        }
    }
}

type AckFunction = Box<dyn FnOnce(Result<Reply, NoReply>) + Send>;

/// A function that is called exactly once, unless it is cancelled. If it is dropped, nothing waits
/// for the answer any more.
pub(super) struct Callback(Option<AckFunction>);

impl Callback {
    fn call(&mut self, answer: Result<Reply, NoReply>) {
        if let Some(function) = self.0.take() {
            function(answer);
        }
    }
}

impl Drop for Callback {
    fn drop(&mut self) {
        self.call(Err(NoReply));
    }
}

/// A function waits for a client's answer, see [`Connection::emit_with_callback`]. If this is
/// dropped, the function is not called any more.
#[must_use]
pub struct PendingAck<H: Handler> {
    /// Weak: the application may keep this in what the connection owns.
    connection: Weak<Connection<H>>,
    id: u64,
}

impl<H: Handler> Drop for PendingAck<H> {
    fn drop(&mut self) {
        let connection = self.connection.upgrade();
        if let Some(Waiter::Callback(mut callback)) =
            connection.and_then(|connection| connection.forget_ack(self.id))
        {
            callback.0 = None;
        }
    }
}

impl<H: Handler> fmt::Debug for PendingAck<H> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PendingAck").field("id", &self.id).finish_non_exhaustive()
    }
}

impl<H: Handler> Connection<H> {
    /// Sends an event that the client must answer, like [`emit_with_ack`](Self::emit_with_ack), and
    /// passes the answer to `callback`.
    ///
    /// `callback` is called in the task that reads the client's packets, before the next packet of
    /// the client is handled. So an application that queues the answer and the events of a client
    /// keeps their order. It must not block. If the connection ends, its transport is lost, or the
    /// server is dropped, it is called with [`NoReply`], by any task. It is called once, or never
    /// after the returned value was dropped, and never if this returns an error.
    ///
    /// # Errors
    ///
    /// The same as [`emit_with_ack`](Self::emit_with_ack).
    pub fn emit_with_callback(
        self: &Arc<Self>,
        name: &str,
        arguments: &str,
        attachments: &[Bytes],
        callback: impl FnOnce(Result<Reply, NoReply>) + Send + 'static,
    ) -> Result<PendingAck<H>, EmitError> {
        let waiter = || Waiter::Callback(Callback(Some(Box::new(callback))));
        let id = self.emit_and_wait(name, arguments, attachments, waiter)?;
        Ok(PendingAck { connection: Arc::downgrade(self), id })
    }

    /// Sends an event whose answer `waiter` waits for. Returns the id of the ack.
    pub(super) fn emit_and_wait(
        &self,
        name: &str,
        arguments: &str,
        attachments: &[Bytes],
        waiter: impl FnOnce() -> Waiter,
    ) -> Result<u64, EmitError> {
        let mut state = self.state();
        if self.is_finished() || state.session.is_over() {
            return Err(EmitError::Disconnected);
        }
        if state.acks.len() >= self.shared.max_pending_acks() {
            return Err(EmitError::TooManyAcks);
        }
        let id = self.namespace.next_ack();
        let head = Head::new(Kind::Event, attachments.len(), self.namespace.name(), Some(id));
        if !state.session.text(&closed(event_parts(&head, &quote(name), arguments)), attachments) {
            return Err(EmitError::Disconnected);
        }
        // The answer can't be handled before: that needs this lock.
        state.acks.insert(id, waiter());
        self.shared.add_pending_acks(1);
        state.session.flush();
        Ok(id)
    }
}

/// The future of a client's answer, see [`Connection::emit_with_ack`].
///
/// It may be dropped at any time; an answer that comes later is ignored.
pub struct AckReceiver<H: Handler> {
    connection: Arc<Connection<H>>,
    id: u64,
    receiver: oneshot::Receiver<Reply>,
}

impl<H: Handler> AckReceiver<H> {
    pub(super) fn new(
        connection: &Arc<Connection<H>>,
        id: u64,
        receiver: oneshot::Receiver<Reply>,
    ) -> Self {
        Self { connection: Arc::clone(connection), id, receiver }
    }
}

impl<H: Handler> Future for AckReceiver<H> {
    type Output = Result<Reply, NoReply>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.receiver).poll(cx).map_err(|_| NoReply)
    }
}

impl<H: Handler> Drop for AckReceiver<H> {
    fn drop(&mut self) {
        self.connection.forget_ack(self.id);
    }
}

impl<H: Handler> fmt::Debug for AckReceiver<H> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("AckReceiver").field("id", &self.id).finish_non_exhaustive()
    }
}
