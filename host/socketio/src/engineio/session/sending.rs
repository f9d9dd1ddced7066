//! The outgoing messages of a session: the queue's bounds, and the write to the transport. Any task
//! may try to write, under the lock. What the kernel does not take is left to the one task that
//! serves the transport: see `websocket` and `polling`.
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::{Carrier, Session, SessionState};
use crate::engineio::end::End;
use crate::engineio::frame::{self, op};
use crate::engineio::outgoing::{Frame, MAX_COPIED, Queue, write_message};

/// If at least this many bytes are queued, they are written at once, and not only at the next
/// [`flush`](Session::flush).
const EARLY_WRITE: usize = 64 << 10;

/// For applications: messages to the client.
impl Session {
    /// Queues a text message (the concatenation of `text`) and the binary messages that directly
    /// follow it. They are written with the next [`flush`](Self::flush), or at once if at least
    /// 64 KiB are queued.
    ///
    /// If the session has ended, the messages are lost, and this returns false. If they exceed
    /// [`Config::max_queued`], the session ends.
    ///
    /// [`Config::max_queued`]: crate::engineio::Config::max_queued
    pub fn text(&self, text: &[&[u8]], attachments: &[Bytes]) -> bool {
        self.text_if(|| true, text, attachments)
    }

    /// Like [`text`](Self::text) if `condition` holds. It is asked under the lock that orders
    /// messages: if another task makes it false and then queues a message, this message is before
    /// that one, or is not queued.
    pub(crate) fn text_if(
        &self,
        condition: impl FnOnce() -> bool,
        text: &[&[u8]],
        attachments: &[Bytes],
    ) -> bool {
        self.push_if(condition, |out| write_message(out, text, attachments))
    }

    /// Queues one binary message, like [`text`](Self::text).
    pub fn binary(&self, data: &[u8]) -> bool {
        self.push(|out| frame::write(out, op::BINARY, &[data]))
    }

    /// Queues a frame that is shared with other sessions, like [`text`](Self::text).
    pub fn shared(&self, frame: &Frame) -> bool {
        self.shared_if(|| true, frame)
    }

    /// Like [`shared`](Self::shared), with the condition of [`text_if`](Self::text_if).
    pub(crate) fn shared_if(&self, condition: impl FnOnce() -> bool, frame: &Frame) -> bool {
        self.queue_if(condition, |queue, _| queue.push_shared(&self.memory, frame))
    }

    /// Queues whole frames that are encoded already, like [`text`](Self::text). Large ones are not
    /// copied.
    pub(crate) fn encoded(&self, bytes: &Bytes) -> bool {
        if bytes.len() <= MAX_COPIED {
            self.push(|out| out.extend_from_slice(bytes))
        } else {
            self.shared(&Frame::from_encoded(&self.memory, bytes.clone()))
        }
    }

    /// Encodes a message for [`shared`](Self::shared).
    pub fn frame(&self, text: &[&[u8]], attachments: &[Bytes]) -> Frame {
        Frame::new(&self.memory, text, attachments)
    }

    /// Writes queued messages to the WebSocket, or wakes the pending poll, which answers with them.
    pub fn flush(&self) {
        // Without a lock if nothing is queued. The count includes what the caller has queued,
        // unless that was written meanwhile.
        if self.queued.load(Ordering::SeqCst) > 0 {
            self.write(&mut self.state());
        }
    }

    /// Waits until at most `at_most_bytes` are queued for the client, or until the session has
    /// ended. A handler that sends much waits here instead of exceeding [`Config::max_queued`].
    ///
    /// If a client takes nothing for [`Config::stall_timeout`], its session ends with
    /// [`End::Overflow`]. Cancel-safe.
    ///
    /// [`Config::max_queued`]: crate::engineio::Config::max_queued
    /// [`Config::stall_timeout`]: crate::engineio::Config::stall_timeout
    pub async fn writable(&self, at_most_bytes: usize) {
        let is_writable = || self.is_over() || self.queued_bytes() <= at_most_bytes;
        if !self.until(self.config.stall_timeout, is_writable).await {
            self.end(End::Overflow);
        }
    }

    /// How many bytes are queued for the client, including the answer to a poll that the HTTP
    /// server has not yet written.
    pub fn queued_bytes(&self) -> usize {
        // In this order: bytes are added to `delivering` before they leave the queue, so none is
        // missed.
        let queued = self.queued.load(Ordering::SeqCst);
        queued + self.delivering.load(Ordering::SeqCst)
    }

