//! Counts the memory of queues. All queues of one kind (all mailboxes, for example) have one limit
//! together, and one queue may use only a part of what is free. So a few clients can't use all of
//! it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::config::QUEUE_SHARE;

/// Bytes that are counted for a rejection `busy` that a mailbox keeps until there is space for it.
/// Other answers are not counted here.
pub(crate) const ANSWER_BYTES: usize = 256;

/// A counter for all queues of one kind: the bytes in use, and their limit.
#[derive(Debug)]
pub(crate) struct QueueMemory {
    used: AtomicUsize,
    limit: usize,
}

impl QueueMemory {
    /// Creates a counter with this limit. No byte is in use.
    pub(crate) fn new(limit: usize) -> Self {
        Self { used: AtomicUsize::new(0), limit }
    }

    /// Reserves `bytes` for a queue that already holds `held` bytes. Returns `false`, and reserves
    /// nothing, if the queue would then hold more than its share of what is free ([`QUEUE_SHARE`]),
    /// or if all queues together would exceed the limit.
    pub(crate) fn take(&self, bytes: usize, held: usize) -> bool {
        let free = self.limit.saturating_sub(self.used.load(Ordering::Relaxed));
        if held.saturating_add(bytes) > free / QUEUE_SHARE {
            return false;
        }
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        // Other threads may have reserved memory since `free` was read.
        let is_within = before.saturating_add(bytes) <= self.limit;
        if !is_within {
            self.give_back(bytes);
        }
        is_within
    }

    /// Releases `bytes` that were reserved with [`QueueMemory::take`].
    pub(crate) fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Takes `bytes` like [`QueueMemory::take`]. They are given back when what is returned is
    /// dropped, and until then counted in `held` too.
    pub(crate) fn reserve(
        self: &Arc<Self>,
        bytes: usize,
        all_held: usize,
        held: &Arc<AtomicUsize>,
    ) -> Option<Reserved> {
        if !self.take(bytes, all_held) {
            return None;
        }
        held.fetch_add(bytes, Ordering::Relaxed);
        Some(Reserved { memory: Arc::clone(self), held: Arc::clone(held), bytes })
    }

    /// Bytes in use, and the limit.
    pub(crate) fn usage(&self) -> (usize, usize) {
        (self.used.load(Ordering::Relaxed), self.limit)
    }
}

/// Reserved bytes, see [`QueueMemory::reserve`].
#[derive(Debug)]
pub(crate) struct Reserved {
    memory: Arc<QueueMemory>,
    held: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.memory.give_back(self.bytes);
        self.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::EVENT_BYTES;

    #[test]
    fn however_many_mailboxes_are_full_the_limit_holds_and_another_has_space() {
        let memory = QueueMemory::new(64 << 20);
        for _ in 0..10_000 {
            let mut held = 0;
            while memory.take(7 << 10, held) {
                held += 7 << 10;
            }
        }
        let (used, limit) = memory.usage();
        assert!(used <= limit, "{used}");
        assert!(
            memory.take(EVENT_BYTES + 64, 0),
            "the first event of a client that has none: {} free",
            limit - used
        );
        memory.give_back(EVENT_BYTES + 64);
        memory.give_back(used);
        assert_eq!(memory.usage().0, 0);
        assert!(!memory.take(limit, 0) && memory.take(limit / QUEUE_SHARE, 0));
    }

    #[test]
    fn reserved_bytes_are_given_back_wherever_they_are_dropped() {
        let (memory, held) = (Arc::new(QueueMemory::new(1 << 20)), Arc::<AtomicUsize>::default());
        let reserved = memory.reserve(1 << 10, 0, &held).unwrap();
        assert!(memory.reserve(1 << 20, 0, &held).is_none());
        assert_eq!((memory.usage().0, held.load(Ordering::Relaxed)), (1 << 10, 1 << 10));
        std::thread::spawn(|| drop(reserved)).join().unwrap();
        assert_eq!((memory.usage().0, held.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn readers_that_take_at_once_do_not_pass_the_limit() {
        let memory = QueueMemory::new(1 << 20);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| while memory.take(1 << 10, 0) {});
            }
        });
        assert!(memory.usage().0 <= 1 << 20);
    }
}
