//! What a plugin has stored, and what has changed of it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::error_chain::ErrorChain;
use crate::scenario::absent;

use super::{Trial, shown};

/// What plugins have changed beside their effects: one value for each change.
pub type Changes = Vec<Value>;

/// The state of a plugin at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    entries: BTreeMap<String, Value>,
    timers: Vec<Value>,
    deliveries: Vec<Value>,
}

impl Trial {
    /// The value of a key in the state of the first plugin; `$absent` if it is not there.
    ///
    /// # Errors
    /// The state can't be read.
    pub fn state_of(&self, key: &str) -> Result<Value, String> {
        let found = self.first.state.store.content_of(key);
        let found = found.map_err(|error| ErrorChain(&error).to_string())?;
        Ok(found.map_or_else(absent, |bytes| shown::stored(&bytes)))
    }

    /// The timers of the first plugin that no schedule has set.
    ///
    /// # Errors
    /// The state can't be read.
    pub fn timers(&self) -> Result<Vec<Value>, String> {
        let is_scheduled = |timer: &str| self.first.schedules.contains_key(timer);
        let timers = shown::timers(&self.first.state.store, is_scheduled);
        timers.map_err(|error| ErrorChain(&error).to_string())
    }

    /// The state of the first plugin now. Blocks on disk I/O.
    ///
    /// # Errors
    /// The state can't be read.
    pub fn snapshot(&self) -> Result<Snapshot, String> {
        let store = &self.first.state.store;
        let failed = |error| ErrorChain(&error).to_string();
        Ok(Snapshot {
            entries: shown::entries(store).map_err(failed)?,
            timers: self.timers()?,
            deliveries: shown::deliveries(store).map_err(failed)?,
        })
    }
}

impl Snapshot {
    /// What has changed until `later`.
    pub fn changes(&self, later: &Self) -> Changes {
        let mut changes = Vec::new();
        for (key, value) in &later.entries {
            if self.entries.get(key) != Some(value) {
                changes.push(json!({"set": key, "value": value}));
            }
        }
        let gone = self.entries.keys().filter(|key| !later.entries.contains_key(*key));
        changes.extend(gone.map(|key| json!({"delete": key})));
        changes.extend(later.timers.iter().filter(|timer| !self.timers.contains(timer)).cloned());
        let cancelled = self.timers.iter().filter(|timer| !later.timers.contains(timer));
        changes.extend(cancelled.map(|timer| json!({"cancelled": timer})));
        let new = later.deliveries.iter().filter(|sent| !self.deliveries.contains(sent));
        changes.extend(new.cloned());
        changes
    }
}
