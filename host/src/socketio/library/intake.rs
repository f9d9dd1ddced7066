//! Passes the events of one socket to its client, in the order in which they arrive.

use std::sync::Arc;

use socketioxide::handler::{MessageHandler, Value};
use socketioxide::socket::Socket;

use crate::socketio::{self, Client, Incoming};

use super::adapter::Adapter;
use super::argument;
use super::link::Link;
use super::owned::own;

/// The handler that the library calls in its reader task for every event of a connection. It is not
/// a closure: the library spawns closures as tasks, which lose the order.
pub(super) struct Intake {
    pub(super) client: Arc<dyn Client>,
    pub(super) link: Link,
}

/// Marker that distinguishes this implementation from the library's blanket implementations for
/// closures.
pub(super) struct InReaderTask;

impl MessageHandler<Adapter, InReaderTask> for Intake {
    fn call(&self, _: Arc<Socket<Adapter>>, value: Value, ack: Option<i64>) {
        self.link.until_sent();
        let (text, attachments) = match value {
            Value::Str(text, attachments) => (text, attachments),
            // Only parsers that the host does not use produce this form.
            Value::Bytes(_) => (socketioxide_core::Str::default(), None),
        };
        let incoming = Incoming {
            call: argument::split(&text),
            bytes: text.len(),
            attachments: attachments.into_iter().flatten().map(own).collect(),
            ack: ack.map(i64::cast_unsigned),
        };
        Arc::clone(&self.client).event(incoming, socketio::Link::Library(self.link.clone()), None);
    }
}
