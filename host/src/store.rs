//! The durable state of one plugin: keys, values and sequences in one SQLite file, with snapshots to read from and commits that notice
//! when what was read has changed. The only module that knows SQLite.
//!
//! Refuses to know what the values mean, which handler reads or writes them, and that a handler may run again: a conflict is an answer here,
//! not a loop. Everything blocks, for microseconds as a rule: what takes longer says so.
//!
//! A commit survives the death of the process at once, and that of the machine once the system has written it (WAL, `synchronous=NORMAL`):
//! then the last moments may be missing, but never a part of a commit.

mod commit;
mod error;
mod health;
mod ids;
mod manifest;
mod opening;
mod queue;
mod snapshot;
mod verify;
mod view;
mod wal;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension};

pub use error::{CommitError, StoreError, ViewError};
use health::Health;
pub use health::{FailureKind, Trouble};
use ids::Ids;
pub use manifest::{Fault, FaultKind};
use manifest::{Manifest, Record};
use opening::{Opened, beside, checkpoint};
pub use queue::{Queue, Taken, Ticket};
use snapshot::Readers;
pub use verify::{AcceptError, Verified, accept_loss, plugins, verify};
pub use view::{Changes, View};
use wal::{Held, Wal};

/// Marks a file as one of ours, for `file(1)` and for us: `Sock`.
const APPLICATION_ID: u32 = 0x536F_636B;

/// The format of the tables below. A host refuses a file of a newer one, and converts an older one.
const FORMAT: u32 = 1;

/// `entries` has row ids, so that a value of some KiB lies in one page: without them a row over a quarter of a page takes another page.
const TABLES: &str = "
    CREATE TABLE entries (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, value BLOB NOT NULL, version INTEGER NOT NULL);
    CREATE TABLE sequences (name TEXT PRIMARY KEY, next INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE meta (only INTEGER PRIMARY KEY CHECK (only = 1), commits INTEGER NOT NULL, bytes INTEGER NOT NULL);
    INSERT INTO meta VALUES (1, 0, 0);";

/// How long an operator's own tool may hold the file before a call fails. The host itself never waits for itself here.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// KiB of pages that one connection caches; there are up to [`snapshot::IDLE_READERS`] of them for each plugin, and the system caches the file as well.
const CACHE_KIB: i64 = 512;

/// Bytes that an entry counts beside its key and its value, so that a million tiny ones are not free.
const ENTRY_BYTES: u64 = 32;

/// What the log says of a file that is larger than it may be.
const TOO_LARGE: &str = "the file of a plugin's state is larger than its part of `state_bytes`, which counts the disk: what is larger than before is \
                         refused (`too_large`); raise `state_bytes`";

/// Pages that the file may always have: the empty tables, and something in them.
const MIN_FILE_PAGES: u64 = 64;

/// How much a plugin may store, and a call may move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreLimits {
    /// Bytes on the disk: the file with its write-ahead log and the log's index. The keys and values alone, with 32 bytes for each entry, may
    /// not be more either; this is what a view looks at, before anything is written.
    pub quota: u64,
    /// Bytes of the write-ahead log at which writers wait for a checkpoint; at most an eighth of the quota. The log may be longer by one
    /// transaction.
    pub wal: u64,
    /// Bytes of one key.
    pub key: usize,
    /// Bytes of one value.
    pub value: usize,
    /// Bytes of the keys and values that one scan returns.
    pub scan: usize,
    /// Age at which a snapshot is ended when the write-ahead log needs room.
    pub snapshot_grace: Duration,
}

/// The default of [`StoreLimits::snapshot_grace`]: many times what a handler takes that does not wait for something.
const SNAPSHOT_GRACE: Duration = Duration::from_millis(100);

impl Default for StoreLimits {
    fn default() -> Self {
        Self {
            quota: 256 * 1024 * 1024,
            wal: 16 * 1024 * 1024,
            key: 512,
            value: 256 * 1024,
            scan: 2 * 1024 * 1024,
            snapshot_grace: SNAPSHOT_GRACE,
        }
    }
}

impl StoreLimits {
    fn wal_bound(&self) -> u64 {
        self.wal.min(self.quota / 8)
    }

    /// Bytes of the quota that are kept for the log and its index.
    fn wal_reserve(&self, page_bytes: u64) -> u64 {
        wal::reserved(self.wal_bound(), page_bytes)
    }

    /// Bytes that the file may have.
    fn file_bytes(&self, page_bytes: u64) -> u64 {
        self.quota.saturating_sub(self.wal_reserve(page_bytes)).max(MIN_FILE_PAGES * page_bytes)
    }
}

