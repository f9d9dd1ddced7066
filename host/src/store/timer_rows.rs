//! The rows of timers in a plugin's file, as a transaction reads and writes them. The
//! commit of a handler sets, cancels and removes timers together with the state.

use std::sync::atomic::Ordering;

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use tokio::sync::futures::Notified;

use super::changes::{Changes, NewTimer};
use super::connection::{integer, natural};
use super::rows::Rows;
use super::totals::Totals;
use super::{Store, StoreError};
use crate::event::FiredTimer;

/// Bytes that a timer counts against the quota in addition to its name, its key and its data.
const TIMER_BYTES: u64 = 128;

/// A timer that the host sets by a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScheduledTimer {
    pub(crate) timer: String,
    /// The schedule as text. If it changes, the timer is set anew.
    pub(crate) schedule: String,
    /// The next time of the schedule.
    pub(crate) next: u64,
}

impl Store {
    /// Changes whenever timers may have changed.
    pub(crate) fn timer_changes(&self) -> u64 {
        self.timers.changes()
    }

    /// Number of timers, dead ones included, as of the last commit.
    pub(super) fn timer_count(&self) -> u64 {
        self.timers.count.load(Ordering::Relaxed)
    }

    /// Waits for the next change of timers.
    pub(crate) fn timers_notified(&self) -> Notified<'_> {
        self.timers.notified()
    }

    /// Whether the timer with this name and key is set.
    ///
    /// # Errors
    /// The state can't be read.
    pub(super) fn is_timer_set(&self, timer: &str, key: &str) -> Result<bool, StoreError> {
        if !self.has_tables(Rows::Timers) {
            return Ok(false);
        }
        let reader = self.reader()?;
        let is_set = reader
            .prepare_cached("SELECT 1 FROM timers WHERE name = ?1 AND key = ?2 AND died IS NULL")?
            .exists([timer, key])?;
        self.keep_reader(reader);
        Ok(is_set)
    }
}

/// Removes the dead timers of this name except one.
pub(super) fn remove_dead(
    transaction: &Transaction<'_>,
    totals: &mut Totals,
    timer: &str,
    except: i64,
) -> Result<(), rusqlite::Error> {
    let mut removed = transaction.prepare_cached(
        "DELETE FROM timers WHERE died IS NOT NULL AND name = ?1 AND id <> ?2 RETURNING bytes",
    )?;
    let removed = removed.query_map(params![timer, except], |row| row.get(0).map(natural))?;
    for bytes in removed {
        totals.remove(1, bytes?);
        totals.dead = totals.dead.saturating_sub(1);
    }
    Ok(())
}

/// Whether the timer whose event was handled is still set as it was.
pub(super) fn is_set(connection: &Connection, fired: &FiredTimer) -> Result<bool, rusqlite::Error> {
    connection
        .prepare_cached("SELECT 1 FROM timers WHERE id = ?1 AND died IS NULL")?
        .exists([fired.id])
}

/// Finds the timers that `changes` remove or replace, with the bytes that each counts.
pub(super) fn replaced(
    transaction: &Transaction<'_>,
    changes: &Changes,
) -> Result<Vec<(i64, u64)>, rusqlite::Error> {
    let mut replaced = Vec::new();
    if let Some(fired) = &changes.fired {
        replaced.extend(bytes_of(transaction, fired.id)?.map(|bytes| (fired.id, bytes)));
    }
    for (timer, key) in changes.timers.keys() {
        let mut pending = transaction.prepare_cached(
            "SELECT id FROM timers WHERE name = ?1 AND key = ?2 AND died IS NULL",
        )?;
        let id: Option<i64> = pending.query_row([timer, key], |row| row.get(0)).optional()?;
        // A handler may set its own timer again.
        if let Some(id) = id.filter(|id| !replaced.iter().any(|(known, _)| known == id)) {
            replaced.extend(bytes_of(transaction, id)?.map(|bytes| (id, bytes)));
        }
    }
    Ok(replaced)
}

