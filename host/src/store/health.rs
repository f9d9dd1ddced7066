//! What goes wrong with a store, for operators: the last failure for as long as it lasts, and how many there were of each kind.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::SystemTime;

use super::lock;

/// What could not be done; the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The state could not be written: the disk is full or fails, or another process holds the file.
    Write,
    /// It could not be read.
    Read,
    /// The write-ahead log is full, and a reader outside of the host, such as a backup, keeps it so.
    Contended,
    /// What the host remembers of the state can't be written. The state works, but its loss would not be noticed.
    Record,
    /// The plugin may not store more.
    Quota,
}

impl FailureKind {
    /// All of them, the worst first.
    pub const ALL: [Self; 5] = [Self::Write, Self::Read, Self::Contended, Self::Record, Self::Quota];

    /// What has failed, for people.
    pub const fn operation(self) -> &'static str {
        match self {
            Self::Write | Self::Contended => "writing its state",
            Self::Read => "reading its state",
            Self::Record => "writing the record of its state",
            Self::Quota => "storing more",
        }
    }

    /// As metrics call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::Contended => "contended",
            Self::Record => "record",
            Self::Quota => "quota",
        }
    }

    /// Whether the host can't serve the plugin's events. A full quota, which clients can cause, and another process that reads for a while
    /// are no reason to send all clients elsewhere.
    pub const fn is_outage(self) -> bool {
        matches!(self, Self::Write | Self::Read)
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A failure that has not been followed by a success of the same kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What could not be done.
    pub kind: FailureKind,
    /// The whole reason, for the operator.
    pub reason: String,
    /// When it failed last.
    pub at: SystemTime,
}

/// What is known of one store's failures.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// By kind: one failure must not hide another.
    troubles: Mutex<[Option<Trouble>; FailureKind::ALL.len()]>,
    /// A bit for each kind that is in `troubles`: so that a success need not lock.
    kinds: AtomicU8,
    counts: [AtomicU64; FailureKind::ALL.len()],
    /// Calls that failed through no fault of the handler.
    faults: AtomicU64,
}

impl Health {
    /// Something has failed.
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

    /// What has failed works.
    pub(super) fn worked(&self, kind: FailureKind) {
        if self.has(kind) {
            let mut troubles = lock(&self.troubles);
            if let Some(trouble) = troubles.get_mut(kind as usize) {
                *trouble = None;
                self.kinds.fetch_and(!kind.bit(), Ordering::Relaxed);
            }
        }
    }

    /// A plugin has stored something: so there was room in the log, and in the quota.
    pub(super) fn stored(&self) {
        if self.kinds.load(Ordering::Relaxed) != 0 {
            [FailureKind::Write, FailureKind::Contended, FailureKind::Quota].into_iter().for_each(|kind| self.worked(kind));
        }
    }

    /// A call has failed through no fault of the handler.
    pub(super) fn count_fault(&self) {
        self.faults.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }

    /// Whether something of this kind fails.
    pub(super) fn has(&self, kind: FailureKind) -> bool {
        self.kinds.load(Ordering::Relaxed) & kind.bit() != 0
    }

    /// The worst.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        if self.kinds.load(Ordering::Relaxed) == 0 { None } else { lock(&self.troubles).iter().flatten().next().cloned() }
    }

    pub(super) fn count(&self, kind: FailureKind) -> u64 {
        self.counts.get(kind as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_failures_are_told_apart_and_the_worst_is_shown() {
        let health = Health::default();
        let shown = || health.trouble().map(|trouble| trouble.kind);
        for kind in FailureKind::ALL.into_iter().rev() {
            health.failed(kind, String::new());
            assert_eq!(shown(), Some(kind));
        }
        health.failed(FailureKind::Quota, String::new());
        health.failed(FailureKind::Read, String::new());
        assert_eq!(shown(), Some(FailureKind::Write), "what came later does not hide it");
        health.worked(FailureKind::Write);
        assert_eq!(shown(), Some(FailureKind::Read));
        health.stored();
        assert_eq!(shown(), Some(FailureKind::Read), "the quota and the log have room, and reads fail still");
        health.worked(FailureKind::Read);
        assert_eq!(shown(), Some(FailureKind::Record));
        health.worked(FailureKind::Record);
        assert_eq!(shown(), None);
    }
}
