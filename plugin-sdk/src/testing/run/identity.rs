//! The interface `identity`.

use std::rc::Rc;

use serde_json::Value;
use sockhop_core::rejection::{Rejection, truncate};

use crate::host::IdentityCalls;
use crate::testing::outcome::Effect;

use super::Run;

impl IdentityCalls for Rc<Run> {
    fn has_role(&self, role: &str) -> bool {
        self.event.caller.as_ref().is_some_and(|caller| caller.identity.has_role(role))
    }

    fn claims(&self) -> String {
        self.event
            .caller
            .as_ref()
            .map_or_else(|| Value::Null.to_string(), |caller| caller.identity.claims.to_string())
    }

    fn sid(&self) -> String {
        self.connection().map_or_else(String::new, |connection| format!("sid-{connection}"))
    }

    fn event_id(&self) -> String {
        format!("01TEST{:020}", self.event.number)
    }

    fn received_at(&self) -> u64 {
        self.event.at
    }

    fn disconnect(&self, reason: &str) {
        let mut pending = self.pending.borrow_mut();
        // Only the first call counts, and it bypasses the limits of the other effects.
        let is_first =
            !pending.effects.iter().any(|effect| matches!(effect, Effect::Disconnect(_)));
        if is_first && self.connection().is_some() {
            let mut reason = reason.to_owned();
            truncate(&mut reason, Rejection::MAX_MESSAGE);
            pending.effects.push(Effect::Disconnect(reason));
        }
    }
}