/// The number of timers that `changes` set, and the bytes that they count.
pub(super) fn added(changes: &Changes) -> (usize, u64) {
    let set = changes.timers.iter().filter_map(|((timer, key), new)| {
        new.as_ref().map(|new| counted(timer, key, new.data.len() as u64))
    });
    let again = changes.fired.iter().filter(|fired| fired.next.is_some());
    let again = again.map(|fired| counted(&fired.timer, "", SCHEDULE_BYTES));
    set.chain(again).fold((0, 0), |(number, sum), bytes| (number + 1, sum + bytes))
}

/// Removes and sets the timers of `changes`, of which `replaced` are there.
pub(super) fn write(
    transaction: &Transaction<'_>,
    changes: &Changes,
    replaced: &[(i64, u64)],
) -> Result<(), rusqlite::Error> {
    let again = match changes.fired.as_deref() {
        Some(FiredTimer { id, next: Some(next), .. }) => {
            Some((schedule_of(transaction, *id)?, *next))
        }
        _ => None,
    };
    for (id, _) in replaced {
        transaction.prepare_cached("DELETE FROM timers WHERE id = ?1")?.execute([id])?;
    }
    for ((timer, key), new) in &changes.timers {
        if let Some(NewTimer { due, data }) = new {
            insert(transaction, timer, key, *due, data, None)?;
        }
    }
    if let (Some(fired), Some((schedule, next))) = (&changes.fired, again) {
        insert(transaction, &fired.timer, "", next, "null", Some(&schedule))?;
    }
    Ok(())
}

pub(super) fn schedule_of(
    transaction: &Transaction<'_>,
    id: i64,
) -> Result<String, rusqlite::Error> {
    transaction
        .prepare_cached("SELECT schedule FROM timers WHERE id = ?1")?
        .query_row([id], |row| row.get(0))
}

pub(super) fn insert_scheduled(
    transaction: &Transaction<'_>,
    totals: &mut Totals,
    timer: &str,
    schedule: &str,
    next: u64,
) -> Result<(), rusqlite::Error> {
    insert(transaction, timer, "", next, "null", Some(schedule))?;
    totals.add(1, counted(timer, "", SCHEDULE_BYTES));
    Ok(())
}

/// Sets the timer by which a plugin gets the result of a delivery, whose id is the key. If an
/// operator has let a dead delivery be sent again, its earlier result may still be set: the new one
/// replaces it.
pub(super) fn set_result(
    transaction: &Transaction<'_>,
    totals: &mut Totals,
    timer: &str,
    delivery: &str,
    due: u64,
    data: &str,
) -> Result<(), rusqlite::Error> {
    let mut earlier = transaction.prepare_cached(
        "DELETE FROM timers WHERE name = ?1 AND key = ?2 AND died IS NULL RETURNING bytes",
    )?;
    let earlier = earlier.query_row([timer, delivery], |row| row.get(0)).optional()?;
    if let Some(bytes) = earlier {
        totals.remove(1, natural(bytes));
    }
    insert(transaction, timer, delivery, due, data, None)?;
    totals.add(1, counted(timer, delivery, data.len() as u64));
    Ok(())
}

fn insert(
    transaction: &Transaction<'_>,
    timer: &str,
    key: &str,
    due: u64,
    data: &str,
    schedule: Option<&str>,
) -> Result<(), rusqlite::Error> {
    let bytes = counted(timer, key, data.len() as u64);
    transaction
        .prepare_cached(
            "INSERT INTO timers (name, key, due, next, data, schedule, bytes)
             VALUES (?1, ?2, ?3, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![timer, key, integer(due), data, schedule, integer(bytes)])
        .map(drop)
}

/// Bytes of the data of a timer of a schedule, which is `null`.
const SCHEDULE_BYTES: u64 = 4;

fn counted(timer: &str, key: &str, data: u64) -> u64 {
    (timer.len() + key.len()) as u64 + data + TIMER_BYTES
}

pub(super) fn scheduled_bytes(scheduled: &ScheduledTimer) -> u64 {
    counted(&scheduled.timer, "", SCHEDULE_BYTES)
}

/// The bytes that a timer counts against the quota.
fn bytes_of(connection: &Connection, id: i64) -> Result<Option<u64>, rusqlite::Error> {
    let mut bytes = connection.prepare_cached("SELECT bytes FROM timers WHERE id = ?1")?;
    let bytes: Option<i64> = bytes.query_row([id], |row| row.get(0)).optional()?;
    Ok(bytes.map(natural))
}