/// One plugin's state. Reading happens in [`View`]s, any number at once; writing in [`Store::commit`], one at a time.
pub struct Store {
    file: PathBuf,
    limits: StoreLimits,
    /// Locked before `writer` where both are.
    ids: Mutex<Ids>,
    /// `None` while nobody has written for a while: see [`Store::tend`].
    writer: Mutex<Option<Connection>>,
    readers: Mutex<Readers>,
    manifest: Manifest,
    /// Whether there is a writer, and the manifest says so: only then may a commit be made on a thread that serves others.
    is_awake: AtomicBool,
    /// Calls of [`Store::tend`] since the store was used.
    idle: AtomicU64,
    /// What `meta.bytes` is, to say no to a write without asking the file.
    used: AtomicU64,
    /// What `meta.commits` is, to notice that the file was exchanged.
    commits: AtomicI64,
    /// The commits that are in the file and on the disk: a power cut takes none of them.
    saved: AtomicI64,
    wal: Wal,
    health: Health,
    /// Writers who wait for their turn.
    pub queue: Queue,
}

impl Store {
    /// Opens the state in `file`, and creates it (readable by nobody else) where there is none. What is remembered of it is kept in the file
    /// `manifest`, which should be in another directory.
    ///
    /// # Errors
    /// The file can't be opened, is not one of ours, or was written by a newer host: then it is left as it is. [`StoreError::Lost`] where
    /// there was a state that is not there any more.
    pub fn open(file: &Path, manifest: &Path, limits: StoreLimits) -> Result<Self, StoreError> {
        let manifest = Manifest::new(manifest);
        let Opened { mut writer, saved, unrecorded } = opening::open(file, &manifest)?;
        let page_bytes: u32 = writer.pragma_query_value(None, "page_size", |row| row.get(0))?;
        let page_bytes = u64::from(page_bytes.max(1));
        let wal = Wal::new(limits.wal_bound(), page_bytes);
        set_up(&mut writer, &limits, &wal)?;
        let file_bytes = page_bytes * natural(writer.pragma_query_value(None, "page_count", |row| row.get(0))?);
        let file_limit = limits.file_bytes(page_bytes);
        if file_bytes > file_limit {
            let file = file.display().to_string();
            tracing::warn!(file, file_bytes, file_limit, quota = limits.quota, "{TOO_LARGE}");
        }
        let Meta { bytes, commits } = meta(&writer)?;
        let health = Health::default();
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
            queue: Queue::default(),
        })
    }

    /// A view for one handler. Its snapshot is taken by its first read.
    pub fn view(self: &Arc<Self>) -> View {
        View::new(Arc::clone(self))
    }

    /// Bytes that count against the quota, as of the last commit.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// What is wrong with the state now: the worst, where it is several things.
    pub fn trouble(&self) -> Option<Trouble> {
        self.health.trouble()
    }

    /// Calls so far that failed through no fault of the handler. Two numbers that differ tell that one may have failed between them.
    pub fn faults(&self) -> u64 {
        self.health.faults()
    }

    /// Whether this fails now.
    pub fn is_failing(&self, kind: FailureKind) -> bool {
        self.health.has(kind)
    }

    /// How often something failed since the store was opened.
    pub fn failures(&self, kind: FailureKind) -> u64 {
        self.health.count(kind)
    }

    /// What the state takes on the disk, as far as that can be seen.
    pub fn disk(&self) -> Disk {
        let bytes = |suffix| std::fs::metadata(beside(&self.file, suffix)).map_or(0, |file| file.len());
        let wal = bytes("-wal");
        Disk { bytes: bytes("") + wal + bytes("-shm"), wal, quota: self.limits.quota }
    }

    /// Gives back the numbers that were taken and not given out, moves the log into the file, and closes all files. The store can still be
    /// used, at the price of doing it again.
    ///
    /// # Errors
    /// The file can't be written. Nothing is lost then but a few numbers: what was committed is safe in the log.
    pub fn close(&self) -> Result<(), StoreError> {
        let mut ids = lock(&self.ids);
        let mut writer = self.hold_writer();
        // Where this fails (the disk is full) the files are closed all the same: it costs a gap in a sequence.
        let given_back = ids.give_back(&mut writer);
        self.end_snapshots(Duration::ZERO);
        let slept = self.sleep(writer).map(drop);
        given_back.and(slept)
    }

    /// A connection for the writer, after one was closed.
    fn reopen(&self) -> Result<Connection, StoreError> {
        let mut writer = connect(&self.file)?;
        set_up(&mut writer, &self.limits, &self.wal)?;
        let (found, known) = (meta(&writer)?.commits, self.commits.load(Ordering::Relaxed));
        if found < known {
            return Err(FaultKind::Older.because(format!("{} has {found} commits, and had {known} just now", self.file.display())).into());
        }
        Ok(writer)
    }

    /// Has the manifest say that commits may be in the log alone. It is not worth a commit that is stored already: where the disk is full, a
    /// log that is lost would not be noticed.
    fn wake(&self) {
        if !self.is_awake.load(Ordering::Relaxed) {
            let record = Record { commits: self.saved.load(Ordering::Relaxed), ..Record::open() };
            match self.manifest.write(&record, false) {
                Ok(()) => {
                    self.is_awake.store(true, Ordering::Relaxed);
                    self.health.worked(FailureKind::Record);
                }
                Err(error) => self.health.failed(FailureKind::Record, error.to_string()),
            }
        }
    }

    /// Closes the files of a store whose log is in its file; whether that could be done now.
    fn sleep(&self, mut writer: Held<'_>) -> Result<bool, StoreError> {
        let readers = std::mem::take(&mut lock(&self.readers).idle);
        let Some(connection) = writer.as_ref() else {
            // The manifest has said since the writer was closed that the log may go.
            return readers.into_iter().try_for_each(close_with_log).map(|()| true).map_err(StoreError::from);
        };
        drop(readers);
        if checkpoint(connection, "TRUNCATE")?.is_busy {
            return Ok(false);
        }
        // Before the log goes with its last connection: a host that is killed between the two must not miss it.
        let record = Record { commits: meta(connection)?.commits, ..Record::default() };
        self.saved.store(record.commits, Ordering::Relaxed);
        self.manifest.write(&record, true).map_err(|source| StoreError::Open { file: self.file.clone(), source })?;
        self.is_awake.store(false, Ordering::Relaxed);
        self.health.worked(FailureKind::Record);
        self.wal.note(true);
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

/// What a store takes on the disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Disk {
    /// The file, its write-ahead log, and the log's index.
    pub bytes: u64,
    /// The write-ahead log.
    pub wal: u64,
    /// What all of it may take.
    pub quota: u64,
}

