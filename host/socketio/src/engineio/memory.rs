//! What all sessions of a server hold together, counted against the server's bounds.
//!
//! Counting takes no lock. When more than half of a bound is used, each session is limited to an
//! equal share of the other half. So slow clients are disconnected, and fast clients are not.
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::config::Config;

/// How much of its bounds a server uses at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Sessions, those included that are closing.
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
    fn new(max: usize) -> Self {
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

    /// Whether a session that holds `own` bytes may have more.
    fn admits(&self, own: usize, sessions: usize) -> bool {
        let half = self.max / 2;
        self.used() <= half || own <= half / sessions.max(1)
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

    /// Whether more may be queued for a session for which `own` bytes wait.
    pub(crate) fn admits_outgoing(&self, own: usize) -> bool {
        self.outgoing.admits(own, self.sessions.load(Ordering::Relaxed))
    }

    fn admits_incoming(&self, own: usize) -> bool {
        self.incoming.admits(own, self.sessions.load(Ordering::Relaxed))
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

    /// Counts `bytes` from now on. Returns false, and counts what it counted before, if the bytes
    /// of all sessions together leave no room for more.
    #[must_use]
    pub fn resize(&mut self, bytes: usize) -> bool {
        if let Some(more) = bytes.checked_sub(self.bytes) {
            if more > 0 && !self.memory.admits_incoming(self.bytes) {
                return false;
            }
            self.memory.incoming.add(more);
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
        let memory = Memory::new(&Config { max_unfinished_total: max, max_queued_total: max, ..Config::default() });
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
        assert!(large.resize(600));
        assert!(!large.resize(601), "more than 100 bytes");
        assert_eq!(large.bytes(), 600);
        let mut small = Reservation::new(&memory);
        assert!(small.resize(100) && small.resize(101));
        assert!(!small.resize(102));
        assert!(large.resize(300), "giving back is always possible");
        assert!(small.resize(102));
        assert!(!memory.admits_outgoing(0) || memory.outgoing.used() == 0);
    }
}
