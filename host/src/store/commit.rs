//! Commits: changes are stored completely or not at all. They are not stored if the data that they
//! depend on has changed.

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior, params};

use crate::error_chain::ErrorChain;

use super::changes::{Changes, is_unchanged};
use super::connection::{entry_bytes, integer, natural, stored_bytes};
use super::rows::Rows;
use super::totals::Totals;
use super::{CommitError, FailureKind, Store, delivery_rows, limits, load_rows, timer_rows};

/// Maximum number of keys, and of the bytes of keys and values, in a commit that takes only
/// microseconds. Each key takes some pages of the log.
const SMALL_KEYS: usize = 16;
const SMALL_BYTES: usize = 32 * 1024;

/// Maximum number of reads of a group that takes only microseconds: the reads of each writer after
/// the first are checked again.
const SMALL_READS: usize = 256;

impl Store {
    /// Stores `changes`, all or nothing, if the data that they depend on has not changed. Changes
    /// without writes are never a conflict.
    ///
    /// Blocks while another process, such as an operator's tool, holds the file (at most two
    /// seconds), and while the log is full.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] if a key or a range that the view read has changed;
    /// [`CommitError::Full`] if the state would grow beyond the quota (never for a commit that
    /// shrinks it); [`CommitError::TimerGone`] if the timer that fired is not set any more;
    /// [`CommitError::TooManyTimers`] and [`CommitError::TooManyDeliveries`] beyond their limits;
    /// [`CommitError::Contended`] if a reader in another process keeps the log full;
    /// [`CommitError::Store`] if the file can't be written.
    pub fn commit(&self, changes: &Changes) -> Result<(), CommitError> {
        if !changes.has_writes() {
            return Ok(());
        }
        let committed = self.commit_one(changes);
        self.record_failure(&committed);
        committed
    }

    fn commit_one(&self, changes: &Changes) -> Result<(), CommitError> {
        let mut writer = self.lock_writer();
        let writer = writer.connection()?;
        self.wait_for_space(writer)?;
        let mut committed = self
            .commit_by(writer, &[changes])
            .map_err(|error| self.full_or(error, writer, changes.keys(), changes.bytes()))?;
        committed.pop().unwrap_or(Ok(()))
    }

    /// Commits each of `group` in order, as [`Store::commit`] would, in as few transactions as
    /// their size limit allows. Refused changes store nothing, and later changes see what earlier
    /// ones have stored.
    pub(crate) fn commit_all(&self, mut group: &[&Changes]) -> Vec<Result<(), CommitError>> {
        let mut results: Vec<Result<(), CommitError>> = Vec::with_capacity(group.len());
        // Fails `part` and all that follow it. An error can't be cloned, so `error` makes each.
        let fail_all = |results: &mut Vec<_>,
                        part: &[&Changes],
                        rest: &[&Changes],
                        error: &dyn Fn() -> CommitError| {
            results.extend(part.iter().chain(rest).map(|_| {
                let failed = Err(error());
                self.record_failure(&failed);
                failed
            }));
        };
        while !group.is_empty() {
            let (part, rest) = group.split_at(self.transaction_size(group));
            group = rest;
            let mut writer = self.lock_writer();
            let committed = writer.connection().map_err(CommitError::from).and_then(|writer| {
                self.wait_for_space(writer)?;
                Ok(self.commit_by(writer, part))
            });
            drop(writer);
            match committed {
                Ok(Ok(committed)) => results.extend(committed),
                // The log stays full for the rest of the group as well, so one wait is enough.
                Err(CommitError::Contended) => {
                    fail_all(&mut results, part, group, &|| CommitError::Contended);
                    return results;
                }
                // The same applies if another process holds the file.
                Ok(Err(rusqlite::Error::SqliteFailure(failure, message))) if is_busy(failure) => {
                    fail_all(&mut results, part, group, &|| {
                        rusqlite::Error::SqliteFailure(failure, message.clone()).into()
                    });
                    return results;
                }
                // A failure of one writer must not fail the others, so each is committed alone. If
                // there is no connection to the file, each of them tries to open it.
                Ok(Err(_)) | Err(_) => {
                    results.extend(part.iter().map(|changes| self.commit(changes)))
                }
            }
        }
        results
    }

