//! The durable state of one plugin: keys, values and sequences in one SQLite file, with snapshots to read from and commits that notice
//! when what was read has changed. The only module that knows SQLite.
//!
//! Refuses to know what the values mean, which handler reads or writes them, and that a handler may run again: a conflict is an answer here,
//! not a loop. Everything blocks, for microseconds as a rule: what takes longer says so.
//!
//! A commit survives the death of the process at once, and that of the machine once the system has written it (WAL, `synchronous=NORMAL`):
//! then the last moments may be missing, but never a part of a commit.

mod commit;
mod queue;
mod view;

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, TransactionBehavior, params};

use commit::Log;
pub use queue::{Queue, Taken, Ticket};
pub use view::{Changes, View};

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

/// The file may grow to this many times the quota: keys are there twice, and pages are filled in part. It is what holds where the accounting
/// should be wrong; a write beyond it fails as on a full disk.
const FILE_BYTES_PER_QUOTA_BYTE: u64 = 4;

/// Connections kept for the next readers. More at once are opened when they are needed, and closed after.
const IDLE_READERS: usize = 16;

/// KiB of pages that one connection caches; there are up to [`IDLE_READERS`] of them for each plugin, and the system caches the file as well.
const CACHE_KIB: i64 = 512;

/// Bytes of the log that stay on the disk once they have been moved into the file: what a burst needed is given back.
const MAX_IDLE_LOG_BYTES: i64 = 8 * 1024 * 1024;

/// Bytes that an entry counts beside its key and its value, so that a million tiny ones are not free.
const ENTRY_BYTES: u64 = 32;

/// Numbers of a sequence that are taken from the file at once. A stop without [`Store::close`] leaves a gap of at most that many; a commit
/// to the file is saved for all but one of them.
const IDS_PER_BLOCK: u64 = 32;

/// The first number that a sequence does not reach: beyond it JavaScript's numbers have gaps.
const END_OF_IDS: u64 = 1 << 53;

/// Bytes of a sequence's name.
const MAX_SEQUENCE_NAME: usize = 128;

/// Sequences of one plugin. They are for kinds of records, not for records; each costs memory for as long as the host runs.
const MAX_SEQUENCES: u32 = 1000;

/// How much a plugin may store, and a call may move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreLimits {
    /// Bytes of all keys and values, with 32 for each entry.
    pub quota: u64,
    /// Bytes of one key.
    pub key: usize,
    /// Bytes of one value.
    pub value: usize,
    /// Bytes of the keys and values that one scan returns.
    pub scan: usize,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self { quota: 256 * 1024 * 1024, key: 512, value: 256 * 1024, scan: 2 * 1024 * 1024 }
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
    #[error("the plugin's state would have {used} bytes, its quota is {quota}")]
    Full {
        /// What it would have.
        used: u64,
        /// What it may have.
        quota: u64,
    },
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
    ids: Mutex<HashMap<String, Block>>,
    writer: Mutex<Connection>,
    readers: Mutex<Vec<Connection>>,
    /// What `meta.bytes` is, to say no to a write without asking the file.
    used: AtomicU64,
    log: Log,
    /// Writers who wait for their turn.
    pub queue: Queue,
}

