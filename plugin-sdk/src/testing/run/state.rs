//! The interface `state`.

use std::ops::Bound;
use std::rc::Rc;

use sockhop_core::limits;
use sockhop_core::state::{self, StateError};

use crate::host::{Entry, StateCalls};
use crate::refusal::{Refusal, Result};
use crate::testing::outcome::of_host;

use super::Run;

impl Run {
    /// Checks a write of `key` with a value of `value_bytes` bytes, as a host does.
    fn check_write(&self, key: &str, value_bytes: usize) -> Result {
        let pending = self.pending.borrow();
        // The old value of the key still counts here, as in a host.
        let new_keys = usize::from(!pending.written.contains_key(key));
        pending.check(new_keys, key.len() + value_bytes)?;
        check_key(key)?;
        state::check_value(value_bytes, limits::STATE_VALUE_BYTES).map_err(refused)
    }
}

impl StateCalls for Rc<Run> {
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        check_key(key)?;
        Ok(self.world.borrow().state.get(key).cloned())
    }

    fn set(&self, key: &str, value: &[u8]) -> Result {
        self.check_write(key, value.len())?;
        self.pending.borrow_mut().write(key, value.len());
        self.world.borrow_mut().state.insert(key.to_owned(), value.to_vec());
        Ok(())
    }

    fn delete(&self, key: &str) -> Result {
        self.check_write(key, 0)?;
        self.pending.borrow_mut().write(key, 0);
        self.world.borrow_mut().state.remove(key);
        Ok(())
    }

    fn scan(
        &self,
        prefix: &str,
        cursor: Option<&str>,
        backwards: bool,
        limit: u32,
    ) -> Result<Vec<Entry>> {
        state::check_scan(limit).map_err(refused)?;
        let world = self.world.borrow();
        let cursor = cursor.map_or(Bound::Unbounded, |key| Bound::Excluded(key.to_owned()));
        let range = if backwards { (Bound::Unbounded, cursor) } else { (cursor, Bound::Unbounded) };
        let in_range = world.state.range(range).filter(|(key, _)| key.starts_with(prefix));
        let in_range = in_range.map(|(key, value)| (key.clone(), value.clone()));
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let entries: Vec<Entry> = if backwards {
            in_range.rev().take(limit).collect()
        } else {
            in_range.take(limit).collect()
        };
        let bytes: usize = entries.iter().map(|(key, value)| key.len() + value.len()).sum();
        if bytes > limits::HOST_CALL_BYTES {
            return Err(refused(StateError::LargeScan { max: limits::HOST_CALL_BYTES }));
        }
        Ok(entries)
    }

    fn next_id(&self, sequence: &str) -> Result<u64> {
        state::check_sequence(sequence).map_err(refused)?;
        let mut world = self.world.borrow_mut();
        let is_full = world.sequences.len() >= state::MAX_SEQUENCES as usize;
        if is_full && !world.sequences.contains_key(sequence) {
            return Err(refused(StateError::TooManySequences));
        }
        let last = world.sequences.entry(sequence.to_owned()).or_default();
        *last += 1;
        Ok(*last)
    }
}

fn check_key(key: &str) -> Result {
    state::check_key(key, limits::STATE_KEY_BYTES).map_err(refused)
}

/// Converts an error of a state call to a refusal.
fn refused(error: StateError) -> Refusal {
    of_host(error.into())
}