    /// The same as [`Store::commit_all`] if it takes only microseconds. Returns `None` if it may
    /// take longer, because there is much to write or the writer is not available, and if SQLite
    /// fails. Nothing is stored then.
    pub(crate) fn try_commit(&self, group: &[&Changes]) -> Option<Vec<Result<(), CommitError>>> {
        // A commit with deliveries waits for the disk.
        if group.iter().any(|changes| changes.has_deliveries()) {
            return None;
        }
        let is_small = group.iter().map(|changes| changes.keys()).sum::<usize>() <= SMALL_KEYS
            && group.iter().map(|changes| changes.bytes()).sum::<usize>() <= SMALL_BYTES;
        if !is_small {
            return None;
        }
        if group.len() > 1
            && group.iter().map(|changes| changes.tracked.entries()).sum::<usize>() > SMALL_READS
        {
            return None;
        }
        // After an error the caller tries again with a call that may wait and that reports the
        // error.
        self.with_writer_at_once(|writer| self.commit_by(writer, group))?.ok()
    }

    /// Commits `group` in one transaction. If SQLite fails, nothing of the group is stored. A
    /// commit with deliveries returns when it is on the disk: a power cut must not undo a commit
    /// whose request was sent.
    fn commit_by(
        &self,
        writer: &mut Connection,
        group: &[&Changes],
    ) -> Result<Vec<Result<(), CommitError>>, rusqlite::Error> {
        if !group.iter().any(|changes| changes.has_deliveries()) {
            return self.commit_transaction(writer, group);
        }
        // SQLite allows this only outside of a transaction.
        writer.pragma_update(None, "synchronous", "FULL")?;
        let committed = self.commit_transaction(writer, group);
        // After a failure, later commits would only be slower.
        let _ = writer.pragma_update(None, "synchronous", "NORMAL");
        committed
    }

    fn commit_transaction(
        &self,
        writer: &mut Connection,
        group: &[&Changes],
    ) -> Result<Vec<Result<(), CommitError>>, rusqlite::Error> {
        let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let (mut now, mut has_written) = (self.totals(&transaction)?, false);
        let delivers = group.iter().any(|changes| changes.has_deliveries());
        let sets_timers = group.iter().any(|changes| changes.sets_timers());
        // Each kind of table comes with those of the kinds before it: timers, deliveries, loads.
        // To cancel timers needs no tables.
        let adds_loads = group.iter().any(|changes| changes.load.is_some())
            && self.add_load_table(&transaction)?;
        if delivers && !adds_loads {
            self.add_tables(&transaction, Rows::Deliveries)?;
        } else if sets_timers && !adds_loads {
            self.add_tables(&transaction, Rows::Timers)?;
        }
        let has_tables = sets_timers || delivers || self.has_tables(Rows::Timers);
        let has_timers = has_tables && group.iter().any(|changes| changes.has_timers());
        let mut committed = Vec::with_capacity(group.len());
        for changes in group {
            committed.push(self.write(&transaction, &now, changes, has_tables)?.map(|then| {
                now = then;
                has_written = true;
            }));
        }
        if has_written {
            transaction
                .prepare_cached("UPDATE meta SET commits = ?1, bytes = ?2")?
                .execute([now.commits, integer(now.bytes)])?;
            transaction.commit()?;
            self.record_totals(now);
            // A change of deliveries counts as one of timers too, and new tables as one of both.
            if adds_loads {
                self.load_table_added();
            } else if delivers {
                self.rows_changed(Rows::Deliveries);
            } else if has_timers {
                self.rows_changed(Rows::Timers);
            }
            // Wakes the store and no task: its manifest now says that the log holds commits.
            self.wake();
            self.health.stored();
        }
        Ok(committed)
    }

