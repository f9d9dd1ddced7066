//! The WIT interface `emitter`: a handler emits events.

use crate::plugin::bindings::sockhop::plugin::{emitter, types};
use crate::plugin::state::InstanceState;

use super::Answer;

impl emitter::Host for InstanceState {
    fn emit(&mut self, to: types::Target, event: String, data: String) -> Answer<()> {
        self.handling()?.emit(to.into(), event, data, Vec::new())?;
        Ok(())
    }

    fn emit_binary(
        &mut self,
        to: types::Target,
        event: String,
        data: String,
        attachments: Vec<Vec<u8>>,
    ) -> Answer<()> {
        self.handling()?.emit(
            to.into(),
            event,
            data,
            attachments.into_iter().map(Into::into).collect(),
        )?;
        Ok(())
    }
}
