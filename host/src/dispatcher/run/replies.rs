//! The WIT interface `replies`, for one run of a handler.

use sockhop_core::effect::check_attachments;

use crate::effect::ReplyCalls;
use crate::event::Caller;
use crate::rejection::Refusal;

use super::Run;

impl ReplyCalls for Run {
    fn attach(&mut self, bytes: Vec<u8>) -> Result<u32, Refusal> {
        match self.event.caller {
            Caller::Connection(_) => {}
            Caller::Request(_) => {
                return Err(Refusal::misuse(
                    "the answer to an HTTP request has no attachments: declare no route for an \
                     event whose reply has some",
                ));
            }
            Caller::Namespace(_) | Caller::None => {
                return Err(Refusal::misuse("this event has no reply"));
            }
        }
        let before = self.attachments.len();
        let attached: usize = self.attachments.iter().map(bytes::Bytes::len).sum();
        let limits = self.limits();
        let (max, max_bytes) = (limits.attachments, limits.attachment_bytes.get());
        check_attachments(before + 1, attached + bytes.len(), max, max_bytes)?;
        self.check_effect_limits(1, bytes.len())?;
        self.effects_bytes += bytes.len();
        self.attachments.push(bytes.into());
        Ok(u32::try_from(before).unwrap_or(u32::MAX))
    }
}
