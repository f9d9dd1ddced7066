//! The memory of all sessions of a server together, and its bounds.
//!
//! Counting takes no lock. A bound is never exceeded. When more than half of it would be used, each
//! session is limited to an equal share of the other half. So slow clients are disconnected, and
//! fast clients are not.
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::config::Config;

/// How much of its bounds a server uses at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Sessions, including closing ones.
    pub sessions: usize,
    /// Bytes that wait for clients; a shared frame counts once.
    pub queued_bytes: usize,
    /// Bytes of messages that have not arrived completely.
    pub unfinished_bytes: usize,
    /// Tasks of the server that have not ended.
    pub tasks: usize,
}

/// A number of bytes that all sessions share.
#[derive(Debug)]
pub(crate) struct Budget {
    used: AtomicUsize,
    max: usize,
}

impl Budget {
    pub(crate) fn new(max: usize) -> Self {
        Self { used: AtomicUsize::new(0), max }
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn remove(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Whether a session may hold `own` bytes while all sessions together hold `used`.
    fn allows(&self, used: usize, own: usize, sessions: usize) -> bool {
        let half = self.max / 2;
        used <= half || (used <= self.max && own <= half / sessions.max(1))
    }

    /// Whether `more` bytes would leave less than half of the bound. Then each byte should be
    /// needed.
    pub(crate) fn is_scarce(&self, more: usize) -> bool {
        self.used().saturating_add(more) > self.max / 2
    }

    /// Whether nothing is left.
    pub(crate) fn is_full(&self) -> bool {
        self.used() >= self.max
    }

    /// Counts `more` bytes, with which a session holds `own`, if the bound allows them.
    pub(crate) fn try_add(&self, more: usize, own: usize, sessions: usize) -> bool {
        let add = |used: usize| {
            let used = used.checked_add(more)?;
            self.allows(used, own, sessions).then_some(used)
        };
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
    }
}

/// The counters of one server.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) outgoing: Budget,
    pub(crate) incoming: Budget,
    pub(crate) sessions: AtomicUsize,
}

impl Memory {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            outgoing: Budget::new(config.max_queued_total),
            incoming: Budget::new(config.max_unfinished_total),
            sessions: AtomicUsize::new(0),
        }
    }

    /// Whether `own` bytes, which are counted already, may wait for a session.
    pub(crate) fn allows_outgoing(&self, own: usize) -> bool {
        self.outgoing.allows(self.outgoing.used(), own, self.sessions.load(Ordering::Relaxed))
    }

    /// Counts `more` outgoing bytes, with which `own` are queued for a session, if the bound allows
    /// them.
    pub(crate) fn add_outgoing(&self, more: usize, own: usize) -> bool {
        self.outgoing.try_add(more, own, self.sessions.load(Ordering::Relaxed))
    }

    fn add_incoming(&self, more: usize, own: usize) -> bool {
        self.incoming.try_add(more, own, self.sessions.load(Ordering::Relaxed))
    }
}

/// One session that counts against [`Config::max_sessions`]. The session's owner shares it with the
/// answers to polls that the HTTP server still holds, so the session counts until all are dropped.
#[derive(Debug)]
pub(crate) struct Slot(Arc<Memory>);

