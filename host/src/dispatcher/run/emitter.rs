//! The WIT interface `emitter`, for one run of a handler.

use sockhop_core::ack::ack_id;

use crate::effect::{AckLimits, AckRequest, Effect, Emit, EmitRequest, EmitterCalls, PendingAck};
use crate::events;
use crate::rejection::Refusal;

use super::Run;

impl Run {
    /// Checks an emit. Returns it without an ack.
    fn checked(&self, request: EmitRequest) -> Result<Emit, Refusal> {
        let EmitRequest { to, event, data, attachments, is_volatile } = request;
        let declared = events::declared(&self.active.outbound, &event)?;
        declared.check_target(&event, &to, self.event.caller.connection().is_some())?;
        let (data, _) = declared.check_data(&event, data, attachments.len())?;
        Ok(Emit { to, event, data, attachments, is_volatile, ack: None })
    }
}

impl EmitterCalls for Run {
    fn emit(&mut self, request: EmitRequest) -> Result<(), Refusal> {
        // Checked before parsing: data that is too large is not worth parsing.
        self.check_effect_limits(1, request.size())?;
        let emit = self.checked(request)?;
        self.push(Effect::Emit(emit))
    }

    fn emit_with_ack(&mut self, request: EmitRequest, ack: AckRequest) -> Result<String, Refusal> {
        self.check_effect_limits(1, request.size() + ack.bytes())?;
        events::declared_ack(&self.active.acks, &ack.ack)?;
        events::check_context(&ack.context)?;
        let limits = self.limits();
        let timeout = ack.timeout(limits.ack_timeout_ms)?;
        let emit = self.checked(request)?;
        let (acks, bytes) = (limits.pending_acks.get(), limits.pending_acks_bytes.get());
        let permit = self.active.state.acks.take(ack.memory(), AckLimits { acks, bytes })?;
        let asked = |effect: &&Effect| matches!(effect, Effect::Emit(Emit { ack: Some(_), .. }));
        let place = self.effects.iter().filter(asked).count();
        let id = ack_id(&self.event.id.to_string(), place);
        let plugin = self.active.code.name();
        let ack = Some(PendingAck::new(id.clone(), plugin, ack, timeout, permit));
        self.push(Effect::Emit(Emit { ack, ..emit }))?;
        Ok(id)
    }
}
