//! The interface `rooms`.

use crate::host::RoomCalls;
use crate::refusal::Result;

use super::Component;
use super::generated::sockhop::plugin::rooms;

impl RoomCalls for Component {
    fn join(&self, room: &str) -> Result {
        Ok(rooms::join(room)?)
    }

    fn leave(&self, room: &str) -> Result {
        Ok(rooms::leave(room)?)
    }

    fn room_size(&self, room: &str) -> u32 {
        rooms::room_size(room)
    }

    fn rooms(&self) -> Vec<String> {
        rooms::rooms()
    }
}
