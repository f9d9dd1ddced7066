//! The memory of queues: all queues of one kind together are bounded, and share it so that those of a few clients can't take all of it.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::config::QUEUE_SHARE;

/// Memory of an answer that waits for space in the outgoing buffer.
pub(crate) const ANSWER_BYTES: usize = 256;

/// Bytes that wait in all queues of one kind.
pub struct QueueMemory {
    used: AtomicUsize,
    limit: usize,
}

impl QueueMemory {
    /// Memory of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { used: AtomicUsize::new(0), limit }
    }

    /// Takes `bytes` for a queue that holds `held` bytes already; returns `false` if that is too much now.
    pub(crate) fn take(&self, bytes: usize, held: usize) -> bool {
        let free = self.limit.saturating_sub(self.used.load(Ordering::Relaxed));
        if held.saturating_add(bytes) > free / QUEUE_SHARE {
            return false;
        }
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        // Other readers may have taken what was free.
        let is_within = before.saturating_add(bytes) <= self.limit;
        if !is_within {
            self.give_back(bytes);
        }
        is_within
    }

    /// Gives back what was taken.
    pub(crate) fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes in use, and the limit.
    pub(crate) fn usage(&self) -> (usize, usize) {
        (self.used.load(Ordering::Relaxed), self.limit)
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
        assert!(memory.take(EVENT_BYTES + 64, 0), "the first event of a client that has none: {} free", limit - used);
        memory.give_back(EVENT_BYTES + 64);
        memory.give_back(used);
        assert_eq!(memory.usage().0, 0);
        assert!(!memory.take(limit, 0) && memory.take(limit / QUEUE_SHARE, 0));
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
