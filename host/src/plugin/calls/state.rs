//! The WIT interface `state`: a handler reads and writes the plugin's state.

use crate::plugin::bindings::sockhop::plugin::state;
use crate::plugin::state::InstanceState;

use super::CallResult;

impl state::Host for InstanceState {
    fn get(&mut self, key: String) -> CallResult<Option<Vec<u8>>> {
        Ok(self.handling()?.get(&key)?)
    }

    fn set(&mut self, key: String, value: Vec<u8>) -> CallResult<()> {
        self.handling()?.set(key, value)?;
        Ok(())
    }

    fn delete(&mut self, key: String) -> CallResult<()> {
        self.handling()?.delete(&key)?;
        Ok(())
    }

    fn scan(
        &mut self,
        prefix: String,
        cursor: Option<String>,
        backwards: bool,
        limit: u32,
    ) -> CallResult<Vec<state::Entry>> {
        let entries = self.handling()?.scan(&prefix, cursor.as_deref(), backwards, limit)?;
        Ok(entries.into_iter().map(|(key, value)| state::Entry { key, value }).collect())
    }

    async fn next_id(&mut self, sequence: String) -> CallResult<u64> {
        Ok(self.handling()?.next_id(sequence).await?)
    }
}
