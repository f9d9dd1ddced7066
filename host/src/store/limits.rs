//! The limits of one plugin's state.

use std::time::Duration;

use sockhop_core::limits;

use super::wal::{self, FRAME_HEADER};
use crate::config::Limits;

/// Maximum number of pages that one key takes in addition to those of its value: pages of the table
/// and of its index, including page splits.
const PAGES_PER_KEY: u64 = 8;

/// Minimum limit of the file, in pages: space for the empty tables and a little data.
const MIN_FILE_PAGES: u64 = 64;

/// The part of the file, and the bytes at most, that only the host's own changes of rows use: some
/// times the space of the largest row, which SQLite writes anew before it frees the old one.
const RESERVE_SHARE: u64 = 16;
const MAX_RESERVE: u64 = 4 << 20;

/// The limits of one plugin's state and of single calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreLimits {
    /// Bytes on the disk: the file, its write-ahead log, and the log's index. The keys and values,
    /// plus 32 bytes for each entry, are also limited to this number; a view checks that before
    /// anything is written.
    pub quota: u64,
    /// Bytes of the write-ahead log at which writers wait for a checkpoint; at most an eighth of
    /// the quota. The log may exceed this by one transaction.
    pub wal: u64,
    /// Maximum number of keys that one transaction writes: as many as one event may.
    pub transaction_keys: usize,
    /// Maximum bytes of the keys and values that one transaction writes: as many as one event may.
    pub transaction_bytes: usize,
    /// Maximum number of timers, dead ones included.
    pub timers: u64,
    /// Maximum number of deliveries, dead ones included.
    pub deliveries: u64,
    /// Maximum bytes of a key.
    pub key: usize,
    /// Maximum bytes of a value.
    pub value: usize,
    /// Maximum bytes of the keys and values that one scan returns.
    pub scan: usize,
    /// Age from which the store may end a snapshot when the write-ahead log needs space.
    pub snapshot_grace: Duration,
}

/// The default of [`StoreLimits::snapshot_grace`]: many times the duration of a handler that does
/// not wait for anything.
pub(super) const SNAPSHOT_GRACE: Duration = Duration::from_millis(100);

impl Default for StoreLimits {
    fn default() -> Self {
        Self {
            quota: 256 * 1024 * 1024,
            wal: 16 * 1024 * 1024,
            transaction_keys: limits::EFFECTS,
            transaction_bytes: limits::EFFECTS_BYTES,
            timers: u64::from(limits::TIMERS),
            deliveries: u64::from(limits::DELIVERIES),
            key: limits::STATE_KEY_BYTES,
            value: limits::STATE_VALUE_BYTES,
            scan: limits::HOST_CALL_BYTES,
            snapshot_grace: SNAPSHOT_GRACE,
        }
    }
}

impl StoreLimits {
    /// The limits that the settings of a plugin give.
    pub fn of(limits: &Limits) -> Self {
        Self {
            quota: limits.state_bytes.get(),
            wal: limits.state_wal_bytes.get(),
            transaction_keys: limits.effects.get(),
            transaction_bytes: limits.effects_bytes.get(),
            timers: limits.timers.get().into(),
            deliveries: limits.deliveries.get().into(),
            key: limits.state_key_bytes.get(),
            value: limits.state_value_bytes.get(),
            scan: limits.host_call_bytes.get(),
            ..Self::default()
        }
    }

    pub(super) fn wal_bound(&self) -> u64 {
        self.wal.min(self.quota / 8)
    }

    /// Maximum bytes of the file for the changes of handlers. The host's own changes of rows may
    /// use a little more. They end what fills the file: if a delivery that has ended could not be
    /// removed, it would stay forever.
    pub(super) fn file_bytes_of_handlers(&self, page_bytes: u64) -> u64 {
        let most = self.file_bytes(page_bytes);
        let reserve = (most / RESERVE_SHARE).min(MAX_RESERVE);
        (most - reserve).max(MIN_FILE_PAGES * page_bytes)
    }

    /// Maximum bytes of the file: the part of the quota that the log and its index never take. The
    /// log has at most the frames of its bound and of one transaction. A transaction writes each
    /// page of the file at most once, so it has no more frames than the file has pages.
    pub(super) fn file_bytes(&self, page_bytes: u64) -> u64 {
        let frame_bytes = page_bytes + FRAME_HEADER;
        let bound = wal::bound(self.wal_bound(), page_bytes);
        let transaction = pages(self.transaction_keys, self.transaction_bytes, page_bytes);
        let left = |frames: u64, all_frames: u64| {
            let log =
                frames.saturating_mul(frame_bytes).saturating_add(wal::index_bytes(all_frames));
            self.quota.saturating_sub(log)
        };
        let most = bound.saturating_add(transaction);
        let beside_largest = left(most, most) / page_bytes;
        let beside_own_pages =
            left(bound, bound + self.quota / page_bytes) / (page_bytes + frame_bytes);
        beside_largest.max(beside_own_pages).max(MIN_FILE_PAGES) * page_bytes
    }
}

/// Maximum number of pages that a transaction writes if it changes so many keys, with so many bytes
/// in all.
pub(super) fn pages(keys: usize, bytes: usize, page_bytes: u64) -> u64 {
    PAGES_PER_KEY.saturating_mul(keys as u64).saturating_add(2 * (bytes as u64 / page_bytes.max(1)))
}
