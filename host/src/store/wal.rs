//! The write-ahead log (WAL) of one store: its length, the checkpoints that move it into the file,
//! and the writers that wait for one.
//!
//! SQLite restarts the log from its beginning only if a commit finds every frame in the file and no
//! reader in the log. A passive checkpoint beside steady writers never achieves this: it always
//! leaves the frames that were written meanwhile. So a checkpoint here has two steps. A passive one
//! beside the writer moves nearly everything; then a short one holds the writer and moves the rest.
//! Old snapshots are ended before the second step. If all this does not help, writers wait once the
//! log has reached its bound.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::connection::{BUSY_TIMEOUT, checkpoint, meta};
use super::{CommitError, FailureKind, Store, StoreError, lock, try_lock};

/// Bytes of the frame header before each page.
pub(super) const FRAME_HEADER: u64 = 24;

/// Minimum bound of the log, in frames: below it, checkpoints would cost more than the commits.
const MIN_FRAMES: u64 = 64;

/// A checkpoint is due each time the log has grown by the bound divided by this number, so that
/// writers have space while the checkpoint runs.
const DUE_PART: u64 = 4;

/// How long a commit waits for space in the log. Only a reader in another process, or a very slow
/// disk, makes it wait this long.
pub(super) const STALL: Duration = Duration::from_secs(1);

/// How often a waiting commit checks whether the last reader has left the log.
const POLL: Duration = Duration::from_millis(2);

/// Calls of [`Store::tend`] after which the files of an unused store are closed. Opening them again
/// costs a millisecond.
const CLOSED_WHEN_IDLE: u64 = 3;

/// Frames per block of the wal-index, and bytes per block.
const INDEX_BLOCK: (u64, u64) = (4096, 32 * 1024);

/// The state of the log.
#[derive(Debug)]
pub(super) struct Wal {
    /// Frames in the log, as of the last commit.
    frames: Arc<AtomicU32>,
    /// Number of frames at which writers wait.
    bound: u32,
    /// Number of frames at which the next checkpoint is due.
    due: AtomicU32,
    /// Whether a checkpoint was claimed and has not ended.
    is_claimed: AtomicBool,
    /// Commits since the last call of [`Store::tend`].
    commits: Arc<AtomicU64>,
    /// Whether the log was truncated, with no commit since.
    is_truncated: AtomicBool,
}

impl Wal {
    /// The state of a log of at most about `bytes`.
    pub(super) fn new(bytes: u64, page_bytes: u64) -> Self {
        let bound = u32::try_from(bound(bytes, page_bytes)).unwrap_or(u32::MAX);
        let (due, is_claimed) = (AtomicU32::new(bound / DUE_PART as u32), AtomicBool::new(false));
        Self {
            frames: Arc::default(),
            bound,
            due,
            is_claimed,
            commits: Arc::default(),
            is_truncated: AtomicBool::new(false),
        }
    }

    /// Makes `writer` report the length of the log after each commit.
    pub(super) fn follow(&self, writer: &mut Connection) -> Result<(), rusqlite::Error> {
        let (frames, commits) = (Arc::clone(&self.frames), Arc::clone(&self.commits));
        // The hook replaces SQLite's automatic checkpoints.
        writer.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, now: i32| {
            frames.store(now.unsigned_abs(), Ordering::Relaxed);
            commits.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }))
    }

    fn frames(&self) -> u32 {
        self.frames.load(Ordering::Relaxed)
    }

    /// Whether the log has reached its bound, so that commits must wait.
    pub(super) fn is_full(&self) -> bool {
        self.frames() >= self.bound
    }

    /// Records the end of a checkpoint. If the log has not restarted, its remaining frames need
    /// another checkpoint.
    pub(super) fn record_checkpoint(&self, has_restarted: bool) {
        if has_restarted {
            self.frames.store(0, Ordering::Relaxed);
        }
        self.due
            .store(self.frames().saturating_add(self.bound / DUE_PART as u32), Ordering::Relaxed);
    }
}

/// The bound, in frames, of a log of at most about `bytes`.
pub(super) fn bound(bytes: u64, page_bytes: u64) -> u64 {
    (bytes / (page_bytes + FRAME_HEADER)).max(MIN_FRAMES)
}

/// Bytes of the index of a log with so many frames.
pub(super) fn index_bytes(frames: u64) -> u64 {
    (frames / INDEX_BLOCK.0 + 1) * INDEX_BLOCK.1
}

/// The lock of the writer, held during a write.
pub(super) struct WriterGuard<'store> {
    store: &'store Store,
    writer: MutexGuard<'store, Option<Connection>>,
}

impl WriterGuard<'_> {
    /// The connection; opens it if it is closed.
    pub(super) fn connection(&mut self) -> Result<&mut Connection, StoreError> {
        match &mut *self.writer {
            Some(writer) => Ok(writer),
            closed @ None => Ok(closed.insert(self.store.reopen()?)),
        }
    }

    /// The connection if it is open.
    pub(super) fn as_ref(&self) -> Option<&Connection> {
        self.writer.as_ref()
    }

    /// Removes the connection from the store.
    pub(super) fn take(&mut self) -> Option<Connection> {
        self.writer.take()
    }
}

