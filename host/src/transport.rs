//! A client's TCP connection, as far as the host must be able to end it: a client that does not read can't be told anything any more.

mod stage;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use stage::StageCell;

pub use stage::Stage;

/// Where a TCP connection comes from.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

/// The slot of one Engine.IO session: it is free when the last copy is dropped, so whatever works for the session holds one.
#[derive(Debug, Clone)]
pub struct SessionSlot {
    _held: Arc<dyn fmt::Debug + Send + Sync>,
}

impl SessionSlot {
    /// A slot that drops `held` when it is free.
    pub fn new(held: impl fmt::Debug + Send + Sync + 'static) -> Self {
        Self { _held: Arc::new(held) }
    }
}

/// Ends one TCP connection, whatever state it is in.
#[derive(Debug, Clone, Default)]
pub struct Cut(Arc<State>);

/// Looked at several times for every event, so it has no lock.
#[derive(Debug, Default)]
struct State {
    is_cut: AtomicBool,
    is_claimed: AtomicBool,
    reader: AtomicWaker,
    stage: StageCell,
}

impl Cut {
    /// Ends the connection: its next read and write fail, and those that wait are woken.
    pub fn now(&self) {
        self.0.is_cut.store(true, Ordering::Release);
        self.0.reader.wake();
    }

    /// Returns `true` at the first call: a connection goes on as one client's only.
    pub(crate) fn claim(&self) -> bool {
        !self.0.is_claimed.swap(true, Ordering::Relaxed)
    }

    /// The same without keeping what it needs after the connection's end.
    pub(crate) fn downgrade(&self) -> WeakCut {
        WeakCut(Arc::downgrade(&self.0))
    }

    /// What the connection waits for, and a number that differs after each change.
    pub fn stage(&self) -> (Stage, u32) {
        self.0.stage.get()
    }

    /// Says what the connection waits for from now on.
    pub fn enter(&self, stage: Stage) {
        self.0.stage.set(stage);
    }

    /// Passes on what became of a write.
    fn sent(&self, poll: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if poll.is_ready() {
            self.0.stage.sent();
        }
        poll
    }

    fn check(&self) -> io::Result<()> {
        if self.0.is_cut.load(Ordering::Acquire) { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }
}

/// A [`Cut`] of a connection that may have ended.
#[derive(Debug)]
pub(crate) struct WeakCut(Weak<State>);

impl WeakCut {
    /// The cut, if the connection still lives.
    pub(crate) fn upgrade(&self) -> Option<Cut> {
        self.0.upgrade().map(Cut)
    }
}

/// A stream that fails as soon as its [`Cut`] says so. Whoever reads is woken by it; a writer that waits has a reader beside it.
#[derive(Debug)]
pub struct Cuttable<S, P> {
    stream: S,
    /// Its slot among the connections that the host has at once, given back with the stream, also after an upgrade.
    slot: P,
    cut: Attached,
}

/// A handshake knows its connection's cut for as long as the client lives: not the task of a connection that has ended as well.
#[derive(Debug)]
struct Attached(Cut);

impl Drop for Attached {
    fn drop(&mut self) {
        drop(self.0.0.reader.take());
    }
}

impl<S, P> Cuttable<S, P> {
    /// Makes `stream` end with `cut`, and drop its `slot` when it ends.
    pub fn new(stream: S, cut: &Cut, slot: P) -> Self {
        Self { stream, slot, cut: Attached(cut.clone()) }
    }

    /// The stream, which its cut does not end any more, and its slot.
    pub fn into_parts(self) -> (S, P) {
        (self.stream, self.slot)
    }
}

impl<S: AsyncRead + Unpin, P: Unpin> AsyncRead for Cuttable<S, P> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.cut.0.check()?;
        let poll = Pin::new(&mut self.stream).poll_read(context, buffer);
        if poll.is_pending() {
            self.cut.0.0.reader.register(context.waker());
            // Where the cut came before there was somebody to wake.
            self.cut.0.check()?;
        } else {
            self.cut.0.0.stage.received();
        }
        poll
    }
}

impl<S: AsyncWrite + Unpin, P: Unpin> AsyncWrite for Cuttable<S, P> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.cut.0.check()?;
        let poll = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.cut.0.sent(poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.cut.0.check()?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.cut.0.check()?;
        let poll = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.cut.0.sent(poll)
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
    async fn cutting_wakes_a_reader_and_fails_a_writer() {
        let (near, _far) = tokio::io::duplex(8);
        let cut = Cut::default();
        let mut stream = Cuttable::new(near, &cut, ());
        stream.write_all(b"fits").await.unwrap();
        let (read, ()) = tokio::join!(stream.read_u8(), async { cut.now() });
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        assert_eq!(stream.write_all(b"x").await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }
}