    /// Writes the changes of one writer unless they are refused, and returns the new totals.
    fn write(
        &self,
        transaction: &Transaction<'_>,
        now: &Totals,
        changes: &Changes,
        has_timer_tables: bool,
    ) -> Result<Result<Totals, CommitError>, rusqlite::Error> {
        if let Some(fired) = &changes.fired
            && !timer_rows::is_set(transaction, fired)?
        {
            return Ok(Err(CommitError::TimerGone));
        }
        if changes.snapshot.is_some_and(|seen| seen != now.commits)
            && !is_unchanged(transaction, &changes.tracked)?
        {
            return Ok(Err(CommitError::Conflict));
        }
        let mut then = Totals { commits: now.commits + 1, ..*now };
        for (key, value) in &changes.writes {
            let added = value.as_ref().map_or(0, |value| entry_bytes(key, value.len() as u64));
            then.bytes = then.bytes.saturating_sub(stored_bytes(transaction, key)?) + added;
        }
        let mut replaced = Vec::new();
        // Without tables, there is nothing to cancel.
        let has_timers = changes.has_timers() && has_timer_tables;
        if has_timers {
            replaced = timer_rows::replaced(transaction, changes)?;
            replaced.iter().for_each(|(_, bytes)| then.remove(1, *bytes));
            let (number, bytes) = timer_rows::added(changes);
            then.add(number, bytes);
        }
        if then.timers > self.limits.timers && then.timers > now.timers {
            return Ok(Err(CommitError::TooManyTimers { max: self.limits.timers }));
        }
        for new in &changes.deliveries {
            then.deliveries += 1;
            then.bytes += new.counted();
        }
        if changes.has_deliveries() && self.has_too_many_deliveries(&then) {
            return Ok(Err(CommitError::TooManyDeliveries { max: self.limits.deliveries }));
        }
        if then.bytes > self.limits.quota && then.bytes > now.bytes {
            return Ok(Err(self.record_full(then.bytes)));
        }
        if then.bytes > now.bytes
            && let Some(used) = self.exceeds_pages(transaction, changes.keys(), changes.bytes())?
        {
            return Ok(Err(self.record_full(used)));
        }
        if has_timers {
            timer_rows::write(transaction, changes, &replaced)?;
        }
        delivery_rows::write(transaction, &changes.deliveries)?;
        if let Some(mark) = &changes.load {
            load_rows::write(transaction, mark)?;
        }
        for (key, value) in &changes.writes {
            match value {
                Some(value) => {
                    let mut upsert = transaction.prepare_cached(
                        "INSERT INTO entries (key, value, version) VALUES (?1, ?2, ?3)
                         ON CONFLICT (key) DO UPDATE SET value = excluded.value, version = \
                         excluded.version",
                    )?;
                    upsert.execute(params![key, value, then.commits])?;
                }
                None => drop(
                    transaction
                        .prepare_cached("DELETE FROM entries WHERE key = ?1")?
                        .execute([key])?,
                ),
            }
        }
        Ok(Ok(then))
    }

    /// Whether there would be too many deliveries. A delivery can end with a timer, which may
    /// exceed the number of timers. So both together are limited too: a plugin that does not handle
    /// its results can't fill the file with them.
    fn has_too_many_deliveries(&self, then: &Totals) -> bool {
        let max = self.limits.deliveries;
        then.deliveries > max
            || then.deliveries.saturating_add(then.timers) > self.limits.timers.saturating_add(max)
    }

    /// Records for the operator that a commit has failed, if it has.
    fn record_failure(&self, committed: &Result<(), CommitError>) {
        match committed {
            Err(CommitError::Store(error)) => {
                self.health.failed(FailureKind::Write, ErrorChain(error).to_string())
            }
            Err(error @ CommitError::Contended) => {
                self.health.failed(FailureKind::Contended, error.to_string())
            }
            // `CommitError::Full` was recorded where it was detected.
            Ok(())
            | Err(
                CommitError::Conflict
                | CommitError::TimerGone
                | CommitError::TooManyTimers { .. }
                | CommitError::TooManyDeliveries { .. }
                | CommitError::Late
                | CommitError::Unknown
                | CommitError::Full { .. },
            ) => {}
        }
    }

    /// Records for the operator that the quota is full, and returns the error.
    pub(super) fn record_full(&self, used: u64) -> CommitError {
        let full = CommitError::Full { used, quota: self.limits.quota };
        self.health.failed(FailureKind::Quota, full.to_string());
        full
    }

    /// Converts an error of SQLite. Distinguishes a full quota from a full disk, because SQLite
    /// does not. The quota is full if changes of `keys` keys with `bytes` bytes may not have fitted
    /// into the file.
    pub(super) fn full_or(
        &self,
        error: rusqlite::Error,
        writer: &Connection,
        keys: usize,
        bytes: usize,
    ) -> CommitError {
        let pragma =
            |name| writer.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map(natural);
        if error.sqlite_error_code() == Some(ErrorCode::DiskFull)
            && let (Ok(pages), Ok(page_bytes)) = (pragma("page_count"), pragma("page_size"))
        {
            let file_limit = self.limits.file_bytes_of_handlers(page_bytes);
            let wanted = limits::pages(keys, bytes, page_bytes);
            if (pages + wanted) * page_bytes >= file_limit {
                // The rest of the quota is for the log and the host, so it counts as used.
                let reserved = self.limits.quota.saturating_sub(file_limit);
                return self.record_full(pages * page_bytes + reserved);
            }
        }
        error.into()
    }

    /// How many of the first of `group` fit into one transaction: at least one.
    fn transaction_size(&self, group: &[&Changes]) -> usize {
        let (mut keys, mut bytes) = (0, 0);
        let fits = |changes: &&&Changes| {
            keys += changes.keys();
            bytes += changes.bytes();
            keys <= self.limits.transaction_keys && bytes <= self.limits.transaction_bytes
        };
        group.iter().take_while(fits).count().max(1)
    }
}

fn is_busy(failure: rusqlite::ffi::Error) -> bool {
    matches!(failure.code, ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
}
