//! The WIT interface `deliver`, for one run of a handler.

use sockhop_core::delivery::delivery_id;

use crate::effect::{DeliverCalls, Delivery};
use crate::events;
use crate::rejection::Refusal;
use crate::store::NewDelivery;

use super::Run;

impl DeliverCalls for Run {
    fn deliver(&mut self, delivery: Delivery) -> Result<String, Refusal> {
        self.check_effect_limits(1, delivery.bytes())?;
        let max_key = self.limits().state_key_bytes.get();
        let checked = self.active.allowance.check_delivery(&delivery, max_key);
        let origin = checked.map_err(|(refusal, error)| {
            let (plugin, id) = (self.active.code.name(), self.event.id);
            let (reason, error) = (&refusal.code, error.as_ref().unwrap_or(&refusal.message));
            tracing::debug!(plugin, %id, reason, error, "delivery refused");
            refusal
        })?;
        if let Some(timer) = &delivery.result {
            events::declared_timer(&self.active.timers, timer)?;
        }
        let (event, created) = (self.event.id.to_string(), self.event.received_at_ms());
        let view = self.view();
        let id = delivery_id(&event, view.pending_deliveries());
        let new = NewDelivery { id: id.clone(), origin, created, delivery };
        view.deliver(new).map_err(|error| self.refuse(error))?;
        Ok(id)
    }
}
