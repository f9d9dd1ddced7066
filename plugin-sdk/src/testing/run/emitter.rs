//! The interface `emitter`.

use std::rc::Rc;
use std::time::Duration;

use serde_json::Value;
use sockhop_core::ack::{AckLimits, AckRequest, ack_id};
use sockhop_core::effect::{Target, emit_bytes};
use sockhop_core::limits;

use crate::host::{EmitterCalls, IdentityCalls};
use crate::refusal::Result;
use crate::testing::outcome::{AskedAck, Effect, of_host};

use super::Run;

impl Run {
    /// Checks an emit. Returns its data, and the bytes that it counts. `more` is what else counts.
    fn check_emit(
        &self,
        to: &Target,
        event: &str,
        data: &str,
        attachments: &[Vec<u8>],
        more: usize,
    ) -> Result<(Value, usize)> {
        let attached = attachments.iter().map(Vec::len).sum();
        // First: a host does not parse data that is too large.
        self.pending.borrow().check(1, data.len() + attached + more)?;
        let has_sender = self.connection().is_some();
        let checked = self.declared.check_emit(event, to, data, attachments.len(), has_sender);
        Ok((checked.map_err(of_host)?, emit_bytes(to, event, data, attached) + more))
    }

    /// Checks whether the plugin may wait for one more ack.
    fn check_pending(&self, request: &AckRequest) -> Result {
        let memory = |asked: &AskedAck| {
            let (connection, ack) = (asked.connection.clone(), asked.ack.clone());
            let context = asked.context.to_string();
            AckRequest { connection, ack, timeout_ms: 0, context }.memory()
        };
        let pending = &self.world.borrow().acks;
        let bytes: usize = pending.iter().map(memory).sum();
        let max = AckLimits { acks: limits::PENDING_ACKS, bytes: limits::PENDING_ACKS_BYTES };
        max.check(pending.len() + 1, bytes + request.memory()).map_err(of_host)
    }
}

/// The longest timeout of an ack.
const MAX_TIMEOUT: Duration = Duration::from_millis(limits::ACK_TIMEOUT_MS);

impl EmitterCalls for Rc<Run> {
    fn emit(&self, to: Target, event: &str, data: &str, attachments: &[Vec<u8>]) -> Result {
        let (data, bytes) = self.check_emit(&to, event, data, attachments, 0)?;
        let (event, attachments) = (event.to_owned(), attachments.to_vec());
        self.push(Effect::Emit { to, event, data, attachments }, bytes)
    }

    fn emit_volatile(
        &self,
        to: Target,
        event: &str,
        data: &str,
        attachments: &[Vec<u8>],
    ) -> Result {
        let (data, bytes) = self.check_emit(&to, event, data, attachments, 0)?;
        let (event, attachments) = (event.to_owned(), attachments.to_vec());
        self.push(Effect::EmitVolatile { to, event, data, attachments }, bytes)
    }

    fn emit_with_ack(
        &self,
        event: &str,
        data: &str,
        attachments: &[Vec<u8>],
        ack: AckRequest,
    ) -> Result<String> {
        self.declared.check_ack(&ack.ack, &ack.context).map_err(of_host)?;
        let timeout = ack.timeout(MAX_TIMEOUT).map_err(of_host)?;
        let to = Target::Connection(ack.connection.clone());
        let (data, bytes) = self.check_emit(&to, event, data, attachments, ack.bytes())?;
        self.check_pending(&ack)?;
        let is_ack = |effect: &&Effect| matches!(effect, Effect::EmitWithAck(_));
        let place = self.pending.borrow().effects.iter().filter(is_ack).count();
        let id = ack_id(&self.event_id(), place);
        let context = serde_json::from_str(&ack.context).unwrap_or_default();
        let asked = AskedAck {
            id: id.clone(),
            connection: ack.connection,
            event: event.to_owned(),
            data,
            ack: ack.ack,
            timeout,
            context,
        };
        self.push(Effect::EmitWithAck(asked.clone()), bytes)?;
        self.world.borrow_mut().acks.push(asked);
        Ok(id)
    }
}
