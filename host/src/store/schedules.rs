//! The timers of schedules: the host sets them by what a version of the plugin declares. Also what
//! becomes of waiting timers when the clock is set back.

use rusqlite::params;

use super::connection::{integer, natural};
use super::rows::Rows;
use super::timer_rows::{ScheduledTimer, insert_scheduled, scheduled_bytes};
use super::{CommitError, Store, StoreError};

impl Store {
    /// Sets the timers of `schedules`, unless they are set already, and removes those of other
    /// schedules. A timer that is set for a later time than the next one of its schedule, because
    /// the clock was set back, is set anew.
    ///
    /// # Errors
    /// The file can't be written: nothing has changed.
    pub(crate) fn set_schedules(&self, schedules: &[ScheduledTimer]) -> Result<(), CommitError> {
        if schedules.is_empty() && !self.has_tables(Rows::Timers) {
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
        self.change_rows(Rows::Timers, |transaction, totals| {
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
        if !self.has_tables(Rows::Timers) {
            return Ok(Vec::new());
        }
        self.read_rows(|reader| {
            let mut known = reader.prepare_cached(
                "SELECT name, schedule, due FROM timers
                 WHERE key = '' AND schedule IS NOT NULL AND died IS NULL",
            )?;
            let known = known.query_map([], |row| {
                let (timer, schedule) = (row.get(0)?, row.get(1)?);
                Ok(ScheduledTimer { timer, schedule, next: natural(row.get(2)?) })
            })?;
            known.collect()
        })
    }

    /// Lets timers whose handler has failed be tried again at the latest `longest` milliseconds
    /// after `now`: the time of their next attempt may have been set by a clock that was ahead.
    ///
    /// # Errors
    /// The file can't be written: nothing has changed.
    pub(crate) fn bring_retries_forward(&self, now: u64, longest: u64) -> Result<(), CommitError> {
        if !self.has_tables(Rows::Timers) {
            return Ok(());
        }
        let (now, latest) = (integer(now), integer(now.saturating_add(longest)));
        let is_any = self.read_rows(|reader| {
            reader
                .prepare_cached(
                    "SELECT 1 FROM timers WHERE died IS NULL AND attempts > 0 AND next > ?1",
                )?
                .exists([latest])
        })?;
        if !is_any {
            return Ok(());
        }
        self.change_rows(Rows::Timers, |transaction, _| {
            transaction
                .prepare_cached(
                    "UPDATE timers SET next = max(due, ?1)
                     WHERE died IS NULL AND attempts > 0 AND next > ?2",
                )?
                .execute(params![now, latest])
                .map(drop)
        })
    }
}
