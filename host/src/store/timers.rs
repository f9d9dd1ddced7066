//! The timers of a plugin, for the host and its operators: which of them are due, what becomes of
//! those whose handler has failed, and the timers of schedules. Handlers set and remove timers by
//! their commits ([`timer_rows`](super::timer_rows)).

use rusqlite::{OptionalExtension, Row, Transaction, TransactionBehavior, params};

use super::connection::{integer, natural};
use super::timer_rows::{
    ScheduledTimer, bytes_of, dead_timers, insert_scheduled, is_set, schedule_of, scheduled_bytes,
};
use super::totals::Totals;
use super::{CommitError, Store, StoreError};
use crate::event::FiredTimer;
use crate::rejection::truncate;

/// Maximum bytes of the reason that is kept for a timer whose handler has failed.
const MAX_ERROR: usize = 512;

/// Number of timers that one transaction of an operator's command changes.
const BATCH: u32 = 256;

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
    /// JSON.
    pub(crate) data: String,
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

/// How many timers a plugin has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct TimerCounts {
    pub(crate) set: u64,
    pub(crate) dead: u64,
}

/// Which timers an operator means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Which {
    /// All that are dead.
    AllDead,
    /// Those with these ids.
    Ids(Vec<i64>),
}

impl Store {
    /// Returns the timers with one of these names that are due at `now`, at most `limit` of each,
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
        let mut found = DueTimers::default();
        if !self.has_timer_tables() {
            return Ok(found);
        }
        let reader = self.reader()?;
        let (now, limit) = (integer(now), i64::try_from(limit).unwrap_or(i64::MAX));
        for name in names {
            let mut due = reader.prepare_cached(
                "SELECT id, name, key, due, attempts, data, schedule IS NOT NULL FROM timers
                 WHERE name = ?1 AND died IS NULL AND next <= ?2 ORDER BY next, id LIMIT ?3",
            )?;
            let rows = due.query_map(params![name, now, limit], due_timer)?;
            found.due.extend(rows.collect::<Result<Vec<_>, _>>()?);
            let mut next = reader.prepare_cached(
                "SELECT next FROM timers
                 WHERE name = ?1 AND died IS NULL AND next > ?2 ORDER BY next LIMIT 1",
            )?;
            let next = next.query_row(params![name, now], |row| row.get(0)).optional()?;
            found.next = found.next.into_iter().chain(next.map(natural)).min();
        }
        self.keep_reader(reader);
        found.due.sort_by_key(|timer| (timer.due, timer.id));
        Ok(found)
    }

    /// Whether this timer is still set as it was when it fired.
    ///
    /// # Errors
    /// The state can't be read.
    pub(crate) fn is_still_set(&self, fired: &FiredTimer) -> Result<bool, StoreError> {
        let reader = self.reader()?;
        let is_set = is_set(&reader, fired)?;
        self.keep_reader(reader);
        Ok(is_set)
    }

    /// Returns how many timers there are, and how many of them are dead.
    ///
    /// # Errors
    /// The state can't be read.
    pub(crate) fn timer_counts(&self) -> Result<TimerCounts, StoreError> {
        if !self.has_timer_tables() {
            return Ok(TimerCounts::default());
        }
        let reader = self.reader()?;
        let dead = dead_timers(&reader)?;
        self.keep_reader(reader);
        Ok(TimerCounts { set: self.timer_count().saturating_sub(dead), dead })
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
        if !self.has_timer_tables() {
            return Ok(Vec::new());
        }
        let reader = self.reader()?;
        let rows = {
            let mut rows = reader.prepare_cached(
                "SELECT id, name, key, due, next, attempts, died, error FROM timers
                 WHERE id > ?1 AND (died IS NOT NULL) = ?2 ORDER BY id LIMIT ?3",
            )?;
            let rows = rows.query_map(params![after, dead, limit], |row| {
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
            rows.collect::<Result<Vec<_>, _>>()?
        };
        self.keep_reader(reader);
        Ok(rows)
    }

    /// Records that the handler of `fired` has failed. A timer of a schedule that is dead is set
    /// anew. Without effect if the timer was cancelled or set again meanwhile.
    ///
    /// # Errors
    /// The file can't be written: nothing is recorded.
    pub(crate) fn timer_failed(
        &self,
        fired: &FiredTimer,
        afterwards: Afterwards,
        mut reason: String,
    ) -> Result<(), CommitError> {
        truncate(&mut reason, MAX_ERROR);
        self.change_timers(|transaction, totals| {
            let (next, died) = match afterwards {
                Afterwards::Retry(next) => (integer(next), None),
                Afterwards::Dead(at) => (integer(at), Some(integer(at))),
            };
            let changed = transaction
                .prepare_cached(
                    "UPDATE timers SET attempts = ?2, next = ?3, died = ?4, error = ?5
                     WHERE id = ?1 AND died IS NULL",
                )?
                .execute(params![fired.id, fired.attempt, next, died, reason])?;
            if let (1.., Afterwards::Dead(_), Some(next)) = (changed, afterwards, fired.next) {
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

    /// Sets the timers of `schedules`, unless they are set already, and removes those of other
    /// schedules. A timer that is set for a later time than the next one of its schedule, because
    /// the clock was set back, is set anew.
    ///
    /// # Errors
    /// The file can't be written: nothing has changed.
    pub(crate) fn set_schedules(&self, schedules: &[ScheduledTimer]) -> Result<(), CommitError> {
        if schedules.is_empty() && !self.has_timer_tables() {
            return Ok(());
        }
        let is_set = |known: &ScheduledTimer, wanted: &ScheduledTimer| {
            known.timer == wanted.timer
                && known.schedule == wanted.schedule
                && known.next <= wanted.next
        };
        let known = self.known_schedules()?;
        let is_kept = |known| schedules.iter().any(|wanted| is_set(known, wanted));
        if known.len() == schedules.len() && known.iter().all(is_kept) {
            return Ok(());
        }
        self.change_timers(|transaction, totals| {
            for gone in known.iter().filter(|known| !is_kept(known)) {
                let removed = transaction
                    .prepare_cached(
                        "DELETE FROM timers
                         WHERE name = ?1 AND key = '' AND schedule IS NOT NULL AND died IS NULL",
                    )?
                    .execute([&gone.timer])?;
                totals.remove(removed, removed as u64 * scheduled_bytes(gone));
            }
            for wanted in schedules {
                if !known.iter().any(|known| is_set(known, wanted)) {
                    let ScheduledTimer { timer, schedule, next } = wanted;
                    insert_scheduled(transaction, totals, timer, schedule, *next)?;
                }
            }
            Ok(())
        })
    }

    /// The timers of schedules that are set.
    fn known_schedules(&self) -> Result<Vec<ScheduledTimer>, StoreError> {
        if !self.has_timer_tables() {
            return Ok(Vec::new());
        }
        let reader = self.reader()?;
        let known = {
            let mut known = reader.prepare_cached(
                "SELECT name, schedule, due FROM timers
                 WHERE key = '' AND schedule IS NOT NULL AND died IS NULL",
            )?;
            let known = known.query_map([], |row| {
                let (timer, schedule) = (row.get(0)?, row.get(1)?);
                Ok(ScheduledTimer { timer, schedule, next: natural(row.get(2)?) })
            })?;
            known.collect::<Result<Vec<_>, _>>()?
        };
        self.keep_reader(reader);
        Ok(known)
    }

    /// Lets dead timers fire again at once, with all their attempts. One whose name and key are set
    /// anew stays dead. Returns how many fire again. Takes a second for 100,000 timers.
    ///
    /// # Errors
    /// The file can't be written. Some timers may have been changed.
    pub(crate) fn retry_timers(&self, which: &Which, now: u64) -> Result<usize, CommitError> {
        // A timer that dies again meanwhile is not retried twice: its time of death is later.
        self.change_in_batches(which, now, |transaction, _, id| {
            transaction
                .prepare_cached(
                    "UPDATE timers SET died = NULL, attempts = 0, next = ?2
                     WHERE id = ?1 AND died IS NOT NULL AND NOT EXISTS (
                         SELECT 1 FROM timers AS other WHERE other.died IS NULL
                         AND other.name = timers.name AND other.key = timers.key
                     )",
                )?
                .execute(params![id, integer(now)])
        })
    }

    /// Removes timers: dead ones, and also pending ones if their ids are given. Returns how many.
    ///
    /// # Errors
    /// The file can't be written. Some timers may have been removed.
    pub(crate) fn drop_timers(&self, which: &Which, now: u64) -> Result<usize, CommitError> {
        self.change_in_batches(which, now, |transaction, totals, id| {
            let Some(bytes) = bytes_of(transaction, id)? else { return Ok(0) };
            totals.remove(1, bytes);
            transaction.prepare_cached("DELETE FROM timers WHERE id = ?1")?.execute([id])
        })
    }

    /// Calls `change` with the id of each timer that is meant, some of them in one transaction.
    fn change_in_batches(
        &self,
        which: &Which,
        now: u64,
        change: impl Fn(&Transaction<'_>, &mut Totals, i64) -> Result<usize, rusqlite::Error>,
    ) -> Result<usize, CommitError> {
        let mut changed = 0;
        if !self.has_timer_tables() {
            return Ok(changed);
        }
        match which {
            Which::Ids(ids) => {
                for batch in ids.chunks(BATCH as usize) {
                    changed += self.change_timers(|transaction, totals| {
                        let changes = batch.iter().map(|id| change(transaction, totals, *id));
                        changes.sum::<Result<usize, _>>()
                    })?;
                }
            }
            Which::AllDead => {
                let mut after = 0;
                loop {
                    let (last, some) = self.change_timers(|transaction, totals| {
                        let mut dead = transaction.prepare_cached(
                            "SELECT id FROM timers
                             WHERE id > ?1 AND died <= ?2 ORDER BY id LIMIT ?3",
                        )?;
                        let dead = dead
                            .query_map(params![after, integer(now), BATCH], |row| row.get(0))?
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

    /// Changes timers in a transaction of the host's own. Blocks, as [`Store::commit`] does.
    fn change_timers<T>(
        &self,
        change: impl FnOnce(&Transaction<'_>, &mut Totals) -> Result<T, rusqlite::Error>,
    ) -> Result<T, CommitError> {
        let mut writer = self.lock_writer();
        let writer = writer.connection()?;
        self.wait_for_space(writer)?;
        let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut totals = self.totals(&transaction)?;
        self.add_timer_tables(&transaction)?;
        let changed = change(&transaction, &mut totals)?;
        transaction
            .prepare_cached("UPDATE meta SET bytes = ?1")?
            .execute([integer(totals.bytes)])?;
        transaction.commit()?;
        self.record_totals(totals);
        self.timers_changed();
        self.wake();
        Ok(changed)
    }
}

fn due_timer(row: &Row<'_>) -> Result<DueTimer, rusqlite::Error> {
    Ok(DueTimer {
        id: row.get(0)?,
        timer: row.get(1)?,
        key: row.get(2)?,
        due: natural(row.get(3)?),
        attempts: row.get(4)?,
        data: row.get(5)?,
        is_scheduled: row.get(6)?,
    })
}
