//! The interface `emitter`.

use sockhop_core::effect::Target;

use crate::host::EmitterCalls;
use crate::refusal::Result;

use super::Component;
use super::generated::sockhop::plugin::emitter;

impl EmitterCalls for Component {
    fn emit(&self, to: Target, event: &str, data: &str, attachments: &[Vec<u8>]) -> Result {
        let to = to.into();
        Ok(match attachments {
            [] => emitter::emit(&to, event, data)?,
            some => emitter::emit_binary(&to, event, data, some)?,
        })
    }
}
