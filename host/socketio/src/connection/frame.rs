//! Events as packets: for one connection, or encoded once for many.

use std::sync::Arc;

use bytes::Bytes;

use crate::call::quote;
use crate::engineio::{Frame, Memory};
use crate::namespace::Namespace;
use crate::packet::{Head, Kind};
use crate::recovery::{Kept, Recoveries};

/// An event that is encoded once and sent to many connections of one namespace.
///
/// Clones and queues share its bytes, which count once in
/// [`Config::max_queued_total`](crate::Config::max_queued_total).
#[derive(Debug, Clone)]
pub struct EventFrame {
    pub(super) namespace: Arc<Namespace>,
    pub(super) frame: Frame,
    /// The same bytes for clients that return, if the server has recovery.
    pub(super) kept: Option<Arc<Kept>>,
}

impl EventFrame {
    pub(crate) fn new<C>(
        recovery: Option<&Recoveries<C>>,
        memory: &Arc<Memory>,
        namespace: &Arc<Namespace>,
        name: &str,
        arguments: &str,
        attachments: &[Bytes],
    ) -> Self {
        let head = Head::new(Kind::Event, attachments.len(), namespace.name(), None);
        let name = quote(name);
        let parts = event_parts(&head, &name, arguments);
        let kept = recovery.map(|recovery| recovery.encode(parts, attachments));
        let frame = match &kept {
            Some(kept) => Frame::from_encoded(memory, kept.bytes().clone()),
            None => Frame::new(memory, &closed(parts), attachments),
        };
        Self { namespace: Arc::clone(namespace), frame, kept }
    }

    /// An event that no client gets later.
    pub(crate) fn unkept(
        memory: &Arc<Memory>,
        namespace: &Arc<Namespace>,
        name: &str,
        arguments: &str,
        attachments: &[Bytes],
    ) -> Self {
        let head = Head::new(Kind::Event, attachments.len(), namespace.name(), None);
        let name = quote(name);
        let text = closed(event_parts(&head, &name, arguments));
        let frame = Frame::new(memory, &text, attachments);
        Self { namespace: Arc::clone(namespace), frame, kept: None }
    }

    /// The name of the namespace whose connections can send this.
    pub fn namespace(&self) -> &str {
        self.namespace.name()
    }

    /// How many bytes it adds to the queue of a client.
    #[expect(clippy::len_without_is_empty, reason = "a frame is never empty")]
    pub fn len(&self) -> usize {
        self.frame.len()
    }
}

/// The text of an event without its last character, the bracket, before which an offset may follow.
pub(super) fn event_parts<'a>(head: &'a Head, name: &'a [u8], arguments: &'a str) -> [&'a [u8]; 5] {
    let comma: &[u8] = if arguments.is_empty() { b"" } else { b"," };
    [head.as_bytes(), b"[", name, comma, arguments.as_bytes()]
}

/// The text of an event without an offset.
pub(super) fn closed(parts: [&[u8]; 5]) -> [&[u8]; 6] {
    let [head, bracket, name, comma, arguments] = parts;
    [head, bracket, name, comma, arguments, b"]"]
}
