//! The read side of a store: connections for readers, and the snapshots that views hold on them.
//!
//! An open snapshot pins the write-ahead log, so that the log can't restart from its beginning. So
//! the store may end an old snapshot when the log needs space. The view takes a new snapshot at its
//! next call, and continues if nothing that it has read has changed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::error_chain::ErrorChain;

use super::changes::{Tracked, is_unchanged};
use super::connection::{Meta, close_with_log, connect, meta};
use super::{FailureKind, Store, StoreError, ViewError, lock};

/// Connections that are kept for the next readers. Further ones are opened when needed, and closed
/// after use.
pub(super) const IDLE_READERS: usize = 16;

/// The connections of one store's readers.
#[derive(Default)]
pub(super) struct Readers {
    /// Connections outside of any transaction.
    pub(super) idle: Vec<Connection>,
    /// The smallest length of `idle` since the last trim: that many connections were not needed.
    unneeded: usize,
    /// The snapshots of views, with the time when each was taken.
    open: HashMap<u64, (Instant, Pinned)>,
    next: u64,
    /// Whether a connection was used since the last call of [`Store::tend`].
    pub(super) was_used: bool,
}

/// A connection in a read transaction; `None` after the transaction was ended. Locked during one
/// call.
type Pinned = Arc<Mutex<Option<Connection>>>;

/// A read transaction on its own connection, which returns to the store afterwards.
pub(super) struct Snapshot {
    store: Arc<Store>,
    number: u64,
    pinned: Pinned,
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
        readers.open.insert(number, (Instant::now(), Arc::clone(&pinned)));
        drop(readers);
        Ok(Self { store: Arc::clone(store), number, pinned, meta })
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        lock(&self.store.readers).open.remove(&self.number);
        let connection = lock(&self.pinned).take();
        if let Some(connection) = connection {
            self.store.end_read(connection);
        }
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
    /// A connection for one reader.
    pub(super) fn reader(&self) -> Result<Connection, StoreError> {
        let mut readers = lock(&self.readers);
        readers.was_used = true;
        let idle = readers.idle.pop();
        readers.unneeded = readers.unneeded.min(readers.idle.len());
        drop(readers);
        match idle {
            Some(reader) => Ok(reader),
            None => connect(&self.file),
        }
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
            let _ = close_with_log(reader);
        }
    }

    /// Keeps a connection, outside of any transaction, for the next reader.
    pub(super) fn keep_reader(&self, reader: Connection) {
        let mut readers = lock(&self.readers);
        if readers.idle.len() < IDLE_READERS {
            readers.idle.push(reader);
        }
    }

    fn end_read(&self, connection: Connection) {
        // A connection that can't end its transaction is closed, which ends the transaction too.
        let ended =
            connection.prepare_cached("ROLLBACK").and_then(|mut statement| statement.execute([]));
        if ended.is_ok() {
            self.keep_reader(connection);
        }
    }

    /// Ends the snapshots of at least this age, except those that are being read from at this
    /// moment.
    pub(super) fn end_snapshots(&self, age: Duration) {
        let now = Instant::now();
        let is_old = |since: &Instant| now.saturating_duration_since(*since) >= age;
        let old: Vec<Pinned> = lock(&self.readers)
            .open
            .values()
            .filter(|(since, _)| is_old(since))
            .map(|(_, pinned)| Arc::clone(pinned))
            .collect();
        for pinned in old {
            let connection = pinned.try_lock().ok().and_then(|mut pinned| pinned.take());
            if let Some(connection) = connection {
                self.end_read(connection);
            }
        }
    }
}
