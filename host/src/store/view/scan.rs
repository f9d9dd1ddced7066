//! Scans of a view: the entries of a range in their order, merged from the stored rows and the
//! view's own writes.

use std::collections::BTreeMap;

use rusqlite::Connection;
use sockhop_core::state::{StateError, check_scan};

use super::{View, Write};
use crate::store::changes::Scanned;
use crate::store::snapshot::read;
use crate::store::{StoreError, ViewError};

/// Greater than every key: UTF-8 never contains this byte.
const AFTER_ALL_KEYS: u8 = 0xFF;

impl View {
    /// Returns at most `limit` (1 to 1000) entries whose key begins with `prefix`, including this
    /// view's own writes. They are ordered by the bytes of the keys, descending if `backwards`, and
    /// come strictly after `cursor` in that order.
    ///
    /// # Errors
    /// [`ViewError::Misuse`] for another `limit`; [`ViewError::Limit`] if the entries have more
    /// bytes than one call may return, which a lower `limit` avoids; [`ViewError::Outdated`] and
    /// [`ViewError::Store`] if the state can't be read.
    pub(crate) fn scan(
        &mut self,
        prefix: &str,
        cursor: Option<&str>,
        backwards: bool,
        limit: u32,
    ) -> Result<Vec<(String, Vec<u8>)>, ViewError> {
        check_scan(limit)?;
        let (from, to) = range(prefix, cursor, backwards);
        if from >= to {
            return Ok(Vec::new());
        }
        let max_bytes = self.store.limits.scan;
        let merged = read(&mut self.snapshot, &self.store, &self.tracked, |connection, _| {
            merge(connection, &self.writes, (&from, &to), backwards, limit as usize, max_bytes)
        })?;
        let Merged { entries, mut rows, last, exceeds_bytes } = merged;
        // A scan that ended early depends on nothing beyond the last key that it read.
        let (from, to) = match last {
            Some(last) if backwards => (last, to),
            Some(last) => (from, after(last)),
            None => (from, to),
        };
        if backwards {
            rows.reverse();
        }
        // Also before an error, on which the handler may depend.
        self.tracked.add_scan(Scanned { from, to, rows });
        if exceeds_bytes {
            return Err(StateError::LargeScan { max: max_bytes }.into());
        }
        let mut found = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let key =
                String::from_utf8(key).map_err(|_| StoreError::Damaged("a key is not UTF-8"))?;
            found.push((key, value));
        }
        Ok(found)
    }
}

/// The range of keys that a scan may return, in ascending order also for a scan backwards: its
/// first key, and the first key after it.
fn range(prefix: &str, cursor: Option<&str>, backwards: bool) -> (Vec<u8>, Vec<u8>) {
    let mut from = prefix.as_bytes().to_vec();
    let mut to = from.clone();
    // The least key that is greater than all keys with the prefix. UTF-8 never contains the byte
    // 0xFF, so the last byte can always be incremented.
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
    exceeds_bytes: bool,
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
        Merged { entries: Vec::new(), rows: Vec::new(), last: None, exceeds_bytes: false };
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
            merged.exceeds_bytes = bytes > max_bytes;
            if !merged.exceeds_bytes {
                merged.entries.push((key.to_owned(), value.to_owned()));
            }
            if merged.exceeds_bytes || merged.entries.len() == limit {
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
}
