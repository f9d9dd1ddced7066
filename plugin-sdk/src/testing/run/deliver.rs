//! The interface `deliver`.

use std::rc::Rc;

use sockhop_core::delivery::{self, delivery_id};
use sockhop_core::limits;
use sockhop_core::rejection;

use crate::delivery::Delivery;
use crate::host::{DeliverCalls, IdentityCalls};
use crate::refusal::Result;
use crate::testing::deliveries::CommittedDelivery;
use crate::testing::outcome::{Effect, of_host};

use super::Run;

impl DeliverCalls for Rc<Run> {
    fn deliver(&self, delivery: delivery::Delivery) -> Result<String> {
        let bytes = delivery.bytes();
        self.pending.borrow().check(1, bytes)?;
        let (max_key, max_bytes) = (limits::STATE_KEY_BYTES, limits::OUTBOUND_REQUEST_BYTES);
        delivery.check(max_key, max_bytes).map_err(of_host)?;
        if let Some(timer) = &delivery.result {
            self.declared.check_timer(timer).map_err(of_host)?;
        }
        let mut world = self.world.borrow_mut();
        let max = limits::DELIVERIES;
        if world.deliveries.len() >= max as usize {
            return Err(of_host(rejection::Refusal::limit(format!(
                "the plugin would have more than {max} deliveries, dead ones and unhandled results \
                 included"
            ))));
        }
        let place = world.deliveries.len() - self.before.deliveries.len();
        let id = delivery_id(&self.event_id(), place);
        let delivery = Delivery(delivery);
        self.push(Effect::Deliver(delivery.clone()), bytes)?;
        world.deliveries.push(CommittedDelivery { id: id.clone(), delivery });
        Ok(id)
    }
}