impl Store {
    /// Waits for the writer.
    pub(super) fn lock_writer(&self) -> WriterGuard<'_> {
        WriterGuard { store: self, writer: lock(&self.writer) }
    }

    /// Runs `write` if that takes only microseconds. Returns `None` if it may take longer: another
    /// thread writes, the log is full, or no file is open. If another process has locked the file,
    /// `write` gets an error at once.
    pub(super) fn with_writer_at_once<T>(
        &self,
        write: impl FnOnce(&mut Connection) -> T,
    ) -> Option<T> {
        if self.wal.is_full() || !self.is_awake.load(Ordering::Relaxed) {
            return None;
        }
        let mut writer = try_lock(&self.writer)?;
        let writer = writer.as_mut()?;
        writer.busy_timeout(Duration::ZERO).ok()?;
        let written = write(writer);
        let _ = writer.busy_timeout(BUSY_TIMEOUT);
        Some(written)
    }

    /// Claims the next checkpoint if it is due. Returns `true` to one caller, which must then run
    /// [`Store::checkpoint`], and `false` to all others until it has.
    #[must_use]
    pub(crate) fn claim_due_checkpoint(&self) -> bool {
        self.wal.frames() >= self.wal.due.load(Ordering::Relaxed)
            && !self.wal.is_claimed.swap(true, Ordering::Relaxed)
    }

    /// Checkpoints the log while others read and write. If no reader is in the log, the next commit
    /// restarts it from its beginning. Takes milliseconds, or more on a slow disk; holds the writer
    /// for the last part.
    ///
    /// # Errors
    /// The file can't be written: commits stay in the log.
    pub(crate) fn checkpoint(&self) -> Result<(), StoreError> {
        let has_restarted = self.checkpoint_beside_writers().and_then(|()| {
            self.end_snapshots(self.limits.snapshot_grace);
            Ok(!checkpoint(self.lock_writer().connection()?, "RESTART")?.is_busy)
        });
        self.wal.record_checkpoint(matches!(has_restarted, Ok(true)));
        self.wal.is_claimed.store(false, Ordering::Relaxed);
        has_restarted.map(drop)
    }

    fn checkpoint_beside_writers(&self) -> Result<(), StoreError> {
        let connection = self.reader()?;
        connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
        self.keep_reader(connection);
        Ok(())
    }

    /// Waits until the log has space. The caller holds the writer, so nothing is added to the log
    /// and its readers end or are ended.
    ///
    /// # Errors
    /// [`CommitError::Contended`] if a reader in another process does not leave in time.
    pub(super) fn wait_for_space(&self, writer: &Connection) -> Result<(), CommitError> {
        let until = Instant::now() + STALL;
        while self.wal.is_full() {
            if !checkpoint(writer, "RESTART")?.is_busy {
                self.wal.record_checkpoint(true);
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(CommitError::Contended);
            }
            self.end_snapshots(self.limits.snapshot_grace);
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Checks whether failed operations work again. Events may not show it, because an operator or
    /// a load balancer may keep them away.
    pub(super) fn probe(&self) {
        // Whether the log has space. Does not wait for space, and a full log gets no frames.
        let has_space = |writer: &Connection| {
            if self.wal.is_full() && !checkpoint(writer, "RESTART")?.is_busy {
                self.wal.record_checkpoint(true);
            }
            Ok::<_, StoreError>(!self.wal.is_full())
        };
        let space = || has_space(self.lock_writer().connection()?);
        let write = || {
            let mut writer = self.lock_writer();
            let writer = writer.connection()?;
            Ok::<_, StoreError>(
                has_space(writer)? && writer.execute("UPDATE meta SET bytes = bytes", []).is_ok(),
            )
        };
        let read = || {
            let reader = self.reader()?;
            meta(&reader)?;
            self.keep_reader(reader);
            Ok::<_, StoreError>(())
        };
        let works = |kind| match kind {
            FailureKind::Write => write().is_ok_and(|is_written| is_written),
            FailureKind::Read => read().is_ok(),
            FailureKind::Contended => space().is_ok_and(|has_space| has_space),
            // The next commit, or the closing of the idle store, writes the record. Only a plugin
            // that stores something shows whether the quota has space.
            FailureKind::Record | FailureKind::Quota => false,
        };
        for kind in FailureKind::ALL.into_iter().filter(|kind| self.health.has(*kind)) {
            if works(kind) {
                self.health.worked(kind);
            }
        }
    }

    /// Frees resources that an idle store does not need. A log without commits since the last call
    /// is checkpointed and truncated. After some calls without any use of the store, its files are
    /// closed. Call this about once a second; it takes milliseconds if there is work to do.
    ///
    /// # Errors
    /// The file can't be written: commits stay in the log.
    pub(crate) fn tend(&self) -> Result<(), StoreError> {
        self.probe();
        self.trim_readers();
        let has_written = self.wal.commits.swap(0, Ordering::Relaxed) > 0;
        let has_read = std::mem::take(&mut lock(&self.readers).was_used);
        if has_written || has_read {
            self.idle.store(0, Ordering::Relaxed);
        }
        if has_written {
            self.wal.is_truncated.store(false, Ordering::Relaxed);
            return Ok(());
        }
        let idle = self.idle.fetch_add(1, Ordering::Relaxed) + 1;
        let is_due = !self.wal.is_truncated.load(Ordering::Relaxed);
        if is_due || idle >= CLOSED_WHEN_IDLE {
            self.end_snapshots(self.limits.snapshot_grace);
        }
        if is_due && let Some(writer) = self.lock_writer().as_ref() {
            let has_restarted = !checkpoint(writer, "TRUNCATE")?.is_busy;
            self.wal.record_checkpoint(has_restarted);
            self.wal.is_truncated.store(has_restarted, Ordering::Relaxed);
        }
        if idle >= CLOSED_WHEN_IDLE {
            self.sleep(self.lock_writer())?;
        }
        Ok(())
    }
}
