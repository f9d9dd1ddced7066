//! A connection of a client, as plugins see it, and the number of connections in a room.

/// A connection of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// The public id, as [`Context::connection`](crate::Context::connection) returns it.
    pub id: String,
    /// The authenticated user. `None` for an anonymous client.
    pub user: Option<String>,
    /// The Socket.IO namespace, such as `/`.
    pub namespace: String,
}

/// How many are in a room: see [`Context::member_count`](crate::Context::member_count).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemberCount {
    /// Connections.
    pub connections: u32,
    /// Users, each once, however many connections they have. Anonymous clients do not count.
    pub users: u32,
}
