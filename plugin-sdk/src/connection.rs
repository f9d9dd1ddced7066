//! A connection of a client, as plugins see it.

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
