//! The durable state of one plugin: keys, values, sequences, timers, deliveries and the progress of
//! `$load` in one SQLite file. Reads use snapshots. A commit detects whether the data that the
//! handler read has changed. Only this module uses SQLite.
//!
//! It does not know what the values mean or which handler reads or writes them. It does not retry:
//! it returns a conflict to the caller. All calls except the `async` ones block, usually for
//! microseconds; the docs of longer calls say so.
//!
//! A commit survives the death of the process at once. It survives a crash of the machine once the
//! operating system has written it to the disk (WAL, `synchronous=NORMAL`): the last commits may be
//! missing, but never a part of one. A commit with deliveries is on the disk, and all commits
//! before it are, before anyone learns of it (`synchronous=FULL`): no crash undoes a commit whose
//! request was sent.

mod answers;
mod changes;
mod commit;
mod connection;
mod content;
mod copy;
mod deliveries;
mod delivery_rows;
pub mod document;
mod error;
mod format;
mod group_commit;
mod health;
mod ids;
mod limits;
mod load_rows;
mod manifest;
mod opening;
mod reserve;
mod rows;
mod schedules;
mod snapshot;
mod timer_rows;
mod timers;
mod totals;
mod verify;
mod view;
mod wal;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use rusqlite::Connection;

pub use answers::{AnswerError, Answers, Begun, Execution, KEPT};
pub use changes::Changes;
use connection::{Meta, checkpoint, close_with_log, connect, meta, natural};
pub use content::{ContentPage, ContentSummary, Entry, ImportError, ImportMode, PageQuery};
pub use copy::{CopyMode, copied_bytes, copy_store};
pub(crate) use deliveries::{Attempted, DeliveryRow, DueDeliveries, DueDelivery};
pub(crate) use delivery_rows::NewDelivery;
pub use error::{CommitError, StoreError, ViewError};
pub(crate) use group_commit::CommitGuard;
use group_commit::GroupCommit;
use health::StoreHealth;
pub(crate) use health::{FailureKind, Trouble};
use ids::Ids;
pub use limits::StoreLimits;
pub(crate) use load_rows::{LoadMark, LoadRow};
use manifest::{Manifest, ManifestRecord};
pub use manifest::{StoreFault, StoreFaultKind};
use opening::{Opened, beside, set_up};
pub(crate) use rows::Which;
use rows::{Figures, Rows};
pub(crate) use snapshot::max_descriptors;
use snapshot::{Reader, Readers};
pub(crate) use timer_rows::ScheduledTimer;
pub(crate) use timers::{Afterwards, DueTimer, DueTimers, TimerRow};
pub use verify::{AcceptError, Verified, accept_loss, plugins, verify};
pub use view::View;
use wal::{Wal, WriterGuard};

/// The log message for a file that is larger than its limit.
const TOO_LARGE: &str = "the file of a plugin's state is larger than its part of `state_bytes`, \
                         which limits the space on the disk: writes that make it larger \
                         are refused (`too_large`); raise `state_bytes`";

/// The state of one plugin. Any number of [`View`]s can read at once; [`Store::commit`] writes, one
/// commit at a time.
pub struct Store {
    file: PathBuf,
    limits: StoreLimits,
    /// If both are locked, this is locked before `writer`.
    ids: Mutex<Ids>,
    /// `None` after the store was idle for a while: see [`Store::tend`].
    writer: Mutex<Option<Connection>>,
    readers: Mutex<Readers>,
    manifest: Manifest,
    /// Whether a writer is open and the manifest records that. Only then may a commit run on a
    /// thread that serves other tasks.
    is_awake: AtomicBool,
    /// Calls of [`Store::tend`] since the store was last used.
    idle: AtomicU64,
    /// A copy of `meta.bytes`, to refuse a write without reading the file.
    used: AtomicU64,
    /// A copy of `meta.commits`, to detect that the file was replaced.
    commits: AtomicI64,
    /// The number of commits that are in the file and on the disk: a power cut loses none of them.
    saved: AtomicI64,
    wal: Wal,
    health: StoreHealth,
    group: GroupCommit,
    timers: Figures,
    deliveries: Figures,
    has_load_table: AtomicBool,
    page_bytes: u64,
    /// Whether the file has pages that only the host's own changes of rows may use.
    uses_reserve: AtomicBool,
}

