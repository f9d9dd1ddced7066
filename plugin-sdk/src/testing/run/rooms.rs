//! The interface `rooms`.

use std::rc::Rc;

use sockhop_core::effect::check_room_count;
use sockhop_core::limits;

use crate::host::RoomCalls;
use crate::refusal::Result;
use crate::testing::outcome::{Effect, of_host};

use super::Run;

impl Run {
    /// The rooms of a connection, sorted.
    pub(super) fn rooms_of(&self, connection: &str) -> Vec<String> {
        let world = self.world.borrow();
        let is_own = |(_, member): &&(String, String)| member == connection;
        world.members.iter().filter(is_own).map(|(room, _)| room.clone()).collect()
    }
}

impl RoomCalls for Rc<Run> {
    fn join(&self, room: &str) -> Result {
        let (connection, identity) = self.connected()?;
        self.declared.check_join(room, identity).map_err(of_host)?;
        let member = (room.to_owned(), connection.to_owned());
        if self.world.borrow().members.contains(&member) {
            return Ok(());
        }
        check_room_count(self.rooms().len(), limits::ROOMS).map_err(of_host)?;
        self.push(Effect::Join(room.to_owned()), room.len())?;
        self.world.borrow_mut().members.insert(member);
        Ok(())
    }

    fn leave(&self, room: &str) -> Result {
        let member = (room.to_owned(), self.connected()?.0.to_owned());
        if !self.world.borrow().members.contains(&member) {
            return Ok(());
        }
        self.push(Effect::Leave(room.to_owned()), room.len())?;
        self.world.borrow_mut().members.remove(&member);
        Ok(())
    }

    fn room_size(&self, room: &str) -> u32 {
        let count = self.world.borrow().members.iter().filter(|(name, _)| name == room).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    fn rooms(&self) -> Vec<String> {
        self.connection().map(|connection| self.rooms_of(connection)).unwrap_or_default()
    }
}
