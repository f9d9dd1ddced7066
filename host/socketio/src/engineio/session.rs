//! One Engine.IO session: its state, its current transport, and its end. Files below have its
//! outgoing messages, its deadlines, and its transports.
//!
//! The state, the queue and the transport of a session change only under its one lock, which is
//! never held while something waits. What tasks ask often is published in atomics, so that it can
//! be read without the lock: how much is queued, and whether the session has ended. `woken`,
//! `rearm` and `delivering` are atomics that change without the lock.
//!
//! One task is the owner of a session from its handshake to its end: the task that runs
//! `polling::keep` if the session began with polling, otherwise the task of its WebSocket. A
//! session first ends: [`Session::end`] may be called by any task, [`Session::conclude`] by the
//! owner. Then it accepts no message, and the owner delivers what is queued, if the reason of the
//! end allows it. Last, the owner calls [`Session::finish`], which discards the rest and takes the
//! transport away, and then `closed` of the protocol, once.
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::config::Config;
use super::end::End;
use super::heartbeat::Heartbeat;
use super::memory::{Memory, Reservation, Slot};
use super::outgoing::Queue;
use super::receiver::Receiver;
use super::sid::Sid;
use super::stream::Writer;

mod deadlines;
mod polling;
mod sending;
mod websocket;

pub(crate) use polling::{Delivering, Polled, PostGuard};

/// The transport of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// HTTP long polling.
    Polling,
    /// A WebSocket.
    WebSocket,
}

/// One Engine.IO session. All methods may be called from any task. Of those for applications, only
/// [`writable`](Session::writable) waits.
#[derive(Debug)]
pub struct Session {
    sid: Sid,
    config: Arc<Config>,
    memory: Arc<Memory>,
    state: Mutex<SessionState>,
    /// Whether `state.end` is set, without a lock: nothing that arrives later is handled.
    over: AtomicBool,
    /// The length of `state.queue` when the lock was last released: see [`StateGuard`].
    queued: AtomicUsize,
    /// The kernel took no more bytes, and the task of the WebSocket waits until it does. Changes
    /// only under the lock, and is set before that task is woken.
    stalled: AtomicBool,
    /// The owner must call the protocol, because [`wake`](Self::wake) was called.
    woken: AtomicBool,
    /// A deadline may have come nearer: the owner must call `beat` again.
    rearm: AtomicBool,
    /// Bytes of answers to polls that the HTTP server has not yet written.
    delivering: AtomicUsize,
    /// Wakes the owner, `polling::keep`, of a session that began with polling.
    keeper_wakeup: Notify,
    /// Notified when bytes have left the queue, a WebSocket has taken over, or the session has
    /// ended.
    progress: Notify,
    /// Whether a task waits for `progress`.
    progress_wanted: AtomicBool,
}

#[derive(Debug)]
struct SessionState {
    queue: Queue,
    /// Bytes that may be queued in addition to [`Config::max_queued`], until nothing is queued any
    /// more: the size of a longer message that was accepted because the queue was empty.
    extra: usize,
    carrier: Carrier,
    /// The other half of a WebSocket that has taken over, until the owner takes it.
    receiver: Option<Box<Receiver>>,
    end: Option<End>,
    ended_at: Option<Instant>,
    /// The session's slot among [`Config::max_sessions`]. It is free again when the owner and all
    /// answers to polls have dropped it.
    slot: Option<Arc<Slot>>,
    heart: Heartbeat,
    /// Wakes the task that sends the queued packets: that of the WebSocket, or the pending poll.
    sender: Option<Waker>,
}

/// The locked state of a session.
///
/// Before the lock is released, it publishes how many bytes are queued. If these are fewer than
/// before, it then notifies the tasks that wait for space. They read the published number.
struct StateGuard<'a> {
    session: &'a Session,
    state: MutexGuard<'a, SessionState>,
}

impl Deref for StateGuard<'_> {
    type Target = SessionState;

    fn deref(&self) -> &SessionState {
        &self.state
    }
}

impl DerefMut for StateGuard<'_> {
    fn deref_mut(&mut self) -> &mut SessionState {
        &mut self.state
    }
}

impl Drop for StateGuard<'_> {
    fn drop(&mut self) {
        let (before, now) = (self.session.queued.load(Ordering::Relaxed), self.state.queue.len());
        if now != before {
            self.session.queued.store(now, Ordering::SeqCst);
        }
        if now < before {
            self.session.notify_progress();
        }
    }
}

/// The transport of a session, with what is needed to send over it.
#[derive(Debug)]
enum Carrier {
    /// A WebSocket whose handshake is being answered.
    Opening,
    Polling(polling::PollingState),
    WebSocket(Writer),
    /// The session was finished.
    Gone,
}

impl SessionState {
    /// Wakes the task that sends.
    fn wake(&self) {
        if let Some(sender) = &self.sender {
            sender.wake_by_ref();
        }
    }

    /// Registers the task that sends from now on.
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

    /// The current transport. When the session has ended and its last messages are delivered, the
    /// transport is not known any more, and this is [`Transport::WebSocket`].
    pub fn transport(&self) -> Transport {
        match self.state().carrier {
            Carrier::Polling(_) => Transport::Polling,
            _ => Transport::WebSocket,
        }
    }

    /// Ends the session, if it has not ended. With [`End::Server`] and [`End::Shutdown`], queued
    /// messages are still delivered, within [`Config::delivery_timeout`]. With every other reason,
    /// they are discarded at once.
    pub fn end(&self, end: End) {
        self.end_with(&mut self.state(), end);
    }

