//! The queue of outgoing frames of one client, and frames that many sessions share.
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use smallvec::SmallVec;

use super::buffer;
use super::frame::{self, op};
use super::memory::Memory;

/// A shared frame of at most this many bytes is copied into a queue that is not empty. That costs
/// less than one more chunk, and it limits the number of chunks: each except the first holds more
/// than this, or stands before one that does.
pub(crate) const MAX_COPIED: usize = 1024;

/// How many chunks one system call may write.
const SLICES: usize = 32;

/// A message with its attachments, encoded once, for any number of sessions of one server.
///
/// It counts once among the bytes that wait for all clients, for as long as it exists.
#[derive(Debug, Clone)]
pub struct Frame(Bytes);

impl Frame {
    pub(crate) fn new(memory: &Arc<Memory>, text: &[&[u8]], attachments: &[Bytes]) -> Self {
        let mut bytes = Vec::new();
        write_message(&mut bytes, text, attachments);
        Self::from_encoded(memory, bytes)
    }

    /// A frame of bytes that are whole frames already. They count here even if another owner counts
    /// them elsewhere.
    pub(crate) fn from_encoded(
        memory: &Arc<Memory>,
        bytes: impl AsRef<[u8]> + Send + 'static,
    ) -> Self {
        memory.outgoing.add(bytes.as_ref().len());
        Self(Bytes::from_owner(Counted { bytes, memory: Arc::clone(memory) }))
    }

    /// How many bytes it adds to the queue of each client.
    #[expect(clippy::len_without_is_empty, reason = "a frame is never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn bytes(&self) -> &Bytes {
        &self.0
    }
}

/// The memory of a shared frame.
struct Counted<B: AsRef<[u8]>> {
    bytes: B,
    memory: Arc<Memory>,
}

impl<B: AsRef<[u8]>> AsRef<[u8]> for Counted<B> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

impl<B: AsRef<[u8]>> Drop for Counted<B> {
    fn drop(&mut self) {
        self.memory.outgoing.remove(self.bytes.as_ref().len());
    }
}

/// Appends the frames of a text message and of the binary messages that directly follow it.
pub(crate) fn write_message(out: &mut Vec<u8>, text: &[&[u8]], attachments: &[Bytes]) {
    frame::write_text(out, b'4', text);
    write_attachments(out, attachments);
}

/// Appends the frames of the binary messages that follow a text message.
pub(crate) fn write_attachments(out: &mut Vec<u8>, attachments: &[Bytes]) {
    for attachment in attachments {
        frame::write(out, op::BINARY, &[attachment]);
    }
}

/// Whole frames that wait for one client. (A WebSocket may have taken a part of the first.)
///
/// The caller passes the same [`Memory`] to every method, and [`clear`](Self::clear)s the queue
/// before it drops it: queued bytes are counted there.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// Sent before `tail`.
    chunks: VecDeque<Chunk>,
    tail: Vec<u8>,
    /// Bytes of `chunks` and `tail` together.
    len: usize,
}

#[derive(Debug)]
struct Chunk {
    bytes: Bytes,
    /// Whether the bytes belong to a [`Frame`], which counts them itself.
    shared: bool,
}

impl Queue {
    /// How many bytes wait.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Queues the bytes that `write` appends. `leaves_soon`: they are likely to leave the queue
    /// soon, so a spare buffer of the thread is used.
    pub(crate) fn push(
        &mut self,
        memory: &Memory,
        leaves_soon: bool,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        if leaves_soon && self.tail.capacity() == 0 {
            self.tail = buffer::take();
        }
        let before = self.tail.len();
        write(&mut self.tail);
        let more = self.tail.len() - before;
        self.len += more;
        memory.outgoing.add(more);
    }

    /// Queues a shared frame.
    pub(crate) fn push_shared(&mut self, memory: &Memory, frame: &Frame) {
        let bytes = frame.bytes();
        if !self.is_empty() && bytes.len() <= MAX_COPIED {
            return self.push(memory, false, |tail| tail.extend_from_slice(bytes));
        }
        self.chunk_tail();
        self.chunks.push_back(Chunk { bytes: bytes.clone(), shared: true });
        self.len += bytes.len();
    }

