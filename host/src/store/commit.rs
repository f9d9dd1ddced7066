//! Writing: changes that are stored all or not at all, unless what they were made from has changed; and the log into which they go first.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior, params};

use super::view::{Scanned, Tracked};
use super::{BUSY_TIMEOUT, Changes, CommitError, Meta, Store, StoreError, entry_bytes, integer, lock, meta, stored_bytes};

/// What a commit may write and still take microseconds: a handful of records. A key is some pages of the log.
const SMALL_KEYS: usize = 16;
const SMALL_BYTES: usize = 32 * 1024;

/// What a group may have read, and take no longer: each after the first has the entries looked at again.
const SMALL_READS: usize = 256;

/// Keys written since the log was moved, after which it is moved again: some four pages of 4 KiB each, as SQLite's own thousand pages.
const LONG_LOG_KEYS: usize = 250;

/// What is known of the log.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// Keys written since it was moved.
    keys: AtomicUsize,
    is_moving: AtomicBool,
}

impl Log {
    /// So many keys more were written.
    pub(super) fn grow(&self, keys: usize) {
        self.keys.fetch_add(keys, Ordering::Relaxed);
    }
}

impl Store {
    /// Stores `changes`, all or nothing, if nothing that they were made from has changed. Without writes there is nothing to do, and to
    /// conflict with.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] where a key or a range that the view read is not what it was; [`CommitError::Full`] where the state would
    /// grow beyond the quota (a commit that shrinks it always may).
    ///
    /// Waits for as long as another holds the file, such as an operator's own tool.
    pub fn commit(&self, changes: &Changes) -> Result<(), CommitError> {
        if changes.writes.is_empty() {
            return Ok(());
        }
        let mut committed = self.commit_by(&mut lock(&self.writer), &[changes])?;
        committed.pop().unwrap_or(Ok(()))
    }

    /// Commits each of `group` in its turn, as [`Store::commit`] would, in one transaction: one that is refused changes nothing, and the next
    /// sees what those before it have stored.
    pub fn commit_all(&self, group: &[&Changes]) -> Vec<Result<(), CommitError>> {
        let committed = self.commit_by(&mut lock(&self.writer), group);
        match committed {
            Ok(committed) => committed,
            // Whoever holds the file holds it for all of them: to wait for it once is enough.
            Err(rusqlite::Error::SqliteFailure(failure, message)) if is_busy(failure) => {
                group.iter().map(|_| Err(rusqlite::Error::SqliteFailure(failure, message.clone()).into())).collect()
            }
            // What is wrong with one of them is no matter of the others.
            Err(_) => group.iter().map(|changes| self.commit(changes)).collect(),
        }
    }

    /// The same where it takes microseconds; nothing where it may take longer: there is much to write, or another holds the file.
    pub fn commit_at_once(&self, group: &[&Changes]) -> Option<Vec<Result<(), CommitError>>> {
        let writes = || group.iter().flat_map(|changes| &changes.writes);
        if writes().count() > SMALL_KEYS || writes().filter_map(|(_, value)| value.as_ref()).map(Vec::len).sum::<usize>() > SMALL_BYTES {
            return None;
        }
        if group.len() > 1 && group.iter().map(|changes| changes.tracked.entries()).sum::<usize>() > SMALL_READS {
            return None;
        }
        let mut writer = self.writer.try_lock().ok()?;
        writer.busy_timeout(Duration::ZERO).ok()?;
        let committed = self.commit_by(&mut writer, group);
        let _ = writer.busy_timeout(BUSY_TIMEOUT);
        // Whatever went wrong is tried again by one who may wait, and told then.
        committed.ok()
    }

    /// Nothing of any is stored where SQLite fails.
    fn commit_by(&self, writer: &mut Connection, group: &[&Changes]) -> Result<Vec<Result<(), CommitError>>, rusqlite::Error> {
        let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let (mut now, mut keys) = (meta(&transaction)?, 0);
        let mut committed = Vec::with_capacity(group.len());
        for changes in group {
            committed.push(self.write(&transaction, &now, changes)?.map(|then| {
                now = then;
                keys += changes.writes.len();
            }));
        }
        if keys > 0 {
            transaction.prepare_cached("UPDATE meta SET commits = ?1, bytes = ?2")?.execute([now.commits, integer(now.bytes)])?;
            transaction.commit()?;
            self.used.store(now.bytes, Ordering::Relaxed);
            self.log.grow(keys);
        }
        Ok(committed)
    }

