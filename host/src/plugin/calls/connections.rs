//! The WIT interface `connections`: a handler reads which connections exist.

use crate::event::Connection;
use crate::plugin::bindings::sockhop::plugin::connections;
use crate::plugin::state::InstanceState;

use super::CallResult;

impl connections::Host for InstanceState {
    fn scan(
        &mut self,
        after: Option<String>,
        limit: u32,
    ) -> CallResult<Vec<connections::Connection>> {
        let connections = self.handling()?.connections(after.as_deref(), limit)?;
        Ok(connections.iter().map(|connection| lowered(connection)).collect())
    }
}

/// The record of a connection.
pub(super) fn lowered(connection: &Connection) -> connections::Connection {
    connections::Connection {
        id: connection.public_id.clone(),
        user: connection.identity().user.clone(),
        namespace: connection.namespace.to_string(),
    }
}
