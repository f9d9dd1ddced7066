//! Frames that many sessions share, and the queue of what waits for one client.
use std::sync::Arc;

use bytes::Bytes;

use super::frame::{self, op};
use super::memory::Memory;

/// A message with its attachments, encoded once, for any number of sessions of one server.
///
/// It counts once among the bytes that wait for all clients, for as long as it exists.
#[derive(Debug, Clone)]
pub struct Frame(Bytes);

impl Frame {
    pub(crate) fn new(memory: &Arc<Memory>, text: &[&[u8]], attachments: &[Bytes]) -> Self {
        let mut bytes = Vec::new();
        write_message(&mut bytes, text, attachments);
        memory.outgoing.add(bytes.len());
        Self(Bytes::from_owner(Counted { bytes, memory: Arc::clone(memory) }))
    }

    /// How many bytes wait for each client to which this is sent.
    #[expect(clippy::len_without_is_empty, reason = "a frame is never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn bytes(&self) -> &Bytes {
        &self.0
    }
}

/// The memory of a shared frame.
struct Counted {
    bytes: Vec<u8>,
    memory: Arc<Memory>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.memory.outgoing.remove(self.bytes.len());
    }
}

/// Appends the frames of a text message and of the binary messages that directly follow it.
pub(crate) fn write_message(out: &mut Vec<u8>, text: &[&[u8]], attachments: &[Bytes]) {
    frame::write_text(out, b"4", text);
    for attachment in attachments {
        frame::write(out, op::BINARY, &[attachment]);
    }
}
