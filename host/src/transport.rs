//! A client's TCP connection, as far as the host must be able to end it: a client that does not read can't be told anything any more.

mod stage;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
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
    reader: AtomicWaker,
    stage: StageCell,
}

impl Cut {
    /// Ends the connection: its next read and write fail, and those that wait are woken.
    pub fn now(&self) {
        self.0.is_cut.store(true, Ordering::Release);
        self.0.reader.wake();
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

/// The WebSocket connections that began as upgrades of long-polling: their handshake came over another TCP connection.
#[derive(Debug, Default)]
pub struct Upgrades {
    by_sid: Mutex<HashMap<String, Weak<State>>>,
}

/// Entries at which those of closed connections are swept, at least.
const SWEEP_AT: usize = 1024;

impl Upgrades {
    /// Remembers that the client `sid` asks to go on over `cut`'s connection, for as long as that lives.
    pub fn remember(&self, sid: &str, cut: &Cut) {
        // The lock guards a map that is whole between any two of its calls.
        let mut by_sid = self.by_sid.lock().unwrap_or_else(PoisonError::into_inner);
        if by_sid.len() >= SWEEP_AT && by_sid.len() == by_sid.capacity() {
            by_sid.retain(|_, cut| cut.strong_count() > 0);
        }
        by_sid.insert(sid.to_owned(), Arc::downgrade(&cut.0));
    }

    /// The connection to which the client `sid` was upgraded, where it still lives.
    pub fn find(&self, sid: &str) -> Option<Cut> {
        let by_sid = self.by_sid.lock().unwrap_or_else(PoisonError::into_inner);
        by_sid.get(sid).and_then(Weak::upgrade).map(Cut)
    }
}

/// A stream that fails as soon as its [`Cut`] says so. Whoever reads is woken by it; a writer that waits has a reader beside it.
#[derive(Debug)]
pub struct Cuttable<S, P> {
    stream: S,
    /// Its slot among the connections that the host has at once, given back with the stream, also after an upgrade.
    _slot: P,
    cut: Cut,
}

impl<S, P> Cuttable<S, P> {
    /// Makes `stream` end with `cut`, and drop its `slot` when it ends.
    pub fn new(stream: S, cut: &Cut, slot: P) -> Self {
        Self { stream, _slot: slot, cut: cut.clone() }
    }
}

/// A handshake knows its connection's cut for as long as the client lives: not the task of a connection that has ended as well.
impl<S, P> Drop for Cuttable<S, P> {
    fn drop(&mut self) {
        drop(self.cut.0.reader.take());
    }
}

impl<S: AsyncRead + Unpin, P: Unpin> AsyncRead for Cuttable<S, P> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.cut.check()?;
        let poll = Pin::new(&mut self.stream).poll_read(context, buffer);
        if poll.is_pending() {
            self.cut.0.reader.register(context.waker());
            // Where the cut came before there was somebody to wake.
            self.cut.check()?;
        } else {
            self.cut.0.stage.received();
        }
        poll
    }
}

impl<S: AsyncWrite + Unpin, P: Unpin> AsyncWrite for Cuttable<S, P> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.cut.check()?;
        let poll = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.cut.sent(poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.cut.check()?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.cut.check()?;
        let poll = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.cut.sent(poll)
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

    #[test]
    fn an_upgrade_is_found_while_its_connection_lives() {
        let upgrades = Upgrades::default();
        let cut = Cut::default();
        upgrades.remember("sid", &cut);
        upgrades.find("sid").unwrap().now();
        assert!(cut.check().is_err());
        drop(cut);
        assert!(upgrades.find("sid").is_none());
    }
}
