//! The answer of a client to an event of the server, and the future of it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::oneshot;

use super::Connection;
use super::handler::Handler;

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
