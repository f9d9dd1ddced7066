//! How a session that polls handles its requests: polls, posts, and the upgrade to a WebSocket. The
//! owner of the session is the task that pings the client and ends the session at its deadlines.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use super::{Carrier, Session};
use crate::engineio::end::End;
use crate::engineio::memory::{Memory, Slot};
use crate::engineio::outgoing::Queue;
use crate::engineio::receiver::Receiver;
use crate::engineio::stream::Writer;

/// The packet that answers a poll without a message.
const NOOP: &str = "6";

/// The packet that tells the client that its session has ended.
const CLOSE: &str = "1";

/// The requests of one polling session: at most one GET, one POST and one WebSocket that tries to
/// take over.
#[derive(Debug, Default)]
pub(crate) struct PollingState {
    /// A GET waits for something to answer.
    waiting: bool,
    /// A POST is being received or handled.
    posting: bool,
    /// The POST whose body is being received: it is given up when the session ends, or when a
    /// WebSocket takes over.
    receiving: Option<Waker>,
    /// A WebSocket tries to take over.
    upgrading: bool,
    /// The probe was answered: the waiting poll is answered with a noop (`6`), so that the client
    /// stops polling.
    released: bool,
}

impl PollingState {
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting
    }

    /// Wakes the POST that is being received.
    pub(super) fn wake_post(&mut self) {
        if let Some(post) = self.receiving.take() {
            post.wake();
        }
    }
}

/// How a poll is answered.
#[derive(Debug)]
pub(crate) enum Polled {
    /// With the queued packets.
    Packets(Delivering),
    /// With one packet of the engine.
    Packet(&'static str),
    /// With an error, because [`Session::start_poll`] has refused the GET.
    Refused,
    /// Not at all: the connection is closed, and the client finds out by itself.
    Closed,
}

/// The body of an answer, counted as queued until the HTTP server has written it.
#[derive(Debug)]
pub(crate) struct Delivering {
    session: Arc<Session>,
    memory: Arc<Memory>,
    body: Vec<u8>,
    /// How many bytes of it count as queued for the client: as many as in the queue. Base64 makes
    /// binary messages in `body` longer; these bytes all count for the bound of all sessions.
    queued: usize,
    /// The session counts as one of all sessions as long as the HTTP server holds an answer of it.
    _slot: Option<Arc<Slot>>,
}

impl Delivering {
    /// Takes all queued packets. Returns `None` if the bound of all sessions does not allow the
    /// additional bytes, for base64 and for a copy of shared frames. The packets are lost then, and
    /// the caller ends the session.
    fn take(session: &Arc<Session>, queue: &mut Queue, slot: Option<Arc<Slot>>) -> Option<Self> {
        let queued = queue.len();
        let body = queue.take_packets(&session.memory);
        let queued_for_session = session.delivering.load(Ordering::SeqCst) + queued;
        if !session.memory.add_outgoing(body.len(), queued_for_session) {
            return None;
        }
        session.delivering.fetch_add(queued, Ordering::SeqCst);
        Some(Self {
            session: Arc::clone(session),
            memory: Arc::clone(&session.memory),
            body,
            queued,
            _slot: slot,
        })
    }

    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }
}

impl AsRef<[u8]> for Delivering {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl Drop for Delivering {
    fn drop(&mut self) {
        self.session.delivering.fetch_sub(self.queued, Ordering::SeqCst);
        self.memory.outgoing.remove(self.body.len());
        self.session.notify_progress();
    }
}

/// A GET that waits. If it is dropped before it was answered, the client has hung up in the middle
/// of a poll, and the session ends. Not after an upgrade: then nothing happens.
#[derive(Debug)]
pub(crate) struct PollGuard {
    session: Arc<Session>,
    answered: bool,
}

impl PollGuard {
    /// Waits for something to answer.
    pub(crate) fn poll_packets(&mut self, cx: &mut Context<'_>) -> Poll<Polled> {
        let polled = self.session.poll_packets(cx);
        self.answered = polled.is_ready();
        polled
    }
}

impl Drop for PollGuard {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        let state = &mut *self.session.state();
        if let Carrier::Polling(polling) = &mut state.carrier {
            polling.waiting = false;
            self.session.end_with(state, End::Transport);
        }
    }
}

