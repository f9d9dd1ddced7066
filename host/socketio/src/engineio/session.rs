//! One Engine.IO session: its outgoing queue, what carries it now, its heartbeat, its end.
//!
//! Everything that changes a session happens under its one lock, which is never held while
//! something waits. One task owns the session from its handshake to its end: the keeper of a
//! session that began with polling, or the task of a WebSocket. It calls [`Session::finish`], and
//! then `closed` of the protocol, once.
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::config::Config;
use super::end::End;
use super::frame::{self, op};
use super::heartbeat::{Beat, Heartbeat};
use super::memory::{Memory, Reservation};
use super::outgoing::{Frame, Queue, write_message};
use super::sid::Sid;
use super::stream::Writer;
use super::websocket::Receiver;

mod polling;
mod websocket;

pub(crate) use polling::{Delivering, Polled, PostGuard};

/// What carries a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// HTTP long polling.
    Polling,
    /// A WebSocket.
    WebSocket,
}

/// One Engine.IO session. All methods may be called from any task, and none waits.
#[derive(Debug)]
pub struct Session {
    sid: Sid,
    config: Arc<Config>,
    memory: Arc<Memory>,
    state: Mutex<State>,
    /// Whether `state.end` is set, without a lock: nothing that arrives later is handled.
    over: AtomicBool,
    /// The protocol must be called: [`wake`](Self::wake).
    woken: AtomicBool,
    /// A deadline may have come nearer: the owner must ask for it again.
    rearm: AtomicBool,
    /// Bytes of answers to polls that the HTTP server has not yet written.
    delivering: AtomicUsize,
    /// Tells the keeper of a polling session that something changed.
    turned: Notify,
}

#[derive(Debug)]
struct State {
    queue: Queue,
    carrier: Carrier,
    /// The other half of a WebSocket that has taken over, until the keeper takes it.
    receiver: Option<Box<Receiver>>,
    end: Option<End>,
    heart: Heartbeat,
    /// The task that sends what is queued: that of the WebSocket, or the poll that waits.
    sender: Option<Waker>,
    /// The kernel took no more, and the sender waits until it does.
    stalled: bool,
}

#[derive(Debug)]
enum Carrier {
    /// A WebSocket whose handshake is being answered.
    Opening,
    Polling(polling::State),
    WebSocket(Writer),
    /// The session was finished.
    Gone,
}

impl State {
    fn wake(&self) {
        if let Some(sender) = &self.sender {
            sender.wake_by_ref();
        }
    }

    fn register(&mut self, cx: &Context<'_>) {
        if !self.sender.as_ref().is_some_and(|sender| sender.will_wake(cx.waker())) {
            self.sender = Some(cx.waker().clone());
        }
    }
}

/// For applications.
impl Session {
    /// The session's id.
    pub fn sid(&self) -> Sid {
        self.sid
    }

    /// What carries the session now; after its end, what carried it last is not known, and this is
    /// [`Transport::WebSocket`].
    pub fn transport(&self) -> Transport {
        match self.state().carrier {
            Carrier::Polling(_) => Transport::Polling,
            _ => Transport::WebSocket,
        }
    }

    /// Queues a text message (the concatenation of `text`) and the binary messages that directly
    /// follow it. They leave with the next [`flush`](Self::flush). After the session's end,
    /// nothing is queued; beyond [`Config::max_queued`], the session ends.
    pub fn text(&self, text: &[&[u8]], attachments: &[Bytes]) {
        self.push(|out| write_message(out, text, attachments));
    }

    /// Queues one binary message, like [`text`](Self::text).
    pub fn binary(&self, data: &[u8]) {
        self.push(|out| frame::write(out, op::BINARY, &[data]));
    }

    /// Queues a frame that other sessions get as well, like [`text`](Self::text).
    pub fn shared(&self, frame: &Frame) {
        self.queue(|queue, _| queue.push_shared(&self.memory, frame));
    }

    /// Encodes a message for [`shared`](Self::shared).
    pub fn frame(&self, text: &[&[u8]], attachments: &[Bytes]) -> Frame {
        Frame::new(&self.memory, text, attachments)
    }

