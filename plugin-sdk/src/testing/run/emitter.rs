//! The interface `emitter`.

use std::rc::Rc;

use sockhop_core::effect::{Target, emit_bytes};

use crate::host::EmitterCalls;
use crate::refusal::Result;
use crate::testing::outcome::{Effect, of_host};

use super::Run;

impl EmitterCalls for Rc<Run> {
    fn emit(&self, to: Target, event: &str, data: &str, attachments: &[Vec<u8>]) -> Result {
        let attached = attachments.iter().map(Vec::len).sum();
        // First: a host does not parse data that is too large.
        self.pending.borrow().check(1, data.len() + attached)?;
        let has_sender = self.connection().is_some();
        let value = self
            .declared
            .check_emit(event, &to, data, attachments.len(), has_sender)
            .map_err(of_host)?;
        let bytes = emit_bytes(&to, event, data, attached);
        let (event, attachments) = (event.to_owned(), attachments.to_vec());
        self.push(Effect::Emit { to, event, data: value, attachments }, bytes)
    }
}