/// A POST. If it is dropped before [`handled`](Self::handled), the session ends: the client has
/// hung up in the middle of it, or its handler has panicked.
#[derive(Debug)]
pub(crate) struct PostGuard {
    session: Arc<Session>,
    /// The reason for the session's end if the guard is dropped now.
    unfinished: Option<End>,
}

impl PostGuard {
    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// The same as [`Session::not_polling`], for the POST whose body is being received. Wakes only
    /// then, not at each progress of the session.
    pub(crate) async fn over(&self) {
        poll_fn(|cx| {
            let state = &mut *self.session.state();
            match &mut state.carrier {
                Carrier::Polling(polling) if state.end.is_none() => {
                    polling.receiving = Some(cx.waker().clone());
                    Poll::Pending
                }
                _ => Poll::Ready(()),
            }
        })
        .await;
    }

    /// The body was received, and a task of its own handles it: a client that hangs up now changes
    /// nothing. If the guard is dropped before [`handled`](Self::handled), the handler has
    /// panicked.
    pub(crate) fn received(&mut self) {
        self.unfinished = Some(End::Aborted);
    }

    /// The body was handled.
    pub(crate) fn handled(mut self) {
        self.unfinished = None;
    }
}

impl Drop for PostGuard {
    fn drop(&mut self) {
        let state = &mut *self.session.state();
        let is_polling = if let Carrier::Polling(polling) = &mut state.carrier {
            (polling.posting, polling.receiving) = (false, None);
            true
        } else {
            false
        };
        // A WebSocket that has taken over does not depend on the request.
        if let Some(end) = self.unfinished.filter(|end| is_polling || *end == End::Aborted) {
            self.session.end_with(state, end);
        }
    }
}

impl Session {
    /// Whether the session has not ended and still polls.
    pub(crate) fn is_polling(&self) -> bool {
        let state = self.state();
        state.end.is_none() && matches!(state.carrier, Carrier::Polling(_))
    }

    /// Waits until the session has ended or its transport is a WebSocket.
    pub(crate) async fn not_polling(&self) {
        self.until(std::time::Duration::MAX, || !self.is_polling()).await;
    }

    /// Whether nothing is queued.
    #[cfg(test)]
    pub(crate) fn is_drained(&self) -> bool {
        self.state().queue.is_empty()
    }

    /// For the owner: whether nothing is left for a poll to deliver, because nothing is queued or a
    /// WebSocket has taken over.
    pub(crate) fn is_delivered(&self) -> bool {
        let state = self.state();
        state.queue.is_empty() || !matches!(state.carrier, Carrier::Polling(_))
    }

    /// Whether a WebSocket may still take over.
    pub(crate) fn is_upgradable(&self) -> bool {
        let state = self.state();
        state.end.is_none_or(End::delivers) && matches!(state.carrier, Carrier::Polling(_))
    }

    /// A GET begins to wait. Returns `None` if it is refused: a second one ends the session.
    pub(crate) fn start_poll(self: &Arc<Self>) -> Option<PollGuard> {
        let state = &mut *self.state();
        if state.end.is_some_and(|end| !end.delivers()) {
            return None;
        }
        let Carrier::Polling(polling) = &mut state.carrier else { return None };
        if polling.waiting {
            self.end_with(state, End::Overlap);
            return None;
        }
        polling.waiting = true;
        Some(PollGuard { session: Arc::clone(self), answered: false })
    }