    /// Passes queued messages to the kernel, or to the pending poll.
    pub fn flush(&self) {
        let mut state = self.state();
        let State { queue, carrier, stalled, .. } = &mut *state;
        if queue.is_empty() || *stalled {
            return;
        }
        match carrier {
            Carrier::WebSocket(writer) => {
                match queue.write(&self.memory, |slices| writer.try_write(slices)) {
                    Ok(true) => {}
                    // The sender waits for room.
                    Ok(false) => state.wake(),
                    Err(_) => self.end_with(&mut state, End::Transport),
                }
            }
            Carrier::Polling(polling) if polling.is_waiting() => state.wake(),
            Carrier::Opening | Carrier::Polling(_) | Carrier::Gone => {}
        }
    }

    /// Ends the session, if it has not ended. With [`End::Server`], queued messages are still
    /// delivered, within [`Config::linger`]; otherwise they are discarded.
    pub fn end(&self, end: End) {
        self.end_with(&mut self.state(), end);
    }

    /// Why the session ended; `None` if it has not.
    pub fn ended(&self) -> Option<End> {
        self.state().end
    }

    /// How many bytes wait for the client.
    pub fn queued_bytes(&self) -> usize {
        self.state().queue.len() + self.delivering.load(Ordering::Relaxed)
    }

    /// Stops the connect timeout.
    pub fn connected(&self) {
        self.state().heart.connected();
    }

    /// Starts the receive timeout for a packet whose attachments are still to come: unless
    /// [`finish_packet`](Self::finish_packet) is called within [`Config::receive_timeout`], the
    /// session ends with [`End::ReceiveTimeout`].
    pub fn begin_packet(&self) {
        self.state().heart.begin_packet(Instant::now(), &self.config);
        self.rearm();
    }

    /// Stops the timeout of [`begin_packet`](Self::begin_packet).
    pub fn finish_packet(&self) {
        self.state().heart.finish_packet();
    }

    /// Has the session's task call [`Protocol::woken`](super::Protocol::woken) soon, unless the
    /// session ends before.
    pub fn wake(&self) {
        self.woken.store(true, Ordering::Relaxed);
        // The lock orders this before the task looks again, or wakes it.
        self.state().wake();
        self.turned.notify_one();
    }

    /// Returns a counter for bytes of an unfinished message, such as attachments that wait for
    /// others.
    pub fn reserve(&self) -> Reservation {
        Reservation::new(&self.memory)
    }
}

