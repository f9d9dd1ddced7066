//! The WIT interface `members`, for one run of a handler.

use std::sync::Arc;

use crate::effect::{
    Effect, MemberCalls, MemberTotals, RoomCalls, Who, check_own_room, check_page, check_room_count,
};
use crate::event::Connection;
use crate::rejection::Refusal;

use super::Run;

impl Run {
    fn check_own(&self, room: &str) -> Result<(), Refusal> {
        check_own_room(room, self.generation.owns_room(self.active.code.name(), room))
    }

    /// Whether `who` is the connection whose event is handled.
    fn is_caller(&self, who: &Who) -> bool {
        let caller = self.event.caller.connection();
        matches!((who, caller), (Who::Connection(id), Some(caller)) if *id == caller.public_id)
    }
}

impl MemberCalls for Run {
    fn join_member(&mut self, who: Who, room: String) -> Result<(), Refusal> {
        self.check_own(&room)?;
        if self.is_caller(&who) {
            return self.join(room);
        }
        // The connections of a user are checked when the effects are applied.
        if let Who::Connection(id) = &who
            && let Some(connection) = self.rooms.connection(self.event.caller.namespace(), id)
        {
            let plugin = self.active.code.name();
            let may_join = self.generation.may_join(&room, &connection.identity(), plugin);
            may_join.map_err(|not| not.refusal(&room))?;
            let rooms = self.rooms.of(&connection);
            if !rooms.contains(&room) {
                check_room_count(rooms.len(), self.limits().rooms.get())?;
            }
        }
        self.push(Effect::JoinMember(who, room))
    }

    fn remove_member(&mut self, who: Who, room: String) -> Result<(), Refusal> {
        self.check_own(&room)?;
        if self.is_caller(&who) {
            return self.leave(room);
        }
        self.push(Effect::RemoveMember(who, room))
    }

    fn members(
        &mut self,
        room: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Arc<Connection>>, Refusal> {
        self.check_own(room)?;
        check_page(limit)?;
        Ok(self.rooms.page(self.event.caller.namespace(), room, after, limit as usize))
    }
    fn member_ids(
        &mut self,
        room: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Arc<Connection>>, Refusal> {
        check_page(limit)?;
        Ok(self.rooms.page(self.event.caller.namespace(), room, after, limit as usize))
    }

    fn member_totals(&mut self, room: &str) -> Result<MemberTotals, Refusal> {
        Ok(self.rooms.totals(self.event.caller.namespace(), room))
    }
}
