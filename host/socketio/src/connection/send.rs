//! How events and answers are queued for the client, and kept if it may return.

use std::sync::Arc;

use bytes::Bytes;

use super::frame::{EventFrame, closed, event_parts};
use super::handler::Handler;
use super::recovery::is_lost;
use super::{Connection, ConnectionState};
use crate::call::quote;
use crate::engineio::Batch;
use crate::packet::{Head, Kind};

/// When queued packets are written.
pub(super) enum Flush<'a> {
    Now,
    /// When the batch is flushed.
    With(&'a Batch),
    /// When the handler that runs for this session has returned or waits.
    AfterHandler,
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
        self.queue(flush, |ConnectionState { session, keep, .. }| {
            let head = Head::new(Kind::Event, attachments.len(), self.namespace.name(), None);
            let name = quote(name);
            let parts = event_parts(&head, &name, arguments);
            let (Some(keep), Some(recovery)) = (keep, self.shared.recovery()) else {
                return session.text(&closed(parts), attachments);
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
        self.queue(flush, |state| {
            let head = Head::new(Kind::Ack, attachments.len(), self.namespace.name(), Some(id));
            state.session.text(&[head.as_bytes(), b"[", arguments.as_bytes(), b"]"], attachments)
        })
    }

    pub(super) fn write_frame(&self, flush: Flush<'_>, event: &EventFrame) -> bool {
        let write = |ConnectionState { session, keep, .. }: &mut ConnectionState<H>| {
            let (Some(keep), Some(kept), Some(recovery)) =
                (keep, &event.kept, self.shared.recovery())
            else {
                return session.shared(&event.frame);
            };
            let is_queued = match keep.push_shared(recovery, kept) {
                None => session.shared(&event.frame),
                Some(again) => session.encoded(again.bytes()),
            };
            is_queued || is_lost(session)
        };
        Arc::ptr_eq(&event.namespace, &self.namespace) && self.queue(flush, write)
    }

    /// Calls `write` unless the connection has ended. Returns its result: whether something was
    /// queued or kept.
    fn queue(&self, flush: Flush<'_>, write: impl FnOnce(&mut ConnectionState<H>) -> bool) -> bool {
        let mut state = self.state();
        if self.is_over(&state) || !write(&mut state) {
            return false;
        }
        match flush {
            Flush::Now => state.session.flush(),
            Flush::With(batch) => batch.add(&state.session),
            Flush::AfterHandler => {}
        }
        true
    }
}