    /// Whether a message of so many bytes can be queued within all bounds, even if the kernel takes
    /// none of it.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        let queued = self.queued_bytes().saturating_add(bytes);
        queued <= self.config.max_queued && self.memory.allows_outgoing(queued)
    }
}

/// For the engine.
impl Session {
    /// Queues a packet that is no message.
    pub(crate) fn packet(&self, kind: u8, data: &[u8]) {
        self.push(|out| frame::write_text(out, kind, &[data]));
    }

    /// Queues a frame that only a WebSocket can carry.
    pub(crate) fn control(&self, op: u8, payload: &[u8]) {
        self.push(|out| frame::write(out, op, &[payload]));
    }

    fn push(&self, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        self.push_if(|| true, write)
    }

    fn push_if(&self, condition: impl FnOnce() -> bool, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        self.queue_if(condition, |queue, leaves_soon| {
            queue.push(&self.memory, leaves_soon, write);
        })
    }

    /// If `condition` holds, calls `push` with the queue and with whether its bytes will leave the
    /// queue soon. Writes if the queue is long. Returns false if nothing was queued, or if the
    /// session has ended, also because the rest exceeds a bound.
    fn queue_if(
        &self,
        condition: impl FnOnce() -> bool,
        push: impl FnOnce(&mut Queue, bool),
    ) -> bool {
        let mut guard = self.state();
        let state = &mut *guard;
        if state.end.is_some() || !condition() {
            return false;
        }
        let was_empty = self.queued_in(state) == 0;
        let leaves_soon = matches!(state.carrier, Carrier::WebSocket(_)) && !self.is_stalled();
        push(&mut state.queue, leaves_soon);
        // A message that alone exceeds the bound passes if nothing is queued before it. Its size is
        // added to the bound until nothing is queued any more.
        if was_empty {
            let queued = self.queued_in(state);
            state.extra = if queued > self.config.max_queued { queued } else { 0 };
        }
        // Bytes that the kernel takes do not count: only the rest is compared with the bounds.
        if state.queue.len() >= EARLY_WRITE || !self.is_within_bounds(state) {
            self.write(state);
        }
        if state.end.is_none() && !self.is_within_bounds(state) {
            self.end_with(state, End::Overflow);
        }
        state.end.is_none()
    }

    /// Whether the bytes that are queued for the client are within all bounds.
    fn is_within_bounds(&self, state: &SessionState) -> bool {
        let queued = self.queued_in(state);
        let max = self.config.max_queued.saturating_add(state.extra);
        queued == 0 || (queued <= max && self.memory.allows_outgoing(queued))
    }

    /// Writes as much as the kernel takes, or wakes the task that can send the rest.
    fn write(&self, state: &mut SessionState) {
        let SessionState { queue, carrier, .. } = &mut *state;
        if queue.is_empty() || self.is_stalled() {
            return;
        }
        match carrier {
            Carrier::WebSocket(writer) => {
                match queue.write(&self.memory, |slices| writer.try_write(slices)) {
                    Ok(true) if writer.is_flushed() => {}
                    // The task of the WebSocket waits until the kernel takes more.
                    Ok(_) => {
                        self.set_stalled(true);
                        state.wake();
                    }
                    Err(_) => self.end_with(state, End::Transport),
                }
            }
            Carrier::Polling(polling) if polling.is_waiting() => state.wake(),
            Carrier::Opening | Carrier::Polling(_) | Carrier::Gone => {}
        }
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Acquire)
    }

    /// Called only under the lock.
    pub(super) fn set_stalled(&self, stalled: bool) {
        self.stalled.store(stalled, Ordering::Release);
    }

    fn queued_in(&self, state: &SessionState) -> usize {
        state.queue.len() + self.delivering.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use crate::engineio::testing;

    #[test]
    fn whether_a_message_is_queued_is_decided_under_the_lock_that_orders_messages() {
        let session = testing::session();
        assert!(!session.text_if(|| false, &[b"2[]"], &[]));
        assert!(!session.shared_if(|| false, &session.frame(&[b"2[]"], &[])));
        assert_eq!(session.queued_bytes(), 0);
        assert!(session.text_if(|| session.state.try_lock().is_err(), &[b"2[]"], &[]));
        assert_eq!(testing::take_packets(&session), ["42[]"]);
    }
}
