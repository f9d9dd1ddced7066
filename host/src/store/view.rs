//! One handler's view of its plugin's state: a snapshot, the handler's own writes on top, and a
//! record of what it has read.
//!
//! It does not know whether the changes will be stored.

mod scan;

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::OptionalExtension;
use sockhop_core::state::{check_key, check_value};
use sockhop_core::{limits, timer};

use super::changes::{Changes, NewTimer, TimerKey, Tracked};
use super::connection::{entry_bytes, stored_bytes};
use super::delivery_rows::NewDelivery;
use super::snapshot::{Snapshot, read};
use super::{CommitError, FailureKind, Store, ViewError};
use crate::event::FiredTimer;

/// A consistent view of a plugin's state, with the changes that one handler has made to it.
pub struct View {
    store: Arc<Store>,
    snapshot: Option<Snapshot>,
    tracked: Tracked,
    writes: BTreeMap<Vec<u8>, Write>,
    /// Bytes that the writes would count if none of them replaced an entry.
    written: u64,
    /// The timers that are to be set or cancelled.
    timers: BTreeMap<TimerKey, Option<NewTimer>>,
    /// The requests that are to be sent after the commit.
    deliveries: Vec<NewDelivery>,
}

/// One key's new value, or its removal.
struct Write {
    value: Option<Vec<u8>>,
    /// The commit count of a snapshot, and the bytes that the key counts in it. `None` if they were
    /// not needed yet.
    stored: Option<(i64, u64)>,
}

impl View {
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            snapshot: None,
            tracked: Tracked::default(),
            writes: BTreeMap::new(),
            written: 0,
            timers: BTreeMap::new(),
            deliveries: Vec::new(),
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
        check_value(value.len(), self.store.limits.value)?;
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
    pub(crate) fn delete(&mut self, key: &str) -> Result<(), ViewError> {
        self.check_key(key)?;
        self.put(key.as_bytes(), None);
        Ok(())
    }

    /// Whether this view has changed `key` already.
    pub(crate) fn has_written(&self, key: &str) -> bool {
        self.writes.contains_key(key.as_bytes())
    }

    /// Sets a timer that is `due` at a time in milliseconds since 1970, with JSON as data. Whether
    /// the quota has space is decided by the commit. `fired` is the timer whose event is handled.
    ///
    /// # Errors
    /// [`ViewError::Misuse`] for an empty key; [`ViewError::Limit`] for a key or data that is too
    /// long, or if the plugin has the maximum number of timers.
    pub(crate) fn set_timer(
        &mut self,
        timer: String,
        key: String,
        due: u64,
        data: String,
        fired: Option<&FiredTimer>,
    ) -> Result<(), ViewError> {
        self.check_key(&key)?;
        check_value(data.len(), self.store.limits.value)?;
        let (place, max) = ((timer, key), self.store.limits.timers);
        // Near the limit, it is counted how many there would be.
        let is_near = self.store.timer_count() + limits::EFFECTS as u64 >= max;
        let before = self.timers.insert(place.clone(), Some(NewTimer { due, data }));
        if is_near && self.timers_afterwards(fired)? > max {
            match before {
                Some(before) => self.timers.insert(place, before),
                None => self.timers.remove(&place),
            };
            return Err(ViewError::Limit(CommitError::TooManyTimers { max }.to_string()));
        }
        Ok(())
    }

    /// Number of timers that the plugin has after this view's changes. `fired` is the timer whose
    /// event is handled.
    fn timers_afterwards(&self, fired: Option<&FiredTimer>) -> Result<u64, ViewError> {
        let (mut more, mut less) = (0, 0);
        for ((timer, key), new) in &self.timers {
            match (new, self.store.is_timer_set(timer, key)?) {
                (Some(_), false) => more += 1,
                (None, true) => less += 1,
                _ => {}
            }
        }
        if let Some(fired) = fired {
            let is_set_again = self
                .timers
                .iter()
                .any(|((timer, key), _)| (timer, key) == (&fired.timer, &fired.key));
            less += u64::from(!is_set_again && fired.next.is_none());
        }
        Ok((self.store.timer_count() + more).saturating_sub(less))
    }

    /// Cancels a timer. One that is not set is no error.
    ///
    /// # Errors
    /// [`ViewError::Misuse`] for an empty key, [`ViewError::Limit`] for a key that is too long.
    pub(crate) fn cancel_timer(&mut self, timer: String, key: String) -> Result<(), ViewError> {
        self.check_key(&key)?;
        self.timers.insert((timer, key), None);
        Ok(())
    }

    /// Whether this view has set or cancelled this timer already.
    pub(crate) fn has_changed_timer(&self, timer: &str, key: &str) -> bool {
        self.timers.keys().any(|(known, of)| known == timer && of == key)
    }

    /// Adds a request that is sent after the commit. Whether the quota has space is decided by the
    /// commit.
    ///
    /// # Errors
    /// [`ViewError::Limit`] if the plugin has the maximum number of deliveries.
    pub(crate) fn deliver(&mut self, new: NewDelivery) -> Result<(), ViewError> {
        let max = self.store.limits.deliveries;
        if self.store.delivery_count() + self.deliveries.len() as u64 >= max {
            return Err(ViewError::Limit(CommitError::TooManyDeliveries { max }.to_string()));
        }
        self.deliveries.push(new);
        Ok(())
    }

    /// Number of deliveries that this view has added.
    pub(crate) fn pending_deliveries(&self) -> usize {
        self.deliveries.len()
    }

    /// Number of keys, timers and deliveries that this view has changed.
    pub(crate) fn pending_keys(&self) -> usize {
        self.writes.len() + self.timers.len() + self.deliveries.len()
    }

    /// Bytes of the keys, values, timers and deliveries that this view has changed.
    pub(crate) fn pending_bytes(&self) -> u64 {
        let of_timers = self.timers.iter().map(|((timer, key), new)| {
            timer::bytes(timer, key, new.as_ref().map_or("", |new| &new.data)) as u64
        });
        let of_keys = self
            .writes
            .iter()
            .map(|(key, write)| (key.len() + write.value.as_ref().map_or(0, Vec::len)) as u64);
        let of_deliveries = self.deliveries.iter().map(|new| new.delivery.bytes() as u64);
        of_keys.chain(of_timers).chain(of_deliveries).sum()
    }

    /// Ends the snapshot, because the handler waits for something else than the store. The next
    /// read takes a new one, and fails with [`ViewError::Outdated`] if something that was read has
    /// changed meanwhile.
    pub(crate) fn end_snapshot(&self) {
        if let Some(snapshot) = &self.snapshot {
            snapshot.release();
        }
    }

    /// Ends the snapshot and returns the changes for [`Store::commit`].
    pub fn into_changes(self) -> Changes {
        Changes {
            snapshot: self.snapshot.as_ref().map(|snapshot| snapshot.meta.commits),
            tracked: self.tracked,
            writes: self.writes.into_iter().map(|(key, write)| (key, write.value)).collect(),
            timers: self.timers,
            fired: None,
            deliveries: self.deliveries,
            load: None,
        }
    }

    fn check_key(&self, key: &str) -> Result<(), ViewError> {
        Ok(check_key(key, self.store.limits.key)?)
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

#[cfg(test)]
mod tests {
    use super::super::connection::ENTRY_BYTES;
    use super::*;

    #[test]
    fn an_entry_counts_its_key_its_value_and_a_little() {
        assert_eq!(counted(b"key", Some(b"value")), 8 + ENTRY_BYTES);
        assert_eq!(counted(b"key", None), 0);
    }
}
