//! The WIT interface `members`: a handler changes and reads who is in the rooms of its plugin.

use crate::effect::{MemberTotals, Who};
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

    fn ids(&mut self, room: String, after: Option<String>, limit: u32) -> CallResult<Vec<String>> {
        let connections = self.handling()?.member_ids(&room, after.as_deref(), limit)?;
        Ok(connections.iter().map(|connection| connection.public_id.clone()).collect())
    }

    fn count(&mut self, room: String) -> CallResult<members::Totals> {
        let MemberTotals { connections, users } = self.handling()?.member_totals(&room)?;
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Ok(members::Totals { connections: number(connections), users: number(users) })
    }
}

fn lifted(who: members::Who) -> Who {
    match who {
        members::Who::Connection(id) => Who::Connection(id),
        members::Who::User(user) => Who::User(user),
    }
}
