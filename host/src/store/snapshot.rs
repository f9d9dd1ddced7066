//! The read side of a store: connections for readers, and the snapshots that views hold on them.
//!
//! An open snapshot pins the write-ahead log, so that the log can't restart from its beginning. It
//! also holds a connection, and so file descriptors. So the store may end an old snapshot when the
//! log needs space, or when another view needs a connection. The view takes a new snapshot at its
//! next call, and continues if nothing that it has read has changed.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error_chain::ErrorChain;

use super::changes::{Tracked, is_unchanged};
use super::connection::{Meta, close_with_log, connect, meta};
use super::{FailureKind, Store, StoreError, ViewError, lock};

/// Minimum of [`max_readers`]. So many handlers of one plugin may wait, each with its own snapshot.
const MIN_READERS: usize = 8;

/// Maximum number of connections of one store's readers: one for each thread that may read at the
/// same moment (the workers, a checkpoint, and the upkeep of idle stores).
pub(super) fn max_readers() -> usize {
    (thread::available_parallelism().map_or(1, usize::from) + 2).max(MIN_READERS)
}

/// Maximum number of file descriptors of one store: its file and its log for the writer and for
/// each reader, and the log's index once.
pub(crate) fn max_descriptors() -> u64 {
    2 * (max_readers() as u64 + 1) + 1
}

/// The connections of one store's readers.
pub(super) struct Readers {
    /// Connections outside of any transaction.
    pub(super) idle: Vec<Reader>,
    /// The smallest length of `idle` since the last trim: that many connections were not needed.
    unneeded: usize,
    /// The snapshots of views, the oldest first, with the time when each was taken.
    open: BTreeMap<u64, (Instant, Pinned)>,
    next: u64,
    /// One for each connection that may be opened.
    permits: Arc<Semaphore>,
    /// Whether a connection was used since the last call of [`Store::tend`].
    pub(super) was_used: bool,
}

impl Default for Readers {
    fn default() -> Self {
        Self {
            idle: Vec::new(),
            unneeded: 0,
            open: BTreeMap::new(),
            next: 0,
            permits: Arc::new(Semaphore::new(max_readers())),
            was_used: false,
        }
    }
}

/// A connection of a reader, with its permit.
pub(super) struct Reader {
    connection: Connection,
    _permit: OwnedSemaphorePermit,
}

impl Reader {
    /// Closes the connection: see [`close_with_log`].
    pub(super) fn close(self) -> Result<(), rusqlite::Error> {
        close_with_log(self.connection)
    }
}

impl Deref for Reader {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

/// A connection in a read transaction; `None` after the transaction was ended. Locked during one
/// call.
type Pinned = Arc<Mutex<Option<Reader>>>;

/// A read transaction on its own connection, which returns to the store afterwards.
pub(super) struct Snapshot {
    store: Arc<Store>,
    number: u64,
    pinned: Pinned,
    /// Whether the view itself has ended the transaction.
    is_released: AtomicBool,
    /// The row `meta` at the beginning of the transaction.
    pub(super) meta: Meta,
}

impl Snapshot {
    fn take(store: &Arc<Store>) -> Result<Self, StoreError> {
        let connection = store.reader()?;
        connection.prepare_cached("BEGIN")?.execute([])?;
        // The transaction's snapshot begins at its first statement, which is this one. So `meta` is
        // consistent with all later reads.
        let meta = meta(&connection)?;
        let pinned = Arc::new(Mutex::new(Some(connection)));
        let mut readers = lock(&store.readers);
        readers.next += 1;
        let number = readers.next;
        drop(readers);
        let (store, is_released) = (Arc::clone(store), AtomicBool::new(false));
        Ok(Self { store, number, pinned, is_released, meta })
    }

    /// Lets the store end the snapshot while it is not being read from.
    fn share(&self) {
        let shared = (Instant::now(), Arc::clone(&self.pinned));
        lock(&self.store.readers).open.insert(self.number, shared);
    }

    /// Ends the transaction, because the view waits for something else. The next read takes a new
    /// snapshot, as if the store had ended this one.
    pub(super) fn release(&self) {
        self.is_released.store(true, Ordering::Relaxed);
        self.end();
    }

    fn is_released(&self) -> bool {
        self.is_released.load(Ordering::Relaxed)
    }

