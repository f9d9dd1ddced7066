//! How a connection outlives its session: it is detached when its transport is lost, keeps its
//! events, and is attached to the session with which its client returns.
//!
//! All of this happens under the connection's lock, and so does the queueing of events. An event
//! that another task sends during a reattachment is either replayed or queued after the replay.

use std::mem::replace;
use std::pin::pin;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::handler::{DisconnectReason, Handler};
use super::{Connection, ConnectionState};
use crate::engineio::{End, Session};
use crate::namespace::Namespace;
use crate::packet::{Head, Kind};
use crate::recovery::{Kept, Offset, Pid, Recoveries, Ring};

/// The additional state of a connection that can be recovered.
#[derive(Debug)]
pub(super) struct Lasting {
    pid: Pid,
    /// Notified when the connection was detached or attached, or has ended.
    changed: Notify,
}

impl Lasting {
    pub(super) fn new(pid: Pid) -> Self {
        Self { pid, changed: Notify::new() }
    }
}

/// The additional state under the connection's lock.
#[derive(Debug)]
pub(super) struct Keep {
    ring: Ring,
    /// Why it has lost its session, while it has none.
    detached: Option<End>,
    /// How many times it was detached.
    detachments: u64,
    /// The application has ended the connection after its transport was lost.
    ended_while_lost: bool,
}

impl Keep {
    pub(super) fn new(ring: Ring) -> Self {
        Self { ring, detached: None, detachments: 0, ended_while_lost: false }
    }

    pub(super) fn push(&mut self, event: &Arc<Kept>) {
        self.ring.push(Arc::clone(event), Instant::now());
    }

    /// Keeps an event that was encoded for many. Returns it with another offset if it was encoded
    /// before the last event of this connection.
    pub(super) fn push_shared<C>(
        &mut self,
        recovery: &Recoveries<C>,
        event: &Arc<Kept>,
    ) -> Option<Arc<Kept>> {
        let again =
            (!self.ring.accepts(event.offset())).then(|| event.with_offset(recovery.next_offset()));
        self.push(again.as_ref().unwrap_or(event));
        again
    }

    /// The connection has ended while its transport was lost.
    pub(super) fn end_lost(&mut self) {
        self.ended_while_lost = true;
    }

    pub(super) fn clear(&mut self) {
        self.ring.clear();
    }
}

/// What has become of a connection whose session has ended.
#[derive(Debug)]
pub(crate) enum Closed {
    /// It is detached: its client may return, or it expires. The number distinguishes this
    /// detachment from others of the same connection.
    Detached(u64),
    /// It has ended, for this reason.
    Ended(DisconnectReason),
}

/// The result of an attempt to attach a connection.
#[derive(Debug)]
pub(crate) enum Reattached {
    /// It continues where it was.
    Done,
    /// Its old session has not noticed its end.
    Attached(Arc<Session>),
    /// The connection has ended. The reason must be passed to the application, if there is one.
    Ended(Option<End>),
}

/// Whether the session has ended so that its client may return.
pub(super) fn is_lost(session: &Session) -> bool {
    session.is_over() && session.ended().is_some_and(End::is_recoverable)
}

impl<H: Handler> Connection<H> {
    /// Whether this is a connection in the namespace.
    pub(crate) fn is_in(&self, namespace: &Arc<Namespace>) -> bool {
        Arc::ptr_eq(&self.namespace, namespace)
    }

