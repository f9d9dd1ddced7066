//! One handler's view of its plugin's state: a snapshot, the handler's own writes on top, and a
//! record of what it has read.
//!
//! It does not know whether the changes will be stored.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};

use super::snapshot::{Snapshot, read};
use super::{FailureKind, Store, StoreError, ViewError, entry_bytes, stored_bytes};

/// Number of keys that a view remembers of its reads, including those of scans. Beyond it, any
/// commit since the snapshot is a conflict. A handler that reads this much and then writes is rare,
/// and the memory of one that only reads must be bounded.
const MAX_TRACKED: usize = 4096;

/// Maximum number of entries that one scan may ask for.
const MAX_SCAN_ENTRIES: u32 = 1000;

/// Greater than every key: UTF-8 never contains this byte.
const AFTER_ALL_KEYS: u8 = 0xFF;

/// A consistent view of a plugin's state, with the changes that one handler has made to it.
pub struct View {
    store: Arc<Store>,
    snapshot: Option<Snapshot>,
    tracked: Tracked,
    writes: BTreeMap<Vec<u8>, Write>,
    /// Bytes that the writes would count if none of them replaced an entry.
    written: u64,
}

/// One key's new value, or its removal.
struct Write {
    value: Option<Vec<u8>>,
    /// The commit count of a snapshot, and the bytes that the key counts in it. `None` if they were
    /// not needed yet.
    stored: Option<(i64, u64)>,
}

