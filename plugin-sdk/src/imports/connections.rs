//! The interface `connections`.

use crate::connection::Connection;
use crate::host::ConnectionCalls;
use crate::refusal::Result;

use super::Component;
use super::generated::sockhop::plugin::connections::{Connection as Found, scan};

impl ConnectionCalls for Component {}

/// Calls the import `connections.scan`.
pub(crate) fn connections(after: Option<&str>, limit: u32) -> Result<Vec<Connection>> {
    Ok(scan(after, limit)?.into_iter().map(lifted).collect())
}

/// Converts the record of a connection.
pub(super) fn lifted(Found { id, user, namespace }: Found) -> Connection {
    Connection { id, user, namespace }
}
