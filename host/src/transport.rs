//! Control over a client's TCP connection, so that the host can end it. A client that does not read
//! can't receive a notice first.

mod stage;

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use stage::StageCell;

pub(crate) use stage::Stage;

/// The IP address of a client: that of the TCP connection, or the one that a trusted proxy tells.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub IpAddr);

/// The slot of one Engine.IO session. The slot is freed when the last clone is dropped, so every
/// task that works for the session holds a clone.
#[derive(Debug, Clone)]
pub(crate) struct SessionSlot {
    _held: Arc<dyn fmt::Debug + Send + Sync>,
}

impl SessionSlot {
    /// Creates a slot that drops `held` when the slot is freed.
    pub(crate) fn new(held: impl fmt::Debug + Send + Sync + 'static) -> Self {
        Self { _held: Arc::new(held) }
    }
}

/// A handle that ends one TCP connection in any state.
#[derive(Debug, Clone, Default)]
pub(crate) struct AbortHandle(Arc<AbortState>);

/// Read several times per event, so it has no lock.
#[derive(Debug, Default)]
struct AbortState {
    is_aborted: AtomicBool,
    is_claimed: AtomicBool,
    reader: AtomicWaker,
    stage: StageCell,
}

impl AbortHandle {
    /// Ends the connection: its next read and write fail, and a waiting reader is woken.
    pub(crate) fn abort(&self) {
        self.0.is_aborted.store(true, Ordering::Release);
        self.0.reader.wake();
    }

    /// Returns `true` only for the first call: a TCP connection can be upgraded for one client
    /// only.
    pub(crate) fn claim(&self) -> bool {
        !self.0.is_claimed.swap(true, Ordering::Relaxed)
    }

    /// A weak handle, which does not keep the shared state after the connection's end.
    pub(crate) fn downgrade(&self) -> WeakAbortHandle {
        WeakAbortHandle(Arc::downgrade(&self.0))
    }

    /// What the connection waits for, and a number that differs after each change.
    pub(crate) fn stage(&self) -> (Stage, u32) {
        self.0.stage.get()
    }

    /// Sets what the connection waits for from now on.
    pub(crate) fn enter(&self, stage: Stage) {
        self.0.stage.set(stage);
    }

    /// Bytes that were written since the connection began.
    pub(crate) fn sent(&self) -> u64 {
        self.0.stage.sent()
    }

    /// Runs `future` unless the connection is aborted before it completes. `None` if it was.
    pub(crate) async fn unless_aborted<F: Future>(&self, future: F) -> Option<F::Output> {
        // Also removes the waker if this is dropped.
        let attached = Attached(self.clone());
        let mut future = pin!(future);
        poll_fn(|context| {
            attached.0.0.reader.register(context.waker());
            if attached.0.check().is_err() {
                return Poll::Ready(None);
            }
            future.as_mut().poll(context).map(Some)
        })
        .await
    }

    /// Records a write, and returns its result unchanged.
    fn note_sent(&self, poll: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &poll {
            self.0.stage.add_sent(*bytes);
        }
        poll
    }

    fn check(&self) -> io::Result<()> {
        if self.0.is_aborted.load(Ordering::Acquire) {
            Err(io::ErrorKind::ConnectionAborted.into())
        } else {
            Ok(())
        }
    }
}

/// A weak handle to an [`AbortHandle`] whose connection may have ended.
#[derive(Debug)]
pub(crate) struct WeakAbortHandle(Weak<AbortState>);

impl WeakAbortHandle {
    /// The [`AbortHandle`] if the connection still exists.
    pub(crate) fn upgrade(&self) -> Option<AbortHandle> {
        self.0.upgrade().map(AbortHandle)
    }
}

/// A stream that fails once its [`AbortHandle`] ends it. The abort wakes a waiting reader only,
/// because a waiting writer always has a reader beside it.
#[derive(Debug)]
pub(crate) struct Abortable<S, P> {
    stream: S,
    /// The stream's slot in the host's connection limit. It is freed with the stream, also after an
    /// upgrade.
    slot: P,
    abort_handle: Attached,
}

/// Removes the registered waker when the stream is dropped. A handshake keeps its connection's
/// abort handle while the client lives, and must not keep the task of an ended connection as well.
#[derive(Debug)]
struct Attached(AbortHandle);

impl Drop for Attached {
    fn drop(&mut self) {
        drop(self.0.0.reader.take());
    }
}

impl<S, P> Abortable<S, P> {
    /// Makes `stream` end with `abort_handle`. `slot` is dropped with the stream.
    pub(crate) fn new(stream: S, abort_handle: &AbortHandle, slot: P) -> Self {
        Self { stream, slot, abort_handle: Attached(abort_handle.clone()) }
    }

    /// Returns the stream, which the handle no longer ends, and the slot.
    pub(crate) fn into_parts(self) -> (S, P) {
        (self.stream, self.slot)
    }
}

impl<S: AsyncRead + Unpin, P: Unpin> AsyncRead for Abortable<S, P> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.abort_handle.0.check()?;
        let poll = Pin::new(&mut self.stream).poll_read(context, buffer);
        if poll.is_pending() {
            self.abort_handle.0.0.reader.register(context.waker());
            // Checks again, in case the abort came before the waker was registered.
            self.abort_handle.0.check()?;
        } else {
            self.abort_handle.0.0.stage.received();
        }
        poll
    }
}

impl<S: AsyncWrite + Unpin, P: Unpin> AsyncWrite for Abortable<S, P> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.abort_handle.0.check()?;
        let poll = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.abort_handle.0.note_sent(poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.abort_handle.0.check()?;
        let poll = Pin::new(&mut self.stream).poll_flush(context);
        // hyper flushes the stream only after it has written all of its own buffer.
        if matches!(poll, Poll::Ready(Ok(()))) {
            self.abort_handle.0.0.stage.flushed();
        }
        poll
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A stream with a buffer of its own, such as one of TLS, waits for the client here.
        self.abort_handle.0.check()?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.abort_handle.0.check()?;
        let poll = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.abort_handle.0.note_sent(poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn aborting_ends_what_precedes_the_stream() {
        let abort_handle = AbortHandle::default();
        assert_eq!(abort_handle.unless_aborted(std::future::ready(7)).await, Some(7));
        let (ended, ()) =
            tokio::join!(abort_handle.unless_aborted(std::future::pending::<()>()), async {
                abort_handle.abort()
            });
        assert_eq!(ended, None);
    }

    #[tokio::test]
    async fn aborting_wakes_a_reader_and_fails_a_writer() {
        let (near, _far) = tokio::io::duplex(8);
        let abort_handle = AbortHandle::default();
        let mut stream = Abortable::new(near, &abort_handle, ());
        stream.write_all(b"fits").await.unwrap();
        let (read, ()) = tokio::join!(stream.read_u8(), async { abort_handle.abort() });
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        assert_eq!(
            stream.write_all(b"x").await.unwrap_err().kind(),
            io::ErrorKind::ConnectionAborted
        );
    }
}