impl Slot {
    /// Returns `None` if there are `max` sessions.
    pub(crate) fn take(memory: &Arc<Memory>, max: usize) -> Option<Arc<Self>> {
        let free = |count: usize| (count < max).then_some(count + 1);
        memory.sessions.fetch_update(Ordering::Relaxed, Ordering::Relaxed, free).ok()?;
        Some(Arc::new(Self(Arc::clone(memory))))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bytes of an unfinished message, counted until this is dropped.
#[derive(Debug)]
pub struct Reservation {
    memory: Arc<Memory>,
    bytes: usize,
}

impl Reservation {
    pub(crate) fn new(memory: &Arc<Memory>) -> Self {
        Self { memory: Arc::clone(memory), bytes: 0 }
    }

    /// Counts bytes that are in use already, also beyond the bound.
    pub(crate) fn of_used(memory: &Arc<Memory>, bytes: usize) -> Self {
        memory.incoming.add(bytes);
        Self { memory: Arc::clone(memory), bytes }
    }

    /// Whether the bound allows the counted bytes.
    pub(crate) fn is_allowed(&self) -> bool {
        let memory = &self.memory;
        let sessions = memory.sessions.load(Ordering::Relaxed);
        memory.incoming.allows(memory.incoming.used(), self.bytes, sessions)
    }

    /// Counts `bytes` from now on. Returns false, and counts what it counted before, if the bound
    /// of all sessions together does not allow more.
    #[must_use]
    pub fn resize(&mut self, bytes: usize) -> bool {
        if let Some(more) = bytes.checked_sub(self.bytes) {
            if more > 0 && !self.memory.add_incoming(more, bytes) {
                return false;
            }
        } else {
            self.memory.incoming.remove(self.bytes - bytes);
        }
        self.bytes = bytes;
        true
    }

    /// How many bytes are counted.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.memory.incoming.remove(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(max: usize, sessions: usize) -> Arc<Memory> {
        let memory = Memory::new(&Config {
            max_unfinished_total: max,
            max_queued_total: max,
            ..Config::default()
        });
        memory.sessions.store(sessions, Ordering::Relaxed);
        Arc::new(memory)
    }

    #[test]
    fn a_reservation_is_counted_until_it_is_dropped() {
        let memory = memory(1000, 1);
        let mut held = Reservation::new(&memory);
        assert!(held.resize(300) && held.resize(100) && held.resize(200));
        assert_eq!((held.bytes(), memory.incoming.used()), (200, 200));
        drop(held);
        assert_eq!(memory.incoming.used(), 0);
    }

    #[test]
    fn above_half_of_the_bound_each_session_has_an_equal_share() {
        let memory = memory(1000, 5);
        let mut large = Reservation::new(&memory);
        assert!(large.resize(500));
        assert!(!large.resize(501), "more than 100 bytes");
        assert_eq!(large.bytes(), 500);
        let mut small = Reservation::new(&memory);
        assert!(small.resize(99) && small.resize(100));
        assert!(!small.resize(101));
        assert!(large.resize(300), "giving back is always possible");
        assert!(small.resize(200));
    }

    #[test]
    fn bytes_that_are_in_use_are_counted_also_beyond_the_bound() {
        let memory = memory(1000, 2);
        assert!(!memory.incoming.is_scarce(500) && memory.incoming.is_scarce(501));
        let first = Reservation::of_used(&memory, 500);
        let second = Reservation::of_used(&memory, 251);
        assert!(!second.is_allowed(), "more than its share");
        let third = Reservation::of_used(&memory, 249);
        assert!(third.is_allowed() && memory.incoming.is_full());
        drop((first, second));
        assert_eq!(memory.incoming.used(), 249);
    }

    #[test]
    fn no_bound_is_exceeded_even_if_a_share_is_far_below_one_message() {
        let memory = memory(1000, 100);
        let mut held: Vec<_> = (0..100).map(|_| Reservation::new(&memory)).collect();
        for (i, reservation) in held.iter_mut().enumerate() {
            assert_eq!(reservation.resize(200), i < 2, "{i}");
            assert!(reservation.bytes() > 0 || reservation.resize(5));
        }
        assert_eq!(memory.incoming.used(), 2 * 200 + 98 * 5);
        assert!(!held[0].resize(usize::MAX));
        assert!(!memory.add_outgoing(600, 600) && memory.add_outgoing(500, 500));
        assert!(!memory.add_outgoing(6, 6) && memory.add_outgoing(5, 5));
        assert!(memory.allows_outgoing(5) && !memory.allows_outgoing(6));
    }
}
