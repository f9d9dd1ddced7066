//! The receivers of an emitted event.

/// Who receives an emitted event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The connection whose event is handled. Refused as `misuse` if there is none.
    Sender,
    /// One connection, by public id. If it no longer exists, nothing is sent, and that is no error.
    Connection(String),
    /// Every connection in any of these rooms, each once. Nothing is sent to an empty room.
    Rooms(Vec<String>),
    /// Like [`Target::Rooms`], without the sender. Refused as `misuse` if there is no sender.
    RoomsButSender(Vec<String>),
    /// Every connection of the namespace.
    Everyone,
}

impl Target {
    /// A target for every connection in `room`.
    pub fn room(room: impl Into<String>) -> Self {
        Self::Rooms(vec![room.into()])
    }
}
