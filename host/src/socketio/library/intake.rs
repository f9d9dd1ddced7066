//! Passes the events of one socket to its client, in the order in which they arrive.

use std::sync::Arc;

use bytes::Bytes;
use socketioxide::handler::{MessageHandler, Value};
use socketioxide::socket::Socket;

use crate::socketio::{self, Client, Incoming};

use super::adapter::Adapter;
use super::argument;
use super::link::Link;

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

/// Returns an attachment that keeps no more memory than is counted for it. A small attachment would
/// keep the far larger buffer into which its transport read it.
fn own(attachment: Bytes) -> Bytes {
    if attachment.len() < READ_BUFFER_BYTES {
        Bytes::copy_from_slice(&attachment)
    } else {
        attachment
    }
}

/// An attachment of at least this many bytes is about as large as the buffer into which it was
/// read.
const READ_BUFFER_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_attachment_does_not_keep_the_buffer_in_which_it_was_read() {
        for (length, is_copied) in
            [(1, true), (READ_BUFFER_BYTES - 1, true), (READ_BUFFER_BYTES, false)]
        {
            let buffer = Bytes::from(vec![7; 2 * READ_BUFFER_BYTES]);
            let owned = own(buffer.slice(..length));
            assert_eq!(owned, buffer.slice(..length));
            assert_eq!(owned.as_ptr() != buffer.as_ptr(), is_copied, "{length}");
        }
    }
}
