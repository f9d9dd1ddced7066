//! The deliveries of a plugin, for the host and its operators: which of them are due, what becomes
//! of one after an attempt, and the result that a plugin gets as the event of a timer. Handlers add
//! deliveries by their commits ([`delivery_rows`](super::delivery_rows)).

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use sockhop_core::delivery::{End, result_data};
use sockhop_core::outbound::Request;

use super::connection::{integer, natural};
use super::delivery_rows::{mark_first, request};
use super::rows::{Rows, Which};
use super::timer_rows::set_result;
use super::totals::Totals;
use super::{CommitError, Store, StoreError};
use crate::rejection::truncate;

/// Maximum bytes of the reason that is kept for a failed attempt.
const MAX_ERROR: usize = 512;

/// Maximum number of deliveries that one look returns, if there are fewer origins: each has a
/// share, at most as many as are sent at once. So this bounds only the work for many origins.
const MAX_DUE: usize = 1_000;

/// A delivery that is due: the first of its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DueDelivery {
    pub(crate) id: i64,
    /// The id that the receiver gets.
    pub(crate) delivery: String,
    pub(crate) key: String,
    pub(crate) origin: String,
    /// How many attempts have failed.
    pub(crate) attempts: u32,
}

/// What a look at the deliveries has found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct DueDeliveries {
    /// In the order in which they are due.
    pub(crate) due: Vec<DueDelivery>,
    /// When the next one that is not due now becomes due.
    pub(crate) next: Option<u64>,
}

/// What becomes of a delivery after an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Attempted {
    /// It has ended, and the plugin gets the result if it has asked for it.
    Ended {
        end: End,
        /// Why the last attempt has failed, for operators, if the plugin is not told all of it.
        error: Option<String>,
    },
    /// It is sent again at this time.
    Retry { next: u64, status: Option<u16>, error: String },
}

/// A delivery as operators see it, without its request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeliveryRow {
    pub(crate) id: i64,
    pub(crate) delivery: String,
    pub(crate) key: String,
    pub(crate) origin: String,
    pub(crate) created: u64,
    pub(crate) next: u64,
    pub(crate) attempts: u32,
    /// Since when it is dead.
    pub(crate) died: Option<u64>,
    /// The status of the last attempt.
    pub(crate) status: Option<u16>,
    /// Why the last attempt has failed.
    pub(crate) error: Option<String>,
}

impl Store {
    /// Returns the deliveries that are due at `now`, at most so many of each origin, and when the
    /// next one is. Only the first one of a key can be due.
    ///
    /// # Errors
    /// The state can't be read.
    pub(crate) fn due_deliveries(
        &self,
        now: u64,
        of_each_origin: usize,
    ) -> Result<DueDeliveries, StoreError> {
        if !self.has_tables(Rows::Deliveries) {
            return Ok(DueDeliveries::default());
        }
        let now = integer(now);
        self.read_rows(|reader| {
            let mut found = DueDeliveries::default();
            let mut due = reader.prepare_cached(
                "SELECT id, delivery, key, origin, attempts, next FROM deliveries
                 WHERE first = 1 AND origin = ?1 AND next <= ?2
                 ORDER BY next, id LIMIT ?3",
            )?;
            let mut next = reader.prepare_cached(
                "SELECT min(next) FROM deliveries WHERE first = 1 AND origin = ?1 AND next > ?2",
            )?;
            let mut due_at = Vec::new();
            let origins = origins(reader)?;
            // None is left out, also if there are very many.
            let share = of_each_origin.min((MAX_DUE / origins.len().max(1)).max(1));
            let share = i64::try_from(share).unwrap_or(i64::MAX);
            for origin in origins {
                let rows = due.query_map(params![origin, now, share], |row| {
                    let due = DueDelivery {
                        id: row.get(0)?,
                        delivery: row.get(1)?,
                        key: row.get(2)?,
                        origin: row.get(3)?,
                        attempts: row.get(4)?,
                    };
                    Ok((row.get::<_, i64>(5)?, due))
                })?;
                for row in rows {
                    due_at.push(row?);
                }
                let next: Option<i64> = next.query_row(params![origin, now], |row| row.get(0))?;
                let next = next.map(natural);
                found.next = found.next.into_iter().chain(next).min();
            }
            due_at.sort_by_key(|(next, due)| (*next, due.id));
            found.due = due_at.into_iter().map(|(_, due)| due).collect();
            Ok(found)
        })
    }

