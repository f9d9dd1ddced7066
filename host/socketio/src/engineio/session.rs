//! One Engine.IO session: its outgoing queue, what carries it now, its heartbeat, its end.
//!
//! Everything that changes a session happens under its one lock, which is never held while
//! something waits. One task owns the session from its handshake to its end: the keeper of a
//! session that began with polling, or the task of a WebSocket. It calls [`Session::finish`], and
//! then `closed` of the protocol, once.
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::config::Config;
use super::end::End;
use super::frame::{self, op};
use super::heartbeat::{Beat, Heartbeat};
use super::memory::{Memory, Reservation, Slot};
use super::outgoing::{COPIED, Frame, Queue, write_message};
use super::sid::Sid;
use super::stream::Writer;
use super::websocket::Receiver;

mod polling;
mod websocket;

/// From so many queued bytes on, a message is passed on without waiting for the end of the batch.
const EARLY: usize = 64 << 10;

pub(crate) use polling::{Delivering, Polled, PostGuard};

/// What carries a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// HTTP long polling.
    Polling,
    /// A WebSocket.
    WebSocket,
}

/// One Engine.IO session. All methods may be called from any task, and only
/// [`writable`](Session::writable) waits.
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
    /// Tells those who wait for room or for the session's end that something changed.
    room: Notify,
    /// Whether somebody waits for `room`.
    room_wanted: AtomicBool,
}

#[derive(Debug)]
struct State {
    queue: Queue,
    /// How much more than [`Config::max_queued`] may wait, because of a longer message that found
    /// nothing waiting.
    extra: usize,
    carrier: Carrier,
    /// The other half of a WebSocket that has taken over, until the keeper takes it.
    receiver: Option<Box<Receiver>>,
    end: Option<End>,
    ended_at: Option<Instant>,
    /// Shared with the answers to polls.
    slot: Option<Arc<Slot>>,
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
    /// follow it. They leave with the next [`flush`](Self::flush), or at once if much waits.
    /// Returns whether they were queued: not after the session's end. A message for which there is
    /// no room (see [`Config::max_queued`]) ends the session.
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

    /// Waits until at most so many bytes wait for the client, or until the session has ended. A
    /// handler that sends much waits here instead of exceeding [`Config::max_queued`].
    ///
    /// A client that takes nothing for [`Config::ping_interval`] and [`Config::ping_timeout`]
    /// together ends the session with [`End::Overflow`]. Dropping the future changes nothing.
    pub async fn writable(&self, at_most_bytes: usize) {
        let room = || self.is_over() || self.queued_bytes() <= at_most_bytes;
        if !self.until(self.config.stall_timeout, room).await {
            self.end(End::Overflow);
        }
    }

    /// Waits for the session's end.
    pub(crate) async fn over(&self) {
        self.until(Duration::MAX, || self.is_over()).await;
    }

    /// Waits until `condition` holds, which is asked again when bytes have left or the session has
    /// ended. Returns false if neither happens for as long as `patience`.
    async fn until(&self, patience: Duration, condition: impl Fn() -> bool) -> bool {
        loop {
            let mut room = std::pin::pin!(self.room.notified());
            room.as_mut().enable();
            self.room_wanted.store(true, Ordering::SeqCst);
            if condition() {
                return true;
            }
            if timeout(patience, room).await.is_err() {
                return false;
            }
        }
    }

    /// Bytes have left, or the session has ended.
    fn made_room(&self) {
        if self.room_wanted.load(Ordering::SeqCst) && self.room_wanted.swap(false, Ordering::SeqCst)
        {
            self.room.notify_waiters();
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
        self.waiting(&self.state())
    }

    fn waiting(&self, state: &State) -> usize {
        state.queue.len() + self.delivering.load(Ordering::SeqCst)
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
    pub(crate) fn new(
        sid: Sid,
        config: &Arc<Config>,
        memory: &Arc<Memory>,
        transport: Transport,
    ) -> Arc<Self> {
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
                extra: 0,
                carrier,
                receiver: None,
                end: None,
                ended_at: None,
                slot: None,
                heart: Heartbeat::new(Instant::now(), config),
                sender: None,
                stalled: false,
            }),
            over: AtomicBool::new(false),
            woken: AtomicBool::new(false),
            rearm: AtomicBool::new(false),
            delivering: AtomicUsize::new(0),
            turned: Notify::new(),
            room: Notify::new(),
            room_wanted: AtomicBool::new(false),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

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
        // What the kernel takes does not wait: only the rest is compared with the bounds.
        if state.queue.len() >= EARLY || !self.allows(state) {
            self.write(state);
        }
        if state.end.is_none() && !self.allows(state) {
            self.end_with(state, End::Overflow);
        }
        state.end.is_none()
    }

    /// Whether what waits for the client is within all bounds.
    fn allows(&self, state: &State) -> bool {
        let waiting = self.waiting(state);
        let max = self.config.max_queued.saturating_add(state.extra);
        waiting == 0 || (waiting <= max && self.memory.allows_outgoing(waiting))
    }

    fn end_with(&self, state: &mut State, end: End) {
        if state.end.is_some() {
            return;
        }
        state.end = Some(end);
        state.ended_at = Some(Instant::now());
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
        self.made_room();
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
        let nearer = self.state().heart.pong(Instant::now(), &self.config);
        if nearer {
            self.rearm();
        }
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
        self.made_room();
        state.ended_at.get_or_insert_with(Instant::now);
        *state.end.get_or_insert(end)
    }

    /// From here on the session holds its permit.
    pub(crate) fn occupy(&self, slot: &Arc<Slot>) {
        self.state().slot = Some(Arc::clone(slot));
    }

    /// Whether an answer to a poll that is being written must break off.
    pub(crate) fn breaks_off(&self) -> bool {
        let state = self.state();
        match state.end {
            None => false,
            Some(End::Server | End::Client | End::Overlap) => {
                state.ended_at.is_some_and(|at| at.elapsed() > self.config.linger)
            }
            Some(_) => true,
        }
    }

    /// Takes the transport away and discards what is queued. Returns the WebSocket, if there is
    /// one.
    pub(crate) fn finish(&self) -> Option<Writer> {
        let mut state = self.state();
        state.queue.clear(&self.memory);
        state.wake();
        state.sender = None;
        state.slot = None;
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
