//! The rules for who can send an event or join a room.

use std::fmt;

/// Who can send an event or join a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Every client, also an anonymous one.
    Anyone,
    /// Every authenticated user.
    Authenticated,
    /// The user in the room's name (`user_{user}`). For rooms only.
    Owner,
    /// Every user with this role.
    Role(&'static str),
    /// The clients that a handler of this plugin lets in with
    /// [`Context::join`](crate::Context::join) or
    /// [`Context::join_others`](crate::Context::join_others). For rooms only: handlers of other
    /// plugins, such as `subscribe_event`, are refused.
    Handler,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anyone => f.write_str("anyone"),
            Self::Authenticated => f.write_str("authenticated"),
            Self::Owner => f.write_str("owner"),
            Self::Role(role) => write!(f, "role:{role}"),
            Self::Handler => f.write_str("handler"),
        }
    }
}
