//! The timers of a plugin, for the host and its operators: which of them are due, what becomes of
//! those whose handler has failed, and the timers of schedules. Handlers set and remove timers by
//! their commits ([`timer_rows`](super::timer_rows)).

use rusqlite::{OptionalExtension, Row, params};

use super::connection::{integer, natural};
use super::rows::{RowCounts, Rows, Which};
use super::timer_rows::{insert_scheduled, is_set, remove_dead, schedule_of};
use super::{CommitError, Store, StoreError};
use crate::event::FiredTimer;
use crate::rejection::truncate;

/// Maximum bytes of the reason that is kept for a timer whose handler has failed.
const MAX_ERROR: usize = 512;

/// A timer that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DueTimer {
    pub(crate) id: i64,
    pub(crate) timer: String,
    pub(crate) key: String,
    /// The deadline that was set, in milliseconds since 1970.
    pub(crate) due: u64,
    /// How often its handler has failed.
    pub(crate) attempts: u32,
    /// Whether the host has set it, by a schedule.
    pub(crate) is_scheduled: bool,
}

/// What a look at the timers has found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct DueTimers {
    /// The earliest first.
    pub(crate) due: Vec<DueTimer>,
    /// When the next one that is not due now becomes due.
    pub(crate) next: Option<u64>,
}

/// What becomes of a timer whose handler has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Afterwards {
    /// It fires again at this time.
    Retry(u64),
    /// It is dead since this time.
    Dead(u64),
}

/// A timer as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TimerRow {
    pub(crate) id: i64,
    pub(crate) timer: String,
    pub(crate) key: String,
    pub(crate) due: u64,
    /// When its event is handled next; later than `due` after a failure.
    pub(crate) next: u64,
    pub(crate) attempts: u32,
    /// Since when it is dead.
    pub(crate) died: Option<u64>,
    /// Why its handler failed last.
    pub(crate) error: Option<String>,
}

impl Store {
    /// Returns the timers with one of these names that are due at `now`, the first `limit` of them,
    /// and when the next one is.
    ///
    /// # Errors
    /// The state can't be read.
    pub(crate) fn due_timers(
        &self,
        names: &[&str],
        now: u64,
        limit: usize,
    ) -> Result<DueTimers, StoreError> {
        if !self.has_tables(Rows::Timers) {
            return Ok(DueTimers::default());
        }
        let now = integer(now);
        self.read_rows(|reader| {
            let mut found = DueTimers::default();
            let max = i64::try_from(limit).unwrap_or(i64::MAX);
            for name in names {
                let mut due = reader.prepare_cached(
                    "SELECT id, name, key, due, attempts, schedule IS NOT NULL FROM timers
                     WHERE name = ?1 AND died IS NULL AND next <= ?2 ORDER BY next, id LIMIT ?3",
                )?;
                let rows = due.query_map(params![name, now, max], due_timer)?;
                found.due.extend(rows.collect::<Result<Vec<_>, _>>()?);
                let mut next = reader.prepare_cached(
                    "SELECT next FROM timers
                     WHERE name = ?1 AND died IS NULL AND next > ?2 ORDER BY next LIMIT 1",
                )?;
                let next = next.query_row(params![name, now], |row| row.get(0)).optional()?;
                found.next = found.next.into_iter().chain(next.map(natural)).min();
            }
            found.due.sort_by_key(|timer| (timer.due, timer.id));
            found.due.truncate(limit);
            Ok(found)
        })
    }

    /// Returns the data of a timer, which is JSON; `None` if the timer is gone.
    ///
    /// # Errors
    /// The state can't be read.
    pub(crate) fn timer_data(&self, id: i64) -> Result<Option<String>, StoreError> {
        self.read_rows(|reader| {
            let mut data =
                reader.prepare_cached("SELECT data FROM timers WHERE id = ?1 AND died IS NULL")?;
            data.query_row([id], |row| row.get(0)).optional()
        })
    }

    /// Whether this timer is still set as it was when it fired.
    ///
    /// # Errors
    /// The state can't be read.
    pub(crate) fn is_still_set(&self, fired: &FiredTimer) -> Result<bool, StoreError> {
        self.read_rows(|reader| is_set(reader, fired))
    }

    /// Returns how many timers there are, and how many of them are dead, as of the last commit.
    pub(crate) fn timer_counts(&self) -> RowCounts {
        self.timers.counts()
    }

