//! The receiving half of a WebSocket: the bytes that have arrived, and the memory and the deadline
//! of an unfinished message.
//!
//! It does not know sessions, because a session keeps it while the WebSocket takes over.
use std::any::Any;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use smallvec::SmallVec;
use tokio::time::Instant;

use super::config::Config;
use super::end::End;
use super::frame::op;
use super::heartbeat::after;
use super::incoming::{Incoming, Next};
use super::memory::{Memory, Reservation};
use super::slice::TimeSlice;
use super::stream::Reader;

/// A message of a client over a WebSocket that is not the transport of its session yet.
#[derive(Debug)]
pub(crate) enum Early {
    Text(String),
    Control(u8, SmallVec<[u8; 125]>),
}

/// The receiving half of a WebSocket.
///
/// The caller passes the settings and the memory of the same server to every method.
pub(crate) struct Receiver {
    reader: Reader,
    pub(super) incoming: Incoming,
    /// The memory of an unfinished message.
    held: Option<Reservation>,
    /// When the unfinished message must be complete.
    pub(super) complete_by: Option<Instant>,
    pub(super) slice: TimeSlice,
    /// The application's guard of the connection. Dropped last.
    _guard: Box<dyn Any + Send>,
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver").field("incoming", &self.incoming).finish_non_exhaustive()
    }
}

impl Receiver {
    /// `first`: the bytes that have arrived together with the request.
    pub(crate) fn new(
        reader: Reader,
        first: &[u8],
        config: &Config,
        guard: Box<dyn Any + Send>,
    ) -> Self {
        let incoming = Incoming::new(first, config.max_payload, config.max_fragments);
        Self {
            reader,
            incoming,
            held: None,
            complete_by: None,
            slice: TimeSlice::default(),
            _guard: guard,
        }
    }

    /// Prepares the buffer of the last read for the handlers of its messages. Returns how many of
    /// its bytes are not counted yet.
    ///
    /// They are counted only if a handler waits: most don't, and then the thread has one such
    /// buffer at a time.
    ///
    /// # Errors
    ///
    /// [`End::Overload`] if no memory is left for any buffer.
    pub(super) fn prepare(&mut self, memory: &Memory) -> Result<usize, End> {
        if memory.incoming.is_scarce(self.uncounted()) {
            self.incoming.shrink();
            if memory.incoming.is_full() {
                return Err(End::Overload);
            }
        }
        Ok(self.uncounted())
    }

    fn uncounted(&self) -> usize {
        self.incoming.held().saturating_sub(self.held.as_ref().map_or(0, Reservation::bytes))
    }

    /// Counts the bytes of an unfinished message. Called when everything else that has arrived is
    /// handled.
    ///
    /// # Errors
    ///
    /// [`End::Overload`] if the memory bound does not allow it.
    pub(super) fn count_partial(
        &mut self,
        config: &Config,
        memory: &Arc<Memory>,
    ) -> Result<(), End> {
        self.incoming.compact();
        let held = self.incoming.held();
        if held == 0 {
            (self.held, self.complete_by) = (None, None);
            return Ok(());
        }
        let deadline = || after(Instant::now(), config.receive_timeout);
        self.complete_by.get_or_insert_with(deadline);
        let counted = self.held.get_or_insert_with(|| Reservation::new(memory)).resize(held);
        counted.then_some(()).ok_or(End::Overload)
    }

    /// Reads the available bytes. While it is pending, it holds no buffer.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, more: usize) -> Poll<Result<(), End>> {
        let buffer = self.incoming.spare(more);
        let read = self.reader.poll_read(cx, buffer);
        if let (Poll::Ready(Ok(1..)), Some(held)) = (&read, &mut self.held)
            && !held.resize(self.incoming.held())
        {
            return Poll::Ready(Err(End::Overload));
        }
        match read {
            Poll::Ready(Ok(1..)) => Poll::Ready(Ok(())),
            Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(Err(End::Transport)),
            Poll::Pending => {
                self.slice.end();
                self.incoming.shrink();
                let held = self.incoming.held();
                if self.held.as_mut().is_none_or(|counted| counted.resize(held)) {
                    Poll::Pending
                } else {
                    Poll::Ready(Err(End::Overload))
                }
            }
        }
    }

    /// Reads and discards bytes of the client. Returns when it has closed its half, or when `max`
    /// bytes have come.
    pub(super) fn poll_discard(&mut self, cx: &mut Context<'_>, max: &mut usize) -> Poll<()> {
        self.reader.poll_discard(cx, max)
    }

    /// Returns the next message or control frame before the WebSocket is the session's transport;
    /// `None` if anything else comes. Cancel-safe.
    pub(super) async fn early(&mut self, config: &Config, memory: &Arc<Memory>) -> Option<Early> {
        loop {
            match self.incoming.next().ok()? {
                Next::More(more) => {
                    self.count_partial(config, memory).ok()?;
                    poll_fn(|cx| self.poll_read(cx, more)).await.ok()?;
                }
                Next::Message { op: op::TEXT, data } => {
                    let text = str::from_utf8(self.incoming.bytes(&data)).ok()?;
                    return Some(Early::Text(text.to_owned()));
                }
                Next::Control { op, payload } => return Some(Early::Control(op, payload)),
                Next::Message { .. } => return None,
            }
        }
    }
}
