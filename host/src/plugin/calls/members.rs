//! The WIT interface `members`: a handler changes and reads who is in the rooms of its plugin.

use crate::effect::Who;
use crate::plugin::bindings::sockhop::plugin::members;
use crate::plugin::state::InstanceState;

use super::CallResult;
use super::connections::lowered;

impl members::Host for InstanceState {
    fn join(&mut self, who: members::Who, room: String) -> CallResult<()> {
        self.handling()?.join_member(lifted(who), room)?;
        Ok(())
    }

    fn remove(&mut self, who: members::Who, room: String) -> CallResult<()> {
        self.handling()?.remove_member(lifted(who), room)?;
        Ok(())
    }

    fn scan(
        &mut self,
        room: String,
        after: Option<String>,
        limit: u32,
    ) -> CallResult<Vec<members::Connection>> {
        let connections = self.handling()?.members(&room, after.as_deref(), limit)?;
        Ok(connections.iter().map(|connection| lowered(connection)).collect())
    }
}

fn lifted(who: members::Who) -> Who {
    match who {
        members::Who::Connection(id) => Who::Connection(id),
        members::Who::User(user) => Who::User(user),
    }
}
