//! The interface `replies`.

use std::rc::Rc;

use sockhop_core::effect::check_attachments;
use sockhop_core::limits;
use sockhop_core::rejection;

use crate::host::ReplyCalls;
use crate::refusal::Result;
use crate::testing::outcome::of_host;

use super::Run;

impl ReplyCalls for Rc<Run> {
    fn attach(&self, bytes: &[u8]) -> Result<u32> {
        if self.connection().is_none() {
            let message = "no connection has caused this event: its reply has no attachments";
            return Err(of_host(rejection::Refusal::misuse(message)));
        }
        let mut pending = self.pending.borrow_mut();
        let before = pending.attachments.len();
        let attached: usize = pending.attachments.iter().map(Vec::len).sum();
        let (max, max_bytes) = (limits::ATTACHMENTS, limits::ATTACHMENT_BYTES);
        check_attachments(before + 1, attached + bytes.len(), max, max_bytes).map_err(of_host)?;
        pending.check(1, bytes.len())?;
        pending.bytes += bytes.len();
        pending.attachments.push(bytes.to_vec());
        Ok(u32::try_from(before).unwrap_or(u32::MAX))
    }
}
