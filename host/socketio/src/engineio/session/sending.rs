//! The outgoing messages of a session: the queue's bounds, and the write to the transport.
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::{Carrier, Session, State};
use crate::engineio::end::End;
use crate::engineio::frame::{self, op};
use crate::engineio::outgoing::{COPIED, Frame, Queue, write_message};

/// From so many queued bytes on, a message is passed on without waiting for the end of the batch.
const EARLY: usize = 64 << 10;

/// For applications: messages to the client.
impl Session {
    /// Queues a text message (the concatenation of `text`) and the binary messages that directly
    /// follow it. They leave with the next [`flush`](Self::flush), or at once if much waits.
    /// Returns whether they were queued: not after the session's end. A message for which there is
    /// no room (see [`Config::max_queued`]) ends the session.
    ///
    /// [`Config::max_queued`]: crate::engineio::Config::max_queued
    pub fn text(&self, text: &[&[u8]], attachments: &[Bytes]) -> bool {
        self.push(|out| write_message(out, text, attachments))
    }

    /// Queues one binary message, like [`text`](Self::text).
    pub fn binary(&self, data: &[u8]) -> bool {
        self.push(|out| frame::write(out, op::BINARY, &[data]))
    }

    /// Queues a frame that other sessions get as well, like [`text`](Self::text).
    pub fn shared(&self, frame: &Frame) -> bool {
        self.queue(|queue, _| queue.push_shared(&self.memory, frame))
    }

    /// Queues whole frames that are encoded already, like [`text`](Self::text). Large ones are not
    /// copied.
    pub(crate) fn encoded(&self, bytes: &Bytes) -> bool {
        if bytes.len() <= COPIED {
            self.push(|out| out.extend_from_slice(bytes))
        } else {
            self.shared(&Frame::count(&self.memory, bytes.clone()))
        }
    }

    /// Encodes a message for [`shared`](Self::shared).
    pub fn frame(&self, text: &[&[u8]], attachments: &[Bytes]) -> Frame {
        Frame::new(&self.memory, text, attachments)
    }

    /// Passes queued messages to the kernel, or to the pending poll.
    pub fn flush(&self) {
        let mut state = self.state();
        self.write(&mut state);
    }

    /// Waits until at most so many bytes wait for the client, or until the session has ended. A
    /// handler that sends much waits here instead of exceeding [`Config::max_queued`].
    ///
    /// If a client takes nothing for [`Config::stall_timeout`], its session ends with
    /// [`End::Overflow`]. The future may be dropped.
    ///
    /// [`Config::max_queued`]: crate::engineio::Config::max_queued
    /// [`Config::stall_timeout`]: crate::engineio::Config::stall_timeout
    pub async fn writable(&self, at_most_bytes: usize) {
        let room = || self.is_over() || self.queued_bytes() <= at_most_bytes;
        if !self.until(self.config.stall_timeout, room).await {
            self.end(End::Overflow);
        }
    }

    /// How many bytes wait for the client.
    pub fn queued_bytes(&self) -> usize {
        self.waiting(&self.state())
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
        self.queue(|queue, soon| queue.push(&self.memory, soon, write))
    }

    fn queue(&self, push: impl FnOnce(&mut Queue, bool)) -> bool {
        let mut guard = self.state();
        let state = &mut *guard;
        if state.end.is_some() {
            return false;
        }
        let before = self.waiting(state);
        let soon = matches!(state.carrier, Carrier::WebSocket(_)) && !state.stalled;
        push(&mut state.queue, soon);
        if before == 0 {
            let waiting = self.waiting(state);
            state.extra = if waiting > self.config.max_queued { waiting } else { 0 };
        }
        // Bytes that the kernel takes do not count: only the rest is compared with the bounds.
        if state.queue.len() >= EARLY || !self.allows(state) {
            self.write(state);
        }
        if state.end.is_none() && !self.allows(state) {
            self.end_with(state, End::Overflow);
        }
        state.end.is_none()
    }

    /// Whether the bytes that are queued for the client are within all bounds.
    fn allows(&self, state: &State) -> bool {
        let waiting = self.waiting(state);
        let max = self.config.max_queued.saturating_add(state.extra);
        waiting == 0 || (waiting <= max && self.memory.allows_outgoing(waiting))
    }

    fn write(&self, state: &mut State) {
        let State { queue, carrier, stalled, .. } = &mut *state;
        if queue.is_empty() || *stalled {
            return;
        }
        match carrier {
            Carrier::WebSocket(writer) => {
                let before = queue.len();
                let written = queue.write(&self.memory, |slices| writer.try_write(slices));
                if queue.len() < before {
                    self.made_room();
                }
                match written {
                    Ok(true) => {}
                    // The sender waits for room.
                    Ok(false) => {
                        *stalled = true;
                        state.wake();
                    }
                    Err(_) => self.end_with(state, End::Transport),
                }
            }
            Carrier::Polling(polling) if polling.is_waiting() => state.wake(),
            Carrier::Opening | Carrier::Polling(_) | Carrier::Gone => {}
        }
    }

    fn waiting(&self, state: &State) -> usize {
        state.queue.len() + self.delivering.load(Ordering::SeqCst)
    }
}