/// Numbers that are taken from the file and not given out yet.
struct Block {
    next: u64,
    end: u64,
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
        let pages = limits.quota.saturating_mul(FILE_BYTES_PER_QUOTA_BYTE) / u64::from(page_bytes.max(1)) + 64;
        writer.pragma_update(None, "max_page_count", integer(pages))?;
        writer.pragma_update(None, "journal_size_limit", MAX_IDLE_LOG_BYTES)?;
        // Moving the log into the file takes milliseconds, and is no part of a commit: see `Store::move_log`.
        writer.pragma_update(None, "wal_autocheckpoint", 0)?;
        let Meta { bytes, .. } = meta(&writer)?;
        Ok(Self {
            file: file.to_owned(),
            limits,
            ids: Mutex::default(),
            writer: Mutex::new(writer),
            readers: Mutex::default(),
            used: AtomicU64::new(bytes),
            log: Log::default(),
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

    /// The next number of `sequence`: from 1, growing, below 2^53. It is taken at once, whatever becomes of who asked.
    ///
    /// # Errors
    /// [`ViewError::Misuse`] for a name that is empty, [`ViewError::Limit`] for one that is too long, a sequence too many, or one at its end.
    pub fn next_id(&self, sequence: &str) -> Result<u64, ViewError> {
        if sequence.is_empty() {
            return Err(ViewError::Misuse("a sequence needs a name".to_owned()));
        }
        if sequence.len() > MAX_SEQUENCE_NAME {
            return Err(ViewError::Limit(format!("a sequence's name may have {MAX_SEQUENCE_NAME} bytes")));
        }
        let mut ids = lock(&self.ids);
        if let Some(block) = ids.get_mut(sequence)
            && block.next < block.end
        {
            let id = block.next;
            block.next += 1;
            return Ok(id);
        }
        let Block { next, end } = self.reserve(sequence)?;
        ids.insert(sequence.to_owned(), Block { next: next + 1, end });
        Ok(next)
    }

    /// Takes the next numbers of `sequence` from the file, for good, before the first of them is given out.
    fn reserve(&self, sequence: &str) -> Result<Block, ViewError> {
        let mut writer = lock(&self.writer);
        let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut select = transaction.prepare_cached("SELECT next FROM sequences WHERE name = ?1")?;
        let known = select.query_row([sequence], |row| row.get(0)).optional()?;
        drop(select);
        let next = match known {
            Some(next) => natural(next),
            None => {
                let sequences: u32 = transaction.query_row("SELECT count(*) FROM sequences", [], |row| row.get(0))?;
                if sequences >= MAX_SEQUENCES {
                    return Err(ViewError::Limit(format!("a plugin may have {MAX_SEQUENCES} sequences")));
                }
                1
            }
        };
        let end = END_OF_IDS.min(next + IDS_PER_BLOCK);
        if next >= end {
            return Err(ViewError::Limit("the sequence is at its end".to_owned()));
        }
        transaction.prepare_cached("INSERT OR REPLACE INTO sequences VALUES (?1, ?2)")?.execute(params![sequence, integer(end)])?;
        transaction.commit()?;
        self.log.grow(1);
        Ok(Block { next, end })
    }

    /// Gives back the numbers that were taken and not given out, and moves the log into the file. The store can still be used, at the price
    /// of doing it again.
    ///
    /// # Errors
    /// The file can't be written. Nothing is lost then but a few numbers: what was committed is safe in the log.
    pub fn close(&self) -> Result<(), StoreError> {
        let mut ids = lock(&self.ids);
        let mut writer = lock(&self.writer);
        let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for (sequence, Block { next, end }) in ids.iter() {
            let mut give_back = transaction.prepare_cached("UPDATE sequences SET next = ?2 WHERE name = ?1 AND next = ?3")?;
            give_back.execute(params![sequence, integer(*next), integer(*end)])?;
        }
        transaction.commit()?;
        ids.clear();
        lock(&self.readers).clear();
        writer.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        Ok(())
    }

    /// A connection for one reader.
    fn reader(&self) -> Result<Connection, StoreError> {
        let idle = lock(&self.readers).pop();
        match idle {
            Some(reader) => Ok(reader),
            None => connect(&self.file),
        }
    }

    /// Keeps a connection, outside of any transaction, for the next reader.
    fn keep_reader(&self, reader: Connection) {
        let mut readers = lock(&self.readers);
        if readers.len() < IDLE_READERS {
            readers.push(reader);
        }
    }
}

/// The one row of `meta`: changes with every commit, so it tells whether a snapshot is still the newest.
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
