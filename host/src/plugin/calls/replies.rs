//! The WIT interface `replies`: a handler attaches bytes to its reply.

use crate::plugin::bindings::sockhop::plugin::replies;
use crate::plugin::state::InstanceState;

use super::CallResult;

impl replies::Host for InstanceState {
    fn attach(&mut self, bytes: Vec<u8>) -> CallResult<u32> {
        Ok(self.handling()?.attach(bytes)?)
    }
}