    /// Queues the answer to CONNECT.
    pub(crate) fn answer_connect(&self, session: &Session) {
        let head = Head::new(Kind::Connect, 0, self.namespace(), None);
        let (head, id) = (head.as_bytes(), self.id.as_str().as_bytes());
        match &self.lasting {
            None => session.text(&[head, br#"{"sid":""#, id, br#""}"#], &[]),
            Some(lasting) => session.text(
                &[head, br#"{"sid":""#, id, br#"","pid":""#, &lasting.pid.text(), br#""}"#],
                &[],
            ),
        };
    }

    /// The session has ended. Detaches the connection if its client may return to it, and ends it
    /// otherwise.
    pub(crate) fn close(&self, end: End) -> Closed {
        if end.is_recoverable()
            && let Some(detachment) = self.detach(end)
        {
            return Closed::Detached(detachment);
        }
        let is_first = self.finish();
        let is_by_end =
            is_first || self.state().keep.as_ref().is_some_and(|keep| keep.ended_while_lost);
        let reason =
            if is_by_end { DisconnectReason::SessionEnded(end) } else { DisconnectReason::Server };
        Closed::Ended(reason)
    }

    /// Returns the number of this detachment, or `None` if the connection has ended or can't be
    /// kept.
    fn detach(&self, end: End) -> Option<u64> {
        let (recovery, lasting) = (self.shared.recovery()?, self.lasting.as_ref()?);
        let (acks, detachment) = {
            let mut state = self.state();
            let ConnectionState { acks, keep: Some(keep), .. } = &mut *state else { return None };
            if self.is_finished() || !recovery.add_detached() {
                return None;
            }
            keep.detached = Some(end);
            keep.detachments += 1;
            (std::mem::take(acks), keep.detachments)
        };
        self.shared.remove_pending_acks(acks.len());
        lasting.changed.notify_waiters();
        Some(detachment)
    }

    /// Ends the connection if it is still detached, and has not been attached since this
    /// detachment. Returns why it was detached.
    pub(crate) fn end_detached(&self, detachment: u64) -> Option<End> {
        let (end, acks) = {
            let mut state = self.state();
            let keep = state.keep.as_mut().filter(|keep| keep.detachments == detachment)?;
            let end = keep.detached.take()?;
            (end, self.end(&mut state).1)
        };
        drop(acks);
        self.shared.recovery()?.remove_detached();
        Some(end)
    }

    /// Attaches the connection to the session with which its client returns, answers CONNECT and
    /// queues the events that the client has missed. If one of them was dropped, the connection
    /// ends.
    pub(crate) fn reattach(
        &self,
        session: &Arc<Session>,
        value: &Arc<H::Session>,
        offset: Option<Offset>,
    ) -> Reattached {
        let (Some(recovery), Some(lasting)) = (self.shared.recovery(), &self.lasting) else {
            return Reattached::Ended(None);
        };
        // Dropped without the lock: the value is the application's.
        let old;
        {
            let mut guard = self.state();
            let state = &mut *guard;
            if self.is_finished() {
                return Reattached::Ended(None);
            }
            let Some(keep) = &mut state.keep else { return Reattached::Ended(None) };
            let Some(end) = keep.detached else {
                return Reattached::Attached(Arc::clone(&state.session));
            };
            let Some(missed) = keep.ring.after(offset) else {
                keep.detached = None;
                recovery.remove_detached();
                // There are no acks: they ended when the connection was detached.
                let _ = self.end(state);
                return Reattached::Ended(Some(end));
            };
            self.answer_connect(session);
            for event in missed {
                session.encoded(event.bytes());
            }
            keep.detached = None;
            old = (
                replace(&mut state.session, Arc::clone(session)),
                replace(&mut state.value, Arc::clone(value)),
            );
        }
        recovery.remove_detached();
        lasting.changed.notify_waiters();
        drop(old);
        Reattached::Done
    }

    /// Waits until this session does not have the connection any more.
    pub(crate) async fn until_detached_from(&self, session: &Arc<Session>) {
        let has_left = |state: &ConnectionState<H>| {
            !Arc::ptr_eq(&state.session, session)
                || state.keep.as_ref().is_none_or(|keep| keep.detached.is_some())
        };
        self.until(has_left).await;
    }

    /// Waits until the connection is attached again or has ended.
    pub(crate) async fn until_reattached(&self, detachment: u64) {
        let is_detached = |keep: &Keep| keep.detached.is_some() && keep.detachments == detachment;
        self.until(|state| !state.keep.as_deref().is_some_and(is_detached)).await;
    }

    /// Waits until the condition holds or the connection has ended.
    async fn until(&self, condition: impl Fn(&ConnectionState<H>) -> bool) {
        let Some(lasting) = &self.lasting else { return };
        loop {
            let mut changed = pin!(lasting.changed.notified());
            // Before the condition is asked, so that no change is missed.
            changed.as_mut().enable();
            if self.is_finished() || condition(&self.state()) {
                return;
            }
            changed.await;
        }
    }

    /// The connection has ended: its client can't return.
    pub(super) fn unregister(&self) {
        if let (Some(recovery), Some(lasting)) = (self.shared.recovery(), &self.lasting) {
            recovery.remove(lasting.pid);
            lasting.changed.notify_waiters();
        }
    }
}
