//! What the state of a plugin has in all, within a transaction and after it.

use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::Transaction;

use super::Store;
use super::connection::{Meta, meta};

/// What the state of a plugin has in all.
#[derive(Debug, Clone, Copy)]
pub(super) struct Totals {
    /// Number of commits.
    pub(super) commits: i64,
    /// Bytes that count against the quota.
    pub(super) bytes: u64,
    /// Number of timers, dead ones included.
    pub(super) timers: u64,
    /// Number of dead timers.
    pub(super) dead: u64,
    /// Number of deliveries, dead ones included.
    pub(super) deliveries: u64,
    /// Number of dead deliveries.
    pub(super) dead_deliveries: u64,
}

impl Totals {
    /// Counts so many timers more, with so many bytes in all.
    pub(super) fn add(&mut self, timers: usize, bytes: u64) {
        self.timers += timers as u64;
        self.bytes += bytes;
    }

    /// Counts so many timers less, with so many bytes in all.
    pub(super) fn remove(&mut self, timers: usize, bytes: u64) {
        self.timers = self.timers.saturating_sub(timers as u64);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

impl Store {
    /// Reads the totals. The caller holds the writer.
    pub(super) fn totals(&self, transaction: &Transaction<'_>) -> Result<Totals, rusqlite::Error> {
        let Meta { commits, bytes } = meta(transaction)?;
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Ok(Totals {
            commits,
            bytes,
            timers: of(&self.timers.count),
            dead: of(&self.timers.dead),
            deliveries: of(&self.deliveries.count),
            dead_deliveries: of(&self.deliveries.dead),
        })
    }

    /// Keeps a copy of the totals that were stored.
    pub(super) fn record_totals(&self, now: Totals) {
        self.used.store(now.bytes, Ordering::Relaxed);
        self.commits.store(now.commits, Ordering::Relaxed);
        self.timers.count.store(now.timers, Ordering::Relaxed);
        self.timers.dead.store(now.dead, Ordering::Relaxed);
        self.deliveries.count.store(now.deliveries, Ordering::Relaxed);
        self.deliveries.dead.store(now.dead_deliveries, Ordering::Relaxed);
    }
}