/// Where a host with this data directory keeps the state of `plugin`: the store's file, and its record in the manifest.
pub fn files(data: &Path, plugin: &str) -> (PathBuf, PathBuf) {
    (data.join("state").join(format!("{plugin}.sqlite")), data.join("manifest").join(format!("{plugin}.json")))
}

/// The one row of `meta`: changes with every commit, so it tells whether a snapshot is still the newest.
#[derive(Debug, Clone, Copy)]
struct Meta {
    commits: i64,
    bytes: u64,
}

fn meta(connection: &Connection) -> Result<Meta, rusqlite::Error> {
    connection
        .prepare_cached("SELECT commits, bytes FROM meta")?
        .query_row([], |row| Ok(Meta { commits: row.get(0)?, bytes: natural(row.get(1)?) }))
}

/// What the entry of `key` counts now; 0 where there is none.
fn stored_bytes(connection: &Connection, key: &[u8]) -> Result<u64, rusqlite::Error> {
    let mut statement = connection.prepare_cached("SELECT length(value) FROM entries WHERE key = ?1")?;
    let length: Option<i64> = statement.query_row([key], |row| row.get(0)).optional()?;
    Ok(length.map_or(0, |length| entry_bytes(key, natural(length))))
}

fn entry_bytes(key: &[u8], value_bytes: u64) -> u64 {
    key.len() as u64 + value_bytes + ENTRY_BYTES
}

/// A number as SQLite stores it. Counts of bytes and numbers of sequences are far below the end of either type.
fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number that is never negative, as SQLite stores it.
fn natural(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// Prepares a connection to write.
fn set_up(writer: &mut Connection, limits: &StoreLimits, wal: &Wal) -> Result<(), rusqlite::Error> {
    let page_bytes = natural(writer.pragma_query_value(None, "page_size", |row| row.get(0))?).max(1);
    writer.pragma_update(None, "max_page_count", integer(limits.file_bytes(page_bytes) / page_bytes))?;
    wal.follow(writer)
}

/// Closes a connection; if it is the last one, the log goes with it. Only after the manifest says so: a log that it expects would be missed.
fn close_with_log(connection: Connection) -> Result<(), rusqlite::Error> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    connection.close().map_err(|(_, error)| error)
}

/// A connection that leaves the log as it is when it is closed, unless [`close_with_log`] closes it.
fn connect(file: &Path) -> Result<Connection, StoreError> {
    // One thread at a time uses a connection, which the type system sees to; so SQLite need not lock it.
    let connection = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // The first of these reads the file, so it is what fails where that is no database.
    connection
        .pragma_update(None, "synchronous", "NORMAL")
        .and_then(|()| connection.pragma_update(None, "cache_size", -CACHE_KIB))
        .and_then(|()| connection.pragma_update(None, "trusted_schema", false))
        .map_err(|error| match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => StoreError::NotOurs { file: file.to_owned() },
            _ => error.into(),
        })?;
    Ok(connection)
}

/// Locks, also where a holder has panicked: what these locks guard is whole between any two calls.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The same without waiting: `None` if another thread holds the lock.
fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

#[cfg(test)]
mod tests;
