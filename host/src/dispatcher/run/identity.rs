//! The WIT interface `identity`, for one run of a handler.

use sockhop_core::handshake::check_asked;

use crate::effect::{Effect, IdentityCalls};
use crate::event::Handshake;
use crate::rejection::{Refusal, Rejection, truncate};

use super::Run;

impl Run {
    /// What the caller sent when it connected; `None` if that is not kept.
    fn handshake(&self) -> Result<Option<&Handshake>, Refusal> {
        check_asked(self.active.code.registration.handshake)?;
        Ok(self.event.caller.connection().and_then(|connection| connection.handshake()))
    }
}

impl IdentityCalls for Run {
    fn has_role(&self, role: &str) -> bool {
        self.event.caller.identity().has_role(role)
    }

    fn claims(&self) -> String {
        self.event.caller.identity().claims.to_string()
    }

    fn auth(&self) -> Result<String, Refusal> {
        let handshake = self.handshake()?;
        Ok(handshake.map_or_else(|| "null".to_owned(), |handshake| (*handshake.auth).to_owned()))
    }

    fn query(&self) -> Result<Option<Vec<(String, String)>>, Refusal> {
        Ok(self.handshake()?.map(Handshake::query))
    }

    fn sid(&self) -> String {
        self.event.caller.connection().map_or_else(String::new, |connection| connection.sid.clone())
    }

    fn event_id(&self) -> String {
        self.event.id.to_string()
    }

    fn received_at(&self) -> u64 {
        self.event.received_at_ms()
    }

    fn disconnect(&mut self, mut reason: String) {
        if self.event.caller.connection().is_none() {
            return;
        }
        truncate(&mut reason, Rejection::MAX_MESSAGE);
        // One is enough. It bypasses the limits of the other effects, so that it is never lost.
        if !self.effects.iter().any(|effect| matches!(effect, Effect::Disconnect(_))) {
            self.effects.push(Effect::Disconnect(reason));
        }
    }
}