    /// Makes the tail a chunk of its exact size.
    fn chunk_tail(&mut self) {
        if !self.tail.is_empty() {
            let bytes = Bytes::copy_from_slice(&self.tail);
            self.chunks.push_back(Chunk { bytes, shared: false });
        }
        buffer::give(std::mem::take(&mut self.tail));
    }

    /// Writes until nothing waits (true) or the kernel takes no more (false).
    ///
    /// # Errors
    ///
    /// If the connection is broken.
    pub(crate) fn write(
        &mut self,
        memory: &Memory,
        mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<bool> {
        while !self.is_empty() {
            let written = if self.chunks.is_empty() {
                write(&[IoSlice::new(&self.tail)])
            } else {
                let chunks = self.chunks.iter().map(|chunk| &*chunk.bytes);
                let tail = [&*self.tail].into_iter().filter(|tail| !tail.is_empty());
                let slices: SmallVec<[IoSlice<'_>; SLICES]> =
                    chunks.chain(tail).take(SLICES).map(IoSlice::new).collect();
                write(&slices)
            };
            match written {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => self.written(memory, n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    buffer::shrink(&mut self.tail);
                    return Ok(false);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }

    /// Removes the first `n` bytes, which were written.
    fn written(&mut self, memory: &Memory, mut n: usize) {
        self.len -= n;
        while let Some(first) = self.chunks.front_mut() {
            let taken = n.min(first.bytes.len());
            if !first.shared {
                memory.outgoing.remove(taken);
            }
            if taken < first.bytes.len() {
                first.bytes.advance(taken);
                return;
            }
            n -= taken;
            self.chunks.pop_front();
        }
        // From here, `n` bytes of the tail were written.
        if n < self.tail.len() {
            // Copied once: a chunk can advance without another copy.
            self.tail.drain(..n);
            self.chunk_tail();
        } else {
            buffer::give(std::mem::take(&mut self.tail));
        }
        memory.outgoing.remove(n);
        if self.is_empty() && self.chunks.capacity() > SLICES {
            self.chunks = VecDeque::new();
        }
    }

    /// Takes everything out, as the body of a poll's answer. Only for a queue that was never
    /// written to a WebSocket: the first frame must be whole.
    pub(crate) fn take_packets(&mut self, memory: &Memory) -> Vec<u8> {
        let mut body = Vec::with_capacity(self.len);
        for chunk in &self.chunks {
            frame::append_packets(&chunk.bytes, &mut body);
        }
        frame::append_packets(&self.tail, &mut body);
        self.clear(memory);
        body
    }

    /// Discards all bytes, stops counting them, and frees the memory.
    pub(crate) fn clear(&mut self, memory: &Memory) {
        let shared = self.chunks.iter().filter(|chunk| chunk.shared);
        let shared: usize = shared.map(|chunk| chunk.bytes.len()).sum();
        memory.outgoing.remove(self.len - shared);
        buffer::give(std::mem::take(&mut self.tail));
        self.chunks = VecDeque::new();
        self.len = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engineio::Config;

    fn memory() -> Arc<Memory> {
        Arc::new(Memory::new(&Config::default()))
    }

    fn push(queue: &mut Queue, memory: &Memory, text: &str) {
        queue.push(memory, true, |out| write_message(out, &[text.as_bytes()], &[]));
    }

    #[test]
    fn a_shared_frame_counts_once_until_it_is_gone() {
        let memory = memory();
        let frame = Frame::new(&memory, &[&[b'x'; 2000]], &[Bytes::from_static(&[0; 500])]);
        assert_eq!((frame.len(), memory.outgoing.used()), (2001 + 4 + 500 + 4, 2509));
        let mut queues: [Queue; 3] = Default::default();
        for queue in &mut queues {
            queue.push_shared(&memory, &frame);
            assert_eq!(queue.len(), 2509);
        }
        drop(frame);
        assert_eq!(memory.outgoing.used(), 2509);
        for queue in &mut queues {
            assert_eq!(queue.write(&memory, |slices| Ok(slices[0].len())).ok(), Some(true));
        }
        assert_eq!(memory.outgoing.used(), 0);
    }

    #[test]
    fn small_shared_frames_that_wait_are_not_chunks() {
        let memory = memory();
        let mut queue = Queue::default();
        let frame = Frame::new(&memory, &[b"small"], &[]);
        for _ in 0..1000 {
            queue.push_shared(&memory, &frame);
        }
        assert_eq!(queue.chunks.len(), 1);
        assert_eq!(memory.outgoing.used(), 1000 * frame.len());
        let body = queue.take_packets(&memory);
        assert_eq!(body.len(), 1000 * (6 + 1) - 1);
        assert_eq!((queue.len(), memory.outgoing.used()), (0, frame.len()));
    }

    #[test]
    fn a_queue_without_content_holds_no_buffer() {
        let memory = memory();
        let mut queue = Queue::default();
        push(&mut queue, &memory, "hello");
        assert!(queue.tail.capacity() >= buffer::SIZE);
        let blocked = queue.write(&memory, |_| Err(io::ErrorKind::WouldBlock.into()));
        assert_eq!(blocked.ok(), Some(false));
        assert!(queue.tail.capacity() < 100, "what waits has its own size");
        assert_eq!(queue.write(&memory, |slices| Ok(slices[0].len())).ok(), Some(true));
        assert_eq!((queue.tail.capacity(), queue.chunks.capacity()), (0, 0));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Own(usize),
        Shared(usize),
        Write(usize),
        Block,
        Poll,
        Clear,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..3000usize).prop_map(Step::Own),
            (0..3000usize).prop_map(Step::Shared),
            (1..4000usize).prop_map(Step::Write),
            Just(Step::Block),
            Just(Step::Poll),
            Just(Step::Clear),
        ];
        proptest::collection::vec(step, 1..60)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn everything_leaves_once_and_in_order(steps in steps()) {
            let memory = memory();
            let mut queue = Queue::default();
            // The queued bytes, as one piece; and whether a part of a frame has left.
            let mut expected: Vec<u8> = Vec::new();
            let mut partly = false;
            for (i, step) in steps.into_iter().enumerate() {
                let text = |len| vec![b'a' + (i % 26) as u8; len];
                match step {
                    Step::Own(len) => {
                        queue.push(&memory, i % 2 == 0, |out| write_message(out, &[&text(len)], &[]));
                        write_message(&mut expected, &[&text(len)], &[]);
                    }
                    Step::Shared(len) => {
                        queue.push_shared(&memory, &Frame::new(&memory, &[&text(len)], &[]));
                        write_message(&mut expected, &[&text(len)], &[]);
                    }
                    Step::Write(max) if !expected.is_empty() => {
                        let mut left = max;
                        let mut got = Vec::new();
                        let all = queue.write(&memory, |slices| {
                            if left == 0 {
                                return Err(io::ErrorKind::WouldBlock.into());
                            }
                            let before = left;
                            for slice in slices {
                                let n = slice.len().min(left);
                                got.extend_from_slice(&slice[..n]);
                                left -= n;
                            }
                            Ok(before - left)
                        });
                        prop_assert_eq!(all.ok(), Some(queue.is_empty()));
                        prop_assert_eq!(&got, &expected[..max.min(expected.len())]);
                        expected.drain(..got.len());
                        partly = true;
                    }
                    Step::Block => {
                        let _ = queue.write(&memory, |_| Err(io::ErrorKind::WouldBlock.into()));
                    }
                    // Only a session that never wrote to a WebSocket is polled.
                    Step::Poll if !partly => {
                        let mut body = Vec::new();
                        frame::append_packets(&expected, &mut body);
                        prop_assert_eq!(queue.take_packets(&memory), body);
                        expected.clear();
                    }
                    Step::Clear => {
                        queue.clear(&memory);
                        expected.clear();
                        partly = false;
                    }
                    Step::Write(_) | Step::Poll => {}
                }
                prop_assert_eq!(queue.len(), expected.len());
                prop_assert!(memory.outgoing.used() >= queue.tail.len());
                if expected.is_empty() {
                    prop_assert_eq!(memory.outgoing.used(), 0);
                }
            }
            queue.clear(&memory);
            prop_assert_eq!(memory.outgoing.used(), 0);
        }
    }
}
