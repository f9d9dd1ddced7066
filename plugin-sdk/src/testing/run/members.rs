//! The interface `members`.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::rc::Rc;

use sockhop_core::effect::{Who, check_own_room, check_page, check_room_count};
use sockhop_core::identity::Identity;
use sockhop_core::limits;

use crate::connection::{Connection, MemberCount};
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

    /// The connections in `room` before this event whose id follows `after`, in the order of ids.
    fn inside<'run>(
        &'run self,
        room: &'run str,
        after: Option<&'run str>,
    ) -> impl Iterator<Item = (&'run String, &'run Connection)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let connected = self.before.connected.range::<str, _>((from, Bound::Unbounded));
        connected.filter(|(id, _)| self.before.members.contains(&(room.to_owned(), (*id).clone())))
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
        let members = self.inside(room, after).map(|(_, connection)| connection.clone());
        Ok(members.take(usize::try_from(limit).unwrap_or(usize::MAX)).collect())
    }

    fn member_ids(&self, room: &str, after: Option<&str>, limit: u32) -> Result<Vec<String>> {
        check_page(limit).map_err(of_host)?;
        let ids = self.inside(room, after).map(|(id, _)| id.clone());
        Ok(ids.take(usize::try_from(limit).unwrap_or(usize::MAX)).collect())
    }

    fn member_count(&self, room: &str) -> Result<MemberCount> {
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let users = self.inside(room, None).filter_map(|(_, connection)| connection.user.as_ref());
        let users = number(users.collect::<BTreeSet<_>>().len());
        Ok(MemberCount { connections: number(self.inside(room, None).count()), users })
    }
}