    /// Makes deliveries due at `now` whose time a clock that was ahead has set: those that were
    /// never tried, which are due when they are asked for, and those that are later than `latest`.
    ///
    /// # Errors
    /// The file can't be written: nothing has changed.
    pub(crate) fn bring_deliveries_forward(
        &self,
        now: u64,
        latest: u64,
    ) -> Result<(), CommitError> {
        if !self.has_tables(Rows::Deliveries) {
            return Ok(());
        }
        let times = [integer(now), integer(latest)];
        let is_any = self.read_rows(|reader| {
            reader
                .prepare_cached(
                    "SELECT 1 FROM deliveries
                     WHERE died IS NULL AND next > ?1 AND (attempts = 0 OR next > ?2)",
                )?
                .exists(times)
        })?;
        if !is_any {
            return Ok(());
        }
        self.change_rows(Rows::Deliveries, |transaction, _| {
            transaction
                .prepare_cached(
                    "UPDATE deliveries SET next = ?1
                     WHERE died IS NULL AND next > ?1 AND (attempts = 0 OR next > ?2)",
                )?
                .execute(times)
                .map(drop)
        })
    }

    /// Returns the request of a delivery; `None` if it has ended, or an operator has dropped it.
    ///
    /// # Errors
    /// The state can't be read.
    pub(crate) fn delivery_request(&self, id: i64) -> Result<Option<Request>, StoreError> {
        self.read_rows(|reader| {
            let mut row = reader.prepare_cached(
                "SELECT method, url, headers, body FROM deliveries
                 WHERE id = ?1 AND died IS NULL",
            )?;
            row.query_row([id], request).optional()
        })
    }

    /// Records an attempt at `now`: the `attempt`th one of the delivery. A delivery that was
    /// delivered is removed. The result is set as a timer in the same transaction. Without effect
    /// if an operator has dropped the delivery meanwhile.
    ///
    /// # Errors
    /// The file can't be written: nothing is recorded.
    pub(crate) fn delivery_attempted(
        &self,
        id: i64,
        attempt: u32,
        now: u64,
        attempted: &Attempted,
    ) -> Result<(), CommitError> {
        let shown =
            |reason: &str| if self.uses_reserve() { String::new() } else { reason.to_owned() };
        self.change_rows(Rows::Deliveries, |transaction, totals| {
            let mut row = transaction.prepare_cached(
                "SELECT delivery, key, result, bytes FROM deliveries
                 WHERE id = ?1 AND died IS NULL",
            )?;
            let found = row
                .query_row([id], |row| {
                    let (delivery, key): (String, String) = (row.get(0)?, row.get(1)?);
                    let result: Option<String> = row.get(2)?;
                    Ok((delivery, key, result, natural(row.get(3)?)))
                })
                .optional()?;
            let Some((delivery, key, result, bytes)) = found else { return Ok(()) };
            let (end, error) = match attempted {
                Attempted::Retry { next, status, error } => {
                    let failed = (attempt, *status, shown(error));
                    return record_failure(transaction, id, failed, *next, None);
                }
                Attempted::Ended { end, error } => (end, error),
            };
            match end {
                End::Delivered { .. } => {
                    transaction
                        .prepare_cached("DELETE FROM deliveries WHERE id = ?1")?
                        .execute([id])?;
                    totals.remove_delivery(bytes, false);
                }
                End::Dead { status, reason } => {
                    let failed = (attempt, *status, shown(error.as_ref().unwrap_or(reason)));
                    record_failure(transaction, id, failed, now, Some(now))?;
                    totals.dead_deliveries += 1;
                }
            }
            mark_first(transaction, &key)?;
            if let Some(timer) = result {
                let data = result_data(&delivery, &key, attempt, &shortened(end));
                set_result(transaction, totals, &timer, &delivery, now, &data)?;
            }
            Ok(())
        })
    }

    /// Returns at most `limit` deliveries whose id follows `after`, in the order of their ids.
    ///
    /// # Errors
    /// The state can't be read.
    pub(crate) fn deliveries(
        &self,
        dead: bool,
        after: i64,
        limit: u32,
    ) -> Result<Vec<DeliveryRow>, StoreError> {
        if !self.has_tables(Rows::Deliveries) {
            return Ok(Vec::new());
        }
        // With the condition of an index as text, so that the index is used.
        let statement = if dead {
            "SELECT id, delivery, key, origin, created, next, attempts, died, status, error
             FROM deliveries WHERE id > ?1 AND died IS NOT NULL ORDER BY id LIMIT ?2"
        } else {
            "SELECT id, delivery, key, origin, created, next, attempts, died, status, error
             FROM deliveries WHERE id > ?1 AND died IS NULL ORDER BY id LIMIT ?2"
        };
        self.read_rows(|reader| {
            let mut rows = reader.prepare_cached(statement)?;
            let rows = rows.query_map(params![after, limit], |row| {
                Ok(DeliveryRow {
                    id: row.get(0)?,
                    delivery: row.get(1)?,
                    key: row.get(2)?,
                    origin: row.get(3)?,
                    created: natural(row.get(4)?),
                    next: natural(row.get(5)?),
                    attempts: row.get(6)?,
                    died: row.get::<_, Option<i64>>(7)?.map(natural),
                    status: row.get(8)?,
                    error: row.get(9)?,
                })
            })?;
            rows.collect()
        })
    }