impl Store {
    /// Opens the state in `file`, or creates it, readable by its owner only. The host's record of
    /// the state is kept in the file `manifest`, which should be in another directory.
    ///
    /// # Errors
    /// The file can't be opened, is not a store, or was written by a newer host; it is left
    /// unchanged. [`StoreError::Lost`] if earlier state is missing or damaged.
    pub fn open(file: &Path, manifest: &Path, limits: StoreLimits) -> Result<Self, StoreError> {
        let manifest = Manifest::new(manifest);
        let Opened { mut writer, saved, unrecorded } = opening::open(file, &manifest)?;
        let page_bytes: u32 = writer.pragma_query_value(None, "page_size", |row| row.get(0))?;
        let page_bytes = u64::from(page_bytes.max(1));
        let wal = Wal::new(limits.wal_bound(), page_bytes);
        set_up(&mut writer, &limits, &wal)?;
        let file_bytes =
            page_bytes * natural(writer.pragma_query_value(None, "page_count", |row| row.get(0))?);
        let file_limit = limits.file_bytes(page_bytes);
        let uses_reserve = file_bytes > limits.file_bytes_of_handlers(page_bytes);
        if file_bytes > file_limit {
            let file = file.display().to_string();
            tracing::warn!(file, file_bytes, file_limit, quota = limits.quota, "{TOO_LARGE}");
        }
        let Meta { bytes, commits } = meta(&writer)?;
        let timers = Figures::read(&writer, Rows::Timers)?;
        let deliveries = Figures::read(&writer, Rows::Deliveries)?;
        let has_load_table = AtomicBool::new(load_rows::has_table(&writer)?);
        let health = StoreHealth::default();
        if let Some(reason) = unrecorded {
            health.failed(FailureKind::Record, reason);
        }
        Ok(Self {
            file: file.to_owned(),
            limits,
            ids: Mutex::default(),
            writer: Mutex::new(Some(writer)),
            readers: Mutex::default(),
            manifest,
            is_awake: AtomicBool::new(false),
            idle: AtomicU64::new(0),
            used: AtomicU64::new(bytes),
            commits: AtomicI64::new(commits),
            saved: AtomicI64::new(saved),
            wal,
            health,
            group: GroupCommit::default(),
            timers,
            deliveries,
            has_load_table,
            page_bytes,
            uses_reserve: AtomicBool::new(uses_reserve),
        })
    }

    /// Creates a view for one handler. Its first read takes its snapshot.
    pub fn view(self: &Arc<Self>) -> View {
        View::new(Arc::clone(self))
    }

