//! The interface `replies`.

use crate::host::ReplyCalls;
use crate::refusal::Result;

use super::Component;
use super::generated::sockhop::plugin::replies;

impl ReplyCalls for Component {}

/// Calls the import `replies.attach`.
pub(crate) fn attach(bytes: &[u8]) -> Result<u32> {
    Ok(replies::attach(bytes)?)
}