    fn poll_packets(self: &Arc<Self>, cx: &mut Context<'_>) -> Poll<Polled> {
        let mut state = self.state();
        let released = match &state.carrier {
            Carrier::Polling(polling) => polling.released,
            // A WebSocket has taken over while this poll waited. `Opening` never polls.
            Carrier::Opening | Carrier::WebSocket(_) => return Poll::Ready(Polled::Packet(NOOP)),
            Carrier::Gone => false,
        };
        let polled = match state.end {
            // The client must not see an error for its own close. After an overlap it learns that
            // the session has ended.
            Some(End::Client) => Polled::Packet(NOOP),
            Some(End::Overlap) => Polled::Packet(CLOSE),
            _ if !state.queue.is_empty() => {
                let packets = {
                    let super::SessionState { queue, slot, .. } = &mut *state;
                    Delivering::take(self, queue, slot.clone())
                };
                // The owner of a session that the server ended waits until the queue is empty.
                self.keeper_wakeup.notify_one();
                if let Some(packets) = packets {
                    Polled::Packets(packets)
                } else {
                    self.end_with(&mut state, End::Overflow);
                    Polled::Closed
                }
            }
            end if released && end.is_none_or(End::delivers) => Polled::Packet(NOOP),
            Some(_) => Polled::Closed,
            None => {
                state.register(cx);
                return Poll::Pending;
            }
        };
        if let Carrier::Polling(polling) = &mut state.carrier {
            (polling.waiting, polling.released) = (false, false);
        }
        Poll::Ready(polled)
    }

    /// A POST begins. Returns `None` if it is refused: a second one ends the session.
    pub(crate) fn start_post(self: &Arc<Self>) -> Option<PostGuard> {
        let state = &mut *self.state();
        if state.end.is_some() {
            return None;
        }
        let Carrier::Polling(polling) = &mut state.carrier else { return None };
        if polling.posting {
            self.end_with(state, End::Overlap);
            return None;
        }
        polling.posting = true;
        Some(PostGuard { session: Arc::clone(self), unfinished: Some(End::Transport) })
    }

    /// A WebSocket wants to take over. Returns false if there is one already. Until
    /// [`upgrade`](Self::upgrade) the session continues as it is.
    pub(crate) fn start_upgrade(&self) -> bool {
        let state = &mut *self.state();
        match &mut state.carrier {
            Carrier::Polling(polling) if state.end.is_none() && !polling.upgrading => {
                polling.upgrading = true;
                true
            }
            _ => false,
        }
    }

    /// The WebSocket failed.
    pub(crate) fn abandon_upgrade(&self) {
        if let Carrier::Polling(polling) = &mut self.state().carrier {
            (polling.upgrading, polling.released) = (false, false);
        }
    }

    /// The probe is answered: releases the poll that waits now. Called again every 100 ms until the
    /// client decides, because a poll may arrive later.
    pub(crate) fn release_poll(&self) {
        let state = &mut *self.state();
        if let Carrier::Polling(polling) = &mut state.carrier
            && polling.waiting
        {
            polling.released = true;
            state.wake();
        }
    }

    /// Makes the WebSocket the session's transport, which then sends the queued packets. The owner
    /// takes the receiver. Has no effect after the session's end, except one that still delivers
    /// ([`End::delivers`]): the WebSocket then delivers the queued packets.
    pub(crate) fn upgrade(&self, writer: Writer, receiver: Receiver) {
        let state = &mut *self.state();
        let lives = state.end.is_none_or(End::delivers);
        if !lives || !matches!(state.carrier, Carrier::Polling(_)) {
            return;
        }
        if let Carrier::Polling(mut polling) =
            std::mem::replace(&mut state.carrier, Carrier::WebSocket(writer))
        {
            polling.wake_post();
        }
        state.receiver = Some(Box::new(receiver));
        self.notify_progress();
        // A poll that still waits is released.
        state.wake();
        self.keeper_wakeup.notify_one();
    }

    /// For the owner: the other half of the WebSocket that has taken over, once.
    pub(crate) fn take_receiver(&self) -> Option<Box<Receiver>> {
        self.state().receiver.take()
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::engineio::testing;

    #[test]
    fn a_large_binary_answer_costs_no_more_of_the_bound_than_its_message() {
        let session = testing::session();
        assert!(session.binary(&[1; 3_500_000]));
        let queued = session.queued_bytes();
        let polled =
            session.start_poll().unwrap().poll_packets(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(Polled::Packets(answer)) = polled else { panic!() };
        assert!(answer.as_ref().len() > session.config().max_queued, "in base64");
        assert_eq!(session.queued_bytes(), queued);
        assert!(session.memory.outgoing.used() > session.config().max_queued, "what it holds");
        assert!(session.text(&[&[b'x'; 500_000]], &[]));
        drop(answer);
        assert!(session.queued_bytes() < 501_000 && session.memory.outgoing.used() < 501_000);
    }
}
