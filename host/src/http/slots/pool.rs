//! A counted pool of slots for clients.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A counted pool of slots of one kind. The log has one line when all slots are taken, and one when
/// some are free again.
pub(super) struct SlotPool {
    of: &'static str,
    used: AtomicUsize,
    limit: AtomicUsize,
    is_full: AtomicBool,
}

impl SlotPool {
    pub(super) fn new(of: &'static str, limit: usize) -> Arc<Self> {
        Arc::new(Self {
            of,
            used: AtomicUsize::new(0),
            limit: AtomicUsize::new(limit),
            is_full: AtomicBool::new(false),
        })
    }

    /// Sets the number of slots. Taken slots beyond it stay taken.
    pub(super) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    pub(super) fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes a slot. Returns `None` if all are taken.
    pub(super) fn take(self: &Arc<Self>) -> Option<SlotPermit> {
        let limit = self.limit();
        let one_more = |used: usize| (used < limit).then_some(used + 1);
        if self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok() {
            return Some(SlotPermit(Arc::clone(self)));
        }
        if !self.is_full.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                of = self.of,
                limit,
                "connection limit reached: new clients are answered 503 until others leave; the \
                 limit is `connections` in `[limits]`"
            );
        }
        None
    }

    /// Used slots at which a full pool counts as relieved: a twentieth below the limit. Otherwise a
    /// pool near its limit would be logged again and again.
    fn relieved_at(&self) -> usize {
        let limit = self.limit();
        limit - (limit / 20).max(1).min(limit)
    }
}

/// One slot of a [`SlotPool`]. Dropping it frees the slot.
pub(super) struct SlotPermit(Arc<SlotPool>);

impl fmt::Debug for SlotPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a slot of {}", self.0.of)
    }
}

impl Drop for SlotPermit {
    fn drop(&mut self) {
        let pool = &self.0;
        let used = pool.used.fetch_sub(1, Ordering::Relaxed) - 1;
        if pool.is_full.load(Ordering::Relaxed)
            && used <= pool.relieved_at()
            && pool.is_full.swap(false, Ordering::Relaxed)
        {
            tracing::info!(
                of = pool.of,
                used,
                limit = pool.limit(),
                "below the connection limit again"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_that_was_full_is_relieved_a_twentieth_below_its_limit() {
        let relieved_at = |limit: usize| SlotPool::new("", limit).relieved_at();
        assert_eq!([1, 2, 20, 100, 50_000].map(relieved_at), [0, 1, 19, 95, 47_500]);
        let pool = SlotPool::new("", 2);
        let (first, second) = (pool.take(), pool.take());
        assert!(first.is_some() && second.is_some() && pool.take().is_none());
        assert!(pool.is_full.load(Ordering::Relaxed));
        drop(first);
        assert!(!pool.is_full.load(Ordering::Relaxed) && pool.used() == 1 && pool.take().is_some());
    }
}
