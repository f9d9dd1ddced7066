//! The limits of one plugin's state.

use std::time::Duration;

use sockhop_core::limits;

use super::wal;

/// Minimum limit of the file, in pages: space for the empty tables and a little data.
const MIN_FILE_PAGES: u64 = 64;

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
            key: limits::STATE_KEY_BYTES,
            value: limits::STATE_VALUE_BYTES,
            scan: limits::HOST_CALL_BYTES,
            snapshot_grace: SNAPSHOT_GRACE,
        }
    }
}

impl StoreLimits {
    pub(super) fn wal_bound(&self) -> u64 {
        self.wal.min(self.quota / 8)
    }

    /// Bytes of the quota that are reserved for the log and its index.
    pub(super) fn wal_reserve(&self, page_bytes: u64) -> u64 {
        wal::reserved(self.wal_bound(), page_bytes)
    }

    /// Maximum bytes of the file.
    pub(super) fn file_bytes(&self, page_bytes: u64) -> u64 {
        self.quota.saturating_sub(self.wal_reserve(page_bytes)).max(MIN_FILE_PAGES * page_bytes)
    }
}