    /// Bytes that count against the quota, as of the last commit.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The worst current failure, or `None` if nothing fails.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        self.health.trouble()
    }

    /// Number of calls that failed for a reason other than the handler. If the number has changed,
    /// a call may have failed in between.
    pub(crate) fn faults(&self) -> u64 {
        self.health.faults()
    }

    /// Whether `kind` fails now.
    pub(crate) fn is_failing(&self, kind: FailureKind) -> bool {
        self.health.has(kind)
    }

    /// Number of failures of `kind` since the store was opened.
    pub(crate) fn failures(&self, kind: FailureKind) -> u64 {
        self.health.count(kind)
    }

    /// The space that the state takes on the disk. A file whose size can't be read counts as 0.
    pub(crate) fn disk(&self) -> DiskUsage {
        let bytes =
            |suffix| std::fs::metadata(beside(&self.file, suffix)).map_or(0, |file| file.len());
        let wal = bytes("-wal");
        DiskUsage { bytes: bytes("") + wal + bytes("-shm"), wal, quota: self.limits.quota }
    }

    /// Returns reserved sequence numbers that were not given out, checkpoints the log, and closes
    /// all files. The files stay open if another process prevents the checkpoint. The store can
    /// still be used: it opens the files again and must then be closed again.
    ///
    /// # Errors
    /// The file can't be written. Only a few sequence numbers are lost: all commits are safe in the
    /// log.
    pub(crate) fn close(&self) -> Result<(), StoreError> {
        let mut ids = lock(&self.ids);
        let mut writer = self.lock_writer();
        // If this fails, for example because the disk is full, the files are closed all the same.
        // The cost is a gap in a sequence.
        let given_back = ids.give_back(&mut writer);
        self.end_snapshots(Duration::ZERO);
        let slept = self.sleep(writer).map(drop);
        given_back.and(slept)
    }

    /// Opens a connection for the writer after the previous one was closed.
    fn reopen(&self) -> Result<Connection, StoreError> {
        let mut writer = connect(&self.file)?;
        set_up(&mut writer, &self.limits, &self.wal)?;
        let (found, known) = (meta(&writer)?.commits, self.commits.load(Ordering::Relaxed));
        if found < known {
            return Err(StoreFaultKind::Older
                .because(format!(
                    "{} has {found} commits, but had {known} before",
                    self.file.display()
                ))
                .into());
        }
        Ok(writer)
    }

    /// Records in the manifest that commits may be in the log alone. An error does not fail the
    /// commit, which is stored already. But until the record can be written (the disk may be full),
    /// the loss of the log would not be detected.
    fn wake(&self) {
        if !self.is_awake.load(Ordering::Relaxed) {
            let record = ManifestRecord {
                commits: self.saved.load(Ordering::Relaxed),
                ..ManifestRecord::open()
            };
            match self.manifest.write(&record, false) {
                Ok(()) => {
                    self.is_awake.store(true, Ordering::Relaxed);
                    self.health.worked(FailureKind::Record);
                }
                Err(error) => self.health.failed(FailureKind::Record, error.to_string()),
            }
        }
    }

    /// Checkpoints the log and closes all files. Returns `false` if a reader prevents that now.
    fn sleep(&self, mut writer: WriterGuard<'_>) -> Result<bool, StoreError> {
        let readers = std::mem::take(&mut lock(&self.readers).idle);
        let Some(connection) = writer.as_ref() else {
            // The writer is closed, so the manifest does not expect a log.
            return readers
                .into_iter()
                .try_for_each(Reader::close)
                .map(|()| true)
                .map_err(StoreError::from);
        };
        drop(readers);
        if checkpoint(connection, "TRUNCATE")?.is_busy {
            return Ok(false);
        }
        // Written before the last connection is closed, which deletes the log: a host that is
        // killed in between must not report a lost log.
        let record =
            ManifestRecord { commits: meta(connection)?.commits, ..ManifestRecord::default() };
        self.saved.store(record.commits, Ordering::Relaxed);
        // Before the write, which can fail after it has replaced the record: then the next commit
        // writes the record again. The writer's lock is held, so there is no commit in between.
        self.is_awake.store(false, Ordering::Relaxed);
        self.manifest
            .write(&record, true)
            .map_err(|source| StoreError::Open { file: self.file.clone(), source })?;
        self.health.worked(FailureKind::Record);
        self.wal.record_checkpoint(true);
        writer.take().map_or(Ok(()), close_with_log)?;
        Ok(true)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::debug!(file = %self.file.display(), %error, "a store is not closed cleanly");
        }
    }
}

/// The space that a store takes on the disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct DiskUsage {
    /// The file, its write-ahead log, and the log's index.
    pub(crate) bytes: u64,
    /// The write-ahead log alone.
    pub(crate) wal: u64,
    /// The limit of `bytes`.
    pub(crate) quota: u64,
}

/// The paths of the state of `plugin` in the data directory `data`: the store's file, and its
/// record in the manifest.
pub(crate) fn files(data: &Path, plugin: &str) -> (PathBuf, PathBuf) {
    (
        data.join("state").join(format!("{plugin}.sqlite")),
        data.join("manifest").join(format!("{plugin}.json")),
    )
}

/// Opens the state of `plugin` in the data directory `data`, or creates it.
///
/// # Errors
/// See [`Store::open`].
pub fn open(data: &Path, plugin: &str, limits: StoreLimits) -> Result<Store, StoreError> {
    let (file, manifest) = files(data, plugin);
    Store::open(&file, &manifest, limits)
}

/// Deletes the incomplete records that killed hosts have left in the data directory `data`. The
/// caller holds the lock of the directory.
pub(crate) fn remove_unfinished_records(data: &Path) {
    crate::files::remove_unfinished(&data.join("manifest"));
}

/// Locks the mutex and ignores poisoning: the guarded data is consistent between any two calls.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks without waiting. Returns `None` if another thread holds the lock.
fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

#[cfg(test)]
mod tests;