/// The changes that a view wants to store, and the reads that they depend on.
#[derive(Debug, Default)]
pub struct Changes {
    /// The newest commit that the view saw; `None` if it read nothing.
    pub(super) snapshot: Option<i64>,
    pub(super) tracked: Tracked,
    pub(super) writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Changes {
    /// Whether nothing is to be stored.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
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

    fn add_key(&mut self, key: &[u8], version: Option<i64>) {
        if let Self::Some { keys, count, .. } = self
            && let Entry::Vacant(entry) = keys.entry(key.to_owned())
        {
            entry.insert(version);
            *count += 1;
            self.forget_if_too_much();
        }
    }

    fn add_scan(&mut self, scanned: Scanned) {
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

impl View {
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            snapshot: None,
            tracked: Tracked::default(),
            writes: BTreeMap::new(),
            written: 0,
        }
    }

    /// The value of `key`, including this view's own writes.
    ///
    /// # Errors
    /// [`ViewError::Misuse`] for an empty key, [`ViewError::Limit`] for a key that is too long;
    /// [`ViewError::Outdated`] and [`ViewError::Store`] if the state can't be read.
    pub fn get(&mut self, key: &str) -> Result<Option<Vec<u8>>, ViewError> {
        self.check_key(key)?;
        let key = key.as_bytes();
        if let Some(own) = self.writes.get(key) {
            return Ok(own.value.clone());
        }
        let found: Option<(Vec<u8>, i64)> =
            read(&mut self.snapshot, &self.store, &self.tracked, |connection, _| {
                let mut statement = connection
                    .prepare_cached("SELECT value, version FROM entries WHERE key = ?1")?;
                Ok(statement.query_row([key], |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
            })?;
        self.tracked.add_key(key, found.as_ref().map(|(_, version)| *version));
        Ok(found.map(|(value, _)| value))
    }

    /// Sets `key` to `value` in this view. [`Store::commit`] stores it.
    ///
    /// # Errors
    /// [`ViewError::Misuse`] for an empty key; [`ViewError::Limit`] for a key or a value that is
    /// too long; [`ViewError::Full`] if the plugin would exceed its quota; [`ViewError::Outdated`]
    /// and [`ViewError::Store`] if the state can't be read near the quota. After an error nothing
    /// has changed.
    pub fn set(&mut self, key: &str, value: Vec<u8>) -> Result<(), ViewError> {
        self.check_key(key)?;
        let max = self.store.limits.value;
        if value.len() > max {
            return Err(ViewError::Limit(format!(
                "a value may have {max} bytes, this one has {}",
                value.len()
            )));
        }
        let before = self.put(key.as_bytes(), Some(value));
        match self.check_quota() {
            Ok(()) => Ok(()),
            Err(error) => {
                self.restore(key.as_bytes(), before);
                Err(error)
            }
        }
    }

    /// Removes `key` in this view. A key that does not exist is no error.
    ///
    /// # Errors
    /// [`ViewError::Misuse`] for an empty key, [`ViewError::Limit`] for a key that is too long.
    pub fn delete(&mut self, key: &str) -> Result<(), ViewError> {
        self.check_key(key)?;
        self.put(key.as_bytes(), None);
        Ok(())
    }

    /// Returns at most `limit` (1 to 1000) entries whose key begins with `prefix`, including this
    /// view's own writes. They are ordered by the bytes of the keys, descending if `backwards`, and
    /// come strictly after `cursor` in that order.
    ///
    /// # Errors
    /// [`ViewError::Misuse`] for another `limit`; [`ViewError::Limit`] if the entries have more
    /// bytes than one call may return, which a lower `limit` avoids; [`ViewError::Outdated`] and
    /// [`ViewError::Store`] if the state can't be read.
    pub fn scan(
        &mut self,
        prefix: &str,
        cursor: Option<&str>,
        backwards: bool,
        limit: u32,
    ) -> Result<Vec<(String, Vec<u8>)>, ViewError> {
        if !(1..=MAX_SCAN_ENTRIES).contains(&limit) {
            return Err(ViewError::Misuse(format!(
                "a scan's limit is 1 to {MAX_SCAN_ENTRIES}, not {limit}"
            )));
        }
        let (from, to) = range(prefix, cursor, backwards);
        if from >= to {
            return Ok(Vec::new());
        }
        let max_bytes = self.store.limits.scan;
        let merged = read(&mut self.snapshot, &self.store, &self.tracked, |connection, _| {
            merge(connection, &self.writes, (&from, &to), backwards, limit as usize, max_bytes)
        })?;
        let Merged { entries, mut rows, last, is_too_much } = merged;
        // A scan that ended early depends on nothing beyond the last key that it read.
        let (from, to) = match last {
            Some(last) if backwards => (last, to),
            Some(last) => (from, after(last)),
            None => (from, to),
        };
        if backwards {
            rows.reverse();
        }
        self.tracked.add_scan(Scanned { from, to, rows });
        if is_too_much {
            return Err(ViewError::Limit(format!(
                "a scan may return {} bytes, ask for fewer entries",
                self.store.limits.scan
            )));
        }
        let mut found = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let key =
                String::from_utf8(key).map_err(|_| StoreError::Damaged("a key is not UTF-8"))?;
            found.push((key, value));
        }
        Ok(found)
    }

    /// Whether this view has changes to store.
    pub fn wrote(&self) -> bool {
        !self.writes.is_empty()
    }

    /// Whether this view has changed `key` already.
    pub fn has_written(&self, key: &str) -> bool {
        self.writes.contains_key(key.as_bytes())
    }

    /// Number of keys that this view has changed.
    pub fn pending_keys(&self) -> usize {
        self.writes.len()
    }

    /// Bytes of the keys and values that this view has changed.
    pub fn pending_bytes(&self) -> u64 {
        self.writes
            .iter()
            .map(|(key, write)| (key.len() + write.value.as_ref().map_or(0, Vec::len)) as u64)
            .sum()
    }

    /// Ends the snapshot and returns the changes for [`Store::commit`].
    pub fn into_changes(self) -> Changes {
        Changes {
            snapshot: self.snapshot.as_ref().map(|snapshot| snapshot.meta.commits),
            tracked: self.tracked,
            writes: self.writes.into_iter().map(|(key, write)| (key, write.value)).collect(),
        }
    }

    fn check_key(&self, key: &str) -> Result<(), ViewError> {
        let max = self.store.limits.key;
        if key.is_empty() {
            return Err(ViewError::Misuse("a key may not be empty".to_owned()));
        }
        if key.len() > max {
            return Err(ViewError::Limit(format!(
                "a key may have {max} bytes, this one has {}",
                key.len()
            )));
        }
        Ok(())
    }

    /// Records a write, and returns the value of an earlier write to the same key.
    fn put(&mut self, key: &[u8], value: Option<Vec<u8>>) -> Option<Option<Vec<u8>>> {
        self.written += counted(key, value.as_deref());
        match self.writes.get_mut(key) {
            Some(write) => {
                let before = std::mem::replace(&mut write.value, value);
                self.written -= counted(key, before.as_deref());
                Some(before)
            }
            None => {
                self.writes.insert(key.to_owned(), Write { value, stored: None });
                None
            }
        }
    }

    /// Undoes a [`View::put`].
    fn restore(&mut self, key: &[u8], before: Option<Option<Vec<u8>>>) {
        match before {
            Some(value) => {
                self.put(key, value);
            }
            None => {
                if let Some(write) = self.writes.remove(key) {
                    self.written -= counted(key, write.value.as_deref());
                }
            }
        }
    }

    /// Checks that the state would not exceed the quota. The replaced entries are looked up only if
    /// the answer depends on them, so a write far from the quota reads nothing.
    fn check_quota(&mut self) -> Result<(), ViewError> {
        let quota = self.store.limits.quota;
        if self.store.used().saturating_add(self.written) <= quota {
            return Ok(());
        }
        let writes = &mut self.writes;
        let (before, replaced) =
            read(&mut self.snapshot, &self.store, &self.tracked, |connection, meta| {
                let mut replaced = 0;
                for (key, write) in writes {
                    replaced += match write.stored {
                        Some((commits, bytes)) if commits == meta.commits => bytes,
                        _ => write.stored.insert((meta.commits, stored_bytes(connection, key)?)).1,
                    };
                }
                Ok((meta.bytes, replaced))
            })?;
        let used = before.saturating_sub(replaced).saturating_add(self.written);
        if used > quota && used > before {
            let full = ViewError::Full { used, quota };
            self.store.health.failed(FailureKind::Quota, full.to_string());
            return Err(full);
        }
        Ok(())
    }
}

/// Bytes that a write counts against the quota.
fn counted(key: &[u8], value: Option<&[u8]>) -> u64 {
    value.map_or(0, |value| entry_bytes(key, value.len() as u64))
}

/// The first key that a scan may return, and the first key after its range.
fn range(prefix: &str, cursor: Option<&str>, backwards: bool) -> (Vec<u8>, Vec<u8>) {
    let mut from = prefix.as_bytes().to_vec();
    let mut to = from.clone();
    // The next string of the same length. UTF-8 never contains the byte 0xFF, so the last byte can
    // always be incremented.
    match to.last_mut() {
        Some(last) => *last += 1,
        None => to.push(AFTER_ALL_KEYS),
    }
    if let Some(cursor) = cursor {
        let cursor = cursor.as_bytes().to_vec();
        if backwards {
            to = to.min(cursor);
        } else {
            from = from.max(after(cursor));
        }
    }
    (from, to)
}

/// The first key after `key`.
fn after(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}

/// The result of a scan.
struct Merged {
    /// The entries in the order of the scan.
    entries: Vec<(Vec<u8>, Vec<u8>)>,
    /// Keys and versions of the stored rows that the result depends on, in the order of the scan,
    /// including rows that own writes replace.
    rows: Vec<(Vec<u8>, i64)>,
    /// The last key that was read, if the scan ended before the end of its range.
    last: Option<Vec<u8>>,
    /// Whether the scan ended because the next entry would exceed the bytes of one call.
    is_too_much: bool,
}

/// Merges the stored rows and the own writes of a range. Rows are fetched one by one, because the
/// number needed depends on how many were removed or replaced.
fn merge(
    connection: &Connection,
    writes: &BTreeMap<Vec<u8>, Write>,
    (from, to): (&Vec<u8>, &Vec<u8>),
    backwards: bool,
    limit: usize,
    max_bytes: usize,
) -> Result<Merged, StoreError> {
    let sql = if backwards {
        "SELECT key, value, version FROM entries WHERE key >= ?1 AND key < ?2 ORDER BY key DESC"
    } else {
        "SELECT key, value, version FROM entries WHERE key >= ?1 AND key < ?2 ORDER BY key"
    };
    let mut statement = connection.prepare_cached(sql)?;
    let mut stored = statement.query([from, to])?;
    let mut own_range = writes.range::<Vec<u8>, _>(from..to);
    let mut next_own = || if backwards { own_range.next_back() } else { own_range.next() };

    let mut merged =
        Merged { entries: Vec::new(), rows: Vec::new(), last: None, is_too_much: false };
    let mut bytes = 0;
    let mut own = next_own();
    let mut row = stored.next()?;
    loop {
        let stored_key =
            row.map(|row| row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)).transpose()?;
        let own_is_first = match (own, stored_key) {
            (None, None) => return Ok(merged),
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some((own, _)), Some(stored)) if backwards => own.as_slice() >= stored,
            (Some((own, _)), Some(stored)) => own.as_slice() <= stored,
        };
        let is_under_own = own_is_first && own.map(|(key, _)| key.as_slice()) == stored_key;
        if let (Some(row), Some(key)) = (row, stored_key)
            && (!own_is_first || is_under_own)
        {
            merged.rows.push((key.to_owned(), row.get(2)?));
        }
        let entry = match (own_is_first, own, row, stored_key) {
            (true, Some((key, write)), ..) => {
                write.value.as_deref().map(|value| (key.as_slice(), value))
            }
            (false, _, Some(row), Some(key)) => {
                Some((key, row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?))
            }
            _ => None,
        };
        if let Some((key, value)) = entry {
            bytes += key.len() + value.len();
            merged.is_too_much = bytes > max_bytes;
            if !merged.is_too_much {
                merged.entries.push((key.to_owned(), value.to_owned()));
            }
            if merged.is_too_much || merged.entries.len() == limit {
                merged.last = Some(key.to_owned());
                return Ok(merged);
            }
        }
        if own_is_first {
            own = next_own();
        }
        if !own_is_first || is_under_own {
            row = stored.next()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ENTRY_BYTES;
    use super::*;

    #[test]
    fn a_range_begins_and_ends_where_prefix_and_cursor_say() {
        let text = |(from, to): (Vec<u8>, Vec<u8>)| {
            (String::from_utf8_lossy(&from).into_owned(), String::from_utf8_lossy(&to).into_owned())
        };
        assert_eq!(text(range("a/", None, false)), ("a/".into(), "a0".into()));
        assert_eq!(text(range("a/", Some("a/5"), false)), ("a/5\0".into(), "a0".into()));
        assert_eq!(text(range("a/", Some("a/5"), true)), ("a/".into(), "a/5".into()));
        assert_eq!(text(range("a/", Some("A"), false)), ("a/".into(), "a0".into()));
        assert_eq!(text(range("a/", Some("b"), true)), ("a/".into(), "a0".into()));
        assert_eq!(range("", None, true), (Vec::new(), vec![AFTER_ALL_KEYS]));
    }

    #[test]
    fn an_entry_counts_its_key_its_value_and_a_little() {
        assert_eq!(counted(b"key", Some(b"value")), 8 + ENTRY_BYTES);
        assert_eq!(counted(b"key", None), 0);
    }
}
