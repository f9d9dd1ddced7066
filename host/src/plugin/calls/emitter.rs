//! The WIT interface `emitter`: a handler emits events.

use crate::effect::{AckRequest, EmitRequest, Target};
use crate::plugin::bindings::sockhop::plugin::{emitter, types};
use crate::plugin::state::InstanceState;

use super::CallResult;

impl emitter::Host for InstanceState {
    fn emit(&mut self, to: types::Target, event: String, data: String) -> CallResult<()> {
        let request =
            EmitRequest { to: to.into(), event, data, attachments: Vec::new(), is_volatile: false };
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
        let (to, is_volatile) = (to.into(), false);
        self.handling()?.emit(EmitRequest { to, event, data, attachments, is_volatile })?;
        Ok(())
    }

    fn emit_volatile(
        &mut self,
        to: types::Target,
        event: String,
        data: String,
        attachments: Vec<Vec<u8>>,
    ) -> CallResult<()> {
        let attachments = attachments.into_iter().map(Into::into).collect();
        let (to, is_volatile) = (to.into(), true);
        self.handling()?.emit(EmitRequest { to, event, data, attachments, is_volatile })?;
        Ok(())
    }

    fn emit_with_ack(
        &mut self,
        connection: String,
        event: String,
        data: String,
        attachments: Vec<Vec<u8>>,
        ack: emitter::AckRequest,
    ) -> CallResult<String> {
        let attachments = attachments.into_iter().map(Into::into).collect();
        let (to, is_volatile) = (Target::Connection(connection.clone()), false);
        let emitter::AckRequest { ack, timeout_ms, context } = ack;
        let ack = AckRequest { connection, ack, timeout_ms, context };
        let request = EmitRequest { to, event, data, attachments, is_volatile };
        Ok(self.handling()?.emit_with_ack(request, ack)?)
    }
}
