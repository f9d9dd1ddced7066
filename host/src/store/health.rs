//! The failures of a store, for operators: the current failure of each kind, and the number of
//! failures of each kind.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::SystemTime;

use super::lock;

/// The kinds of failures, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// The state could not be written: the disk is full or fails, or another process holds the
    /// file.
    Write,
    /// The state could not be read.
    Read,
    /// The write-ahead log is full, and a reader outside of the host, such as a backup, prevents
    /// its checkpoint.
    Contended,
    /// The record in the manifest can't be written. The state works, but its loss would not be
    /// detected.
    Record,
    /// The plugin's quota is full.
    Quota,
}

impl FailureKind {
    /// All kinds, the worst first.
    pub(crate) const ALL: [Self; 5] =
        [Self::Write, Self::Read, Self::Contended, Self::Record, Self::Quota];

    /// The operation that has failed, as a text for people.
    pub(crate) const fn operation(self) -> &'static str {
        match self {
            Self::Write | Self::Contended => "writing its state",
            Self::Read => "reading its state",
            Self::Record => "writing the record of its state",
            Self::Quota => "storing more",
        }
    }

    /// The value of the metrics label.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::Contended => "contended",
            Self::Record => "record",
            Self::Quota => "quota",
        }
    }

    /// Whether the host can't serve the plugin's events. Two failures are no reason to send all
    /// clients to another host: a full quota, which clients can cause, and another process that
    /// reads for a while.
    pub(crate) const fn is_outage(self) -> bool {
        matches!(self, Self::Write | Self::Read)
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A failure that was not followed by a success of the same kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// The kind of failure.
    pub(crate) kind: FailureKind,
    /// The complete reason, for the operator.
    pub(crate) reason: String,
    /// Time of the last failure.
    pub(crate) at: SystemTime,
}

/// The failures of one store.
#[derive(Debug, Default)]
pub(super) struct StoreHealth {
    /// One entry for each kind, so that one failure does not hide another.
    troubles: Mutex<[Option<Trouble>; FailureKind::ALL.len()]>,
    /// One bit for each kind in `troubles`, so that a success need not lock.
    kinds: AtomicU8,
    counts: [AtomicU64; FailureKind::ALL.len()],
    /// Number of calls that failed for a reason other than the handler.
    faults: AtomicU64,
}

impl StoreHealth {
    /// Records a failure.
    pub(super) fn failed(&self, kind: FailureKind, reason: String) {
        if let Some(count) = self.counts.get(kind as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        if !matches!(kind, FailureKind::Quota | FailureKind::Record) {
            self.count_fault();
        }
        let mut troubles = lock(&self.troubles);
        if let Some(trouble) = troubles.get_mut(kind as usize) {
            *trouble = Some(Trouble { kind, reason, at: SystemTime::now() });
            self.kinds.fetch_or(kind.bit(), Ordering::Relaxed);
        }
    }

    /// Clears the failure of this kind, if there is one.
    pub(super) fn worked(&self, kind: FailureKind) {
        if self.has(kind) {
            let mut troubles = lock(&self.troubles);
            if let Some(trouble) = troubles.get_mut(kind as usize) {
                *trouble = None;
                self.kinds.fetch_and(!kind.bit(), Ordering::Relaxed);
            }
        }
    }

    /// Records that a plugin has stored something: the log and the quota have space.
    pub(super) fn stored(&self) {
        if self.kinds.load(Ordering::Relaxed) != 0 {
            [FailureKind::Write, FailureKind::Contended, FailureKind::Quota]
                .into_iter()
                .for_each(|kind| self.worked(kind));
        }
    }

    /// Counts a call that failed for a reason other than the handler.
    pub(super) fn count_fault(&self) {
        self.faults.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }

    /// Whether this kind fails now.
    pub(super) fn has(&self, kind: FailureKind) -> bool {
        self.kinds.load(Ordering::Relaxed) & kind.bit() != 0
    }

    /// The worst current failure.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        if self.kinds.load(Ordering::Relaxed) == 0 {
            None
        } else {
            lock(&self.troubles).iter().flatten().next().cloned()
        }
    }

    pub(super) fn count(&self, kind: FailureKind) -> u64 {
        self.counts.get(kind as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_failure_is_kept_and_the_worst_is_shown() {
        let health = StoreHealth::default();
        let shown = || health.trouble().map(|trouble| trouble.kind);
        for kind in FailureKind::ALL.into_iter().rev() {
            health.failed(kind, String::new());
            assert_eq!(shown(), Some(kind));
        }
        health.failed(FailureKind::Quota, String::new());
        health.failed(FailureKind::Read, String::new());
        assert_eq!(shown(), Some(FailureKind::Write), "a later failure does not hide it");
        health.worked(FailureKind::Write);
        assert_eq!(shown(), Some(FailureKind::Read));
        health.stored();
        assert_eq!(
            shown(),
            Some(FailureKind::Read),
            "the quota and the log have space, and reads fail still"
        );
        health.worked(FailureKind::Read);
        assert_eq!(shown(), Some(FailureKind::Record));
        health.worked(FailureKind::Record);
        assert_eq!(shown(), None);
    }
}
