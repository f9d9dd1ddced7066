//! The durable state of one plugin: keys, values and sequences in one SQLite file, with snapshots to read from and commits that notice
//! when what was read has changed. The only module that knows SQLite.
//!
//! Refuses to know what the values mean, which handler reads or writes them, and that a handler may run again: a conflict is an answer here,
//! not a loop. Everything blocks, for microseconds as a rule: what takes longer says so.
//!
//! A commit survives the death of the process at once, and that of the machine once the system has written it (WAL, `synchronous=NORMAL`):
//! then the last moments may be missing, but never a part of a commit.

mod commit;
mod ids;
mod queue;
mod snapshot;
mod view;
mod wal;

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, TransactionBehavior};

use ids::Ids;
pub use queue::{Queue, Taken, Ticket};
use snapshot::Readers;
pub use view::{Changes, View};
use wal::Wal;

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

/// The file does not do what it should, for the operator.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file can't be created or opened.
    #[error("the state in {} can't be opened", .file.display())]
    Open {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file of something else.
    #[error("{} is not a store of plugin state", .file.display())]
    NotOurs {
        /// The file.
        file: PathBuf,
    },
    /// A file of a newer host.
    #[error("the state in {} has format {found}, and this host knows formats up to {FORMAT}", .file.display())]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its format.
        found: i64,
    },
    /// What is stored is not what was written.
    #[error("the state is damaged: {0}")]
    Damaged(&'static str),
    /// SQLite's own.
    #[error("the state can't be read or written")]
    Sqlite(#[from] rusqlite::Error),
}

/// Why a handler's call is refused.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// One of the limits; the text says which.
    #[error("{0}")]
    Limit(String),
    /// Arguments that can't be right.
    #[error("{0}")]
    Misuse(String),
    /// What the view has read has changed, and the store has ended its snapshot: what it reads now would not go with that. The handler is to be
    /// run again.
    #[error("what was read before has changed meanwhile")]
    Outdated,
    /// The write-ahead log is full, and a reader outside of the host keeps it so.
    #[error("the state can't be written now")]
    Contended,
    /// The host's fault, not the handler's.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for ViewError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Why changes were not stored. Nothing of them was, but where it says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Something that the view read has changed since.
    #[error("what was read has changed meanwhile")]
    Conflict,
    /// The plugin would have more than it may.
    #[error("the plugin's state would take more than {used} bytes, its quota is {quota}")]
    Full {
        /// What it would have.
        used: u64,
        /// What it may have.
        quota: u64,
    },
    /// The write-ahead log is full, and a reader outside of the host keeps it so.
    #[error("the write-ahead log is full, and another process reads from it")]
    Contended,
    /// The host's fault, not the handler's.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The host panicked over it.
    #[error("whether it was stored is not known")]
    Unknown,
}

impl From<rusqlite::Error> for CommitError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

/// One plugin's state. Reading happens in [`View`]s, any number at once; writing in [`Store::commit`], one at a time.
pub struct Store {
    file: PathBuf,
    limits: StoreLimits,
    /// Locked before `writer` where both are.
    ids: Mutex<Ids>,
    writer: Mutex<Connection>,
    readers: Mutex<Readers>,
    /// What `meta.bytes` is, to say no to a write without asking the file.
    used: AtomicU64,
    wal: Wal,
    /// Writers who wait for their turn.
    pub queue: Queue,
}

impl Store {
    /// Opens the state in `file`, and creates it (readable by nobody else) where there is none.
    ///
    /// # Errors
    /// The file can't be opened, is not one of ours, or was written by a newer host: then it is left as it is.
    pub fn open(file: &Path, limits: StoreLimits) -> Result<Self, StoreError> {
        let mut create = OpenOptions::new();
        create.read(true).write(true).create(true).truncate(false);
        #[cfg(unix)]
        {
            // SQLite gives the files beside it the same mode.
            use std::os::unix::fs::OpenOptionsExt;
            create.mode(0o600);
        }
        create.open(file).map_err(|source| StoreError::Open { file: file.to_owned(), source })?;
        let mut writer = connect(file)?;
        prepare(&mut writer, file)?;
        let page_bytes: u32 = writer.pragma_query_value(None, "page_size", |row| row.get(0))?;
        let page_bytes = u64::from(page_bytes.max(1));
        writer.pragma_update(None, "max_page_count", integer(limits.file_bytes(page_bytes) / page_bytes))?;
        let wal = Wal::new(limits.wal_bound(), page_bytes);
        wal.follow(&mut writer)?;
        let Meta { bytes, .. } = meta(&writer)?;
        Ok(Self {
            file: file.to_owned(),
            limits,
            ids: Mutex::default(),
            writer: Mutex::new(writer),
            readers: Mutex::default(),
            used: AtomicU64::new(bytes),
            wal,
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

    /// Gives back the numbers that were taken and not given out, and moves the log into the file. The store can still be used, at the price
    /// of doing it again.
    ///
    /// # Errors
    /// The file can't be written. Nothing is lost then but a few numbers: what was committed is safe in the log.
    pub fn close(&self) -> Result<(), StoreError> {
        let mut ids = lock(&self.ids);
        let mut writer = self.hold_writer();
        ids.give_back(&mut writer)?;
        lock(&self.readers).idle.clear();
        writer.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        Ok(())
    }
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

fn connect(file: &Path) -> Result<Connection, StoreError> {
    // One thread at a time uses a connection, which the type system sees to; so SQLite need not lock it.
    let connection = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
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

/// Makes an empty file a store, and makes sure that any other is one.
fn prepare(connection: &mut Connection, file: &Path) -> Result<(), StoreError> {
    let read = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (application, format) = (read("application_id")?, read("user_version")?);
    let tables: u32 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let is_new = tables == 0 && application == 0 && format == 0;
    if !is_new && application != i64::from(APPLICATION_ID) {
        return Err(StoreError::NotOurs { file: file.to_owned() });
    }
    if format > i64::from(FORMAT) {
        return Err(StoreError::Newer { file: file.to_owned(), found: format });
    }
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        // A file system without shared memory: then readers would block the writer, and a crash might cost a commit.
        return Err(StoreError::Damaged("its file system does not support write-ahead logging"));
    }
    if is_new {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(TABLES)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", FORMAT)?;
        transaction.commit()?;
    }
    Ok(())
}

/// Locks, also where a holder has panicked: what these locks guard is whole between any two calls.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
