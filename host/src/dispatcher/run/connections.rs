//! The WIT interface `connections`, for one run of a handler.

use std::sync::Arc;

use crate::effect::{ConnectionCalls, check_page};
use crate::event::Connection;
use crate::rejection::Refusal;
use crate::rooms::page_of;

use super::Run;

impl ConnectionCalls for Run {
    fn connections(
        &mut self,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Arc<Connection>>, Refusal> {
        check_page(limit)?;
        let limit = limit as usize;
        Ok(match &self.event.connections {
            Some(connections) => page_of(connections, after, limit),
            None => self.rooms.directory.page(after, limit),
        })
    }
}