    /// Returns at most `limit` timers whose id follows `after`, in the order of their ids.
    ///
    /// # Errors
    /// The state can't be read.
    pub(crate) fn timers(
        &self,
        dead: bool,
        after: i64,
        limit: u32,
    ) -> Result<Vec<TimerRow>, StoreError> {
        if !self.has_tables(Rows::Timers) {
            return Ok(Vec::new());
        }
        // With the condition of an index as text, so that the index is used.
        let statement = if dead {
            "SELECT id, name, key, due, next, attempts, died, error FROM timers
             WHERE id > ?1 AND died IS NOT NULL ORDER BY id LIMIT ?2"
        } else {
            "SELECT id, name, key, due, next, attempts, died, error FROM timers
             WHERE id > ?1 AND died IS NULL ORDER BY id LIMIT ?2"
        };
        self.read_rows(|reader| {
            let mut rows = reader.prepare_cached(statement)?;
            let rows = rows.query_map(params![after, limit], |row| {
                Ok(TimerRow {
                    id: row.get(0)?,
                    timer: row.get(1)?,
                    key: row.get(2)?,
                    due: natural(row.get(3)?),
                    next: natural(row.get(4)?),
                    attempts: row.get(5)?,
                    died: row.get::<_, Option<i64>>(6)?.map(natural),
                    error: row.get(7)?,
                })
            })?;
            rows.collect()
        })
    }

    /// Records that the handler of `fired` has failed. A timer of a schedule that is dead is set
    /// anew, and its earlier dead times are removed: one of them is enough for an operator. Without
    /// effect if the timer was cancelled or set again meanwhile.
    ///
    /// # Errors
    /// The file can't be written: nothing is recorded.
    pub(crate) fn timer_failed(
        &self,
        fired: &FiredTimer,
        afterwards: Afterwards,
        mut reason: String,
    ) -> Result<(), CommitError> {
        truncate(&mut reason, if self.uses_reserve() { 0 } else { MAX_ERROR });
        self.change_rows(Rows::Timers, |transaction, totals| {
            let (next, died) = match afterwards {
                // Never before the deadline, also if the clock was set back meanwhile.
                Afterwards::Retry(next) => (integer(next.max(fired.due)), None),
                Afterwards::Dead(at) => (integer(at), Some(integer(at))),
            };
            let changed = transaction
                .prepare_cached(
                    "UPDATE timers SET attempts = ?2, next = ?3, died = ?4, error = ?5
                     WHERE id = ?1 AND died IS NULL",
                )?
                .execute(params![fired.id, fired.attempt, next, died, reason])?;
            if changed == 0 {
                return Ok(());
            }
            if died.is_some() {
                totals.dead += 1;
            }
            if let (Afterwards::Dead(_), Some(next)) = (afterwards, fired.next) {
                remove_dead(transaction, totals, &fired.timer, fired.id)?;
                let schedule = schedule_of(transaction, fired.id)?;
                // From now on it is one of its own: the next one can be set beside it.
                transaction
                    .prepare_cached(
                        "UPDATE timers SET key = CAST(due AS TEXT), schedule = NULL WHERE id = ?1",
                    )?
                    .execute([fired.id])?;
                insert_scheduled(transaction, totals, &fired.timer, &schedule, next)?;
            }
            Ok(())
        })
    }

    /// Lets dead timers fire again at once, with all their attempts. One whose name and key are set
    /// anew stays dead. Returns how many fire again. Takes a second for 100,000 timers.
    ///
    /// # Errors
    /// The file can't be written. Some timers may have been changed.
    pub(crate) fn retry_timers(&self, which: &Which, now: u64) -> Result<usize, CommitError> {
        self.change_in_batches(Rows::Timers, which, |transaction, totals, id| {
            let retried = transaction
                .prepare_cached(
                    "UPDATE timers SET died = NULL, attempts = 0, next = max(due, ?2)
                     WHERE id = ?1 AND died IS NOT NULL AND NOT EXISTS (
                         SELECT 1 FROM timers AS other WHERE other.died IS NULL
                         AND other.name = timers.name AND other.key = timers.key
                     )",
                )?
                .execute(params![id, integer(now)])?;
            totals.dead = totals.dead.saturating_sub(retried as u64);
            Ok(retried)
        })
    }

    /// Removes dead timers. If ids are given, also removes timers that handlers have set. The timer
    /// of a schedule stays, because the plugin declares it. Returns how many were removed.
    ///
    /// # Errors
    /// The file can't be written. Some timers may have been removed.
    pub(crate) fn drop_timers(&self, which: &Which) -> Result<usize, CommitError> {
        self.change_in_batches(Rows::Timers, which, |transaction, totals, id| {
            let found = transaction
                .prepare_cached(
                    "DELETE FROM timers WHERE id = ?1 AND schedule IS NULL
                     RETURNING bytes, died IS NOT NULL",
                )?
                .query_row([id], |row| Ok((natural(row.get(0)?), row.get::<_, bool>(1)?)))
                .optional()?;
            let Some((bytes, is_dead)) = found else { return Ok(0) };
            totals.remove(1, bytes);
            totals.dead = totals.dead.saturating_sub(u64::from(is_dead));
            Ok(1)
        })
    }
}

fn due_timer(row: &Row<'_>) -> Result<DueTimer, rusqlite::Error> {
    Ok(DueTimer {
        id: row.get(0)?,
        timer: row.get(1)?,
        key: row.get(2)?,
        due: natural(row.get(3)?),
        attempts: row.get(4)?,
        is_scheduled: row.get(5)?,
    })
}
