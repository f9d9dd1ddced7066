//! The WIT interface `state`, for one run of a handler.

use futures_util::future::BoxFuture;

use crate::dispatcher::contended;
use crate::dispatcher::sequence::next_id;
use crate::effect::StateCalls;
use crate::rejection::Refusal;

use super::{Discarded, Run};

impl StateCalls for Run {
    fn get(&mut self, key: &str) -> Result<Option<Vec<u8>>, Refusal> {
        self.view().get(key).map_err(|error| self.refuse(error))
    }

    fn set(&mut self, key: String, value: Vec<u8>) -> Result<(), Refusal> {
        let new = self.new_keys(&key);
        self.check_effect_limits(new, key.len() + value.len())?;
        self.view().set(&key, value).map_err(|error| self.refuse(error))
    }

    fn delete(&mut self, key: &str) -> Result<(), Refusal> {
        let new = self.new_keys(key);
        self.check_effect_limits(new, key.len())?;
        self.view().delete(key).map_err(|error| self.refuse(error))
    }

    fn scan(
        &mut self,
        prefix: &str,
        cursor: Option<&str>,
        backwards: bool,
        limit: u32,
    ) -> Result<Vec<(String, Vec<u8>)>, Refusal> {
        self.view().scan(prefix, cursor, backwards, limit).map_err(|error| self.refuse(error))
    }

    fn next_id(&mut self, sequence: String) -> BoxFuture<'_, Result<u64, Refusal>> {
        Box::pin(async move {
            // The run is discarded anyway, so it does not wait again.
            if self.discarded.is_some() {
                return Err(self.discard(Discarded::Rejected(contended().into())));
            }
            let next = match self.active.state.store.next_id_at_once(&sequence) {
                Some(next) => next,
                None => next_id(&self.active.state, sequence).await,
            };
            next.map_err(|error| self.refuse(error))
        })
    }
}
