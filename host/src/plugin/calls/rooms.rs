//! The WIT interface `rooms`: a handler changes and reads the caller's rooms.

use crate::effect::RoomCalls;
use crate::plugin::bindings::sockhop::plugin::rooms;
use crate::plugin::state::InstanceState;

use super::CallResult;

impl rooms::Host for InstanceState {
    fn join(&mut self, room: String) -> CallResult<()> {
        self.handling()?.join(room)?;
        Ok(())
    }

    fn leave(&mut self, room: String) -> CallResult<()> {
        self.handling()?.leave(room)?;
        Ok(())
    }

    fn room_size(&mut self, room: String) -> u32 {
        self.handling().map_or(0, |calls| calls.room_size(&room))
    }

    fn rooms(&mut self) -> Vec<String> {
        self.handling().map_or_else(|_| Vec::new(), RoomCalls::rooms)
    }
}