    fn end(&self) {
        lock(&self.store.readers).open.remove(&self.number);
        let connection = lock(&self.pinned).take();
        if let Some(connection) = connection {
            self.store.end_read(connection);
        }
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        self.end();
    }
}

/// Reads from the view's snapshot, and takes one if there is none. If the store has ended it, takes
/// a new one; everything in `tracked` must then be unchanged.
pub(super) fn read<T>(
    snapshot: &mut Option<Snapshot>,
    store: &Arc<Store>,
    tracked: &Tracked,
    read: impl FnOnce(&Connection, &Meta) -> Result<T, StoreError>,
) -> Result<T, ViewError> {
    let result = read_from(snapshot, store, tracked, read);
    match &result {
        Ok(_) => store.health.worked(FailureKind::Read),
        Err(ViewError::Store(error)) => {
            store.health.failed(FailureKind::Read, ErrorChain(error).to_string())
        }
        // This is what a view expects that has waited. It is no fault of the store.
        Err(ViewError::Outdated) if snapshot.as_ref().is_some_and(Snapshot::is_released) => {}
        Err(ViewError::Outdated) => store.health.count_fault(),
        Err(_) => {}
    }
    result
}

fn read_from<T>(
    snapshot: &mut Option<Snapshot>,
    store: &Arc<Store>,
    tracked: &Tracked,
    read: impl FnOnce(&Connection, &Meta) -> Result<T, StoreError>,
) -> Result<T, ViewError> {
    if let Some(snapshot) = snapshot
        && let Some(connection) = &*lock(&snapshot.pinned)
    {
        return Ok(read(connection, &snapshot.meta)?);
    }
    let fresh = Snapshot::take(store)?;
    let pinned = Arc::clone(&fresh.pinned);
    let connection = lock(&pinned);
    // Not before the lock: another reader could end the snapshot before its first read.
    fresh.share();
    let Some(connection) = &*connection else { return Err(ViewError::Outdated) };
    if let Some(ended) = snapshot
        && ended.meta.commits != fresh.meta.commits
        && !is_unchanged(connection, tracked)?
    {
        return Err(ViewError::Outdated);
    }
    let meta = snapshot.insert(fresh).meta;
    Ok(read(connection, &meta)?)
}

impl Store {
    /// Takes a connection for one reader. If all are in use, ends the oldest snapshot and takes its
    /// connection. Waits only while other threads read from all of them, which takes microseconds.
    pub(super) fn reader(&self) -> Result<Reader, StoreError> {
        loop {
            if let Some(reader) = self.idle_reader() {
                return Ok(reader);
            }
            let permits = Arc::clone(&lock(&self.readers).permits);
            if let Ok(permit) = permits.try_acquire_owned() {
                return Ok(Reader { connection: connect(&self.file)?, _permit: permit });
            }
            if !self.end_oldest_snapshot() {
                thread::yield_now();
            }
        }
    }

    fn idle_reader(&self) -> Option<Reader> {
        let mut readers = lock(&self.readers);
        readers.was_used = true;
        let idle = readers.idle.pop();
        readers.unneeded = readers.unneeded.min(readers.idle.len());
        idle
    }

    /// Closes the connections that no reader has needed since the last call, so that those of a
    /// burst do not stay open while the store is used.
    pub(super) fn trim_readers(&self) {
        let mut readers = lock(&self.readers);
        // The newest connections are used first, so the oldest were not needed.
        let unneeded = readers.unneeded.min(readers.idle.len());
        let closed: Vec<_> = readers.idle.drain(..unneeded).collect();
        readers.unneeded = readers.idle.len();
        drop(readers);
        for reader in closed {
            // Either a writer is open, so this is not the last connection, or the manifest does not
            // expect a log.
            let _ = reader.close();
        }
    }

    /// Keeps a connection, outside of any transaction, for the next reader.
    pub(super) fn keep_reader(&self, reader: Reader) {
        lock(&self.readers).idle.push(reader);
    }

    fn end_read(&self, reader: Reader) {
        // A connection that can't end its transaction is closed, which ends the transaction too.
        let ended =
            reader.prepare_cached("ROLLBACK").and_then(|mut statement| statement.execute([]));
        if ended.is_ok() {
            self.keep_reader(reader);
        }
    }

    /// Ends the snapshots of at least this age, except those that are being read from at this
    /// moment.
    pub(super) fn end_snapshots(&self, age: Duration) {
        let now = Instant::now();
        let is_old = |since: &Instant| now.saturating_duration_since(*since) >= age;
        let old: Vec<Reader> = lock(&self.readers)
            .open
            .values()
            .filter(|(since, _)| is_old(since))
            .filter_map(|(_, pinned)| take(pinned))
            .collect();
        old.into_iter().for_each(|reader| self.end_read(reader));
    }

    /// Ends the oldest snapshot that is not being read from at this moment. Returns whether there
    /// is one.
    fn end_oldest_snapshot(&self) -> bool {
        let oldest = lock(&self.readers).open.values().find_map(|(_, pinned)| take(pinned));
        oldest.map(|reader| self.end_read(reader)).is_some()
    }
}

/// Takes the connection out of a snapshot, unless it is being read from at this moment.
fn take(pinned: &Pinned) -> Option<Reader> {
    pinned.try_lock().ok()?.take()
}