/// For the engine.
impl Session {
    /// Returns a session that polls, or one whose WebSocket is being opened.
    pub(crate) fn new(sid: Sid, config: &Arc<Config>, memory: &Arc<Memory>, transport: Transport) -> Arc<Self> {
        let carrier = match transport {
            Transport::Polling => Carrier::Polling(polling::State::default()),
            Transport::WebSocket => Carrier::Opening,
        };
        Arc::new(Self {
            sid,
            config: Arc::clone(config),
            memory: Arc::clone(memory),
            state: Mutex::new(State {
                queue: Queue::default(),
                carrier,
                receiver: None,
                end: None,
                heart: Heartbeat::new(Instant::now(), config),
                sender: None,
                stalled: false,
            }),
            over: AtomicBool::new(false),
            woken: AtomicBool::new(false),
            rearm: AtomicBool::new(false),
            delivering: AtomicUsize::new(0),
            turned: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Queues a packet that is no message.
    pub(crate) fn packet(&self, kind: u8, data: &[u8]) {
        self.push(|out| frame::write_text(out, kind, &[data]));
    }

    /// Queues a frame that only a WebSocket can carry.
    pub(crate) fn control(&self, op: u8, payload: &[u8]) {
        self.push(|out| frame::write(out, op, &[payload]));
    }

    fn push(&self, write: impl FnOnce(&mut Vec<u8>)) {
        self.queue(|queue, soon| queue.push(&self.memory, soon, write));
    }

    fn queue(&self, push: impl FnOnce(&mut Queue, bool)) {
        let mut state = self.state();
        if state.end.is_some() {
            return;
        }
        let before = state.queue.len() + self.delivering.load(Ordering::Relaxed);
        if !self.memory.admits_outgoing(before) {
            return self.end_with(&mut state, End::Overflow);
        }
        let soon = matches!(state.carrier, Carrier::WebSocket(_));
        push(&mut state.queue, soon);
        if state.queue.len() + self.delivering.load(Ordering::Relaxed) > self.config.max_queued {
            self.end_with(&mut state, End::Overflow);
        }
    }

    fn end_with(&self, state: &mut State, end: End) {
        if state.end.is_some() {
            return;
        }
        state.end = Some(end);
        self.over.store(true, Ordering::Relaxed);
        if end == End::Shutdown
            && let State { queue, carrier: Carrier::WebSocket(writer), .. } = state
        {
            let _ = queue.write(&self.memory, |slices| writer.try_write(slices));
        }
        if end != End::Server {
            state.queue.clear(&self.memory);
        }
        if let Carrier::Polling(polling) = &mut state.carrier {
            polling.wake_post();
        }
        state.wake();
        self.turned.notify_one();
    }

    /// Whether the session has ended: cheap enough to ask before each message.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn rearm(&self) {
        self.rearm.store(true, Ordering::Relaxed);
        self.turned.notify_one();
    }

    /// Whether a deadline may have come nearer since this was last called.
    pub(crate) fn take_rearm(&self) -> bool {
        self.rearm.load(Ordering::Relaxed) && self.rearm.swap(false, Ordering::Relaxed)
    }

    /// Whether the protocol must be called, without a change.
    pub(crate) fn is_woken(&self) -> bool {
        self.woken.load(Ordering::Relaxed)
    }

    /// Whether [`wake`](Self::wake) was called since this was last called.
    pub(crate) fn take_woken(&self) -> bool {
        self.is_woken() && self.woken.swap(false, Ordering::Relaxed)
    }

    /// Waits until the session may have ended, been upgraded or been given a nearer deadline.
    pub(crate) async fn turned(&self) {
        self.turned.notified().await;
    }

    /// Sends a ping if it is due. Returns when to ask again. `alive`: something has just been read
    /// from the client.
    ///
    /// # Errors
    ///
    /// The session's end, also if a deadline has just passed.
    pub(crate) fn beat(&self, alive: bool) -> Result<Instant, End> {
        let mut state = self.state();
        if let Some(end) = state.end {
            return Err(end);
        }
        let next = match state.heart.check(Instant::now(), &self.config, alive) {
            Beat::Wait(next) => return Ok(next),
            Beat::Ping(next) => next,
            Beat::End(end) => {
                self.end_with(&mut state, end);
                return Err(end);
            }
        };
        drop(state);
        self.packet(b'2', b"");
        self.flush();
        Ok(next)
    }

    pub(crate) fn pong(&self) {
        self.state().heart.pong(Instant::now(), &self.config);
    }

    /// A handler takes longer than a moment: nothing is read until [`resume`](Self::resume).
    pub(crate) fn suspend(&self) {
        self.state().heart.suspend();
    }

    pub(crate) fn resume(&self) {
        self.state().heart.resume(Instant::now(), &self.config);
        self.rearm();
    }

    /// The owner has a reason to end the session. Returns the reason that came first. What is
    /// queued stays queued until [`finish`](Self::finish).
    pub(crate) fn conclude(&self, end: End) -> End {
        let mut state = self.state();
        self.over.store(true, Ordering::Relaxed);
        *state.end.get_or_insert(end)
    }

    /// Takes the transport away and discards what is queued. Returns the WebSocket, if there is
    /// one.
    pub(crate) fn finish(&self) -> Option<Writer> {
        let mut state = self.state();
        state.queue.clear(&self.memory);
        state.wake();
        state.sender = None;
        state.receiver = None;
        match std::mem::replace(&mut state.carrier, Carrier::Gone) {
            Carrier::WebSocket(writer) => Some(writer),
            _ => None,
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        state.queue.clear(&self.memory);
    }
}
