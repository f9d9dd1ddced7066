//! The rows that a plugin's file has beside its entries: timers and deliveries. What a store knows
//! of them without reading the file, the tables that it adds when they are first needed, and the
//! host's own changes of them. Handlers change them by their commits.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::connection::{integer, natural};
use super::format::{DELIVERY_FORMAT, DELIVERY_TABLES, TIMER_FORMAT, TIMER_TABLES};
use super::totals::Totals;
use super::{CommitError, FailureKind, Store, StoreError};
use crate::error_chain::ErrorChain;

/// Number of rows that one transaction of an operator's command changes.
const BATCH: u32 = 256;

/// A kind of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rows {
    Timers,
    /// A file with deliveries has the tables of timers too: a delivery can end with one.
    Deliveries,
}

/// What a store knows of one kind of rows without reading the file.
#[derive(Debug, Default)]
pub(super) struct Figures {
    has_tables: AtomicBool,
    changes: AtomicU64,
    /// Notified with each change.
    changed: Notify,
    pub(super) count: AtomicU64,
    /// How many of them are dead.
    pub(super) dead: AtomicU64,
}

/// How many rows of one kind a plugin has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RowCounts {
    /// Those that are not dead.
    pub(crate) live: u64,
    pub(crate) dead: u64,
}

/// Which rows an operator means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Which {
    /// All that are dead.
    AllDead,
    /// Those with these ids.
    Ids(Vec<i64>),
}

impl Rows {
    /// The first format of files with these rows.
    fn format(self) -> u32 {
        match self {
            Self::Timers => TIMER_FORMAT,
            Self::Deliveries => DELIVERY_FORMAT,
        }
    }

    /// Statements that count all rows, count the dead ones, and return ids of dead ones.
    fn statements(self) -> [&'static str; 3] {
        match self {
            Self::Timers => [
                "SELECT count(*) FROM timers",
                "SELECT count(*) FROM timers WHERE died IS NOT NULL",
                "SELECT id FROM timers WHERE id > ?1 AND died IS NOT NULL ORDER BY id LIMIT ?2",
            ],
            Self::Deliveries => [
                "SELECT count(*) FROM deliveries",
                "SELECT count(*) FROM deliveries WHERE died IS NOT NULL",
                "SELECT id FROM deliveries WHERE id > ?1 AND died IS NOT NULL ORDER BY id LIMIT ?2",
            ],
        }
    }
}

impl Figures {
    /// Reads them from the file.
    pub(super) fn read(connection: &Connection, rows: Rows) -> Result<Self, rusqlite::Error> {
        let format: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        let figures = Self::default();
        if format >= rows.format() {
            let [all, dead, _] = rows.statements();
            let one = |sql| connection.query_row(sql, [], |row| row.get(0)).map(natural);
            figures.count.store(one(all)?, Ordering::Relaxed);
            figures.dead.store(one(dead)?, Ordering::Relaxed);
            figures.has_tables.store(true, Ordering::Relaxed);
        }
        Ok(figures)
    }

    pub(super) fn counts(&self) -> RowCounts {
        let (all, dead) = (self.count.load(Ordering::Relaxed), self.dead.load(Ordering::Relaxed));
        RowCounts { live: all.saturating_sub(dead), dead }
    }

    /// Changes whenever rows may have changed.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Waits for the next change.
    pub(super) fn notified(&self) -> Notified<'_> {
        self.changed.notified()
    }

    fn changed(&self) {
        self.has_tables.store(true, Ordering::Release);
        self.changes.fetch_add(1, Ordering::Release);
        self.changed.notify_waiters();
    }
}

impl Store {
    pub(super) fn figures(&self, rows: Rows) -> &Figures {
        match rows {
            Rows::Timers => &self.timers,
            Rows::Deliveries => &self.deliveries,
        }
    }

    pub(super) fn has_tables(&self, rows: Rows) -> bool {
        self.figures(rows).has_tables.load(Ordering::Acquire)
    }

    /// Creates the tables of these rows if the file has none. An older host refuses the file from
    /// then on.
    pub(super) fn add_tables(
        &self,
        transaction: &Transaction<'_>,
        rows: Rows,
    ) -> Result<(), rusqlite::Error> {
        if !self.has_tables(Rows::Timers) {
            transaction.execute_batch(TIMER_TABLES)?;
            transaction.pragma_update(None, "user_version", TIMER_FORMAT)?;
        }
        if rows == Rows::Deliveries && !self.has_tables(rows) {
            transaction.execute_batch(DELIVERY_TABLES)?;
            transaction.pragma_update(None, "user_version", DELIVERY_FORMAT)?;
        }
        Ok(())
    }

