//! The receiving half of a WebSocket: the bytes that have arrived, and the memory and the deadline
//! of an unfinished message.
//!
//! It does not know sessions, so that imports go one way: after an upgrade, the session holds the
//! receiver until the task that owns the session takes it.
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
/// The caller passes the settings and the memory of the server to the methods that need them. In
/// all calls they must be those of the same server.
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
    /// The caller counts these bytes only if its task waits before all messages of the read are
    /// handled. Mostly it does not wait. Then no other task of the thread runs before the buffer is
    /// free again, so each thread has at most one buffer that is not counted.
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

    /// Reads the available bytes. While it is pending, only an unfinished message has a buffer.
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
                    self.complete_by = None;
                    let text = str::from_utf8(self.incoming.bytes(&data)).ok()?;
                    return Some(Early::Text(text.to_owned()));
                }
                Next::Control { op, payload } => return Some(Early::Control(op, payload)),
                Next::Message { .. } => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncWriteExt, simplex};

    use super::*;
    use crate::engineio::testing;

    /// A client's frame with this text, masked by zeros.
    fn text(text: &str) -> Vec<u8> {
        let mut frame = vec![0x81, 0x80 | u8::try_from(text.len()).unwrap(), 0, 0, 0, 0];
        frame.extend_from_slice(text.as_bytes());
        frame
    }

    #[tokio::test(start_paused = true)]
    async fn each_message_has_its_own_deadline_also_before_the_websocket_is_the_transport() {
        let session = testing::session();
        let (config, memory) = (session.config(), session.memory());
        let (read, mut client) = simplex(1 << 10);
        let mut receiver = Receiver::new(Reader::Pipe(read), b"", config, Box::new(()));
        let (first, second) = (text("2probe"), text("5"));
        client.write_all(&first[..4]).await.unwrap();
        let sending = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            client.write_all(&first[4..]).await.unwrap();
            client.write_all(&second[..3]).await.unwrap();
        };
        let (early, ()) = tokio::join!(receiver.early(config, memory), sending);
        assert!(matches!(early, Some(Early::Text(text)) if text == "2probe"));
        let began = Instant::now();
        receiver.count_partial(config, memory).unwrap();
        assert_eq!(receiver.complete_by, Some(after(began, config.receive_timeout)));
    }
}
