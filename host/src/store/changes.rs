//! The changes that a view wants to store, the reads that they depend on, and whether these reads
//! are unchanged.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use rusqlite::{Connection, OptionalExtension};
use sockhop_core::timer;

use super::delivery_rows::NewDelivery;
use super::load_rows::LoadMark;
use crate::event::FiredTimer;

/// Number of keys that a view remembers of its reads, including those of scans. Beyond it, any
/// commit since the snapshot is a conflict. A handler that reads this much and then writes is rare,
/// and the memory of one that only reads must be bounded.
const MAX_TRACKED: usize = 4096;

/// The changes that a view wants to store, and the reads that they depend on.
#[derive(Debug, Default)]
pub struct Changes {
    /// The newest commit that the view saw; `None` if it read nothing.
    pub(super) snapshot: Option<i64>,
    pub(super) tracked: Tracked,
    pub(super) writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// The timers that are to be set, or cancelled (`None`), by name and key.
    pub(super) timers: BTreeMap<TimerKey, Option<NewTimer>>,
    /// The timer whose event was handled: it is removed, and set again if it belongs to a schedule.
    /// Boxed, because most changes have none.
    pub(super) fired: Option<Box<FiredTimer>>,
    /// The requests that are to be sent after the commit, in their order.
    pub(super) deliveries: Vec<NewDelivery>,
    /// How far the version is, if its handler of `$load` has run. Boxed, because most changes have
    /// none.
    pub(super) load: Option<Box<LoadMark>>,
}

/// The name and the key of a timer.
pub(super) type TimerKey = (String, String);

/// A timer that is to be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NewTimer {
    /// The deadline, in milliseconds since 1970.
    pub(super) due: u64,
    /// JSON.
    pub(super) data: String,
}

/// A timer takes as many pages as this number of keys: it is in a table and two indexes.
const KEYS_PER_TIMER: usize = 2;

/// The same for a delivery.
const KEYS_PER_DELIVERY: usize = 2;

/// The same for the record of `$load`.
const KEYS_PER_LOAD: usize = 2;

impl Changes {
    /// Whether something is to be stored. Reads alone are not.
    pub(crate) fn has_writes(&self) -> bool {
        !self.writes.is_empty() || self.has_timers() || self.has_deliveries() || self.load.is_some()
    }

    /// Whether timers are to be changed.
    pub(super) fn has_timers(&self) -> bool {
        !self.timers.is_empty() || self.fired.is_some()
    }

    /// Whether timers are to be set, or one is removed that is set.
    pub(super) fn sets_timers(&self) -> bool {
        self.fired.is_some() || self.timers.values().any(Option::is_some)
    }

    /// Whether requests are to be sent after the commit.
    pub(super) fn has_deliveries(&self) -> bool {
        !self.deliveries.is_empty()
    }

    /// Removes the timer whose event was handled, together with the other changes.
    pub(crate) fn consume(&mut self, fired: Box<FiredTimer>) {
        self.fired = Some(fired);
    }

    /// Records how far the version is with `$load`, together with the other changes.
    pub(crate) fn mark_load(&mut self, mark: LoadMark) {
        self.load = Some(Box::new(mark));
    }

    /// Number of keys that are to be written. A timer or a delivery counts as several.
    pub(super) fn keys(&self) -> usize {
        let timers = self.timers.len() + usize::from(self.fired.is_some());
        self.writes.len()
            + KEYS_PER_TIMER * timers
            + KEYS_PER_DELIVERY * self.deliveries.len()
            + KEYS_PER_LOAD * usize::from(self.load.is_some())
    }

    /// Bytes of the keys and values that are to be written, timers and deliveries included.
    pub(super) fn bytes(&self) -> usize {
        let bytes = |(key, value): (&Vec<u8>, &Option<Vec<u8>>)| {
            key.len() + value.as_ref().map_or(0, Vec::len)
        };
        let deliveries = self.deliveries.iter().map(|new| new.delivery.bytes());
        self.writes.iter().map(bytes).chain(deliveries).sum::<usize>() + self.timer_bytes()
    }

    /// Bytes of the names, keys and data of timers.
    pub(super) fn timer_bytes(&self) -> usize {
        let bytes = |((timer, key), new): (&TimerKey, &Option<NewTimer>)| {
            timer::bytes(timer, key, new.as_ref().map_or("", |new| &new.data))
        };
        self.timers.iter().map(bytes).sum()
    }
}

/// The reads of a view.
#[derive(Debug)]
pub(super) enum Tracked {
    /// All reads are remembered.
    Some {
        /// The version of each key that was read; `None` if the key did not exist.
        keys: BTreeMap<Vec<u8>, Option<i64>>,
        /// The scans, in the order of the calls.
        scans: Vec<Scanned>,
        /// Number of remembered keys, scans and rows.
        count: usize,
    },
    /// The view has read too much to remember.
    Everything,
}

impl Default for Tracked {
    fn default() -> Self {
        Self::Some { keys: BTreeMap::new(), scans: Vec::new(), count: 0 }
    }
}

/// The range and the rows that a scan depends on.
#[derive(Debug)]
pub(super) struct Scanned {
    /// The first key of the range.
    pub(super) from: Vec<u8>,
    /// The first key after the range.
    pub(super) to: Vec<u8>,
    /// Keys and versions in the range, ascending.
    pub(super) rows: Vec<(Vec<u8>, i64)>,
}

impl Tracked {
    /// Number of remembered keys, scans and rows.
    pub(super) fn entries(&self) -> usize {
        if let Self::Some { count, .. } = self { *count } else { 0 }
    }

    pub(super) fn add_key(&mut self, key: &[u8], version: Option<i64>) {
        if let Self::Some { keys, count, .. } = self
            && let Entry::Vacant(entry) = keys.entry(key.to_owned())
        {
            entry.insert(version);
            *count += 1;
            self.forget_if_too_much();
        }
    }

    pub(super) fn add_scan(&mut self, scanned: Scanned) {
        if let Self::Some { scans, count, .. } = self {
            *count += 1 + scanned.rows.len();
            scans.push(scanned);
            self.forget_if_too_much();
        }
    }

    fn forget_if_too_much(&mut self) {
        if matches!(self, Self::Some { count, .. } if *count > MAX_TRACKED) {
            *self = Self::Everything;
        }
    }
}

/// Whether everything that a view has read is unchanged.
pub(super) fn is_unchanged(
    connection: &Connection,
    tracked: &Tracked,
) -> Result<bool, rusqlite::Error> {
    let Tracked::Some { keys, scans, .. } = tracked else { return Ok(false) };
    for (key, seen) in keys {
        let mut statement =
            connection.prepare_cached("SELECT version FROM entries WHERE key = ?1")?;
        let version: Option<i64> = statement.query_row([key], |row| row.get(0)).optional()?;
        if version != *seen {
            return Ok(false);
        }
    }
    for Scanned { from, to, rows } in scans {
        let mut statement = connection.prepare_cached(
            "SELECT key, version FROM entries WHERE key >= ?1 AND key < ?2 ORDER BY key",
        )?;
        let mut found = statement.query([from, to])?;
        let mut seen = rows.iter();
        while let Some(row) = found.next()? {
            let key = row.get_ref(0)?.as_blob()?;
            let version: i64 = row.get(1)?;
            if !seen
                .next()
                .is_some_and(|(seen_key, seen_version)| seen_key == key && *seen_version == version)
            {
                return Ok(false);
            }
        }
        if seen.next().is_some() {
            return Ok(false);
        }
    }
    Ok(true)
}
