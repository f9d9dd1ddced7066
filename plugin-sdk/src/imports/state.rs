//! The interface `state`.

use crate::host::{Entry, StateCalls};
use crate::refusal::Result;

use super::Component;
use super::generated::sockhop::plugin::state;

impl StateCalls for Component {
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        Ok(state::get(key)?)
    }

    fn set(&self, key: &str, value: &[u8]) -> Result {
        Ok(state::set(key, value)?)
    }

    fn delete(&self, key: &str) -> Result {
        Ok(state::delete(key)?)
    }

    fn scan(
        &self,
        prefix: &str,
        cursor: Option<&str>,
        backwards: bool,
        limit: u32,
    ) -> Result<Vec<Entry>> {
        let entries = state::scan(prefix, cursor, backwards, limit)?;
        Ok(entries.into_iter().map(|entry| (entry.key, entry.value)).collect())
    }

    fn next_id(&self, sequence: &str) -> Result<u64> {
        Ok(state::next_id(sequence)?)
    }
}
