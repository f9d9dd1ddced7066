//! The interface `identity`.

use std::rc::Rc;

use serde_json::Value;
use sockhop_core::handshake::Handshake;
use sockhop_core::limits;
use sockhop_core::rejection::{Rejection, truncate};

use crate::host::IdentityCalls;
use crate::refusal::Result;
use crate::testing::outcome::{Effect, of_host};

use super::Run;

impl Run {
    /// The handshake of the caller; `None` if it is not kept.
    fn handshake(&self) -> Result<Option<Handshake>> {
        self.declared.check_handshake().map_err(of_host)?;
        let Some(connection) = self.connection() else { return Ok(None) };
        match self.before.handshakes.get(connection) {
            Some(handshake) => Ok(handshake.clone()),
            None => Ok(Handshake::read("", "", true, limits::HANDSHAKE_BYTES).ok()),
        }
    }
}

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

    fn auth(&self) -> Result<String> {
        let handshake = self.handshake()?;
        Ok(handshake.map_or_else(|| Value::Null.to_string(), |kept| kept.auth.into_string()))
    }

    fn query(&self) -> Result<Option<Vec<(String, String)>>> {
        Ok(self.handshake()?.map(|kept| kept.query()))
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
