//! The WIT interface `emitter`: a handler emits events.

use crate::effect::EmitRequest;
use crate::plugin::bindings::sockhop::plugin::{emitter, types};
use crate::plugin::state::InstanceState;

use super::CallResult;

impl emitter::Host for InstanceState {
    fn emit(&mut self, to: types::Target, event: String, data: String) -> CallResult<()> {
        let request = EmitRequest { to: to.into(), event, data, attachments: Vec::new() };
        self.handling()?.emit(request)?;
        Ok(())
    }

    fn emit_binary(
        &mut self,
        to: types::Target,
        event: String,
        data: String,
        attachments: Vec<Vec<u8>>,
    ) -> CallResult<()> {
        let attachments = attachments.into_iter().map(Into::into).collect();
        self.handling()?.emit(EmitRequest { to: to.into(), event, data, attachments })?;
        Ok(())
    }
}
