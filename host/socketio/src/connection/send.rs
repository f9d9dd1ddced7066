//! How events and answers are queued for the client, and kept if it may return.

use std::sync::Arc;

use bytes::Bytes;

use super::Connection;
use super::frame::{EventFrame, closed, event_parts};
use super::handler::Handler;
use super::recovery::Keep;
use super::recovery::is_lost;
use crate::call::quote;
use crate::engineio::{Batch, Session};
use crate::packet::{Head, Kind};

/// When queued packets are written.
pub(super) enum Flush<'a> {
    Now,
    /// When the batch is flushed.
    With(&'a Batch),
    /// When the handler that runs for this session has returned or waits.
    AfterHandler,
}

impl Flush<'_> {
    fn flush(&self, session: &Arc<Session>) {
        match self {
            Flush::Now => session.flush(),
            Flush::With(batch) => batch.add(session),
            Flush::AfterHandler => {}
        }
    }
}

impl<H: Handler> Connection<H> {
    pub(crate) fn queue_event(&self, name: &str, arguments: &str, attachments: &[Bytes]) -> bool {
        self.write_event(Flush::AfterHandler, name, arguments, attachments)
    }

    pub(crate) fn queue_ack(&self, id: u64, arguments: &str, attachments: &[Bytes]) -> bool {
        self.write_ack(Flush::AfterHandler, id, arguments, attachments)
    }

    pub(super) fn write_event(
        &self,
        flush: Flush<'_>,
        name: &str,
        arguments: &str,
        attachments: &[Bytes],
    ) -> bool {
        self.queue(flush, |session, keep| {
            let head = Head::new(Kind::Event, attachments.len(), self.namespace.name(), None);
            let name = quote(name);
            let parts = event_parts(&head, &name, arguments);
            let (Some(keep), Some(recovery)) = (keep, self.shared.recovery()) else {
                return session.text_if(|| !self.is_finished(), &closed(parts), attachments);
            };
            let event = recovery.encode(parts, attachments);
            keep.push(&event);
            session.encoded(event.bytes()) || is_lost(session)
        })
    }

    pub(super) fn write_ack(
        &self,
        flush: Flush<'_>,
        id: u64,
        arguments: &str,
        attachments: &[Bytes],
    ) -> bool {
        self.queue(flush, |session, _| {
            let head = Head::new(Kind::Ack, attachments.len(), self.namespace.name(), Some(id));
            let parts = [head.as_bytes(), b"[", arguments.as_bytes(), b"]"];
            session.text_if(|| !self.is_finished(), &parts, attachments)
        })
    }

    pub(super) fn write_frame(&self, flush: Flush<'_>, event: &EventFrame) -> bool {
        let write = |session: &Session, keep: Option<&mut Keep>| {
            let (Some(keep), Some(kept), Some(recovery)) =
                (keep, &event.kept, self.shared.recovery())
            else {
                return session.shared_if(|| !self.is_finished(), &event.frame);
            };
            let is_queued = match keep.push_shared(recovery, kept) {
                None => session.shared(&event.frame),
                Some(again) => session.encoded(again.bytes()),
            };
            is_queued || is_lost(session)
        };
        Arc::ptr_eq(&event.namespace, &self.namespace) && self.queue(flush, write)
    }

    /// Queues an event that is not kept, if at most `at_most_bytes` are queued before it. That is
    /// decided under the lock under which messages are queued, so that several tasks do not exceed
    /// a bound together.
    pub(super) fn write_volatile(
        &self,
        flush: Flush<'_>,
        event: &EventFrame,
        at_most_bytes: usize,
    ) -> bool {
        let write = |session: &Session, _: Option<&mut Keep>| {
            let takes = || {
                !self.is_finished()
                    && session.queued_bytes() <= at_most_bytes
                    && session.has_room(event.len())
            };
            session.shared_if(takes, &event.frame)
        };
        Arc::ptr_eq(&event.namespace, &self.namespace) && self.queue(flush, write)
    }

    /// Calls `write` unless the connection has ended. Returns its result: whether something was
    /// queued or kept.
    ///
    /// Without recovery, `write` is called without the connection's lock, and the connection may
    /// end meanwhile. Then `write` asks again under the session's lock, which is taken for each
    /// packet anyway.
    fn queue(
        &self,
        flush: Flush<'_>,
        write: impl FnOnce(&Session, Option<&mut Keep>) -> bool,
    ) -> bool {
        if let Some(session) = &self.only_session {
            let is_queued = !self.is_finished() && write(session, None);
            if is_queued {
                flush.flush(session);
            }
            return is_queued;
        }
        let mut guard = self.state();
        let state = &mut *guard;
        if self.is_over(state) || !write(&state.session, state.keep.as_deref_mut()) {
            return false;
        }
        flush.flush(&state.session);
        true
    }
}