    /// Call this after the commit of a transaction that has changed such rows.
    pub(super) fn rows_changed(&self, rows: Rows) {
        self.timers.changed();
        if rows == Rows::Deliveries {
            self.deliveries.changed();
        }
    }

    /// Reads outside of any view. A failure is shown to operators.
    pub(super) fn read_rows<T>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, rusqlite::Error>,
    ) -> Result<T, StoreError> {
        let result = self.reader().and_then(|reader| {
            let found = read(&reader)?;
            self.keep_reader(reader);
            Ok(found)
        });
        match &result {
            Ok(_) => self.health.worked(FailureKind::Read),
            Err(error) => {
                self.health.failed(FailureKind::Read, ErrorChain(error).to_string());
            }
        }
        result
    }

    /// Changes rows in a transaction of the host's own. Blocks, as [`Store::commit`] does. A
    /// failure is shown to operators.
    pub(super) fn change_rows<T>(
        &self,
        rows: Rows,
        change: impl FnOnce(&Transaction<'_>, &mut Totals) -> Result<T, rusqlite::Error>,
    ) -> Result<T, CommitError> {
        let changed = self.try_change_rows(rows, change);
        match &changed {
            Ok(_) => self.health.stored(),
            Err(CommitError::Store(error)) => {
                self.health.failed(FailureKind::Write, ErrorChain(error).to_string());
            }
            // It was recorded where it was detected.
            Err(CommitError::Full { .. }) => {}
            Err(error) => self.health.failed(FailureKind::Contended, error.to_string()),
        }
        changed
    }

    fn try_change_rows<T>(
        &self,
        rows: Rows,
        change: impl FnOnce(&Transaction<'_>, &mut Totals) -> Result<T, rusqlite::Error>,
    ) -> Result<T, CommitError> {
        let mut writer = self.lock_writer();
        let writer = writer.connection()?;
        self.wait_for_space(writer)?;
        let changed = self.with_reserve(writer, |writer| {
            let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let mut totals = self.totals(&transaction)?;
            self.add_tables(&transaction, rows)?;
            let changed = change(&transaction, &mut totals)?;
            transaction
                .prepare_cached("UPDATE meta SET bytes = ?1")?
                .execute([integer(totals.bytes)])?;
            transaction.commit()?;
            self.record_totals(totals);
            Ok(changed)
        });
        let changed = changed.map_err(|error| self.full_or(error, writer, 1, 0))?;
        self.rows_changed(rows);
        self.wake();
        Ok(changed)
    }

    /// Calls `change` with the id of each row that is meant, some of them in one transaction.
    pub(super) fn change_in_batches(
        &self,
        rows: Rows,
        which: &Which,
        change: impl Fn(&Transaction<'_>, &mut Totals, i64) -> Result<usize, rusqlite::Error>,
    ) -> Result<usize, CommitError> {
        let mut changed = 0;
        if !self.has_tables(rows) {
            return Ok(changed);
        }
        match which {
            Which::Ids(ids) => {
                for batch in ids.chunks(BATCH as usize) {
                    changed += self.change_rows(rows, |transaction, totals| {
                        let changes = batch.iter().map(|id| change(transaction, totals, *id));
                        changes.sum::<Result<usize, _>>()
                    })?;
                }
            }
            Which::AllDead => {
                let ([_, _, dead], mut after) = (rows.statements(), 0);
                loop {
                    let (last, some) = self.change_rows(rows, |transaction, totals| {
                        let mut dead = transaction.prepare_cached(dead)?;
                        let dead = dead
                            .query_map(params![after, BATCH], |row| row.get(0))?
                            .collect::<Result<Vec<i64>, _>>()?;
                        let changes = dead.iter().map(|id| change(transaction, totals, *id));
                        Ok((dead.last().copied(), changes.sum::<Result<usize, _>>()?))
                    })?;
                    changed += some;
                    let Some(last) = last else { break };
                    after = last;
                }
            }
        }
        Ok(changed)
    }
}
