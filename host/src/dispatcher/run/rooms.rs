//! The WIT interface `rooms`, for one run of a handler.

use crate::effect::{Effect, RoomCalls, check_room_count, require_caller};
use crate::rejection::Refusal;

use super::{RoomChanges, Run};

impl RoomCalls for Run {
    fn join(&mut self, room: String) -> Result<(), Refusal> {
        let connection = require_caller(self.event.caller.connection())?;
        self.generation
            .may_join(&room, &connection.identity(), self.active.code.name())
            .map_err(|not| not.refusal(&room))?;
        let max = self.limits().rooms.get();
        let membership = self.membership()?;
        if membership.now.contains(&room) {
            return Ok(());
        }
        check_room_count(membership.now.len(), max)?;
        self.push(Effect::Join(room.clone()))?;
        self.membership()?.now.insert(room);
        Ok(())
    }

    fn leave(&mut self, room: String) -> Result<(), Refusal> {
        if !self.membership()?.now.contains(&room) {
            return Ok(());
        }
        self.push(Effect::Leave(room.clone()))?;
        self.membership()?.now.remove(&room);
        Ok(())
    }

    fn room_size(&mut self, room: &str) -> u32 {
        let namespace = self.event.caller.namespace().unwrap_or("/");
        let count = self.rooms.count(namespace, room);
        let count = match &self.membership {
            Some(RoomChanges { before, now }) => {
                match (before.contains(room), now.contains(room)) {
                    (false, true) => count + 1,
                    (true, false) => count.saturating_sub(1),
                    _ => count,
                }
            }
            None => count,
        };
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    fn rooms(&mut self) -> Vec<String> {
        self.membership()
            .map_or_else(|_| Vec::new(), |membership| membership.now.iter().cloned().collect())
    }
}
