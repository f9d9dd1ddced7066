//! The interface `emitter`.

use sockhop_core::ack::AckRequest;
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

/// Calls the import `emitter.emit-volatile`.
pub(crate) fn emit_volatile(
    to: Target,
    event: &str,
    data: &str,
    attachments: &[Vec<u8>],
) -> Result {
    Ok(emitter::emit_volatile(&to.into(), event, data, attachments)?)
}

/// Calls the import `emitter.emit-with-ack`.
pub(crate) fn emit_with_ack(
    event: &str,
    data: &str,
    attachments: &[Vec<u8>],
    ack: AckRequest,
) -> Result<String> {
    let AckRequest { connection, ack, timeout_ms, context } = ack;
    let ack = emitter::AckRequest { ack, timeout_ms, context };
    Ok(emitter::emit_with_ack(&connection, event, data, attachments, &ack)?)
}
