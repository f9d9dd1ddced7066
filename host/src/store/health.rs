//! What goes wrong with a store, for operators: the last failure for as long as it lasts, and how many there were of each kind.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::SystemTime;

use super::lock;

/// What could not be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The state could not be read.
    Read,
    /// It could not be written: the disk is full or fails, or another process is in the way.
    Write,
    /// The plugin may not store more.
    Quota,
}

impl FailureKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Quota];

    /// What has failed, for people.
    pub const fn operation(self) -> &'static str {
        match self {
            Self::Read => "reading its state",
            Self::Write => "writing its state",
            Self::Quota => "storing more",
        }
    }

    /// As metrics call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Quota => "quota",
        }
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
    trouble: Mutex<Option<Trouble>>,
    /// 1 more than the kind of `trouble`, 0 without any: so that a success need not lock.
    kind: AtomicU8,
    counts: [AtomicU64; 3],
    /// Calls that failed through no fault of the handler.
    faults: AtomicU64,
}

impl Health {
    /// Something has failed.
    pub(super) fn failed(&self, kind: FailureKind, reason: String) {
        if let Some(count) = self.counts.get(kind as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        if kind != FailureKind::Quota {
            self.count_fault();
        }
        let mut trouble = lock(&self.trouble);
        self.kind.store(kind as u8 + 1, Ordering::Relaxed);
        *trouble = Some(Trouble { kind, reason, at: SystemTime::now() });
    }

    /// The state was read, or written.
    pub(super) fn worked(&self, kind: FailureKind) {
        let current = self.kind.load(Ordering::Relaxed);
        // What was written was within the quota as well.
        let is_over = current == kind as u8 + 1 || current == FailureKind::Quota as u8 + 1 && kind == FailureKind::Write;
        if is_over {
            let mut trouble = lock(&self.trouble);
            self.kind.store(0, Ordering::Relaxed);
            *trouble = None;
        }
    }

    /// A call has failed through no fault of the handler.
    pub(super) fn count_fault(&self) {
        self.faults.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }

    pub(super) fn trouble(&self) -> Option<Trouble> {
        if self.kind.load(Ordering::Relaxed) == 0 { None } else { lock(&self.trouble).clone() }
    }

    pub(super) fn count(&self, kind: FailureKind) -> u64 {
        self.counts.get(kind as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }
}
