//! Sends deliveries one at a time, for a host whose clock a scenario moves.

use std::sync::Arc;

use crate::store::StoreError;

use super::{Deliveries, due_deliveries};

impl Deliveries {
    /// Makes one attempt for each delivery that is due, one after the other. Returns how many
    /// attempts it has made, and when the next delivery is due, in milliseconds since 1970.
    ///
    /// # Errors
    /// The state of a plugin can't be read.
    pub(crate) async fn send_due(&self) -> Result<(usize, Option<u64>), StoreError> {
        let now = self.clock.now_ms();
        let (mut sent, mut next) = (0, None);
        for active in &self.registry.snapshot().plugins {
            let (plugin, store) = (active.code.name(), Arc::clone(&active.state.store));
            let grant = &active.allowance.deliveries;
            let found = due_deliveries(&store, now, grant.at_once).await?;
            next = next.into_iter().chain(found.next).min();
            for due in found.due {
                self.attempt(plugin, &store, grant, &due).await;
                sent += 1;
            }
        }
        Ok((sent, next))
    }
}