    /// Lets dead deliveries be sent again at once, with all their attempts. If ids are given, also
    /// lets deliveries be sent now that wait for their next attempt. Returns how many are sent
    /// again.
    ///
    /// # Errors
    /// The file can't be written. Some deliveries may have been changed.
    pub(crate) fn retry_deliveries(&self, which: &Which, now: u64) -> Result<usize, CommitError> {
        self.change_in_batches(Rows::Deliveries, which, |transaction, totals, id| {
            let mut row = transaction.prepare_cached(
                "SELECT key, died IS NOT NULL FROM deliveries
                 WHERE id = ?1 AND (died IS NOT NULL OR next > ?2)",
            )?;
            let found: Option<(String, bool)> = row
                .query_row(params![id, integer(now)], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            let Some((key, is_dead)) = found else { return Ok(0) };
            totals.dead_deliveries = totals.dead_deliveries.saturating_sub(u64::from(is_dead));
            transaction
                .prepare_cached(
                    "UPDATE deliveries SET died = NULL, attempts = 0, next = ?2 WHERE id = ?1",
                )?
                .execute(params![id, integer(now)])?;
            mark_first(transaction, &key)?;
            Ok(1)
        })
    }

    /// Removes dead deliveries. If ids are given, also removes deliveries that wait. The plugin is
    /// not told. Returns how many were removed.
    ///
    /// # Errors
    /// The file can't be written. Some deliveries may have been removed.
    pub(crate) fn drop_deliveries(&self, which: &Which) -> Result<usize, CommitError> {
        self.change_in_batches(Rows::Deliveries, which, |transaction, totals, id| {
            let found = transaction
                .prepare_cached(
                    "DELETE FROM deliveries WHERE id = ?1 RETURNING bytes, died IS NOT NULL, key",
                )?
                .query_row([id], |row| Ok((natural(row.get(0)?), row.get(1)?, row.get(2)?)))
                .optional()?;
            let Some((bytes, is_dead, key)) = found else { return Ok(0) };
            let key: String = key;
            totals.remove_delivery(bytes, is_dead);
            mark_first(transaction, &key)?;
            Ok(1)
        })
    }
}

impl Totals {
    /// Counts one delivery less.
    fn remove_delivery(&mut self, bytes: u64, is_dead: bool) {
        self.deliveries = self.deliveries.saturating_sub(1);
        self.dead_deliveries = self.dead_deliveries.saturating_sub(u64::from(is_dead));
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// Returns the origins of the deliveries that can be sent, by one search of the index for each.
fn origins(reader: &Connection) -> Result<Vec<String>, rusqlite::Error> {
    let mut following = reader.prepare_cached(
        "SELECT origin FROM deliveries WHERE first = 1 AND origin > ?1 ORDER BY origin LIMIT 1",
    )?;
    let mut origins: Vec<String> = Vec::new();
    loop {
        let last = origins.last().map_or("", String::as_str);
        match following.query_row([last], |row| row.get(0)).optional()? {
            Some(origin) => origins.push(origin),
            None => return Ok(origins),
        }
    }
}

/// Records the number of an attempt that has failed, with the status and the reason.
fn record_failure(
    transaction: &Transaction<'_>,
    id: i64,
    (attempt, status, mut reason): (u32, Option<u16>, String),
    next: u64,
    died: Option<u64>,
) -> Result<(), rusqlite::Error> {
    truncate(&mut reason, MAX_ERROR);
    let (next, died) = (integer(next), died.map(integer));
    transaction
        .prepare_cached(
            "UPDATE deliveries SET attempts = ?2, next = ?3, died = ?4, status = ?5, error = ?6,
                                   first = first AND ?4 IS NULL
             WHERE id = ?1",
        )?
        .execute(params![id, attempt, next, died, status, reason])
        .map(drop)
}

/// The same end with a reason that is kept.
fn shortened(end: &End) -> End {
    let mut end = end.clone();
    if let End::Dead { reason, .. } = &mut end {
        truncate(reason, MAX_ERROR);
    }
    end
}