    /// Why the session ended; `None` if it has not.
    pub fn ended(&self) -> Option<End> {
        self.state().end
    }

    /// Has the session's task call [`Protocol::woken`](super::Protocol::woken) soon, unless the
    /// session ends before.
    pub fn wake(&self) {
        self.woken.store(true, Ordering::Relaxed);
        // The task looks at `woken` after it was woken. If no task is registered yet, the one that
        // registers looks after it.
        self.state().wake();
        self.keeper_wakeup.notify_one();
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
            Transport::Polling => Carrier::Polling(polling::PollingState::default()),
            Transport::WebSocket => Carrier::Opening,
        };
        Arc::new(Self {
            sid,
            config: Arc::clone(config),
            memory: Arc::clone(memory),
            state: Mutex::new(SessionState {
                queue: Queue::default(),
                extra: 0,
                carrier,
                receiver: None,
                end: None,
                ended_at: None,
                slot: None,
                heart: Heartbeat::new(Instant::now(), config),
                sender: None,
            }),
            over: AtomicBool::new(false),
            queued: AtomicUsize::new(0),
            stalled: AtomicBool::new(false),
            woken: AtomicBool::new(false),
            rearm: AtomicBool::new(false),
            delivering: AtomicUsize::new(0),
            keeper_wakeup: Notify::new(),
            progress: Notify::new(),
            progress_wanted: AtomicBool::new(false),
        })
    }

    fn state(&self) -> StateGuard<'_> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        StateGuard { session: self, state }
    }

    /// Waits for the session's end.
    pub(crate) async fn over(&self) {
        self.until(Duration::MAX, || self.is_over()).await;
    }

    /// Waits until `condition` holds, which is checked again at each
    /// [`notify_progress`](Self::notify_progress). Returns false if there is no progress for as
    /// long as `limit`.
    async fn until(&self, limit: Duration, condition: impl Fn() -> bool) -> bool {
        loop {
            let mut progress = std::pin::pin!(self.progress.notified());
            progress.as_mut().enable();
            self.progress_wanted.store(true, Ordering::SeqCst);
            if condition() {
                return true;
            }
            if timeout(limit, progress).await.is_err() {
                return false;
            }
        }
    }

    /// Notifies tasks that wait for space in the queue, for an upgrade, or for the session's end.
    /// Called after the change that they wait for.
    fn notify_progress(&self) {
        if self.progress_wanted.load(Ordering::SeqCst)
            && self.progress_wanted.swap(false, Ordering::SeqCst)
        {
            self.progress.notify_waiters();
        }
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    fn end_with(&self, state: &mut SessionState, end: End) {
        if state.end.is_some() {
            return;
        }
        state.end = Some(end);
        state.ended_at = Some(Instant::now());
        self.over.store(true, Ordering::SeqCst);
        if end == End::Shutdown
            && let SessionState { queue, carrier: Carrier::WebSocket(writer), .. } = state
        {
            let _ = queue.write(&self.memory, |slices| writer.try_write(slices));
        }
        if !end.delivers() {
            state.queue.clear(&self.memory);
        }
        if let Carrier::Polling(polling) = &mut state.carrier {
            polling.wake_post();
        }
        state.wake();
        self.keeper_wakeup.notify_one();
        self.notify_progress();
    }

    /// Whether the session has ended: cheap enough to ask before each message.
    ///
    /// In one order with `progress_wanted`, so that a task that waits in [`until`](Self::until)
    /// misses no end.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Whether the protocol must be called. Does not reset the flag;
    /// [`take_woken`](Self::take_woken) does.
    pub(crate) fn is_woken(&self) -> bool {
        self.woken.load(Ordering::Relaxed)
    }

    /// Whether [`wake`](Self::wake) was called since this was last called.
    pub(crate) fn take_woken(&self) -> bool {
        self.is_woken() && self.woken.swap(false, Ordering::Relaxed)
    }

    /// For the owner of a session that began with polling. Waits until the session may have ended,
    /// been upgraded or woken, or been given a nearer deadline.
    pub(crate) async fn keeper_woken(&self) {
        self.keeper_wakeup.notified().await;
    }

    /// Called by the owner. Ends the session if it has not ended, and returns the reason that came
    /// first. Unlike [`end`](Self::end), it keeps queued packets for every reason: the task of a
    /// WebSocket still writes its close frame, within [`Config::linger`].
    pub(crate) fn conclude(&self, end: End) -> End {
        let mut state = self.state();
        self.over.store(true, Ordering::SeqCst);
        self.notify_progress();
        state.ended_at.get_or_insert_with(Instant::now);
        *state.end.get_or_insert(end)
    }

    /// Sets the slot of the session, which the answers to its polls share.
    pub(crate) fn set_slot(&self, slot: &Arc<Slot>) {
        self.state().slot = Some(Arc::clone(slot));
    }

    /// Whether an answer to a poll that is being written must fail. After an end by the client or
    /// by an overlapping poll, the answer has [`Config::linger`]: it tells the client of the end.
    pub(crate) fn must_break_off(&self) -> bool {
        let state = self.state();
        match state.end {
            None => false,
            Some(end @ (End::Server | End::Shutdown | End::Client | End::Overlap)) => {
                let limit =
                    if end.delivers() { self.config.delivery_timeout } else { self.config.linger };
                state.ended_at.is_some_and(|at| at.elapsed() > limit)
            }
            Some(_) => true,
        }
    }

    /// Takes the transport away and discards queued packets. Returns the WebSocket, if there is
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
        // A session that the application has refused was not finished, and may have packets.
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        state.queue.clear(&self.memory);
    }
}
