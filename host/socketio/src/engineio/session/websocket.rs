//! The sending half of a session whose transport is a WebSocket.
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use super::{Carrier, Session, SessionState};
use crate::engineio::end::End;
use crate::engineio::frame::{self, op};
use crate::engineio::stream::Writer;

impl Session {
    /// For the task of a WebSocket: writes bytes that the kernel did not take at once. Ready when
    /// the session has ended: [`poll_drained`](Self::poll_drained) then writes the rest.
    ///
    /// `registered`: the waker that the last call has registered. While it is the task's, nothing
    /// is queued, and the session lives, there is nothing to do, and no lock is taken: any change
    /// wakes the task after it can be seen here.
    pub(crate) fn poll_sender(
        &self,
        registered: &mut Option<Waker>,
        cx: &mut Context<'_>,
    ) -> Poll<End> {
        let is_registered = registered.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if is_registered && self.is_idle() {
            return Poll::Pending;
        }
        if !is_registered {
            *registered = Some(cx.waker().clone());
        }
        let mut state = self.state();
        state.register(cx);
        if state.end.is_none() {
            // An error ends the session, which is checked below.
            let _ = self.poll_write(&mut state, cx);
        }
        state.end.map_or(Poll::Pending, Poll::Ready)
    }

    /// Writes the queued bytes, also after the session's end. Ready when nothing is queued for a
    /// WebSocket any more, or its connection is broken.
    pub(crate) fn poll_drained(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state();
        state.register(cx);
        self.poll_write(&mut state, cx)
    }

    /// Whether the session lives and nothing is queued, as far as this was published.
    fn is_idle(&self) -> bool {
        !self.is_over() && !self.is_stalled() && self.queued.load(Ordering::Acquire) == 0
    }

    fn poll_write(&self, state: &mut SessionState, cx: &mut Context<'_>) -> Poll<()> {
        let SessionState { queue, carrier: Carrier::WebSocket(writer), .. } = &mut *state else {
            return Poll::Ready(());
        };
        while !queue.is_empty() || !writer.is_flushed() {
            self.set_stalled(false);
            let written = match writer.poll_ready(cx) {
                Poll::Pending => {
                    self.set_stalled(true);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(())) => writer.try_flush().and_then(|is_flushed| {
                    let mut write = || queue.write(&self.memory, |data| writer.try_write(data));
                    if is_flushed { write() } else { Ok(false) }
                }),
                Poll::Ready(Err(e)) => Err(e),
            };
            if written.is_err() {
                queue.clear(&self.memory);
                self.end_with(state, End::Transport);
                break;
            }
        }
        // Also if the bytes that a layer held have left with a read.
        self.set_stalled(false);
        Poll::Ready(())
    }

    /// Sets the transport of a session that begins with a WebSocket, after the handshake of the
    /// WebSocket was answered. Returns false if the session has ended.
    pub(crate) fn opened(&self, writer: Writer) -> bool {
        let mut state = self.state();
        state.carrier = Carrier::WebSocket(writer);
        state.end.is_none()
    }

    /// Queues the close frame of a WebSocket, with this payload, also after the session's end.
    pub(crate) fn queue_close(&self, payload: &[u8]) {
        let mut state = self.state();
        if matches!(state.carrier, Carrier::WebSocket(_)) {
            state.queue.push(&self.memory, true, |out| frame::write(out, op::CLOSE, &[payload]));
        }
    }
}
