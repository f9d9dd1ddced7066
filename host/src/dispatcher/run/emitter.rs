//! The WIT interface `emitter`, for one run of a handler.

use crate::effect::{Effect, Emit, EmitRequest, EmitterCalls};
use crate::events;
use crate::rejection::Refusal;

use super::Run;

impl EmitterCalls for Run {
    fn emit(&mut self, request: EmitRequest) -> Result<(), Refusal> {
        // Checked before parsing: data that is too large is not worth parsing.
        self.check_effect_limits(1, request.size())?;
        let EmitRequest { to, event, data, attachments } = request;
        let declared = events::declared(&self.active.outbound, &event)?;
        declared.check_target(&event, &to, self.event.caller.connection().is_some())?;
        let (data, _) = declared.check_data(&event, data, attachments.len())?;
        self.push(Effect::Emit(Emit { to, event, data, attachments }))
    }
}
