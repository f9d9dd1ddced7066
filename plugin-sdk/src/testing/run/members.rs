//! The interface `members`.

use std::ops::Bound;
use std::rc::Rc;

use sockhop_core::effect::{Who, check_own_room, check_page, check_room_count};
use sockhop_core::identity::Identity;
use sockhop_core::limits;

use crate::connection::Connection;
use crate::host::{MemberCalls, RoomCalls};
use crate::refusal::Result;
use crate::testing::outcome::{Effect, of_host};

use super::Run;

impl Run {
    fn check_own(&self, room: &str) -> Result {
        check_own_room(room, self.declared.owns_room(room)).map_err(of_host)
    }

    /// The connected connections that are meant, with their identities.
    fn connections_of(&self, who: &Who) -> Vec<(String, Identity)> {
        let is_meant = |(id, connection): &(&String, &Connection)| match who {
            Who::Connection(wanted) => *id == wanted,
            Who::User(user) => connection.user.as_ref() == Some(user),
        };
        let world = self.world.borrow();
        let meant = world.connected.iter().filter(is_meant);
        let known =
            meant.map(|(id, _)| (id.clone(), self.identities.get(id).cloned().unwrap_or_default()));
        known.collect()
    }

    fn is_caller(&self, who: &Who) -> bool {
        matches!(who, Who::Connection(id) if Some(id.as_str()) == self.connection())
    }
}

impl MemberCalls for Rc<Run> {
    fn join_member(&self, who: Who, room: &str) -> Result {
        self.check_own(room)?;
        if self.is_caller(&who) {
            return self.join(room);
        }
        let mut joining = Vec::new();
        for (connection, identity) in self.connections_of(&who) {
            let rooms = self.rooms_of(&connection);
            let allowed = self.declared.check_join(room, &identity).and_then(|()| {
                if rooms.iter().any(|other| other == room) {
                    return Ok(());
                }
                check_room_count(rooms.len(), limits::ROOMS)
            });
            match (allowed, &who) {
                (Ok(()), _) => joining.push((room.to_owned(), connection)),
                (Err(refusal), Who::Connection(_)) => return Err(of_host(refusal)),
                // A host joins the other connections of the user.
                (Err(_), Who::User(_)) => {}
            }
        }
        let bytes = who.bytes() + room.len();
        self.push(Effect::JoinMember(who, room.to_owned()), bytes)?;
        let joining = joining.into_iter().map(|member| (member, true));
        self.pending.borrow_mut().others.extend(joining);
        Ok(())
    }

    fn remove_member(&self, who: Who, room: &str) -> Result {
        self.check_own(room)?;
        if self.is_caller(&who) {
            return self.leave(room);
        }
        let leaving = self.connections_of(&who);
        let bytes = who.bytes() + room.len();
        self.push(Effect::RemoveMember(who, room.to_owned()), bytes)?;
        let leaving =
            leaving.into_iter().map(|(connection, _)| ((room.to_owned(), connection), false));
        self.pending.borrow_mut().others.extend(leaving);
        Ok(())
    }

    fn members(&self, room: &str, after: Option<&str>, limit: u32) -> Result<Vec<Connection>> {
        self.check_own(room)?;
        check_page(limit).map_err(of_host)?;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let before = &self.before;
        let members = before.connected.range::<str, _>((from, Bound::Unbounded));
        let members = members
            .filter(|(id, _)| before.members.contains(&(room.to_owned(), (*id).clone())))
            .map(|(_, connection)| connection.clone());
        Ok(members.take(usize::try_from(limit).unwrap_or(usize::MAX)).collect())
    }
}