    /// Writes one's changes, where they are not refused, and says what `meta` is then.
    fn write(&self, transaction: &Transaction<'_>, now: &Meta, changes: &Changes) -> Result<Result<Meta, CommitError>, rusqlite::Error> {
        if changes.snapshot.is_some_and(|seen| seen != now.commits) && !is_unchanged(transaction, &changes.tracked)? {
            return Ok(Err(CommitError::Conflict));
        }
        let mut then = Meta { commits: now.commits + 1, bytes: now.bytes };
        for (key, value) in &changes.writes {
            let added = value.as_ref().map_or(0, |value| entry_bytes(key, value.len() as u64));
            then.bytes = then.bytes.saturating_sub(stored_bytes(transaction, key)?) + added;
        }
        if then.bytes > self.limits.quota && then.bytes > now.bytes {
            return Ok(Err(CommitError::Full { used: then.bytes, quota: self.limits.quota }));
        }
        for (key, value) in &changes.writes {
            match value {
                Some(value) => {
                    let mut upsert = transaction.prepare_cached(
                        "INSERT INTO entries (key, value, version) VALUES (?1, ?2, ?3)
                         ON CONFLICT (key) DO UPDATE SET value = excluded.value, version = excluded.version",
                    )?;
                    upsert.execute(params![key, value, then.commits])?;
                }
                None => drop(transaction.prepare_cached("DELETE FROM entries WHERE key = ?1")?.execute([key])?),
            }
        }
        Ok(Ok(then))
    }

    /// Whether the log is so long that it should be moved into the file. Says so to one caller, until that has done it.
    pub fn has_long_log(&self) -> bool {
        self.log.keys.load(Ordering::Relaxed) >= LONG_LOG_KEYS && !self.log.is_moving.swap(true, Ordering::Relaxed)
    }

    /// Moves the log into the file, beside whoever reads and writes. Takes milliseconds, on a slow disk more.
    ///
    /// # Errors
    /// The file can't be written: what was committed stays in the log.
    pub fn move_log(&self) -> Result<(), StoreError> {
        self.log.keys.store(0, Ordering::Relaxed);
        let moved = self.reader().and_then(|connection| {
            connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
            self.keep_reader(connection);
            Ok(())
        });
        self.log.is_moving.store(false, Ordering::Relaxed);
        moved
    }
}

fn is_busy(failure: rusqlite::ffi::Error) -> bool {
    matches!(failure.code, ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
}

/// Whether everything that a view has read is still so.
fn is_unchanged(transaction: &Transaction<'_>, tracked: &Tracked) -> Result<bool, rusqlite::Error> {
    let Tracked::Some { keys, scans, .. } = tracked else { return Ok(false) };
    for (key, seen) in keys {
        let mut statement = transaction.prepare_cached("SELECT version FROM entries WHERE key = ?1")?;
        let version: Option<i64> = statement.query_row([key], |row| row.get(0)).optional()?;
        if version != *seen {
            return Ok(false);
        }
    }
    for Scanned { from, to, rows } in scans {
        let mut statement = transaction.prepare_cached("SELECT key, version FROM entries WHERE key >= ?1 AND key < ?2 ORDER BY key")?;
        let mut found = statement.query([from, to])?;
        let mut seen = rows.iter();
        while let Some(row) = found.next()? {
            let key = row.get_ref(0)?.as_blob()?;
            let version: i64 = row.get(1)?;
            if !seen.next().is_some_and(|(seen_key, seen_version)| seen_key == key && *seen_version == version) {
                return Ok(false);
            }
        }
        if seen.next().is_some() {
            return Ok(false);
        }
    }
    Ok(true)
}
